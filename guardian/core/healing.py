"""Which rung of a rule's ladder comes next, and what it changes.

Pure. A ladder is climbed down from the top: a rung is taken as often as it may be repeated, passed by where its
conditions do not hold, where it would change nothing, or where the framework has no word for it; each passing by is
told with its reason. The position is read off the plans of the run, so a guardian that takes over stands on the same
rung. It is forgotten after two new checkpoints (a plain restart after one): a higher step alone would let a job that
dies just before each save begin again for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core import edits
from guardian.core.events import Cause, Checkpoint, Edit
from guardian.core.job import KNOBS, Value
from guardian.core.rules import filled
from guardian.core.rungs import FOLDERS
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from guardian.core.adapters import Adapter, Written
    from guardian.core.rules import Rule
    from guardian.core.run import Attempt, Run
    from guardian.core.rungs import Facts, Operation, Rung, Wait

FORGOTTEN_AFTER = 2
"""New checkpoints after which a rung that changes something counts as not taken."""
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Two names of one setting (torch 2.9 renamed it); the one that the user has is the one that counts."""
FOUND_BY_COMPANION = (
    "device_batch",
    "accumulation",
    "workers",
    "prefetch",
    "pin_memory",
    "eval_batch",
    "gradient_checkpointing",
)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What the next attempt does otherwise; everything that guardian ever changed is in it."""

    rung: int | None = None
    """Its number among all rungs of the rule, those of its variants first."""
    settings: tuple[tuple[str, bool | int | float | str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    edits: tuple[Edit, ...] = ()
    """What this rung changed of the environment and the limits; the adapter tells what it changed of the command."""
    resume: str = "newest"
    wait: Wait | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing is left to try."""

    why: str
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Patient:
    """What a rung is applied to."""

    run: Run
    attempt: Attempt
    argv: tuple[str, ...]
    """The user's command."""
    folder: str
    """The run's."""
    adapter: Adapter | None
    facts: Facts
    unrated: str | None = None
    """Why the learning rate of a checkpoint cannot be changed; None: it can be, or nobody has tried."""

    @property
    def now(self) -> Mapping[str, Value]:
        """The knobs as they are: what the job itself said, else what guardian set, else what the command means."""
        return asked_for(self.run, present(self.attempt, self.adapter))


def present(attempt: Attempt, adapter: Adapter | None) -> dict[str, Value]:
    """Each knob's present value, None where it is unknown."""
    known: dict[str, Value] = dict.fromkeys(KNOBS)
    if adapter is not None:
        known |= dict(adapter.spec.knobs)
    known |= dict(attempt.plan.settings)
    hello = attempt.hello
    if hello is not None:
        told = {name: getattr(hello, name) for name in FOUND_BY_COMPANION}
        told["world_size"] = hello.data_parallel
        known |= {name: value for name, value in told.items() if value is not None}
    return known


def asked_for(run: Run, now: Mapping[str, Value]) -> Mapping[str, Value]:
    """The knobs with the accumulation that makes the effective batch which the run began with.

    What an attempt ran with may be another (a checkpoint that brought its own batch): that is not what is to be kept.
    """
    rows = next((a.hello.effective_batch for a in run.attempts if a.hello), None)
    device_batch, ranks = now.get("device_batch"), now.get("world_size")
    if not (isinstance(rows, int) and isinstance(device_batch, int) and isinstance(ranks, int)):
        return now
    at_once = device_batch * ranks
    return {**now, "accumulation": rows // at_once} if at_once > 0 and rows % at_once == 0 else now


def remedy(rule: Rule, cause: Cause, patient: Patient) -> Remedy | Exhausted:
    """The next rung of the rule's ladder that changes something."""
    skipped: list[str] = []
    for number, rung in numbered(rule, cause.variant):
        if not rung.when.holds(patient.facts):
            continue
        if rung.give_up is not None:
            if patient.unrated is not None:
                return Exhausted(f"{cause.title}, and no lower learning rate can be set", tuple(skipped))
            return Exhausted(filled(rung.give_up, texts(cause, patient.facts)), tuple(skipped))
        if (rule.id, number) in refused(patient.run):
            skipped.append(f"{name(rung)}: the command did not accept it")
            continue
        if not may_repeat(rung, taken(patient.run, rule.id, number, rung)):
            continue
        change = _applied(rung, patient)
        if isinstance(change, Remedy):
            return Remedy(
                number, change.settings, change.variables, change.limits, change.edits, rung.resume,
                rung.wait, tuple(skipped),
            )  # fmt: skip
        skipped.append(f"{name(rung)}: {change}")
    return Exhausted(f"{cause.title}: everything that its rule knows has been tried", tuple(skipped))


def numbered(rule: Rule, variant: str | None) -> Iterator[tuple[int, Rung]]:
    """The rungs for a variant, each with its number among all rungs of the rule: the variant's own, then the rule's."""
    number = 0
    for one in rule.variants:
        if one.name == variant:
            yield from enumerate(one.ladder, number)
        number += len(one.ladder)
    yield from enumerate(rule.ladder, number)


def was_refused(run: Run, attempt: Attempt) -> bool:
    """Whether the command did not accept what a rung had changed: it fell over its arguments, before any step."""
    if attempt.plan.rung is None or attempt.number < 2 or attempt.diagnosed is None:
        return False
    before, plan, cause = run.attempts[attempt.number - 2].plan, attempt.plan, attempt.diagnosed.cause
    changed = (plan.settings, plan.variables) != (before.settings, before.variables)
    stepped = bool(attempt.steps) or (attempt.last_step or 0) > (plan.resume_step or 0)
    return changed and not stepped and cause is not None and cause.id == "config_conflict"


def refused(run: Run) -> frozenset[tuple[str, int]]:
    """The rungs (rule and number) that the command did not accept."""
    plans = (one.plan for one in run.attempts if was_refused(run, one))
    return frozenset((p.rule, p.rung) for p in plans if p.rule is not None and p.rung is not None)


def changes_something(rule: Rule, variant: str | None) -> bool:
    """Whether the ladder has a rung that does more than start the same again."""
    return any(rung.edits or rung.wait or rung.resume != "newest" for _, rung in numbered(rule, variant))


def taken(run: Run, rule: str, number: int, rung: Rung) -> int:
    """How often a rung was taken since it was last forgotten."""
    enough = FORGOTTEN_AFTER if rung.edits else 1
    count = 0
    made: set[int] = set()
    for attempt in reversed(run.attempts):
        if attempt.number <= run.fresh_from + 1:
            break
        start = attempt.plan.resume_step or 0
        before = max((c.step for a in run.attempts[: attempt.number - 1] for c in a.checkpoints), default=0)
        made |= {c.step for c in attempt.checkpoints if c.step > max(before, start)}
        if len(made) >= enough:
            break
        count += (attempt.plan.rule, attempt.plan.rung) == (rule, number)
    return count


def may_repeat(rung: Rung, times: int) -> bool:
    """Whether a rung that was taken so often may be taken again; the policy's budget limits the rest."""
    return not isinstance(rung.repeat, int) or times < rung.repeat


def _applied(rung: Rung, patient: Patient) -> Remedy | str:
    """What the rung changes, or why it changes nothing."""
    plan = patient.attempt.plan
    settings = dict(plan.settings)
    if rung.set:
        change = edits.changed(rung.set, patient.now, patient.facts)
        if isinstance(change, edits.Unchanged):
            return change.why
        if patient.unrated is not None and "learning_rate" in dict(change.settings):
            return f"it cannot be set in the checkpoint ({patient.unrated})"
        settings |= dict(change.settings)
        refusal = _refusal(patient, settings, dict(change.settings))
        if refusal is not None:
            return refusal
    given = dict(patient.run.created.env) | dict(plan.variables)
    variables = dict(_variables(rung, given, patient.folder))
    limits = {key: value for key, value in rung.limits if (key, value) not in plan.limits}
    if not (rung.set or variables or limits or rung.restart or rung.wait or rung.resume != "newest"):
        return "it is so already"
    return Remedy(
        settings=tuple(settings.items()),
        variables=tuple((dict(plan.variables) | variables).items()),
        limits=tuple((dict(plan.limits) | limits).items()),
        edits=(
            *(Edit(key, given.get(key), value, "preserving") for key, value in variables.items()),
            *(Edit(key, None, value, "preserving") for key, value in limits.items()),
        ),
    )


def _refusal(patient: Patient, settings: Mapping[str, Value], new: Mapping[str, Value]) -> str | None:
    """Why the command cannot say what the rung asks for; None: it can."""
    if patient.adapter is None:
        return "the command is of no framework that guardian can edit"
    written: Written = patient.adapter.write(patient.argv, settings)
    refused = (*written.refused, *_told_fixed(patient))
    return next((f"{knob} cannot be set: {why}" for knob, why in refused if knob in new), None)


def _told_fixed(patient: Patient) -> tuple[tuple[str, str], ...]:
    """The batch, where the trainer has told that its arguments do not make it: words of the command do not either.

    A DeepSpeed file that repeats the arguments is the adapter's affair: it is followed by a copy.
    """
    hello = next((a.hello for a in reversed(patient.run.attempts) if a.hello), None)
    told = dict(hello.fixed) if hello is not None else {}
    batch = [(knob, told[knob]) for knob in ("device_batch", "accumulation") if knob in told]
    return tuple((knob, why) for knob, why in batch if "DeepSpeed" not in why)


def _variables(rung: Rung, given: Mapping[str, str], folder: str) -> Iterator[tuple[str, str]]:
    """The variables that get another value; "+k:v" is put into a list of settings, one value for each key."""
    for asked, value in rung.env:
        key = next((n for n in ALLOCATOR if n in given), asked) if asked in ALLOCATOR else asked
        new = merged(given.get(key, ""), value[1:]) if value.startswith("+") else value
        if key in FOLDERS:
            new = f"{folder}/{key.lower()}"
        if new != given.get(key):
            yield key, new


def merged(old: str, addition: str) -> str:
    """A list `k:v,k:v` with one more; what stood under the same key is replaced."""
    key = addition.partition(":")[0]
    kept = [one for one in old.split(",") if one and one.partition(":")[0] != key]
    return ",".join([*kept, addition])


def chosen(resume: str, found: tuple[Checkpoint, ...], last: Attempt, facts: Facts) -> Checkpoint | None:
    """The checkpoint that a rung resumes from; None: from scratch, because it says so or because there is none."""
    sound = sorted({c.step: c for c in reversed(found) if c.complete}.values(), key=lambda c: c.step)
    if resume == "scratch":
        return None
    if resume == "previous" and len(sound) > 1 and sound[-1].step == (last.plan.resume_step or 0):
        # It was tried, and it was the newest: the one before it.
        sound = sound[:-1]
    if resume.startswith("before:"):
        limit = facts.get(resume.partition(":")[2])
        sound = [c for c in sound if isinstance(limit, int | float) and c.step < limit]
    return sound[-1] if sound else None


def texts(cause: Cause, facts: Facts) -> dict[str, str]:
    """What a rule's text can name."""
    known = {key: value for key, value in facts.items() if value is not None} | dict(cause.facts)
    return {key: shown(value) for key, value in known.items()}


def shown(value: float | str) -> str:
    """A fact as people write it: no digits that mean nothing."""
    if not isinstance(value, float):
        return str(value)
    return str(int(value)) if value == int(value) else f"{value:.4g}"


def name(rung: Rung) -> str:
    """A rung in a few words."""
    parts = [_worded(knob, operation) for knob, operation in rung.set if operation.kind != edits.KEEP]
    parts += [f"{key}={value}" for key, value in (*rung.env, *rung.limits)]
    return ", ".join(parts) or "the same again"


_WORDS = {
    "halve": "{} halved",
    "fit-shm": "{} as /dev/shm holds",
    "lower-or-safe": "{} lowered",
    "ten-starts": "{} as ten starts take",
    "times": "{} times {}",
    "at-least": "{} at least {}",
}


def _worded(knob: str, operation: Operation) -> str:
    value = {True: "on", False: "off"}[operation.value] if isinstance(operation.value, bool) else operation.value
    return _WORDS.get(operation.kind, "{} {}").format(knob, value)
