"""What the GPUs of a machine say, as values. None is "unknown", never 0.

Pure: a line of the probe (host/gpuprobe.py has the format) in, a value out.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping

from guardian.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has memory on a card."""

    pid: int
    """As the driver counts: it names a process here only where pids are the host's."""
    used_mib: float | None
    ours: bool | None
    """Whether it carries the run's mark; None: pids mean nothing here."""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU."""

    index: int
    uuid: str
    name: str = ""
    lost: str | None = None
    """The driver cannot reach it any more, in its words; then nothing else is known."""
    used_mib: float | None = None
    free_mib: float | None = None
    total_mib: float | None = None
    utilisation: float | None = None
    """Percent of the time in which some kernel ran."""
    memory_traffic: float | None = None
    """Percent of the time in which its memory was read or written."""
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    slowed: tuple[str, ...] | None = None
    """Why its clocks are lower than they could be."""
    ecc_corrected: float | None = None
    ecc_uncorrected: float | None = None
    """Since the driver was loaded."""
    remapped_rows: float | None = None
    remap_failed: bool | None = None
    mig: bool | None = None
    """Cut into instances: what is known of the whole card says nothing of a job's part."""
    processes: tuple[Holder, ...] | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """What an attempt was seen to do with one card."""

    index: int
    uuid: str
    total_mib: float | None = None
    first_mib: float | None = None
    """What it held when the attempt began; None: nobody looked so early."""
    peak_mib: float | None = None
    free_mib: float | None = None
    """When it was last seen in use."""
    foreign_mib: float | None = None
    """What others held when the job was last seen on it; where pids are not the host's, what it held at first."""
    ours: bool = False
    """The job uses it."""
    climb: tuple[tuple[int, float], ...] = ()
    """(step, MiB of the job): one point of a step at most, fewer and fewer in a long run."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All cards at one moment."""

    wall: float
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """The probe reads."""

    driver: str
    host_pids: bool


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to read."""

    why: str


@dataclass(frozen=True, slots=True)
class Xid:
    """The driver reports an error of a card."""

    card: int | None
    number: int
    source: str


Said = Hello | Nothing | Seen | Xid

_NUMBERS = (
    "used_mib", "free_mib", "total_mib", "utilisation", "memory_traffic", "power_w", "power_limit_w", "temperature_c",
    "sm_mhz", "memory_mhz", "ecc_corrected", "ecc_uncorrected", "remapped_rows",
)  # fmt: skip
SAMPLED = _NUMBERS[:10]
"""What changes from second to second, and is worth a curve."""
READINGS_MOST = 16
"""Cards; whoever keeps curves keeps others' too."""
CARDS_MOST = 64
HOLDERS_MOST = 256


def parse(line: bytes) -> Said | None:
    """What a line of the probe says; None: nothing that is understood."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    match told.get("ev"):
        case "hello":
            return Hello(_text(told.get("driver")), told.get("host_pids") is True)
        case "none":
            return Nothing(_text(told.get("why")) or "no reason is given")
        case "seen":
            listed = _listed(told.get("cards"))[:CARDS_MOST]
            return Seen(_number(told.get("t")) or 0.0, tuple(_card(one) for one in listed))
        case "xid":
            card, number = _number(told.get("card")), _number(told.get("xid"))
            place = None if card is None else int(card)
            return None if number is None else Xid(place, int(number), _text(told.get("from")))
    return None


def readings(shown: Iterable[Card]) -> dict[str, float]:
    """What changes all the time, `gpu0_power_w` and the like, for whoever keeps curves; without what is unknown."""
    few = itertools.islice(shown, READINGS_MOST)
    named = {f"gpu{card.index}_{name}": getattr(card, name) for card in few for name in SAMPLED}
    return {name: value for name, value in named.items() if value is not None}


def _card(told: Mapping[str, object]) -> Card:
    slowed, processes, index = told.get("slowed"), told.get("processes"), _number(told.get("index"))
    return Card(
        index=int(index) if index is not None else -1,
        uuid=_text(told.get("uuid")),
        name=_text(told.get("name")),
        lost=_text(told["lost"]) if told.get("lost") else None,
        slowed=tuple(_text(one) for one in slowed) if isinstance(slowed, list) else None,
        remap_failed=_flag(told.get("remap_failed")),
        mig=_flag(told.get("mig")),
        processes=tuple(_holder(one) for one in _listed(processes)[:HOLDERS_MOST]) if processes is not None else None,
        **{name: _number(told.get(name)) for name in _NUMBERS},
    )


def _holder(told: Mapping[str, object]) -> Holder:
    pid = _number(told.get("pid"))
    used, ours = _number(told.get("used_mib")), _flag(told.get("ours"))
    return Holder(int(pid) if pid is not None else 0, used, ours, _text(told.get("name")))


def _listed(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: object) -> str:
    return value[:200] if isinstance(value, str) else ""
