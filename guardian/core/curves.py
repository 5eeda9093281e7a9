"""The numbers of a training as curves over its steps: loss, gradient norm, learning rate, step time, tokens, memory.

Pure. The companion's numbers and the log's are one series: where the companion counted, its number counts, the rest
is what the trainer logged. A step that ran again has the number of the last attempt that ran it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guardian.core import throughput
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardian.core.run import Attempt, Run

FLAT = 1e-3
"""Of the first number: what differs by less is drawn as nothing."""
Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """(step, number) in the order of the steps; a number may be none."""

    name: str
    points: Points


def losses(attempt: Attempt) -> Points:
    """As the companion read them at each step, else as the trainer logged them."""
    return _known((s.step, s.loss) for s in attempt.steps) or _known((x.step, x.loss) for x in attempt.logged)


def curves(run: Run) -> tuple[Curve, ...]:
    """What is known besides the loss, where it changes: a rate that is constant is no curve."""
    found: dict[str, dict[int, float]] = {}
    for attempt in run.attempts:
        for name, points in _of(attempt).items():
            found.setdefault(name, {}).update(points)
    return tuple(Curve(name, tuple(sorted(points.items()))) for name, points in found.items() if _changes(points))


def _of(attempt: Attempt) -> dict[str, Points]:
    logged, paces = attempt.logged, throughput.paces(attempt)
    return {
        "grad norm": _known((x.step, x.grad_norm) for x in logged),
        "lr": _known((s.step, s.lr) for s in attempt.steps) or _known((x.step, x.lr) for x in logged),
        "s a step": _known((p.step, p.seconds) for p in paces),
        "tokens/s": _known((p.step, p.tokens / p.seconds if p.tokens else None) for p in paces),
        "GiB": _known((x.step, x.memory_gib) for x in logged),
    }


def _changes(points: dict[int, float]) -> bool:
    first = next(iter(points.values()), 0.0)
    return any(abs(value - first) > FLAT * abs(first) or math.isnan(value) for value in points.values())


def _known(points: Iterable[tuple[int | None, float | None]]) -> Points:
    return tuple((step, value) for step, value in points if step is not None and value is not None)
