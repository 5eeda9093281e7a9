"""Prove by counting that the training which ran is the one that was asked for.

Arguments and banners are claims; the evidence is the number of rows that entered forward in each optimizer step,
summed over the ranks, and the comparison of the steps that ran twice (core/replays.py).
What was not counted lowers the verdict; only what was counted and differs is a violation.
"""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

from guardian.core import effects, lineage, replays, weakening
from guardian.core.events import Outcome
from guardian.core.findings import Findings
from guardian.core.run import Finished
from guardian.core.spelling import count, spell
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.events import Hello
    from guardian.core.lineage import Stretch
    from guardian.core.run import Attempt, Run

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
    loss_band: float | None = None
    """The run's own step-to-step band, within which losses count as the same on a GPU and in 16 bits; None: they were
    held against each other as they are."""


def certify(run: Run) -> Certificate:
    """Judge all that was counted in a run, whether it is over or not."""
    line = lineage.stretches(run)
    found = Findings()
    counted = {step.step for attempt in run.attempts for step in attempt.steps if step.rows is not None}
    baseline = _baseline(run)
    _compare_claims(run, found)
    _name_what_the_command_weakens(run, found)
    found.violations += [text for attempt in run.attempts for text in effects.rates(run, attempt)]
    if baseline is not None:
        _judge_counts(run, baseline, found)
        replays.compare(run, found)
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
        loss_band=found.band,
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


def _compare_claims(run: Run, found: Findings) -> None:
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


def _name_what_the_command_weakens(run: Run, found: Findings) -> None:
    """What was asked for cannot be a violation of it; but it is no proof either."""
    if any(attempt.plan.resume_step for attempt in run.attempts):
        found.doubts += [f"the training was asked for {text}" for text in weakening.weakened(run)]
    alone = next((a for a in run.attempts if a.hello and a.hello.world < (run.created.ranks or 1)), None)
    if alone is not None and alone.hello is not None:
        found.doubts.append(
            f"the command asks for {run.created.ranks} ranks, and those of attempt {alone.number} trained in a group "
            f"of {alone.hello.world}: each trains for itself, and all write into the same folder"
        )


def _has_counts(attempt: Attempt) -> bool:
    return any(s.rows is not None for s in attempt.steps)


# --- counting ------------------------------------------------------------------------------------------------


def _judge_counts(run: Run, baseline: _Baseline, found: Findings) -> None:
    if baseline.rows is None:
        found.doubts.append("the rows per step vary within the first attempt: this job has no fixed effective batch")
    elif baseline.claim is not None and baseline.claim != baseline.rows:
        found.doubts.append(f"{baseline.rows} rows per step were counted where the job says {baseline.claim}")
    first = next((one for one in run.attempts if _has_counts(one)), None)
    for attempt in run.attempts:
        if attempt.hello and attempt.hello.world != attempt.hello.data_parallel:
            _doubt_model_parallel(attempt, attempt.hello, found)
        doubted = first is not None and weakening.split_end_to_end(run, first, attempt)
        _judge_attempt(attempt, baseline, found, doubted=doubted)


def _doubt_model_parallel(attempt: Attempt, hello: Hello, found: Findings) -> None:
    found.doubts.append(
        f"attempt {attempt.number} has {hello.world} ranks of which {hello.data_parallel} have rows of their own: "
        "a sum over the ranks counts rows more than once"
    )


def _judge_attempt(attempt: Attempt, baseline: _Baseline, found: Findings, *, doubted: bool) -> None:
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
        (found.doubts if doubted else found.violations).append(
            f"{rows} rows instead of {baseline.rows} were counted at {spell(steps)} (attempt {attempt.number})"
        )
    if unclear:
        found.doubts.append(
            f"fewer than {baseline.rows} rows at {spell(unclear)} (attempt {attempt.number}): "
            "where its epochs end is not known"
        )
    if blind:
        found.doubts.append(f"a rank did not count its rows at {spell(blind)} (attempt {attempt.number})")


def _name_gaps(run: Run, line: tuple[Stretch, ...], found: Findings) -> None:
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


# --- words -----------------------------------------------------------------------------------------------------


def _bounded(reasons: list[str]) -> tuple[str, ...]:
    unique = list(dict.fromkeys(reasons))
    if len(unique) <= REASONS:
        return tuple(unique)
    return (*unique[:REASONS], f"and {len(unique) - REASONS} more like these")


def _what_was_counted(batch: int | None, counted: int, found: Findings) -> list[str]:
    short = f" ({len(found.short)} that end an epoch have fewer)" if found.short else ""
    reasons = [f"{batch} rows were counted at each of {count(counted, 'step')}{short}"]
    if found.replayed:
        were = "was" if found.replayed == 1 else "were"
        gap = "" if found.largest is None else f", the largest difference of a loss was {found.largest:.1g}"
        equal = "equal" if found.band is None else "equal in samples and rows"
        reasons.append(f"{count(found.replayed, 'step')} ran again and {were} {equal}{gap}{_within(found)}")
    return reasons


def _within(found: Findings) -> str:
    if found.band is None:
        return ""
    return f", within the run's own step-to-step band of {found.band:.2g} ({found.rounding} repeats no loss exactly)"


def _one_number(run: Run, found: Findings) -> int | None:
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
