"""Scripted records: what a run went through, told in a few words, folded by the real fold.

    run = story(
        launched(), hello(max_steps=60), steps(1, 35), saved(30), killed(),
        launched(resume=30), hello(step=30, max_steps=60), steps(31, 60), finished(),
    )

Builders return events of "the current attempt" (number 0); `records` gives them their number and ascending stamps,
a second apart where no `pause` says otherwise. A step's own clock is its stamp.
"""

from __future__ import annotations

import math
from dataclasses import replace

from guardian.core import events as ev
from guardian.core.folding import begin, fold
from guardian.core.run import Run

NOW = 1_800_000_000.0
ARGV = ("sft", "--model", "demo", "--dataset", "demo", "--output_dir", "out", "--max_steps", "60", "--save_steps", "10")
KILLED_BY_NOBODY = ev.Cause(
    id="killed",
    variant=None,
    rule=None,
    title="killed by signal 9 (SIGKILL), by nobody that guardian knows of",
    evidence=(ev.Line(214, " 58%|█████▊    | 35/60 [00:41<00:29,  1.17s/it]"),),
    retries=None,
)


class Pause(float):
    """Seconds in which nothing is recorded."""


# --- the fold ------------------------------------------------------------------------------------------------


def story(*parts, wall=NOW):
    """The run that these parts make; a run folder is made first unless a part does it."""
    run, _ = _tell(parts, wall)
    return run


def records(*parts, wall=NOW):
    """The records of these parts, as a journal and the heartbeats would give them."""
    return _tell(parts, wall)[1]


def _tell(parts, wall):
    flat = list(_flat(parts))
    if not flat or not isinstance(flat[0], ev.RunCreated):
        flat = [*created(), *flat]
    run: Run | None = None
    told = []
    for event in flat:
        if isinstance(event, Pause):
            wall += event
            continue
        record = ev.Record(
            ev.Stamp(wall=wall, mono=wall - NOW, boot="boot", node="node", pid=4000), _placed(event, run, wall)
        )
        run = begin(record) if run is None else fold(run, record)
        told.append(record)
        wall += 0.0 if isinstance(event, ev.Observed | ev.Hello) else 1.0
    return run, told


def _flat(parts):
    for part in parts:
        if isinstance(part, tuple | list):
            yield from _flat(part)
        else:
            yield part


def _placed(event, run, wall):
    """The event in the current attempt (a plan opens the next one), at this time."""
    if getattr(event, "attempt", None) == 0:
        event = replace(event, attempt=len(run.attempts) + isinstance(event, ev.Planned))
    if isinstance(event, ev.Ended) and event.last_step is None and run.attempts:
        event = replace(event, last_step=run.attempts[-1].last_step)
    if isinstance(event, ev.Planned) and event.not_before == 0:
        event = replace(event, not_before=wall)
    return replace(event, wall=wall) if getattr(event, "wall", None) == 0 else event


# --- the run -------------------------------------------------------------------------------------------------


def created(*, name="r1", argv=ARGV, family="sft", companion=True, asked=None, weakened=()):
    """A run folder, and the guardian that made it; the command asked for so many ranks."""
    made = ev.RunCreated(
        run="7d2f4c1e", name=name, argv=argv, cwd="/home/me", family=family, companion=companion,
        policy="{}", version="0.1.0", uid=1000, ranks=asked, weakened=weakened,
    )  # fmt: skip
    return (made, ev.SupervisorStarted("run", ""))


def resumed(*, reopened=False):
    """Another guardian takes the run over."""
    return ev.SupervisorStarted("resume", "the job lives: adopted", reopened=reopened)


def pause(seconds):
    """Time goes by."""
    return Pause(seconds)


# --- an attempt ----------------------------------------------------------------------------------------------


def launched(*, resume=None, edits=(), passed_over=(), pin="hard links"):
    """A plan and its launch, from a checkpoint's step or from the beginning."""
    path = None if resume is None else f"out/checkpoint-{resume}"
    moves = () if resume is None else (ev.Edit("resume_from", None, path, "resume"),)
    planned = ev.Planned(
        attempt=0, argv=ARGV, env=(("PYTHONUNBUFFERED", "1"),), resume_from=path, resume_step=resume,
        edits=(*moves, *edits), not_before=0.0, reason="", passed_over=tuple(passed_over),
    )  # fmt: skip
    why = "no space" if pin == "none" else None
    pinned = () if path is None else (ev.Pinned(0, path, None if pin == "none" else f"pins/{resume}", pin, why),)
    return (planned, *pinned, ev.Launched(0, 4001, 1), ev.JobStarted(0, 4002, 2))


def hello(*, step=0, max_steps=60, split=(4, 4), ranks=1, effective=None, steps_per_epoch=100, data_parallel=None):
    """Every rank's training loop begins after `step` finished steps."""
    parallel = ranks if data_parallel is None else data_parallel
    batch = split[0] * split[1] * parallel if effective is None else effective
    return tuple(
        ev.Hello(
            attempt=0, rank=rank, pid=4100 + rank, world=ranks, step=step, max_steps=max_steps, device_batch=split[0],
            accumulation=split[1], data_parallel=parallel, effective_batch=batch, steps_per_epoch=steps_per_epoch,
            save_steps=10, learning_rate=1e-4, output_dir="/home/me/out", trainer="Trainer", resumed_from=None,
            versions=(("torch", "2.13.0"),), wall=0.0,
        )
        for rank in range(ranks)
    )  # fmt: skip


def falling(step):
    """A loss as a fine-tune has it: 4.3 at first, 1.2 in the end, a little rough."""
    return 1.2 + 3.1 * math.exp(-step / 22) + 0.06 * math.sin(step * 1.7)


def steps(first, last, *, rows=16, ranks=1, loss=falling, samples=0, every_s=1.0):
    """Finished steps, their rows shared evenly by the ranks; `samples` shifts what was drawn, None hides it."""
    told = []
    for step in range(first, last + 1):
        told.append(Pause(every_s))
        told += [_done(step, rank, ranks, rows, samples) for rank in range(ranks)]
        value = loss(step) if callable(loss) else loss
        if value is not None:
            told += [ev.LossSeen(0, rank, step, value) for rank in range(ranks)]
    return tuple(told)


def _done(step, rank, ranks, rows, samples):
    own = None if rows is None else rows // ranks + (rank < rows % ranks)
    tokens = None if own is None else own * 100
    # Differs from rank to rank and adds up to a number that the split does not change.
    whole = None if samples is None else (step + samples) * 0x9E3779B97F4A7C15
    part = None if whole is None else (whole - 7 * (ranks - 1) if rank == 0 else 7) % 2**64
    return ev.StepDone(0, rank, step, own, tokens, part, 1e-4, wall=0.0)


def logged(first, last, *, by=1, loss=falling, max_steps=60):
    """Lines that the trainer logged, without a companion."""
    return tuple(
        part
        for step in range(first, last + 1, by)
        for part in (Pause(by), ev.Logged(0, step, max_steps, loss(step), None, 1e-4, wall=0.0))
    )


def saved(*at):
    """Complete checkpoints."""
    return tuple(ev.CheckpointSeen(0, ev.Checkpoint(f"out/checkpoint-{step}", step, complete=True)) for step in at)


def blind(source, why):
    """A source that can no longer be read."""
    return ev.SourceLost(source, why, 0)


# --- the end of an attempt -----------------------------------------------------------------------------------


def ended(code=None, signal=None, *, cause=None, blind=()):
    """The launcher, its tree and every source are at their end, and the attempt is judged."""
    return (
        ev.LauncherExited(0, code, signal),
        ev.TreeEnded(0),
        ev.Ended(0, code, signal, None, (), None, (), blind),
        ev.Diagnosed(0, cause),
    )


def killed(cause=KILLED_BY_NOBODY):
    """SIGKILL from outside."""
    return ended(signal=9, cause=cause)


def failed(id_, title, text, *, number=12, code=1, retries=None, advice=None):
    """The job failed with a line in its log."""
    cause = ev.Cause(id_, None, f"{id_}-rule", title, (ev.Line(number, text),), retries, advice)
    return ended(code, cause=cause)


def finished():
    """Exit 0 at the last step, and the run is over."""
    return (*ended(0), ev.RunFinished(ev.Outcome.FINISHED, 0, "the job ended as it should"))


def stopped(by=ev.StopBy.CTRL_C, *, code=130, outcome=ev.Outcome.STOPPED):
    """Saved and stopped because somebody asked for it."""
    cause = ev.Cause("stopped", None, None, f"stopped by {by.value}", (), 0)
    return (
        ev.StopRequested(by),
        ev.StopBegun(0, by.value, (4002,)),
        *ended(0, cause=cause),
        ev.RunFinished(outcome, code, f"stopped by {by.value}"),
    )


def gave_up(reason, outcome=ev.Outcome.GAVE_UP, code=1):
    """No further attempt."""
    return ev.RunFinished(outcome, code, reason)


# --- whole stories -------------------------------------------------------------------------------------------


def two_kills():
    """Killed at step 35 and at step 47, finished at 60: the story of the README."""
    return story(
        launched(), pause(6), hello(), steps(1, 35, every_s=1.2), saved(10, 20, 30), killed(),
        launched(resume=30), pause(6), hello(step=30), steps(31, 47, every_s=1.2), saved(40), killed(),
        launched(resume=40), pause(6), hello(step=40), steps(41, 60, every_s=1.2), saved(50, 60), finished(),
    )  # fmt: skip


def a_long_night(count=500):
    """A job that dies ten steps after each start, and advances five of them every time."""
    oom = ev.Cause(
        "cuda_oom", None, "cuda-oom", "a rank ran out of GPU memory", (ev.Line(90, "OutOfMemoryError"),), None
    )
    parts = []
    for at in range(count - 1):
        begin_at = at * 5
        cause = oom if at % 3 else KILLED_BY_NOBODY
        top = count * 5 + 5
        parts += [launched(resume=begin_at or None), hello(step=begin_at, max_steps=top, steps_per_epoch=None)]
        parts += [steps(begin_at + 1, begin_at + 10), saved(begin_at + 5), ended(1, cause=cause)]
    begin_at = (count - 1) * 5
    parts += [launched(resume=begin_at), hello(step=begin_at, max_steps=count * 5 + 5, steps_per_epoch=None)]
    return story(*parts, steps(begin_at + 1, count * 5 + 5), finished())
