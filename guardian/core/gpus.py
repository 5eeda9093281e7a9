"""What the readings of the GPUs mean for a run: whose memory it is, whether it climbs, what broke.

Pure, and light: of each card a few numbers and at most `CLIMB_MOST` points are kept, whatever the run's length. Pids
count only where they are the host's. Elsewhere what a card held before the job used it is taken for others'. Of a card
that is cut into instances (MIG) nothing is concluded: its readings are those of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from guardian.core.cards import Use

if TYPE_CHECKING:
    from guardian.core.cards import Card, Holder
    from guardian.core.events import GpuFault, GpusSeen
    from guardian.core.run import Attempt, Run

OOM_RULE = "cuda-oom"
"""The rule whose variant `leak` says what to do about memory that climbs."""
CLIMB_MOST = 64
CLIMB_LEAST = 16
"""Points, without the first fifth of the steps: allocators grow then, longer rows come."""
CLIMB_STEPS = 40
CLIMB_MIB = 64.0
"""Less than this in all is no climb."""
STEADY = 0.75
"""Of the mean rise from quarter to quarter that each must reach. Records, as longer and longer rows set them, come more
and more seldom: their last rise is two thirds of the mean at most. A leak goes on as it began."""
USES_MIB = 64.0
"""More than this above what it held at first: the job uses the card (a CUDA context alone takes more)."""
FRESH_S = 10.0
"""After the launch; torch alone takes seconds to import, and a card is used after it."""
SAFE_STEPS = 20
SAFE_S = 60.0
"""What is left to a planned save before the memory is full: so many steps, and the steps of so long."""
SAFE_SHARE = 0.03
"""Of the card: evaluation and the save itself take a little more than a step."""
STALE_S = 60.0
"""Readings that are older say nothing of now."""
BUSY_PERCENT, TRAFFIC_PERCENT = 10.0, 2.0
"""Of the time: in which some kernel runs, and in which memory is read or written, of a card that does work."""
SPINNING_PERCENT, LOW_POWER = 90.0, 0.5
"""Of the time, in which kernels that wait (NCCL's) run; and of the card's power limit, of which they need far less."""
COMPUTES_FRESH_S = 30.0
"""An older reading says nothing of now."""
SURVIVED_S = 10.0
"""A step so long after a fault: the job went on. A lost card is never survived."""
GRAVITY = ("lost", "hardware", "program")
"""Kinds of faults, the gravest first; others (aftermath, note) end no job."""


# --- the fold ----------------------------------------------------------------------------------------------------


def after(attempt: Attempt, seen: GpusSeen) -> tuple[Use, ...]:
    """What is known of the cards after one more look at a living attempt."""
    known = {use.uuid: use for use in attempt.gpus}
    before_use = _before_use(attempt, seen.wall)
    pids = ranks(attempt)
    for card in seen.cards:
        if card.lost is None and not card.mig and card.used_mib is not None:
            first = card.used_mib if before_use else None
            use = known.get(card.uuid) or Use(card.index, card.uuid, card.total_mib, first)
            known[card.uuid] = _after(use, card, seen, attempt.last_step, pids)
    return tuple(known.values())


def ranks(attempt: Attempt) -> frozenset[int]:
    """The pids of the attempt that are known by themselves."""
    return frozenset([*(one.pid for one in attempt.hellos), *(one.pid for one in attempt.ranks)])


def _before_use(attempt: Attempt, wall: float) -> bool:
    """Whether a job that began so short a time ago can hold no memory of a GPU yet: it imports its frameworks."""
    return attempt.launched_wall is not None and wall - attempt.launched_wall < FRESH_S and not attempt.hellos


def _after(use: Use, card: Card, seen: GpusSeen, step: int | None, pids: frozenset[int]) -> Use:
    used = card.used_mib
    assert used is not None
    own = own_mib(card, pids, host_pids=seen.host_pids)
    rose = use.first_mib is not None and used - use.first_mib > USES_MIB
    ours = use.ours or (own is not None if seen.host_pids else rose)
    if not ours:
        return use
    foreign = foreign_mib(card, pids) if seen.host_pids else use.first_mib
    peak = max(used, use.peak_mib or 0.0)
    climb = use.climb if own is None or step is None else _climbed(use.climb, step, own)
    return replace(use, ours=True, foreign_mib=foreign, peak_mib=peak, free_mib=card.free_mib, climb=climb)


def _climbed(points: tuple[tuple[int, float], ...], step: int, mib: float) -> tuple[tuple[int, float], ...]:
    """With one point more, or a higher last one; as the run grows the points move apart evenly."""
    stride = 1
    while points and stride * (CLIMB_MOST - 1) <= step - points[0][0]:
        stride *= 2
    if points and step < points[-1][0] + stride:
        return (*points[:-1], (points[-1][0], max(mib, points[-1][1])))
    if len(points) < CLIMB_MOST:
        return (*points, (step, mib))
    kept = [points[0]]
    for point in (*points[1:], (step, mib)):
        if point[0] >= kept[-1][0] + stride:
            kept.append(point)
    return tuple(kept)


def own_mib(card: Card, pids: frozenset[int], *, host_pids: bool) -> float | None:
    """What the job holds on a card; None: nothing, or nobody can tell."""
    if host_pids:
        held = [one.used_mib for one in _ours(card, pids)]
        return sum(mib for mib in held if mib is not None) if held and None not in held else None
    return card.used_mib if len(card.processes or ()) <= 1 else None


def foreign_mib(card: Card, pids: frozenset[int]) -> float | None:
    """What others hold on a card, where pids are the host's."""
    if card.processes is None:
        return None
    ours = _ours(card, pids)
    held = [one.used_mib for one in card.processes if one not in ours]
    return None if None in held else float(sum(mib for mib in held if mib is not None))


def _ours(card: Card, pids: frozenset[int]) -> tuple[Holder, ...]:
    return tuple(one for one in card.processes or () if one.ours or one.pid in pids)


def computes(run: Run, attempt: Attempt, now: float) -> bool | None:
    """Whether a card that the job uses does work now; None: nobody tells.

    Kernels that only wait for other ranks (NCCL's) keep a card busy all the time and read and write next to nothing.
    """
    known = [(one.utilisation, one.memory_traffic) for one in _used(run, attempt, now) if not one.mig]
    if not known or any(busy is None or traffic is None for busy, traffic in known):
        return None
    return any((busy or 0) >= BUSY_PERCENT and (traffic or 0) >= TRAFFIC_PERCENT for busy, traffic in known)


def spins(run: Run, attempt: Attempt, now: float) -> bool:
    """Whether every card that the job uses is busy, at low power and without memory traffic: its kernels wait."""
    cards = _used(run, attempt, now)
    return bool(cards) and all(_spins(one) for one in cards)


def _spins(card: Card) -> bool:
    readings = (card.utilisation, card.memory_traffic, card.power_w, card.power_limit_w)
    busy, traffic, power_w, limit_w = readings
    if card.mig or busy is None or traffic is None or power_w is None or not limit_w:
        return False
    return busy >= SPINNING_PERCENT and traffic < TRAFFIC_PERCENT and power_w < LOW_POWER * limit_w


def _used(run: Run, attempt: Attempt, now: float) -> list[Card]:
    """The cards of the job as they are now; none where nobody tells."""
    seen = run.gpus_seen
    if seen is None or abs(now - seen.wall) > COMPUTES_FRESH_S:
        return []
    used = {one.uuid for one in attempt.gpus if one.ours}
    return [one for one in seen.cards if one.uuid in used]


# --- verdicts ----------------------------------------------------------------------------------------------------


def fullest(attempt: Attempt) -> Use | None:
    """Of the cards that the job uses the one with the least room left at its highest."""
    used = [one for one in attempt.gpus if one.ours and one.total_mib and one.peak_mib is not None]
    return min(used, key=lambda one: (one.total_mib or 0.0) - (one.peak_mib or 0.0), default=None)


def leak(climb: tuple[tuple[int, float], ...]) -> float | None:
    """MiB that each step adds, 0 where it does not climb steadily; None: too little was seen."""
    if not climb:
        return None
    first, last = climb[0][0], climb[-1][0]
    points = [point for point in climb if point[0] >= first + (last - first) / 5]
    if len(points) < CLIMB_LEAST or last - first < CLIMB_STEPS:
        return None
    size = len(points) // 4
    quarters = [points[at * size : (at + 1) * size] for at in range(4)]
    steps = [sum(step for step, _ in each) / size for each in quarters]
    means = [sum(mib for _, mib in each) / size for each in quarters]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in pairwise(zip(steps, means, strict=True))]
    overall = (means[-1] - means[0]) / (steps[-1] - steps[0])
    steady = means[-1] - means[0] >= CLIMB_MIB and min(slopes) >= STEADY * overall
    return overall if steady else 0.0


def leaking(attempt: Attempt) -> tuple[Use, float] | None:
    """The card whose memory the job fills soonest, and by how many MiB a step."""
    found = [(use, rate) for use in attempt.gpus if use.ours and (rate := leak(use.climb))]
    return min(found, key=lambda one: (one[0].free_mib or 0.0) / one[1], default=None)


def full_soon(attempt: Attempt, step_s: float | None) -> tuple[str, tuple[tuple[str, float], ...]] | None:
    """Whether a leak fills a card before long and before the training ends: why to save now, and on what that stands.

    A planned save at the last safe moment loses nothing; the OOM would lose all since the last checkpoint.
    """
    found = leaking(attempt)
    if found is None or found[0].free_mib is None or attempt.last_step is None:
        return None
    use, rate = found
    room = use.free_mib - SAFE_SHARE * (use.total_mib or 0.0) if use.free_mib is not None else 0.0
    left = max(0.0, room) / rate
    to_go = (attempt.max_steps or 0) - attempt.last_step
    safe = max(float(SAFE_STEPS), SAFE_S / step_s if step_s else 0.0)
    if left > safe or 0 < to_go <= left:
        return None
    why = f"the job's memory on GPU {use.index} climbs by {rate:.1f} MiB a step and is full in about {left:.0f} steps"
    return why, (("gpu_leak_mib_per_step", round(rate, 3)),)


def visible(environment: Mapping[str, str], index: int, uuid: str) -> bool:
    """Whether the job may see a card; what cannot be told may."""
    names = [one.strip() for one in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    plain = [one for one in names if one.isdecimal()]
    if not names:
        return True
    if len(plain) == len(names):
        return str(index) in plain
    return not uuid or any(uuid.startswith(one) for one in names if one.startswith("GPU-")) or len(plain) > 0


def gravest(run: Run, attempt: Attempt) -> tuple[str, float | None, str] | None:
    """(kind, Xid, words) of the gravest fault of a card that the job uses; None: none was told."""
    used = {one.index for one in attempt.gpus if one.ours}
    environment = dict(run.created.env)
    told = [
        one
        for one in attempt.gpu_faults
        if one.kind in GRAVITY
        and (one.kind == "lost" or (attempt.step_wall or 0.0) < one.wall + SURVIVED_S)
        and (one.card is None or (one.card in used if used else visible(environment, one.card, "")))
    ]
    worst = min(told, key=lambda one: GRAVITY.index(one.kind), default=None)
    return (worst.kind, None if worst.xid is None else float(worst.xid), said(worst)) if worst else None


def said(fault: GpuFault) -> str:
    """A fault in words."""
    card = "a GPU" if fault.card is None else f"GPU {fault.card}"
    return f"{card} reports {fault.text}" if fault.xid is None else f"{card} reports Xid {fault.xid}: {fault.text}"


def facts(run: Run, attempt: Attempt) -> dict[str, float | str | None]:
    """What rules may ask of the GPUs; unknown is None."""
    known: dict[str, float | str | None] = {}
    fault = gravest(run, attempt)
    if fault is not None:
        known |= {"gpu_fault": fault[0], "gpu_xid": fault[1], "gpu_fault_text": fault[2]}
    use = fullest(attempt)
    if use is None:
        return known
    climb = [rate for one in attempt.gpus if one.ours and (rate := leak(one.climb)) is not None]
    return known | {
        "gpu_memory_used_mib": use.peak_mib,
        "gpu_memory_total_mib": use.total_mib,
        "gpu_foreign_mib": use.foreign_mib,
        "gpu_foreign_share": _share(use.foreign_mib, use.total_mib),
        "gpu_leak_mib_per_step": max(climb, default=None),
    }


def now(run: Run, name: str, wall: float) -> float | None:
    """A fact that a launch waits for, as it is now, while no process of ours lives; None: unknown."""
    seen = run.gpus_seen
    if seen is None or wall - seen.wall > STALE_S or name not in ("gpu_foreign_mib", "gpu_foreign_share"):
        return None
    told = [
        (card.used_mib, card.total_mib)
        for card in _cards(run, seen.cards)
        if card.used_mib is not None and card.total_mib and not card.mig
    ]
    if not told:
        return None
    return max(mib for mib, _ in told) if name == "gpu_foreign_mib" else max(mib / total for mib, total in told)


def _cards(run: Run, shown: tuple[Card, ...]) -> list[Card]:
    """Those that the job was seen to use; else those that it may see."""
    used = {one.uuid for attempt in run.attempts for one in attempt.gpus if one.ours}
    environment = dict(run.created.env)
    return [one for one in shown if (one.uuid in used if used else visible(environment, one.index, one.uuid))]


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


# --- what is held before a launch ----------------------------------------------------------------------------------


def baseline(run: Run, seen: GpusSeen) -> tuple[tuple[str, float], ...]:
    """What each card holds besides the job, at the first look of the run; () where that was not early enough."""
    attempt = run.attempt
    if run.gpu_baseline or attempt is None or attempt.number != 1 or not _before_use(attempt, seen.wall):
        return ()
    pids = ranks(attempt)
    return tuple(
        (card.uuid, max(0.0, card.used_mib - _own_known(card, pids)))
        for card in seen.cards
        if card.lost is None and not card.mig and card.used_mib is not None
    )


def _own_known(card: Card, pids: frozenset[int]) -> float:
    return sum(one.used_mib or 0.0 for one in _ours(card, pids))


def held(run: Run, tolerance_mib: float) -> tuple[str, ...]:
    """The cards of this job that hold more than at its first launch, with who holds it, in words."""
    if run.gpus_seen is None:
        return ()
    known = dict(run.gpu_baseline)
    cards = [card for card in _cards(run, run.gpus_seen.cards) if card.uuid in known]
    return tuple(_held(cards, known, tolerance_mib, host_pids=run.gpus_seen.host_pids))


def holders(run: Run) -> frozenset[int] | None:
    """Who has memory on a GPU, by pid; None: nobody can tell."""
    seen = run.gpus_seen
    if seen is None or not seen.host_pids or any(card.processes is None for card in seen.cards if card.lost is None):
        return None
    return frozenset(one.pid for card in seen.cards for one in card.processes or ())


def _held(cards: list[Card], known: Mapping[str, float], tolerance_mib: float, *, host_pids: bool) -> Iterator[str]:
    for card in cards:
        more = (card.used_mib or 0.0) - known[card.uuid]
        if more > tolerance_mib:
            yield f"GPU {card.index} holds {more:.0f} MiB more than at the first launch{_by(card, host_pids=host_pids)}"


def _by(card: Card, *, host_pids: bool) -> str:
    """Who has memory on it, where that can be told."""
    if not host_pids or not card.processes:
        return ", by a process that cannot be seen from here" if not host_pids else ""
    largest = sorted(card.processes, key=lambda one: -(one.used_mib or 0.0))[:3]
    return " (" + ", ".join(_named(one) for one in largest) + ")"


def _named(one: Holder) -> str:
    amount = "an unknown amount" if one.used_mib is None else f"{one.used_mib:.0f} MiB"
    whose = "ours, " if one.ours else ""
    return f"{whose}process {one.pid} {one.name or '(no name)'}: {amount}"
