"""Of a job that printed a fatal line and lives on, say whether it goes on, stands still, or nobody can know yet.

Pure. Acting needs two signs that do not depend on each other. In steady training they are the line and the silence of
the training loop after it; everywhere else (before the first step of an attempt, in an evaluation or a save, where no
companion tells of steps) silence is what one expects, and the second sign is that the whole tree neither computes nor
reads nor writes. A job that caught its error goes on: a step, an evaluation or a save after the line proves it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.events import Activity, Suspected
    from guardian.core.policy import Policy
    from guardian.core.run import Attempt

PREFETCH = 2
"""Batches that each data loader process makes ahead where nobody says how many (torch/utils/data/dataloader.py)."""
STEPS_AHEAD = 2
"""Of which the training loop itself has taken the batches out of the loader (transformers, accelerate)."""
SETTLE_STEPS = 3
"""Typical steps that a job which printed a fatal line may be silent for, at least."""
IDLE_OVER_S = 10.0
"""Between two looks at what the tree does."""
IDLE_SHARE = 0.05
"""Of one core: pollers, tqdm's monitor and the like use less."""
IDLE_BYTES = 1 << 20
"""Read and written between two looks ten seconds apart; a save or a download moves more."""
SILENT_PHASES = frozenset({"eval", "save"})


@dataclass(frozen=True, slots=True)
class Patience:
    """Nothing to do before this time; None: nothing is suspected."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """What the tree does must be looked at now."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """It stands still."""

    suspected: Suspected


def judge(attempt: Attempt, policy: Policy, now: float, step_s: float | None) -> Patience | Doubt | Confirmed:
    """What to make of the attempt's suspicions; `step_s`: wall seconds of a typical step."""
    open_ones = [
        (_due(max(wall, attempt.step_wall or 0.0), one, policy, step_s), wall, one)
        for wall, one in attempt.suspected
        if not _went_on(attempt, wall)
    ]
    if not open_ones:
        return Patience(None)
    due, _, first = min(open_ones, key=lambda each: each[0])
    if now < due:
        return Patience(due)
    if first.confirm == "line" or (step_s is not None and _in_steady_training(attempt)):
        return Confirmed(first)
    seen = [one for one in attempt.activity if one.wall >= due]
    before = next((one for one in reversed(seen) if seen[-1].wall - one.wall >= IDLE_OVER_S), None)
    if before is not None and idle(before, seen[-1]):
        return Confirmed(first)
    again = seen[-1].wall + IDLE_OVER_S if seen else now
    return Doubt() if now >= again else Patience(again)


def idle(before: Activity, after: Activity) -> bool:
    """Whether the same processes did next to nothing in between."""
    if before.pids != after.pids or after.gpu:
        return False
    if before.running or after.running:
        return False  # on a machine that is full others may have had the processors
    over_s = max(after.wall - before.wall, 1e-3)
    return (after.cpu_s - before.cpu_s) / over_s < IDLE_SHARE and not moves(before, after)


def moves(before: Activity, after: Activity) -> bool:
    """Whether they may have read or written in between; nobody may look: they may."""
    if before.io_bytes is None or after.io_bytes is None:
        return True
    over_s = max(after.wall - before.wall, 1e-3)
    return after.io_bytes - before.io_bytes >= IDLE_BYTES * max(1.0, over_s / IDLE_OVER_S)


def _went_on(attempt: Attempt, wall: float) -> bool:
    """Steps from batches that lay ready prove nothing: a loader that lost one stops the job when its turn comes."""
    if attempt.step_wall is None or attempt.step_wall <= wall:
        return False
    hello = attempt.hello
    if hello is None or not hello.workers:
        return True
    ready = math.ceil(hello.workers * (hello.prefetch or PREFETCH) / max(1, hello.accumulation)) + STEPS_AHEAD
    newest = attempt.steps[-ready - 1] if len(attempt.steps) > ready else None
    return newest is not None and newest.wall > wall


def _due(wall: float, suspected: Suspected, policy: Policy, step_s: float | None) -> float:
    if suspected.confirm == "line":
        return wall
    return wall + max(suspected.settle_s or policy.pending.settle_s, SETTLE_STEPS * (step_s or 0.0))


def _in_steady_training(attempt: Attempt) -> bool:
    return bool(attempt.hellos) and bool(attempt.steps) and attempt.phase not in SILENT_PHASES
