"""The few figures of the host that a person wants to see of a run, as values and in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from guardian.core.forecasting import in_words, rough
from guardian.core.hostfacts import Window

NAMES = (
    "disk_free_mib", "disk_full_in_s", "inodes_free", "inodes_gone_in_s", "load", "memory_full_in_s",
    "memory_limit_mib", "memory_used_mib", "shm_free_mib", "tree_peak_mib", "tree_pss_mib", "worker_pss_mib",
)  # fmt: skip
GIB = 1024
LOW_MIB = 1024
"""Of room: less is worth a word without any forecast."""


def latest(window: Window | None) -> dict[str, float]:
    """As they were last; `at` is when, in wall seconds."""
    if window is None:
        return {}
    known = {name: span.last for name in NAMES if (span := window.span(name)) is not None}
    return {"at": window.until, **known}


def at_the_end(facts: Mapping[str, float | str]) -> dict[str, float]:
    """Of an attempt that has ended."""
    return {name: value for name in NAMES if (value := facts.get(name)) is not None and not isinstance(value, str)}


def memory(figures: Mapping[str, float]) -> str | None:
    """`12.3 GiB, the limit is 16 GiB`: of the job's processes, the most where that is known."""
    held = figures.get("tree_peak_mib", figures.get("tree_pss_mib"))
    limit = figures.get("memory_limit_mib")
    soon = figures.get("memory_full_in_s")
    if held is None:
        return None
    of_limit = f", the limit is {size(limit)}" if limit is not None else ""
    return f"{size(held)}{of_limit}{f', reached in {rough(soon)} at this rate' if soon is not None else ''}"


def disk(figures: Mapping[str, float]) -> str | None:
    """`3.1 GiB free, full in 2 h 10 min at this rate`; None where there is nothing to say."""
    free, soon = figures.get("disk_free_mib"), figures.get("disk_full_in_s")
    if free is None or (soon is None and free >= LOW_MIB):
        return None
    return f"{size(free)} free" + (f", {in_words(soon)}" if soon is not None else "")


def size(mib: float) -> str:
    """In GiB where it is one."""
    return f"{mib / GIB:.1f} GiB" if mib >= GIB else f"{mib:.0f} MiB"
