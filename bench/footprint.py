"""What a supervisor's processes take: memory as the kernel shares it out, and CPU time.

PSS counts a page that n processes share as one n-th, so what else runs on the machine with the same Python makes it
a little smaller; "private" is what is theirs alone and does not depend on that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB_IN_KIB = 1024


@dataclass(frozen=True)
class Footprint:
    """The sum over some processes at one moment."""

    pss_mib: float
    private_mib: float
    cpu_s: float
    processes: int


NOTHING = Footprint(0.0, 0.0, 0.0, 0)


def supervising(root: int, job: int) -> tuple[int, ...]:
    """The supervisor and all that it started, without the job and what the job started."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        if pid != job:
            found.append(pid)
            waiting += below.get(pid, [])
    return tuple(found)


def look(root: int, job: int) -> Footprint:
    """Sum them up now."""
    pids = supervising(root, job)
    rolled = [_rollup(pid) for pid in pids]
    return Footprint(
        pss_mib=sum(one.get("Pss", 0) for one in rolled) / MIB_IN_KIB,
        private_mib=sum(one.get("Private_Clean", 0) + one.get("Private_Dirty", 0) for one in rolled) / MIB_IN_KIB,
        cpu_s=sum(_cpu_s(pid) for pid in pids),
        processes=len(pids),
    )


def _rollup(pid: int) -> dict[str, int]:
    """The numbers of smaps_rollup by name, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    split = [line.split() for line in lines[1:]]
    return {words[0].rstrip(":"): int(words[1]) for words in split}


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/pid/stat behind the name; proc(5) counts them from 3."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
