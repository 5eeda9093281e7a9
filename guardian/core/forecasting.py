"""When something is used up, by how it went so far. Pure.

The rate is the median of the slopes between all pairs of points (Theil and Sen): a save that is written and rotated
away again, or one file that is copied, does not change it. Both halves of the time must fall: what has stopped
falling is not forecast.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

POINTS_LEAST = 4
POINTS_MOST = 40
"""Of which the slopes are taken: pairs grow with the square."""
SPAN_LEAST_S = 30.0
"""From less nothing is told."""
FAR = 20
"""Times what was seen: a burst of half a minute says nothing of the next hour."""

Point = tuple[float, float]
"""Seconds, and what was left."""


def empty_in_s(points: Sequence[Point]) -> float | None:
    """Seconds after the last point until nothing is left; None: it does not fall, or not enough is known."""
    taken = _some(points)
    if len(taken) < POINTS_LEAST or taken[-1][0] - taken[0][0] < SPAN_LEAST_S:
        return None
    half = len(taken) // 2
    rate = _slope(taken)
    if rate >= 0 or _slope(taken[half:]) >= 0 or _slope(taken[: half + 1]) >= 0:
        return None
    seconds = max(0.0, taken[-1][1]) / -rate
    return seconds if seconds <= FAR * (taken[-1][0] - taken[0][0]) else None


def _some(points: Sequence[Point]) -> list[Point]:
    """Some of them, evenly, the last one always."""
    every = -(-len(points) // POINTS_MOST) or 1
    return list(reversed(list(reversed(points))[::every]))


def _slope(points: Sequence[Point]) -> float:
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for n, a in enumerate(points) for b in points[n + 1 :] if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


def in_words(full_in_s: float, next_save_s: float | None = None) -> str:
    """`full in 2 h 10 min at this rate, before the next save`."""
    early = next_save_s is not None and full_in_s < next_save_s
    return f"full in {rough(full_in_s)} at this rate{', before the next save' if early else ''}"


def rough(seconds: float) -> str:
    """A length of time as people say it."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "days" if days > 1 else "day"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def next_save_s(save_steps: float | None, step: int | None, walls: Sequence[float]) -> float | None:
    """Seconds until the next save is due, by when the last steps were finished; None where nobody knows."""
    if save_steps is None or save_steps < 1 or step is None or len(walls) < 2 or walls[-1] <= walls[0]:
        return None
    return (save_steps - step % save_steps) * (walls[-1] - walls[0]) / (len(walls) - 1)
