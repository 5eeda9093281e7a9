"""What the logged numbers of a training show over several logs: no number any more, frozen, a spike, changing.

A condition holds on the *latest* logs: what went bad and came back is history. One step that a gradient scaler skips
(grad_norm nan or inf, once) is how fp16 finds its scale; `times` in a rule says how many in a row are no skipped step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from guardian.core.events import Logged
from guardian.core.values import dataclass

SERIES = ("loss", "grad_norm", "lr")
SPIKE_FACTOR = 5.0
SPIKE_BEFORE = 20
"""Logs before a spike without which nobody knows what is usual: a warm-up may go on for longer than ten."""
SPIKE_WINDOW = 50
SPIKE_STAYS = 10
"""Logs in a row over the limit, up to the latest, with which a spike counts as one that does not come back."""
SPIKES_BEFORE = 0.01
"""Share of all logs before that may have been as high: single points that came back."""
RUNAWAY_BEFORE = 3
"""Logs that a loss must have behind it before anybody can say that it runs away."""
LOOK_BACK = 1024
"""Logs that are looked at: a condition is asked again with every log of a long run."""


@dataclass(frozen=True, slots=True)
class Series:
    """A condition on numbers that the training logs: so many logs in a row, up to the latest."""

    of: str
    is_: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """Where a series condition became true."""

    step: int | None
    """Of the first of the logs in a row that show it."""
    text: str


def find(series: Series, logged: Sequence[Logged], within_s: float | None = None) -> Found | None:
    """Where the condition became true, if it holds on the latest logs; within: the decisive ones took no longer."""
    points = _points(series.of, logged[-LOOK_BACK:] if len(logged) > LOOK_BACK else logged)
    begin = _KINDS[series.is_](series, points)
    if begin is None or len(points) - begin < series.times or not _within(points[begin:][: series.times], within_s):
        return None
    first = points[begin]
    text = f"step {'?' if first.step is None else first.step}: loss {first.loss}, gradient norm {first.grad_norm}"
    return Found(first.step, text)


def first_bad_step(logged: Sequence[Logged]) -> int | None:
    """The first step of the latest logs in a row with a loss or a gradient that is not a number."""
    first = None
    for one in reversed(logged):
        if one.loss is None and one.grad_norm is None:
            continue
        if not is_nan("loss", one) and not is_nan("grad_norm", one):
            break
        first = first if one.step is None else one.step
    return first


def spike_step(logged: Sequence[Logged]) -> int | None:
    """Where a loss that has jumped, and does not come back, did so."""
    found = find(Series("loss", "spike", SPIKE_STAYS), logged)
    return None if found is None else found.step


def runaway_step(logged: Sequence[Logged]) -> int | None:
    """Where the loss ran away on its way to no number; the first bad step itself where nothing announced it.

    Walked back from the first bad step while the loss is over five times the median of all that went before.
    """
    bad = first_bad_step(logged)
    if bad is None:
        return None
    begin = bad
    points = [p for p in _points("loss", logged[-LOOK_BACK:]) if p.step is not None and p.step < bad]
    losses = [p.loss for p in points if p.loss is not None]
    for at in range(len(points) - 1, RUNAWAY_BEFORE - 1, -1):
        if losses[at] <= SPIKE_FACTOR * _median(losses[:at]):
            break
        begin = points[at].step or begin
    return begin


def _points(of: str, logged: Sequence[Logged]) -> list[Logged]:
    """One log per step that has this number: the companion and job.log may both tell of a step."""
    points: list[Logged] = []
    for one in logged:
        if getattr(one, of) is None:
            continue
        if points and one.step is not None and points[-1].step == one.step:
            points[-1] = one
        else:
            points.append(one)
    return points


def is_nan(of: str, one: Logged) -> bool:
    """No number; and a loss of exactly 0 beside a gradient that is none, which is what HF's filter and swift log."""
    value = getattr(one, of)
    if value is None or not math.isfinite(value):
        return value is not None
    return of == "loss" and value == 0 and one.grad_norm is not None and not math.isfinite(one.grad_norm)


def _nan(series: Series, points: list[Logged]) -> int | None:
    return _trailing(points, lambda at: is_nan(series.of, points[at]))


def _frozen(series: Series, points: list[Logged]) -> int | None:
    """The same to the last digit, while the learning rate moves and no living gradient shows a plateau.

    A loss is logged with few digits: on a plateau, and when all is learnt (0.0), it repeats itself. Then the gradient's
    norm is finite and goes on moving; behind a hidden NaN it is nan, zero or not there.
    """
    begin = _trailing(points, lambda at: getattr(points[at], series.of) == getattr(points[-1], series.of))
    if begin is None or len(points) - begin < max(2, series.times):
        return None
    same = points[begin:]
    rates = {one.lr for one in same if one.lr is not None}
    norms = {one.grad_norm for one in same if one.grad_norm is not None}
    alive = len(norms) > 1 and all(math.isfinite(norm) for norm in norms)
    return begin if len(rates) > 1 and not alive else None


def _changing(series: Series, points: list[Logged]) -> int | None:
    """Each value is another than the one before it."""
    return _trailing(points, lambda at: at > 0 and getattr(points[at], series.of) != getattr(points[at - 1], series.of))


def _spike(series: Series, points: list[Logged]) -> int | None:
    """Over five times the median of the logs before it, far outside their scatter, and higher than all before it.

    The median of the logs before the *latest* `times` is what they are measured by, so that a spike that stays does
    not become what is usual. Higher than ever: rows of another kind, or an epoch's end after the rows are learnt by
    heart, bring a loss back to where it was at first, and not beyond.
    """
    before = [getattr(one, series.of) for one in points[: -series.times]]
    usual = [value for value in before[-SPIKE_WINDOW:] if math.isfinite(value)]
    if len(usual) < SPIKE_BEFORE:
        return None
    median = _median(usual)
    scatter = _median([abs(value - median) for value in usual])
    limit = max(SPIKE_FACTOR * abs(median), median + 2 * SPIKE_FACTOR * scatter)
    begin = _trailing(points, lambda at: getattr(points[at], series.of) > limit)
    if begin is None:
        return None
    known = sorted(value for one in points[:begin] if math.isfinite(value := getattr(one, series.of)))
    highest = known[-1 - int(len(known) * SPIKES_BEFORE)] if known else math.inf
    lowest = min(getattr(one, series.of) for one in points[begin:])
    return begin if lowest > highest else None


def _median(values: list[float]) -> float:
    """Of some values; statistics.median would import decimals, fractions and random numbers into every start."""
    ordered = sorted(values)
    return (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2


def _trailing(points: list[Logged], holds: Callable[[int], bool]) -> int | None:
    """Where the latest points in a row for which it holds begin; None: it does not hold for the latest."""
    begin = len(points)
    while begin > 0 and holds(begin - 1):
        begin -= 1
    return begin if begin < len(points) else None


def _within(points: list[Logged], within_s: float | None) -> bool:
    """Whether these logs came within so long; a time that is unknown is not."""
    if within_s is None:
        return True
    first, last = points[0].wall, points[-1].wall
    return first is not None and last is not None and last - first <= within_s


_KINDS: dict[str, Callable[[Series, list[Logged]], int | None]] = {
    "changing": _changing,
    "frozen": _frozen,
    "nan": _nan,
    "spike": _spike,
}
KINDS = tuple(_KINDS)
