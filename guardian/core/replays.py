"""The steps that ran twice, before a failure and after the resume: the same rows, the same samples, the same loss.

Pure. A loss may differ by what is left of float32 noise, and by dropout's other masks where the batch was split another
way; another number of rows is never right, and other samples only where the command asks for them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guardian.core.spelling import spell

if TYPE_CHECKING:
    from guardian.core.findings import Findings
    from guardian.core.run import Attempt, Run, Step

SAME_LOSS = 1e-4
"""Relative to max(1, |loss|): what is left of float32 noise when a step runs again from the same state."""
OTHER_SAMPLES = ("--ignore_data_skip:", "--group_by_length:", "--streaming:")
"""What makes a resumed run go on with other rows, and the user wants it so."""
OTHER_SPLIT = 5e-2
"""Relative: dropout draws other masks when the micro batch changes (LoRA at 0.05 was seen to differ by 1.4e-3)."""


def compare(run: Run, found: Findings) -> None:
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


def _compare_rows(attempt: Attempt, pairs: list[_Pair], found: Findings) -> None:
    other = [
        new.step
        for before, old, new in pairs
        if None not in (old.rows, new.rows)
        and old.rows != new.rows
        and not {(before.number, old.step), (attempt.number, new.step)} & found.wrong
    ]
    if other:
        found.violations.append(f"another number of rows at {spell(other)} when run again in attempt {attempt.number}")


def _compare_samples(run: Run, attempt: Attempt, pairs: list[_Pair], found: Findings) -> None:
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


def _compare_losses(run: Run, attempt: Attempt, pairs: list[_Pair], found: Findings) -> None:
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


def _asked_for_other_samples(run: Run) -> bool:
    return any(text.startswith(OTHER_SAMPLES) for text in run.created.weakened)
