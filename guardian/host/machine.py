"""Facts of this machine: its name, its boot, its room on disk, its count of processes killed for memory.

The count of OOM kills is read from the cgroup that we are in: the job is in it too (or below), it counts kills by any
limit and by the host alike, and the neighbours' kills are not in it. Version 2 counts what lies below a cgroup as
well, version 1 does not. Only where no cgroup tells is the whole machine's count taken (/proc/vmstat): there a kill
may be anybody's. Counts of different files must never be subtracted: `OomCounter.source` says which was read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

from guardian.core.values import dataclass
from guardian.host import crash, processes

MIB = 1024 * 1024
UNKNOWN_BOOT = "unknown"


@dataclass(frozen=True, slots=True)
class OomCounter:
    """How many processes were killed for want of memory, and who counted."""

    kills: int
    source: str
    """The file that was read."""


def oom_kills() -> int | None:
    """The count of the nearest counter, None where nothing counts; see `oom_counter`."""
    counter = oom_counter()
    return counter.kills if counter else None


def oom_counter() -> OomCounter | None:
    """The nearest counter that can be read: own cgroup of version 2, of version 1, the machine."""
    cgroups = memory_files(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))
    for source in (*cgroups, "/proc/vmstat"):
        kills = parse_kills(_text(source))
        if kills is not None:
            return OomCounter(kills, source)
    return None


def parse_kills(text: str) -> int | None:
    """The count in memory.events (v2), memory.oom_control (v1, since Linux 4.13) or /proc/vmstat: one line in each."""
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.strip().isdigit():
            return int(count)
    return None


def memory_files(cgroup: str, mountinfo: str) -> tuple[str, ...]:
    """The files of our own cgroup that may hold the count, from /proc/self/cgroup and /proc/self/mountinfo."""
    paths = {}
    for line in cgroup.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    mounts = dict(_memory_mounts(mountinfo))
    names = {"cgroup2": "memory.events", "cgroup": "memory.oom_control"}
    return tuple(f"{_below(*mounts[k], paths[k])}/{names[k]}" for k in names if k in mounts and k in paths)


def _memory_mounts(mountinfo: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(file system, (root, mount point)) of each cgroup mount that may count memory; proc(5) has the fields."""
    for line in mountinfo.splitlines():
        own, _, system = line.partition(" - ")
        fields, kind = own.split(), system.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            yield kind[0], (fields[3], fields[4])


def _below(root: str, mount_point: str, path: str) -> str:
    """Where our cgroup's folder lies; a container may see only its own part of the tree mounted."""
    if root != "/":
        path = path.removeprefix(root)
    # A path that leads out ("/../x") belongs to a cgroup above our namespace: the mount's own top is nearest.
    inside = "" if path.startswith("/..") else path.rstrip("/")
    return mount_point + inside


@functools.cache
def boot_id() -> str:
    """The kernel's name for this boot; what was recorded under another one is gone."""
    return crash.pretended_boot() or processes.boot_id() or UNKNOWN_BOOT


def node() -> str:
    """The name of this machine."""
    return os.uname().nodename


def free_mib(path: Path) -> float | None:
    """Room for ordinary users in the file system of a path; None where it cannot be told."""
    try:
        room = os.statvfs(path)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize / MIB


def _text(path: str) -> str:
    """The content of a file of the kernel; empty where there is none for us."""
    try:
        return Path(path).read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
