"""What the probe of the GPUs says: a line of it in, a value out (host/gpuprobe.py has the format).

Pure. A line is a stranger's input: what is missing or strange in it is unknown.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping

from guardian.core.cards import Card, Holder
from guardian.core.values import dataclass


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
