"""What all frameworks on transformers' Trainer have in common: names of settings, what weakens the proof, the resume.

A framework adds its own defaults and names; nothing here knows which framework it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from guardian.core.adapters import deepspeed
from guardian.core.adapters import words as reading
from guardian.core.adapters.deepspeed import Overlaid
from guardian.core.adapters.words import FALSE, Words
from guardian.core.adapters.writing import WRITTEN
from guardian.core.events import Edit
from guardian.core.job import KNOBS, WEAKENS, Finding, JobSpec, Value, effective_batch
from guardian.core.weakening import WEAKENING

Argv = tuple[str, ...]
Edits = tuple[Edit, ...]
Names = Mapping[str, str]

NAMES: Names = {
    **{knob: name for knob, name in WRITTEN.items() if knob in KNOBS},
    "warmup_ratio": "warmup_ratio",
    "save_steps": "save_steps",
    "output_dir": "output_dir",
    "resume_from": "resume_from_checkpoint",
    "deepspeed": "deepspeed",
}
"""What each knob is called; the number of ranks comes from the launcher."""

DEFAULTS: dict[str, Value] = {
    "device_batch": 8,
    "accumulation": 1,
    "workers": 0,
    "pin_memory": True,
    "learning_rate": 5e-5,
    "eval_batch": 8,
    "gradient_checkpointing": False,
    "save_steps": 500,
    "output_dir": "trainer_output",
}
"""TrainingArguments' own; a test holds them to the installed version. `warmup_ratio`, which transformers 5 has lost, is
unknown where it is not given."""


def read(
    words: Words, names: Names, world: int | None, findings: list[Finding], *, world_given: bool
) -> tuple[dict[str, Value], set[str]]:
    """The value of each knob that is given, and the names of those that are not."""
    texts = {knob: words.text(name) for knob, name in names.items()}
    values: dict[str, Value] = {
        knob: reading.value(knob, text, findings, name=names[knob]) for knob, text in texts.items() if text is not None
    }
    absent = {knob for knob in KNOBS if texts.get(knob) is None} - {"world_size"}
    values["world_size"] = world
    return values, absent if world_given else absent | {"world_size"}


def job(  # noqa: PLR0913 - each is one thing that only the family knows
    family: str,
    argv: Argv,
    words: Words,
    values: Mapping[str, Value],
    absent: set[str],
    defaults: Mapping[str, Value],
    findings: list[Finding],
    *,
    launcher: str,
    interpreter: str | None = None,
    ranks_per_row: int = 1,
    file: Overlaid | None = None,
) -> JobSpec:
    """The command, understood; `ranks_per_row`: how many ranks share a row (sequence and tensor parallelism).

    `file`: the DeepSpeed file that it names.
    """
    if words.config is None:
        # What the command line leaves to a file that nobody could read is unknown.
        filled, implicit = dict(values), set[str]()
    else:
        filled, implicit = {**{k: v for k, v in defaults.items() if k in absent}, **values}, absent
    findings.extend((*weaknesses(words), *conflicts(words)))
    world = filled.get("world_size")
    if isinstance(world, int) and world % ranks_per_row:
        what = f"{world} rank{'s' if world > 1 else ''} cannot be shared out to groups of {ranks_per_row}"
        findings.append(Finding("world-size", "error", what, "start a multiple of it (NPROC_PER_NODE)"))
        world = None
    sharing = world // ranks_per_row if isinstance(world, int) else None
    if file is not None:
        findings += _other_numbers(file, filled.get("device_batch"), filled.get("accumulation"), sharing)
    return JobSpec(
        family=family,
        launcher=launcher,
        interpreter=interpreter,
        argv=argv,
        knobs=tuple((name, filled.get(name)) for name in KNOBS),
        implicit=tuple(name for name in KNOBS if name in implicit),
        effective_batch=effective_batch(filled.get("device_batch"), filled.get("accumulation"), sharing),
        findings=tuple(findings),
    )


BY_LENGTH = ("group_by_length", "batch_rebalance")
"""Ways in which transformers 5 orders rows; version 4 has a switch."""


def weaknesses(words: Words) -> list[Finding]:
    """Options that are on and that the proof of a resume suffers from, by name."""
    found = [
        Finding(WEAKENS, "advice", f"--{name}: {why}")
        for name, why in WEAKENING.items()
        if is_on(words, name) or (name == "group_by_length" and words.text("train_sampling_strategy") in BY_LENGTH)
    ]
    if words.text("save_strategy") == "no":
        why = "--save_strategy no: nothing is saved that a run could go on from"
        found.append(Finding("no-checkpoints", "warning", why, "save by steps"))
    return found


def conflicts(words: Words) -> list[Finding]:
    """Options that end the job before its first step, or that overrule each other in silence."""
    found = []
    for name in NAMES.values():
        every = words.every(name)
        if len(set(every)) > 1:
            what = f"--{name} is given {len(every)} times ({', '.join(every)}): the last counts"
            found.append(Finding("given-twice", "advice", what, "give it once"))
    if words.text("deepspeed") and words.text("fsdp"):
        found.append(Finding("fsdp-and-deepspeed", "error", "--fsdp and --deepspeed exclude each other", "take one"))
    if all(words.text(name) not in (None, "0", "0.0") for name in ("warmup_ratio", "warmup_steps")):
        what = "--warmup_ratio and --warmup_steps: one of them is ignored or refused, which one differs by version"
        found.append(Finding("two-warm-ups", "warning", what, "give one"))
    return found


def _other_numbers(file: Overlaid, device_batch: Value, accumulation: Value, ranks: int | None) -> list[Finding]:
    left_out = deepspeed.why_fixed(file, accumulation)
    if left_out is not None:
        return [Finding("deepspeed-mismatch", "warning", left_out, f'write "{deepspeed.ACCUMULATION}": "auto" there')]
    names = deepspeed.differing(file, device_batch, accumulation, ranks)
    if not names:
        return []
    what = f"{file.name} has its own {' and '.join(names)}, and not the command's: transformers refuses to start"
    return [Finding("deepspeed-mismatch", "warning", what, 'write "auto" there')]


KTO = "KTO takes its KL term from the rows of a micro batch"
NEGATIVES = "the rows of a micro batch are each other's negatives"
GENERATED = "the batch is tied to the number of answers that are generated per prompt"
"""Why a device batch means more than how many rows there are: another split is another loss."""


def is_on(words: Words, name: str) -> bool:
    """Whether a switch is given and on."""
    return (words.text(name) or "false").lower() not in FALSE


def fixed_batch(why: str | None) -> tuple[tuple[str, str], ...]:
    """The batch is not to be touched."""
    return (("device_batch", why), ("accumulation", why)) if why else ()


def without_own_search(words: Words) -> str | None:
    """Why the batch must stay where the trainer looks for one itself."""
    if is_on(words, "auto_find_batch_size"):
        return "--auto_find_batch_size sets the batch by itself, also over what is given at a resume"
    return None


def go_on(words: Words, checkpoint: str | None, further: tuple[tuple[str, str, str], ...]) -> tuple[Words, Edits]:
    """The words of a resume, and what changed; `further`: (knob, option, value). No checkpoint: none is named."""
    edits = []
    name = NAMES["resume_from"]
    old = words.text(name)
    if checkpoint is None and old is not None:
        # An empty path would be looked for; where a file names one, there is no way to unsay it but that.
        words = words.without(name) or words.put("", name)
        edits.append(Edit("resume_from", old, None, "resume"))
    wanted = (("resume_from", name, checkpoint),) if checkpoint is not None else ()
    for knob, option, new in (*wanted, *further):
        old = words.text(option)
        if old != new:
            words = words.put(new, option)
            edits.append(Edit(knob, old, new, "resume"))
    return words, tuple(edits)


def home_of(checkpoint: str) -> str:
    """The folder that a checkpoint lies in."""
    return checkpoint.rstrip("/").rpartition("/")[0] or "/"


def same_folder(given: str | None, absolute: str) -> bool:
    """Whether a folder as given is this one, as far as one can tell without knowing where the job runs."""
    if given is None:
        return False
    plain = given.rstrip("/").removeprefix("./")
    return bool(plain) and f"/{absolute.strip('/')}".endswith(f"/{plain.lstrip('/')}")
