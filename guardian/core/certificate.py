"""Prove by counting that the training which ran is the one that was asked for.

Arguments and banners are claims; the evidence is the number of rows that entered forward in each optimizer step,
summed over the ranks, and the comparison of the steps that ran twice, before a failure and after the resume.
What was not counted lowers the verdict; only what was counted and differs is a violation.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from guardian.core import effects, lineage
from guardian.core.events import Outcome
from guardian.core.run import Finished
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardian.core.events import Hello
    from guardian.core.lineage import Stretch
    from guardian.core.run import Attempt, Run, Step

SAME_LOSS = 1e-4
"""Relative to max(1, |loss|): what is left of float32 noise when a step runs again from the same state."""
OTHER_SPLIT = 5e-2
"""Relative: dropout draws other masks when the micro batch changes (LoRA at 0.05 was seen to differ by 1.4e-3)."""
OTHER_SAMPLES = ("--ignore_data_skip:", "--group_by_length:", "--streaming:")
"""What makes a resumed run go on with other rows, and the user wants it so."""
REASONS = 12
"""More are counted, not told."""


class Verdict(str, Enum):
    """How sure it is that the effective batch and the samples were preserved; public in `report --json`."""

    PROVED = "proved"
    CONSISTENT = "consistent"
    """Nothing counted differs, but something was not counted or cannot be compared exactly."""
    NOT_PROVABLE = "not_provable"
    VIOLATED = "violated"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The verdict with its evidence."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Sentences: what was counted where it is proved, what stands against a proof elsewhere."""
    steps_counted: int
    """Steps whose rows were counted, each number once."""
    replayed_steps: int
    """How often a step ran that had run before, and could be compared."""
    largest_loss_difference: float | None
    """Over the replayed steps; None: no losses to compare."""
    effective_batch: int | None
    """Rows per optimizer step as counted; None: not counted, or not one number."""
    short_steps: int = 0
    """Steps that ended an epoch with fewer rows, as they must."""


@dataclasses.dataclass(slots=True)
class _Findings:
    """What is collected on the way to a verdict."""

    violations: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    wrong: set[tuple[int, int]] = field(default_factory=set)
    """(attempt, step) of counts that are violations by themselves."""
    short: set[int] = field(default_factory=set)
    replayed: int = 0
    largest: float | None = None


def certify(run: Run) -> Certificate:
    """Judge all that was counted in a run, whether it is over or not."""
    line = lineage.stretches(run)
    found = _Findings()
    counted = {step.step for attempt in run.attempts for step in attempt.steps if step.rows is not None}
    baseline = _baseline(run)
    _compare_claims(run, found)
    _name_what_the_command_weakens(run, found)
    found.violations += [text for attempt in run.attempts for text in effects.rates(run, attempt)]
    if baseline is not None:
        _judge_counts(run, baseline, found)
        _compare_replays(run, found)
        _name_gaps(run, line, found)
    batch = _one_number(run, found)
    if found.violations:
        verdict, reasons = Verdict.VIOLATED, found.violations
    elif baseline is None:
        verdict, reasons = Verdict.NOT_PROVABLE, _why_nothing_was_counted(run)
    elif found.doubts:
        verdict, reasons = Verdict.CONSISTENT, found.doubts
    else:
        verdict, reasons = Verdict.PROVED, _what_was_counted(batch, len(counted), found)
    return Certificate(
        verdict=verdict,
        reasons=_bounded(reasons),
        steps_counted=len(counted),
        replayed_steps=found.replayed,
        largest_loss_difference=found.largest,
        effective_batch=batch,
        short_steps=len(found.short),
    )


# --- what is expected ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Baseline:
    """What the first counted attempt, which nobody had resumed yet, says a step must have."""

    rows: int | None
    """None: the job has no fixed number of rows per step."""
    claim: int | None


def _baseline(run: Run) -> _Baseline | None:
    """None: nothing was counted."""
    first = next((a for a in run.attempts if any(s.rows is not None for s in a.steps)), None)
    if first is None:
        return None
    claim = next((a.hello.effective_batch for a in run.attempts if a.hello), None)
    rows = [s.rows for s in first.steps if s.rows is not None]
    full = [s.rows for s in first.steps if s.rows is not None and not _ends_epoch(first.hello, s.step)]
    usual = Counter(full or rows).most_common(1)[0][0]
    if claim is not None and (usual == claim or (not full and usual < claim)):
        return _Baseline(claim, claim)
    # Preference pairs and packed rows enter forward in other numbers than the arguments say. What the first attempt
    # did is the user's own training all the same: it is preserved if later ones count the same.
    return _Baseline(usual if len(set(full or rows)) == 1 else None, claim)


def _ends_epoch(hello: Hello | None, step: int) -> bool:
    return hello is not None and bool(hello.steps_per_epoch) and step % (hello.steps_per_epoch or 1) == 0


def _compare_claims(run: Run, found: _Findings) -> None:
    """A job that says another effective batch than the first is believed unless its rows were counted."""
    first: tuple[Attempt, int] | None = None
    for attempt in run.attempts:
        if attempt.hello is None:
            continue
        claim = attempt.hello.effective_batch
        first = first or (attempt, claim)
        if claim != first[1] and not (_has_counts(attempt) and _has_counts(first[0])):
            found.violations.append(
                f"attempt {attempt.number} says its effective batch is {claim}, "
                f"attempt {first[0].number} said {first[1]}"
            )


def _name_what_the_command_weakens(run: Run, found: _Findings) -> None:
    """What was asked for cannot be a violation of it; but it is no proof either."""
    if any(attempt.plan.resume_step for attempt in run.attempts):
        found.doubts += [f"the command asks for {text}" for text in run.created.weakened]
    alone = next((a for a in run.attempts if a.hello and a.hello.world < (run.created.ranks or 1)), None)
    if alone is not None and alone.hello is not None:
        found.doubts.append(
            f"the command asks for {run.created.ranks} ranks, and those of attempt {alone.number} trained in a group "
            f"of {alone.hello.world}: each trains for itself, and all write into the same folder"
        )


def _has_counts(attempt: Attempt) -> bool:
    return any(s.rows is not None for s in attempt.steps)


# --- counting ------------------------------------------------------------------------------------------------


def _judge_counts(run: Run, baseline: _Baseline, found: _Findings) -> None:
    if baseline.rows is None:
        found.doubts.append("the rows per step vary within the first attempt: this job has no fixed effective batch")
    elif baseline.claim is not None and baseline.claim != baseline.rows:
        found.doubts.append(f"{baseline.rows} rows per step were counted where the job says {baseline.claim}")
    for attempt in run.attempts:
        if attempt.hello and attempt.hello.world != attempt.hello.data_parallel:
            _doubt_model_parallel(attempt, attempt.hello, found)
        _judge_attempt(attempt, baseline, found)


def _doubt_model_parallel(attempt: Attempt, hello: Hello, found: _Findings) -> None:
    found.doubts.append(
        f"attempt {attempt.number} has {hello.world} ranks of which {hello.data_parallel} have rows of their own: "
        "a sum over the ranks counts rows more than once"
    )


def _judge_attempt(attempt: Attempt, baseline: _Baseline, found: _Findings) -> None:
    other: dict[int, list[int]] = {}
    unclear: list[int] = []
    blind: list[int] = []
    for step in attempt.steps:
        if step.rows is None:
            blind.append(step.step)
        elif baseline.rows is None or step.rows == baseline.rows:
            continue
        elif 0 < step.rows < baseline.rows and _ends_epoch(attempt.hello, step.step):
            found.short.add(step.step)
        elif 0 < step.rows < baseline.rows and not (attempt.hello and attempt.hello.steps_per_epoch):
            unclear.append(step.step)
        else:
            other.setdefault(step.rows, []).append(step.step)
    for rows, steps in other.items():
        found.wrong |= {(attempt.number, step) for step in steps}
        found.violations.append(
            f"{rows} rows instead of {baseline.rows} were counted at {spell(steps)} (attempt {attempt.number})"
        )
    if unclear:
        found.doubts.append(
            f"fewer than {baseline.rows} rows at {spell(unclear)} (attempt {attempt.number}): "
            "where its epochs end is not known"
        )
    if blind:
        found.doubts.append(f"a rank did not count its rows at {spell(blind)} (attempt {attempt.number})")


def _name_gaps(run: Run, line: tuple[Stretch, ...], found: _Findings) -> None:
    """Each step on the surviving line must have been counted by the attempt whose step survives."""
    for one in line:
        if not one.stepped:
            continue
        attempt = one.attempt
        seen = {s.step for s in attempt.steps}  # a step without rows is named with the counts
        end = _must_reach(run, one)
        first = one.start if one.start is not None else min(seen, default=0) - 1
        missing = [step for step in range(first + 1, end + 1) if step not in seen]
        if not missing:
            continue
        why = "" if seen else ": its companion did not speak"
        found.doubts.append(f"{spell(missing)} of attempt {attempt.number} {_were(missing)} not counted{why}")


def _must_reach(run: Run, one: Stretch) -> int:
    """The step up to which the attempt must have been counted."""
    if one.until is not None:
        return one.until
    whole = isinstance(run.state, Finished) and run.state.outcome is Outcome.FINISHED
    if whole or not one.attempt.steps:
        return one.last or 0
    return one.attempt.steps[-1].step  # the ranks of a living or cut job do not report their last step together


def _were(steps: list[int]) -> str:
    return "was" if len(steps) == 1 else "were"


# --- the steps that ran twice ----------------------------------------------------------------------------------


def _compare_replays(run: Run, found: _Findings) -> None:
    """Each step that ran again is held against its latest earlier run."""
    earlier: dict[int, tuple[Attempt, Step]] = {}
    for attempt in run.attempts:
        pairs = [(*earlier[step.step], step) for step in attempt.steps if step.step in earlier]
        if pairs:
            _compare_rows(attempt, pairs, found)
            _compare_samples(run, attempt, pairs, found)
            _compare_losses(run, attempt, pairs, found)
        earlier.update({step.step: (attempt, step) for step in attempt.steps})


_Pair = tuple["Attempt", "Step", "Step"]


def _compare_rows(attempt: Attempt, pairs: list[_Pair], found: _Findings) -> None:
    other = [
        new.step
        for before, old, new in pairs
        if None not in (old.rows, new.rows)
        and old.rows != new.rows
        and not {(before.number, old.step), (attempt.number, new.step)} & found.wrong
    ]
    if other:
        found.violations.append(f"another number of rows at {spell(other)} when run again in attempt {attempt.number}")


def _compare_samples(run: Run, attempt: Attempt, pairs: list[_Pair], found: _Findings) -> None:
    other = [new.step for _, old, new in pairs if _other_samples(old, new)]
    if other:
        text = f"other samples at {spell(other)} when run again in attempt {attempt.number}"
        (found.doubts if _asked_for_other_samples(run) else found.violations).append(text)
    silent = [
        new.step for _, old, new in pairs if None in (old.fingerprint, new.fingerprint) and None in (old.loss, new.loss)
    ]
    found.replayed += len(pairs) - len(silent)
    if silent:
        found.doubts.append(
            f"{spell(silent)} ran again in attempt {attempt.number} with neither samples nor loss to compare"
        )


def _asked_for_other_samples(run: Run) -> bool:
    return any(text.startswith(OTHER_SAMPLES) for text in run.created.weakened)


def _compare_losses(run: Run, attempt: Attempt, pairs: list[_Pair], found: _Findings) -> None:
    far: list[int] = []
    masks: list[int] = []
    changed: list[int] = []
    for before, old, new in pairs:
        gap = loss_difference(old.loss, new.loss)
        if gap is None:
            continue
        if math.isfinite(gap):
            found.largest = max(found.largest or 0.0, gap)
        scale = max(1.0, abs(old.loss or 0.0))
        if gap <= SAME_LOSS * scale or _other_samples(old, new):
            continue
        if _experiment_changed(run, before, attempt):
            changed.append(new.step)
        elif gap <= OTHER_SPLIT * scale and _split(before) != _split(attempt):
            masks.append(new.step)
        else:
            far.append(new.step)
    again = f"when run again in attempt {attempt.number}"
    if far:
        found.violations.append(f"another loss at {spell(far)} {again}")
    if masks:
        found.doubts.append(
            f"another loss at {spell(masks)} {again}: the batch was split differently, which changes dropout"
        )
    if changed:
        found.doubts.append(f"another loss at {spell(changed)} {again}: the policy let the experiment be changed")


def loss_difference(old: float | None, new: float | None) -> float | None:
    """Zero for two losses that are both not a number; infinite where only one is; None where one is unknown."""
    if old is None or new is None:
        return None
    if old == new or (math.isnan(old) and math.isnan(new)):
        return 0.0
    gap = abs(old - new)
    return gap if math.isfinite(gap) else math.inf


def _other_samples(old: Step, new: Step) -> bool:
    return None not in (old.fingerprint, new.fingerprint) and old.fingerprint != new.fingerprint


def _split(attempt: Attempt) -> tuple[int, int, int] | None:
    hello = attempt.hello
    return (hello.device_batch, hello.accumulation, hello.data_parallel) if hello else None


def _experiment_changed(run: Run, before: Attempt, after: Attempt) -> bool:
    """Whether an edit between the two was one that may change the numbers."""
    between = run.attempts[before.number : after.number]
    return any(edit.kind == "changing" for attempt in between for edit in attempt.plan.edits)


# --- words -----------------------------------------------------------------------------------------------------


def spell(steps: Iterable[int], most: int = 4) -> str:
    """Step numbers in words: `step 7`, `steps 31-35 and 40`."""
    ranges = list(_ranges(sorted(set(steps))))
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:most]]
    if len(ranges) > most:
        parts.append(f"{len(ranges) - most} more places")
    words = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"step {words}" if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else f"steps {words}"


def count(number: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _ranges(steps: list[int]) -> Iterator[tuple[int, int]]:
    begin = 0
    for at in range(1, len(steps) + 1):
        if at == len(steps) or steps[at] != steps[at - 1] + 1:
            yield steps[begin], steps[at - 1]
            begin = at


def _bounded(reasons: list[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(reasons))
    if len(unique) <= REASONS:
        return tuple(unique)
    return (*unique[:REASONS], f"and {len(unique) - REASONS} more like these")


def _what_was_counted(batch: int | None, counted: int, found: _Findings) -> list[str]:
    short = f" ({len(found.short)} that end an epoch have fewer)" if found.short else ""
    reasons = [f"{batch} rows were counted at each of {count(counted, 'step')}{short}"]
    if found.replayed:
        were = "was" if found.replayed == 1 else "were"
        gap = "" if found.largest is None else f", the largest difference of a loss was {found.largest:.1g}"
        reasons.append(f"{count(found.replayed, 'step')} ran again and {were} equal{gap}")
    return reasons


def _one_number(run: Run, found: _Findings) -> int | None:
    """The rows that every full step had."""
    rows = {
        s.rows for attempt in run.attempts for s in attempt.steps if s.rows is not None and s.step not in found.short
    }
    if not rows and found.short:
        return max(s.rows for a in run.attempts for s in a.steps if s.rows is not None)
    return rows.pop() if len(rows) == 1 else None


def _why_nothing_was_counted(run: Run) -> list[str]:
    if not run.created.companion:
        return ["rows were not counted: the run was started without a companion"]
    lost = [f"rows were not counted: {x.why}" for x in run.lost if x.source.startswith(("companion", "heartbeat"))]
    if lost:
        return lost
    if any(a.steps for a in run.attempts):
        return ["rows were not counted: the companion spoke, but could not see the batches of this trainer"]
    if any(a.hello for a in run.attempts):
        return ["rows were not counted: no optimizer step was finished"]
    if any(a.last_step for a in run.attempts):
        return ["rows were not counted: no companion spoke (the job does not train with transformers' Trainer)"]
    return ["rows were not counted: no training step was seen"]
