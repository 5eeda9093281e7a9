"""The facts that rules may ask for: one table, and what of it is known of an attempt.

A fact is a number or a text. What is unknown is not in the mapping: a condition on it is not true, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from guardian.core.commandline import value as argument
from guardian.core.run import Attempt, Run
from guardian.core.units import shown
from guardian.core.values import dataclass
from guardian.core.windows import first_bad_step, runaway_step, spike_step

TEXT = "text"
YES = "0 or 1"


@dataclass(frozen=True, slots=True)
class Fact:
    """What a name in a rule file stands for."""

    about: str
    unit: str
    """Of a number; TEXT for a text, YES for what is true or not."""
    source: str
    when_unknown: str
    """In which case, or what follows."""
    says: str | None = None
    """As evidence: {} is the value, (s) a plural."""
    words: str | None = None
    """The fact that puts it into words, of one that is a witness: a rule that it makes true speaks without a line."""


BATON = "/torch/utils/file_baton.py"
_COMPANION = "the companion in the job"
_NO_COMPANION = "without the companion, or before the training loop begins"
_HOST = "the machine, when the attempt ended"
_NO_CGROUP = "where no cgroup or kernel file tells"
_SAMPLED = "the last samples before the end"
_NOT_SAMPLED = "where the kernel does not tell, or the job ended within seconds"

_GPUS = "NVML, read by a process of its own while the job lives"
_NO_GPUS = "without NVML, under MIG, or where it cannot be told which cards the job uses"

FACTS = {
    "accumulation": Fact("micro-batches per optimizer step", "micro-batches", _COMPANION, _NO_COMPANION),
    "bad_rows": Fact(
        "which rows the first bad step was made of: their places in the order in which their epoch draws them",
        TEXT,
        f"the numbers that the training logs, and {_COMPANION}",
        "while they are numbers",
    ),
    "device": Fact("what the model is on: cpu, cuda, ...", TEXT, _COMPANION, _NO_COMPANION),
    "device_batch": Fact("rows per micro-batch and rank", "rows", _COMPANION, _NO_COMPANION),
    "disk_free_mib": Fact(
        "room where checkpoints go, the least in the last seconds and afterwards",
        "MiB",
        _HOST,
        "where the folder cannot be looked into",
        "{} MiB are free on disk",
    ),
    "disk_full_in_s": Fact(
        "time until the disk is full, at the rate of the last hour",
        "seconds",
        _SAMPLED,
        "while it does not fill, or in the first half minute",
    ),
    "inodes_gone_in_s": Fact(
        "time until no more files can be made on the disk, at the rate of the last hour",
        "seconds",
        _SAMPLED,
        "while they do not become fewer, or in the first half minute",
    ),
    "disk_read_only": Fact(
        "whether a file system that the run writes to can only be read",
        YES,
        _HOST,
        "where the folder cannot be looked into",
        "the file system can only be read",
    ),
    "effective_batch": Fact("rows per optimizer step, over all ranks", "rows", _COMPANION, _NO_COMPANION),
    "eval_batch": Fact("rows per evaluation batch and rank", "rows", _COMPANION, _NO_COMPANION),
    "earlier_bad_step": Fact(
        "the first bad step of the attempt before", "steps", "the diagnosis of the attempt before", "if it had none"
    ),
    "exit_seen": Fact("whether anybody saw how the job ended", YES, "its keeper", "while it lives"),
    "exception_phase": Fact(
        "where the exception that left the training loop happened: train, optimizer, eval or save",
        TEXT,
        _COMPANION,
        "without the companion, or where no exception left the loop",
        "the exception came up in phase {}",
    ),
    "exception_tokens": Fact(
        "the longest row of the micro-batch in which an exception left the training loop",
        "tokens",
        _COMPANION,
        "without the companion, or where no exception left the loop",
    ),
    "fitted_tokens": Fact(
        "the longest row of the steps that were finished before an exception left the training loop",
        "tokens",
        _COMPANION,
        "without the companion, or where no exception left the loop",
    ),
    "first_bad_step": Fact(
        "the first step whose loss or gradient was no number and after which none was",
        "steps",
        "the numbers that the training logs",
        "while they are numbers",
    ),
    "runaway_step": Fact(
        "where the loss ran away (over five times its median) before it was no number; else the first bad step",
        "steps",
        "the numbers that the training logs",
        "while they are numbers",
    ),
    "build_lock": Fact(
        "whether a process waits for PyTorch's lock on an extension that another one compiles",
        YES,
        "the stacks that are taken of a silent job",
        "unless it was ended because nothing happened",
        "it waits for an extension of PyTorch to be compiled",
    ),
    "silent_phase": Fact(
        "what a job was at in which nothing happened until guardian ended it: training, evaluation, saving, ...",
        TEXT,
        "guardian, by the budgets of [silence]",
        "unless it was ended for that",
        "it was silent in phase {}",
    ),
    "silent_s": Fact(
        "for how long nothing had happened in a job that guardian ended for that",
        "s",
        "guardian, by the budgets of [silence]",
        "unless it was ended for that",
        "nothing had happened for {} s",
    ),
    "spike_step": Fact(
        "where the loss jumped (over five times its median, and higher than ever) and did not come back in ten logs",
        "steps",
        "the numbers that the training logs",
        "while it has not",
    ),
    "gpu_fault": Fact(
        "the gravest fault that a GPU of the job reported: lost, hardware or program",
        TEXT,
        "NVML's Xid events, ECC counts and lost cards, the kernel's log where it may be read",
        "where none was reported",
        words="gpu_fault_text",
    ),
    "gpu_fault_text": Fact(
        "that fault in words", TEXT, "the table of Xids (host/xid.toml)", "where none was reported", "{}"
    ),
    "gpu_foreign_mib": Fact(
        "what others held on the fullest GPU of the job; in a container what it held when the attempt began",
        "MiB",
        _GPUS,
        _NO_GPUS,
        "others hold {} MiB of the GPU's memory",
    ),
    "gpu_foreign_share": Fact("the same as a part of that GPU's memory", "0 to 1", _GPUS, _NO_GPUS),
    "gpu_leak_mib_per_step": Fact(
        "what each optimizer step adds to the job's GPU memory; 0: it does not climb steadily",
        "MiB",
        _GPUS,
        "before forty steps were seen",
        "each step adds {} MiB to the GPU memory that the job holds",
    ),
    "gpu_memory_total_mib": Fact("memory of the fullest GPU of the job", "MiB", _GPUS, _NO_GPUS),
    "gpu_memory_used_mib": Fact(
        "the most of it that was in use, others' included", "MiB", _GPUS, _NO_GPUS, "{} MiB of GPU memory were in use"
    ),
    "gpu_xid": Fact(
        "the Xid of the gravest fault", "number", "NVML's events, the kernel's log", "where none was reported", "Xid {}"
    ),
    "gradient_checkpointing": Fact("whether activations are computed anew", YES, _COMPANION, _NO_COMPANION),
    "host_memory_mib": Fact("memory of the machine", "MiB", _HOST, "where /proc/meminfo cannot be read"),
    "host_available_mib": Fact(
        "what processes could still have of the machine's memory, the least in the last seconds",
        "MiB",
        _SAMPLED,
        _NOT_SAMPLED,
        "{} MiB of the machine's memory were left",
    ),
    "inodes_free": Fact(
        "files that can still be made where checkpoints go",
        "files",
        _HOST,
        "where the file system makes them as needed",
        "{} more files can be made on the disk",
    ),
    "load": Fact("processes that ran or waited to run, over a minute", "processes", _SAMPLED, _NOT_SAMPLED),
    "machine_oom_kills": Fact(
        "processes that the kernel killed for want of memory during the attempt, on the whole machine",
        "kills",
        "the kernel's counter (/proc/vmstat)",
        "where it cannot be read, or guardian was not there all along",
        "the kernel counted {} OOM kill(s) on the whole machine",
    ),
    "longest_tokens": Fact(
        "the longest row that entered forward, on the rank that an exception left, if one did",
        "tokens",
        _COMPANION,
        _NO_COMPANION,
    ),
    "memory_full_in_s": Fact(
        "time until the cgroup's limit is reached, at the rate of the last hour",
        "seconds",
        _SAMPLED,
        "without a limit, or while it does not fill",
    ),
    "memory_limit_mib": Fact(
        "the limit of the job's memory: the cgroup's own, or the narrowest above it",
        "MiB",
        "the cgroup",
        "without a limit",
        "the limit is {} MiB",
    ),
    "memory_share": Fact(
        "part of the cgroup's limit, or of the machine's memory, that was in use; the most in the last seconds",
        "of 1",
        _SAMPLED,
        _NOT_SAMPLED,
        "{} of the memory were in use",
    ),
    "memory_used_mib": Fact(
        "memory of the cgroup that does not give way, the most in the last seconds", "MiB", _SAMPLED, _NOT_SAMPLED
    ),
    "memory_peak_mib": Fact(
        "the most memory that the cgroup used, with its files' cache: the job's and what runs beside it",
        "MiB",
        "the cgroup",
        _NO_CGROUP,
        "at most {} MiB were used",
    ),
    "oom_kills": Fact(
        "processes that the kernel killed for want of memory during the attempt",
        "kills",
        "the counter of the cgroup or the kernel",
        _NO_CGROUP,
        "the kernel counted {} OOM kill(s) during the attempt",
    ),
    "oom_victim": Fact(
        "whom the kernel killed for want of memory: rank, worker (of a data loader), launcher or other",
        TEXT,
        "the kernel's log, else its counter and who was gone then",
        "where neither tells, or it may have been two",
        "the kernel killed a {} for want of memory",
    ),
    "open_files": Fact(
        "open files of the process that had the most, in the last seconds",
        "files",
        _SAMPLED,
        _NOT_SAMPLED,
        "a process had {} files open",
    ),
    "open_files_limit": Fact(
        "open files that a process may have at most (hard limit)", "files", _HOST, "outside Linux"
    ),
    "optimizer": Fact(
        "the optimizer, as the training's arguments name it",
        TEXT,
        f"{_COMPANION}, else the command",
        "without the companion where the command's words do not name it",
    ),
    "phase": Fact(
        "what the job was last seen at: train, eval or save", TEXT, _COMPANION, _NO_COMPANION, "last seen in phase {}"
    ),
    "prefetch": Fact("batches that each data loader process makes ahead", "batches", _COMPANION, _NO_COMPANION),
    "rank_pss_mib": Fact("memory of the largest rank, the most in the last seconds", "MiB", _SAMPLED, _NOT_SAMPLED),
    "resumed": Fact("whether the attempt began from a checkpoint", YES, "the plan of the attempt", "never"),
    "shm_free_mib": Fact(
        "room in /dev/shm, the least in the last seconds and afterwards",
        "MiB",
        _HOST,
        "without /dev/shm",
        "{} MiB of shared memory are free",
    ),
    "shm_total_mib": Fact("size of /dev/shm", "MiB", _HOST, "without /dev/shm", "shared memory is {} MiB in all"),
    "start_s": Fact(
        "the longest time from a launch to its first optimizer step, of all attempts so far",
        "s",
        _COMPANION,
        "without the companion, or while no attempt has got to its first step",
    ),
    "steps_done": Fact(
        "optimizer steps that the run has completed, over all its attempts", "steps", "the job", "never"
    ),
    "steps_since_start": Fact("optimizer steps since this attempt began", "steps", "the job", "never"),
    "tree_peak_mib": Fact("the most memory that the job's processes held", "MiB", "all samples", _NOT_SAMPLED),
    "tree_pss_mib": Fact(
        "memory of the job's processes, the most in the last seconds",
        "MiB",
        _SAMPLED,
        _NOT_SAMPLED,
        "the job's processes held {} MiB",
    ),
    "worker_pss_mib": Fact(
        "memory of the largest data loader process, the most in the last seconds", "MiB", _SAMPLED, _NOT_SAMPLED
    ),
    "workers": Fact("data loader processes of a rank", "processes", _COMPANION, _NO_COMPANION),
    "world_size": Fact("ranks that train together", "ranks", _COMPANION, _NO_COMPANION),
}


def facts_of(run: Run, attempt: Attempt) -> dict[str, float | str]:
    """All that is known of an attempt; the run is asked for what went before it."""
    start = _start(attempt)
    known: dict[str, float | str | None] = {
        **_of_hello(attempt),
        "optimizer": (attempt.hello.optimizer if attempt.hello else None) or argument(run.created.argv, "optim"),
        "start_s": _number(_longest_start(run)),
        "steps_done": float(steps_done(run)),
        "steps_since_start": float(max(0, (attempt.last_step or 0) - start)),
        "resumed": float(attempt.plan.resume_from is not None or start > 0),
        "phase": attempt.phase,
        **_of_exception(attempt),
        "build_lock": _waits_for_a_build(attempt),
        "silent_phase": attempt.stop.silent if attempt.stop else None,
        "silent_s": _number(attempt.stop.silent_s) if attempt.stop else None,
        "first_bad_step": _number(first_bad_step(attempt.logged)),
        "bad_rows": _rows_of(first_bad_step(attempt.logged), attempt),
        "runaway_step": _number(runaway_step(attempt.logged)),
        "spike_step": _number(spike_step(attempt.logged)),
        "earlier_bad_step": _earlier(run, attempt, "first_bad_step"),
    }
    if attempt.gpus or attempt.gpu_faults:
        from guardian.core import gpus  # noqa: PLC0415 - most runs have none, and the first launch does not wait for it

        known |= gpus.facts(run, attempt)
    if attempt.ended is not None:
        known["exit_seen"] = float(attempt.ended.code is not None or attempt.ended.signal is not None)
        known["oom_kills"] = _number(attempt.ended.oom_kills)
        known.update(attempt.ended.facts)
    return {name: value for name, value in known.items() if value is not None}


def steps_done(run: Run) -> int:
    """Optimizer steps that the run has completed, over all its attempts."""
    return sum(max(0, (attempt.last_step or 0) - _start(attempt)) for attempt in run.attempts)


def said(name: str, facts: Mapping[str, float | str | None]) -> str | None:
    """A fact as evidence; None: it is unknown, or nothing to show."""
    value, says = facts.get(name), FACTS[name].says
    if value is None or says is None:
        return None
    return says.replace("{}", shown(value)).replace("(s)", "" if value == 1 else "s")


def witness(names: Iterable[str], facts: Mapping[str, float | str | None]) -> str | None:
    """What the first of these facts that is a witness says; None: none of them is."""
    words = (FACTS[name].words for name in names if name in FACTS)
    return next((text for one in words if one is not None and (text := said(one, facts)) is not None), None)


def _of_hello(attempt: Attempt) -> dict[str, float | str | None]:
    """What the training loop said when it began."""
    hello = attempt.hello
    if hello is None:
        return {}
    return {
        "accumulation": float(hello.accumulation),
        "device": hello.device,
        "device_batch": float(hello.device_batch),
        "effective_batch": float(hello.effective_batch),
        "eval_batch": _number(hello.eval_batch),
        "gradient_checkpointing": _number(hello.gradient_checkpointing),
        "prefetch": _number(hello.prefetch),
        "workers": _number(hello.workers),
        "world_size": float(hello.world),
    }


def _rows_of(step: int | None, attempt: Attempt) -> str | None:
    """Where the rows of an optimizer step stand; never what they say.

    The sampler's order is cut into steps, whatever the split: rank after rank, micro-batch after micro-batch.
    """
    if step is None or step < 1:
        return None
    hello = attempt.hello
    if hello is None:
        return "which rows those are is not known without the companion"
    if not hello.steps_per_epoch:
        return f"{hello.effective_batch} rows; where an epoch begins is not known"
    epoch, at = divmod(step - 1, hello.steps_per_epoch)
    first = at * hello.effective_batch
    where = f"rows {first} to {first + hello.effective_batch - 1} of epoch {epoch + 1}"
    return f"{where}, counted from 0 in the order in which that epoch draws them"


def _longest_start(run: Run) -> float | None:
    starts = (one.steps[0].wall - one.launched_wall for one in run.attempts if one.steps and one.launched_wall)
    return max((seconds for seconds in starts if seconds > 0), default=None)


def _waits_for_a_build(attempt: Attempt) -> float | None:
    """torch.utils.file_baton (torch 2.13): one waits as long as the file is there, whoever made it, dead or alive."""
    if attempt.stop is None or not attempt.stop.silent or not attempt.stacks:
        return None
    stacks = attempt.stacks[-1].stacks
    return float(any(frame.file.endswith(BATON) for one in stacks for frame in one.frames)) if stacks else None


def _start(attempt: Attempt) -> int:
    return attempt.hello.step if attempt.hello else attempt.plan.resume_step or 0


def _of_exception(attempt: Attempt) -> dict[str, float | str | None]:
    """What the first exception that left the training loop met; ranks see other rows, so its own rank's count."""
    left = next(iter(attempt.exceptions), None)
    seen = [one.longest for one in attempt.longest if left is None or one.rank == left.rank]
    fitted = [one.longest for one in attempt.longest if left and one.rank == left.rank and one.step <= left.step]
    tokens = left.longest if left else None
    return {
        "exception_phase": left.phase if left else None,
        "exception_tokens": _number(tokens),
        "fitted_tokens": _number(max(fitted, default=None)),
        "longest_tokens": _number(max([*seen, *([tokens] if tokens is not None else [])], default=None)),
    }


def _earlier(run: Run, attempt: Attempt, name: str) -> float | str | None:
    """What a fact was when the attempt before was judged."""
    before = run.attempts[attempt.number - 2] if attempt.number > 1 else None
    cause = before.diagnosed.cause if before and before.diagnosed else None
    return dict(cause.facts).get(name) if cause else None


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
