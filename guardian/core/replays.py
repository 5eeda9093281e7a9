"""The steps that ran twice, before a failure and after the resume: the same rows, the same samples, the same loss.

Pure. A loss may differ by what is left of float32 noise, and by dropout's other masks where the batch was split another
way; another number of rows is never right, and other samples only where the command asks for them. On a GPU, and in
floats of 16 bits, the same step never gives quite the same loss: there samples and rows are the proof, and a loss has
only to lie as near as the losses of two neighbouring steps do.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from guardian.core.spelling import spell
from guardian.core.weakening import asked_for_other_samples, split_end_to_end

if TYPE_CHECKING:
    from guardian.core.findings import Findings
    from guardian.core.run import Attempt, Run, Step

SAME_LOSS = 1e-4
"""Relative to max(1, |loss|): what is left of float32 noise when a step runs again from the same state."""
OTHER_SPLIT = 5e-2
"""Relative: dropout draws other masks when the micro batch changes (LoRA at 0.05 was seen to differ by 1.4e-3)."""
EXACT = frozenset({None, "float32", "float64"})
"""Precisions in which a step on the CPU gives the same loss again; None: a companion that does not tell."""
BAND_FROM = 8
"""Changes from step to step that must be known before they are a measure."""
BANDS_OUT = 3
"""A single step may lie outside the band by chance; one this far outside it does not."""


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
    other = [(before, new.step) for before, old, new in pairs if _other_samples(old, new)]
    if other:
        text = f"other samples at {spell([step for _, step in other])} when run again in attempt {attempt.number}"
        meant = asked_for_other_samples(run) or all(split_end_to_end(run, before, attempt) for before, _ in other)
        (found.doubts if meant else found.violations).append(text)
    silent = [
        new.step
        for before, old, new in pairs
        if None in (old.fingerprint, new.fingerprint)
        and (None in (old.loss, new.loss) or inexact(before) or inexact(attempt))
    ]
    found.replayed += len(pairs) - len(silent)
    if silent:
        found.doubts.append(
            f"{spell(silent)} ran again in attempt {attempt.number} with neither samples nor an exact loss to compare"
        )


def _compare_losses(run: Run, attempt: Attempt, pairs: list[_Pair], found: Findings) -> None:
    apart: dict[str, list[int]] = {}
    measured = inexact(attempt) or next((why for before, _, _ in pairs if (why := inexact(before))), None)
    band = band_before(run, attempt) if measured else None
    if band is not None:
        found.band, found.rounding = max(found.band or 0.0, band), measured
    for before, old, new in pairs:
        gap = loss_difference(old.loss, new.loss)
        if gap is None:
            continue
        if math.isfinite(gap):
            found.largest = max(found.largest or 0.0, gap)
        if not _other_samples(old, new):
            why = _apart(run, before, attempt, gap / max(1.0, abs(old.loss or 0.0)), gap, band)
            apart.setdefault(why, []).append(new.step)
    for why, steps in apart.items():
        text = f"another loss at {spell(steps)} when run again in attempt {attempt.number}"
        if why == FAR:
            found.violations.append(text)
        elif why != SAME:
            found.doubts.append(f"{text}: {why}")


SAME, FAR = "same", "far"


def _apart(run: Run, before: Attempt, attempt: Attempt, part: float, gap: float, band: float | None) -> str:
    """What is said of a difference: `SAME`, `FAR`, or what explains it; `part`: relative to the loss."""
    rounding = inexact(before) or inexact(attempt)
    if part <= SAME_LOSS or (rounding and band is not None and gap <= band):
        return SAME
    if _experiment_changed(run, before, attempt):
        return "the policy let the experiment be changed"
    if rounding and math.isfinite(gap) and band is None:
        return "too few steps had run to tell how much it changes from step to step"
    if rounding and band is not None and gap <= BANDS_OUT * band:
        return f"a little outside the run's own step-to-step band of {band:.2g}"
    if part <= OTHER_SPLIT and _split(before) != _split(attempt):
        return "the batch was split differently, which changes dropout"
    return FAR


def inexact(attempt: Attempt) -> str | None:
    """Why the attempt's steps do not give the same loss again: `bfloat16 on cuda`; None: they do."""
    hello = attempt.hello
    if hello is None or (hello.device in (None, "cpu") and hello.precision in EXACT):
        return None
    return f"{hello.precision or 'floats'} on {hello.device or 'an unknown device'}"


def band_before(run: Run, attempt: Attempt) -> float | None:
    """How much the loss usually changes from a step to the next, before this attempt; None: too few steps to tell."""
    changes = sorted(
        gap
        for one in run.attempts[: attempt.number - 1]
        for old, new in pairwise(one.steps)
        if new.step == old.step + 1 and (gap := loss_difference(old.loss, new.loss)) is not None and math.isfinite(gap)
    )
    return changes[len(changes) // 2] if len(changes) >= BAND_FROM else None


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
