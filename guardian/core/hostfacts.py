"""What is measured beside a job, folded: samples into windows of ten seconds, windows into facts for a diagnosis.

Pure. A reading that cannot be had is not there: unknown is never zero. A window keeps the least, the mean, the most and
the last of each series, whatever its name; that is one line of metrics.jsonl (core/wire.py has its keys).
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from guardian.core.values import dataclass

VERSION = 1
WINDOW_S = 10.0
HURRIED_S = 2.0
"""The length of a window while memory is nearly at its limit: the job and its watchers may end any moment."""
NEAR_LIMIT = 0.9
NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")
"""What a series may be called: names end up in a file that others read."""
SERIES_MOST = 256
MEMBERS_MOST = 64
"""Processes that a window names, the largest."""
DIGITS = 6
"""Of a number in the file."""

Readings = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the job's tree."""

    pid: int
    ticks: int
    """Its start time (proc(5)): numbers are given again."""
    role: str
    """`rank`, `worker` (of a data loader), `launcher` (above a rank), or `other`."""
    parent: int = 0
    pss_mib: float | None = None
    """Its share of the memory that it uses with others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    wall: float
    readings: tuple[tuple[str, float], ...]
    tree: tuple[Member, ...] = ()
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """What a series did in a window."""

    least: float
    mean: float
    most: float
    last: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """Some samples that follow each other."""

    begun: float
    until: float
    """Wall seconds of its last sample."""
    samples: int
    series: tuple[tuple[str, Span], ...]
    tree: tuple[Member, ...] = ()
    """As it was last seen."""
    cgroup: str = ""
    """Names the memory cgroup within a boot: counters of another one mean nothing."""

    def span(self, name: str) -> Span | None:
        return next((span for known, span in self.series if known == name), None)


def readable(readings: Readings) -> tuple[tuple[str, float], ...]:
    """The readings that may be kept: finite numbers, by names that are names."""
    good = {name: float(value) for name, value in readings.items() if NAME.fullmatch(name) and math.isfinite(value)}
    return tuple(sorted(good.items()))


def window(sample: Sample) -> Window:
    """A window of one sample."""
    series = tuple((name, Span(value, value, value, value)) for name, value in sample.readings[:SERIES_MOST])
    return Window(sample.wall, sample.wall, 1, series, sample.tree, sample.cgroup)


def joined(before: Window | None, after: Window) -> Window:
    """Both as one; what is missing in one of them is what the other has."""
    if before is None:
        return after
    known = dict(before.series)
    for name, span in after.series:
        known[name] = _joined(known[name], span) if name in known else span
    return Window(
        begun=min(before.begun, after.begun),
        until=after.until,
        samples=before.samples + after.samples,
        series=tuple(sorted(known.items()))[:SERIES_MOST],
        tree=after.tree,
        cgroup=after.cgroup,
    )


def _joined(before: Span, after: Span) -> Span:
    count = before.count + after.count
    return Span(
        least=min(before.least, after.least),
        mean=(before.mean * before.count + after.mean * after.count) / count,
        most=max(before.most, after.most),
        last=after.last,
        count=count,
    )


def is_full(one: Window) -> bool:
    """Whether it is to be written, and the next one begun."""
    share = one.span("memory_share")
    near = share is not None and share.last >= NEAR_LIMIT
    return one.until - one.begun >= (HURRIED_S if near else WINDOW_S)


def end_of(windows: Sequence[Window], seconds: float) -> Window | None:
    """The last of these windows, and those that began so short a time before its end, as one."""
    last = [one for one in windows if one.until >= windows[-1].until - seconds]
    return functools.reduce(joined, last, None) if last else None


def thinned(windows: Iterable[Window]) -> list[Window]:
    """Half as many windows, each twice as long: all of the time stays, in less detail."""
    listed = list(windows)
    pairs = zip(listed[::2], [*listed[1::2], None], strict=False)
    return [one if other is None else joined(one, other) for one, other in pairs]


# --- a line of the file ----------------------------------------------------------------------------------------------


def encode(one: Window) -> str:
    """As it stands in metrics.jsonl, without a line's end."""
    series = {name: [_short(x) for x in (s.least, s.mean, s.most, s.last)] for name, s in one.series}
    largest = sorted(one.tree, key=lambda m: -(m.pss_mib or 0.0))[:MEMBERS_MOST]
    tree = [[m.pid, m.ticks, m.role, m.parent, _short(m.pss_mib)] for m in largest]
    plain = {
        "v": VERSION,
        "t": round(one.until, 3),
        "s": round(one.until - one.begun, 3),
        "n": one.samples,
        "series": series,
        "tree": tree,
        "cgroup": one.cgroup,
    }
    return json.dumps(plain, separators=(",", ":"), allow_nan=False)


def decode(line: str | bytes) -> Window | None:
    """The window of a line; None for a line that is none (torn, damaged, or of a later version)."""
    try:
        plain = json.loads(line)
        if plain["v"] != VERSION:
            return None
        until, count = float(plain["t"]), int(plain["n"])
        series = [(str(name), _span(values, count)) for name, values in plain["series"].items()]
        tree = tuple(
            Member(int(pid), int(ticks), str(role), int(parent), None if pss is None else float(pss))
            for pid, ticks, role, parent, pss in plain["tree"]
        )
        return Window(
            until - float(plain["s"]), until, count, tuple(sorted(series)), tree, str(plain.get("cgroup", ""))
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _span(values: list[float], count: int) -> Span:
    least, mean, most, last = map(float, values[:4])
    return Span(least, mean, most, last, count)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


# --- facts of the last window ----------------------------------------------------------------------------------------

LEAST = frozenset({"disk_free_mib", "host_available_mib", "inodes_free", "shm_free_mib"})
"""Of these the least in the window counts: a job that died gives back what it held."""
LAST = frozenset({
    "disk_full_in_s", "disk_read_only", "inodes_gone_in_s", "load", "memory_full_in_s", "memory_limit_mib",
})  # fmt: skip
MOST = frozenset({
    "memory_peak_mib", "memory_share", "memory_used_mib", "open_files", "rank_pss_mib", "tree_pss_mib",
    "worker_pss_mib",
})  # fmt: skip


def facts(last: Window | None) -> dict[str, float]:
    """What the last window before the end tells, by the names of core/facts.py."""
    found = {}
    for name, span in last.series if last else ():
        if name in LEAST:
            found[name] = span.least
        elif name in MOST:
            found[name] = span.most
        elif name in LAST:
            found[name] = span.last
    return found


def together(sampled: Readings, measured: Readings) -> dict[str, float]:
    """Facts of the last window, and those that were measured when the job was gone: of room the least counts."""
    both = {**sampled, **measured}
    for name in sampled.keys() & measured.keys() & (LEAST | MOST):
        both[name] = (min if name in LEAST else max)(sampled[name], measured[name])
    return both
