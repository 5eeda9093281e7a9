"""Amounts as logs and rule files write them, number and unit together: "1.50 GiB", "4096 bytes", "10 min"."""

from __future__ import annotations

import re

_AMOUNT = re.compile(r"(\d[\d_]{0,30}(?:\.\d{1,30})?)\s*([A-Za-z]{1,12})")
# Those who write MB or kB of memory mean the powers of two all the same: torch before 1.12, the kernel's kB.
_MIB = {
    unit: size
    for units, size in (
        (("b", "byte", "bytes"), 2.0**-20),
        (("k", "kb", "kib"), 2.0**-10),
        (("m", "mb", "mib"), 1.0),
        (("g", "gb", "gib"), 2.0**10),
        (("t", "tb", "tib"), 2.0**20),
    )
    for unit in units
}
_SECONDS = {
    unit: size
    for units, size in (
        (("ms", "milliseconds", "millisecond"), 0.001),
        (("s", "sec", "secs", "second", "seconds"), 1.0),
        (("min", "mins", "minute", "minutes"), 60.0),
        (("h", "hour", "hours"), 3600.0),
    )
    for unit in units
}


def mib(text: str) -> float | None:
    """An amount of memory in MiB; None where it is none."""
    return _amount(text, _MIB)


def seconds(text: str) -> float | None:
    """A time in seconds; None where it is none."""
    return _amount(text, _SECONDS)


def shown(value: float | str) -> str:
    """As people read it: whole from ten on, as exact as needed below."""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.3g}"


def _amount(text: str, units: dict[str, float]) -> float | None:
    match = _AMOUNT.fullmatch(text.strip())
    size = units.get(match[2].lower()) if match else None
    return float(match[1]) * size if match and size else None
