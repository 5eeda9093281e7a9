"""How fast a training goes: whether it has become slower than it was at first, and which rank the others wait for.

Pure. A remark with its figures and never a reason to stop: rows grow longer, hosts are shared, and a restart heals
neither. Everything is a median over many steps, so that an evaluation or a save between two of them says nothing.

In synchronous training all ranks end a step together, whoever was late. What tells them apart is each rank's own work
in a step (core/wire.py, `own`): the rank that all wait for is the one whose own work takes longest.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardian.core.run import Attempt, Run

WINDOW = 20
"""Points of which a median is taken: steps, or logs of several steps."""
STEADY = 0.1
"""The medians of a steady window's halves differ by less: caches are warm, kernels compiled."""
DECLINED = 0.8
"""Share of the first throughput below which it is told."""
SLOWER_MOST = 0.8
"""Share of the latest points that must lie below the first median: a few slow ones are no decline."""
LATE = 1.1
"""A rank is late whose own work takes so many times as long as the middle rank's."""
LATE_STEPS = 50
LATE_LEAST = 20
LATE_SHARE = 0.8
"""Of the latest steps; another rank each time is noise, or rows of unequal length."""
HELD_UP = 0.1
"""Share of a step that the others must lose by it."""
PACELESS = frozenset({"add_version", "ddp_timeout", "output_dir", "overwrite_output_dir", "save_total_limit"})
"""Settings that make no step faster or slower."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What one step took, where a point stands for several: on average."""

    step: int
    seconds: float
    tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Points in a row, by their medians."""

    attempt: int
    first: int
    last: int
    """Steps."""
    seconds: float
    """A step."""
    tokens_s: float | None
    """Tokens a second, over all ranks; None where a point has none."""


@dataclass(frozen=True, slots=True)
class Speed:
    """The run's first steady window, and its latest one."""

    begun: Window
    now: Window
    share: float
    """Of the first throughput that is left: in tokens where they are known, else in steps."""
    declined: bool
    changed: tuple[str, ...]
    """Settings that were changed in between."""


@dataclass(frozen=True, slots=True)
class Straggler:
    """A rank that the others wait for."""

    rank: int
    attempt: int
    behind_s: float
    """How much longer the slowest rank's own work takes than the middle one's; the median of the steps."""
    step_s: float
    late: int
    """Steps at which it was late, of so many."""
    steps: int


def paces(attempt: Attempt) -> tuple[Pace, ...]:
    """From the companion; else from when the log told of steps; else as the job itself says."""
    if attempt.steps:
        told = ((s.step, s.wall, s.tokens) for s in attempt.steps)
        return tuple(_between(a, b) for a, b in pairwise(told) if b[0] > a[0] and b[1] > a[1])
    logs = [one for one in attempt.logged if one.step is not None]
    walls = [(x.step, x.wall, x.tokens_seen) for x in logs if x.step is not None and x.wall is not None]
    # Lines that are read in one block have the same time.
    timed = tuple(_of_logs(a, b) for a, b in pairwise(walls) if b[0] > a[0] and b[1] > a[1])
    said = tuple(Pace(x.step, x.step_s) for x in logs if x.step is not None and x.step_s)
    return timed or said


def _between(a: tuple[int, float, int | None], b: tuple[int, float, int | None]) -> Pace:
    """Tokens are those of the later step: with a step missing in between nobody knows more."""
    steps = b[0] - a[0]
    return Pace(b[0], (b[1] - a[1]) / steps, b[2] if steps == 1 else None)


def _of_logs(a: tuple[int, float, int | None], b: tuple[int, float, int | None]) -> Pace:
    """Tokens are counted from the training's begin."""
    steps = b[0] - a[0]
    tokens = None if a[2] is None or b[2] is None or b[2] <= a[2] else (b[2] - a[2]) / steps
    return Pace(b[0], (b[1] - a[1]) / steps, tokens)


def speed(run: Run) -> Speed | None:
    """What the throughput was and is; None: the run is too short, or was never steady."""
    known = [(attempt, found) for attempt in run.attempts if len(found := paces(attempt)) >= WINDOW]
    begun = next(((a, at, found) for a, found in known if (at := _steady(found)) is not None), None)
    if begun is None:
        return None
    (first, at, early), (last, late) = begun, known[-1]
    if first is last and len(late) - WINDOW < at + WINDOW:
        return None
    was, points = early[at : at + WINDOW], late[-WINDOW:]
    old, new = _window(first.number, was), _window(last.number, points)
    in_tokens = old.tokens_s is not None and new.tokens_s is not None
    usual = _median([_rate(p, in_tokens=in_tokens) for p in was])
    rates = [_rate(p, in_tokens=in_tokens) for p in points]
    share = _median(rates) / usual
    below = sum(rate < usual for rate in rates) / len(rates)
    declined = share <= DECLINED and below >= SLOWER_MOST
    return Speed(old, new, share, declined, _changed(run, first.number, last.number))


def _rate(pace: Pace, *, in_tokens: bool) -> float:
    return (pace.tokens or 0.0) / pace.seconds if in_tokens else 1 / pace.seconds


def _steady(found: Sequence[Pace]) -> int | None:
    """Where the first window begins whose halves go at the same pace."""
    half = WINDOW // 2
    for at in range(len(found) - WINDOW + 1):
        early = _median([p.seconds for p in found[at : at + half]])
        late = _median([p.seconds for p in found[at + half : at + WINDOW]])
        if abs(late - early) < STEADY * early:
            return at
    return None


def _window(attempt: int, found: Sequence[Pace]) -> Window:
    whole = all(p.tokens for p in found)
    tokens_s = _median([_rate(p, in_tokens=True) for p in found]) if whole else None
    return Window(attempt, found[0].step, found[-1].step, _median([p.seconds for p in found]), tokens_s)


def _changed(run: Run, first: int, last: int) -> tuple[str, ...]:
    edits = (edit for attempt in run.attempts[first:last] for edit in attempt.plan.edits)
    edits = (edit for edit in edits if edit.kind != "resume" and edit.knob not in PACELESS)
    return tuple(dict.fromkeys(edit.knob for edit in edits))


# --- the rank that the others wait for -------------------------------------------------------------------------


def lateness(own_s: Sequence[tuple[int, float]], world: int) -> tuple[tuple[int, ...], float | None]:
    """Of one step: the ranks that were late, and by how much the slowest; None where not every rank has told.

    The middle rank is the lower one of two: of two ranks the faster is what the slower could be.
    """
    if world < 2 or len(own_s) < world:
        return (), None
    ordered = sorted(seconds for _, seconds in own_s)
    middle = ordered[(len(ordered) - 1) // 2]
    late = tuple(sorted(rank for rank, seconds in own_s if seconds > LATE * middle))
    return late, ordered[-1] - middle


def stragglers(attempt: Attempt) -> tuple[Straggler, ...]:
    """The ranks that were late at nearly all of the latest steps, where it costs the others something."""
    steps = [s for s in attempt.steps[-LATE_STEPS:] if s.behind_s is not None]
    times = [p.seconds for p in paces(attempt)[-LATE_STEPS:]]
    if len(steps) < LATE_LEAST or not times:
        return ()
    behind, step_s = _median([s.behind_s for s in steps if s.behind_s is not None]), _median(times)
    if behind < HELD_UP * step_s:
        return ()
    counts: dict[int, int] = {}
    for one in steps:
        for rank in one.late:
            counts[rank] = counts.get(rank, 0) + 1
    return tuple(
        Straggler(rank, attempt.number, behind, step_s, late, len(steps))
        for rank, late in sorted(counts.items())
        if late >= LATE_SHARE * len(steps)
    )


def latest_stragglers(run: Run) -> tuple[Straggler, ...]:
    """Of the latest attempt that made steps."""
    last = next((a for a in reversed(run.attempts) if a.steps), None)
    return () if last is None else stragglers(last)


def _median(values: Sequence[float]) -> float:
    """As in core/windows.py."""
    ordered = sorted(values)
    return (ordered[len(ordered) // 2] + ordered[(len(ordered) - 1) // 2]) / 2


# --- in words ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remark:
    """What a person should know of the pace."""

    about: tuple[str, int, int]
    """The same for the same thing, however its figures change: (what, attempt, rank)."""
    text: str


def remarks(run: Run) -> tuple[Remark, ...]:
    """With the figures as they are now; empty: nothing."""
    told = speed(run)
    slower = (Remark(("slower", told.now.attempt, 0), _slower(told)),) if told is not None and told.declined else ()
    waited = (Remark(("straggler", one.attempt, one.rank), _held_up(one)) for one in latest_stragglers(run))
    return (*slower, *waited)


def _slower(told: Speed) -> str:
    old, new = told.begun, told.now
    why = f"; {', '.join(told.changed)} changed in between" if told.changed else ""
    tokens = "" if old.tokens_s is None or new.tokens_s is None else " of tokens a second"
    return (
        f"throughput is down to {told.share:.0%}{tokens}: {new.seconds:.3g} s a step at steps {new.first}-{new.last}, "
        f"{old.seconds:.3g} s at steps {old.first}-{old.last}{why}"
    )


def _held_up(one: Straggler) -> str:
    return (
        f"the others wait for rank {one.rank}: at {one.late} of {one.steps} steps its own work took longest, "
        f"{one.behind_s:.3g} s more than the middle rank's, {min(1.0, one.behind_s / one.step_s):.0%} of a step"
    )
