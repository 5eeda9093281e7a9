"""The memory cgroup that we are in: what it allows, what it uses, whom it has killed. The job is in it too, or below.

Versions 1 and 2. A limit may be set at any level above us: of those that we see the one with the least room counts.
"Used" is what cannot be taken back from processes (anonymous and shared pages, the kernel's own): the page cache gives
way before anybody is killed. Counts of kills are read at our own level: above it they are the neighbours' as well.
Counts of different files, or of another cgroup, must never be subtracted: `Counter.source` says which was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from guardian.core.values import dataclass

MIB = 1024 * 1024
NO_LIMIT_MIB = 1 << 40
"""Version 1 writes a number near 2^63 where there is no limit."""
EVENTS = {"cgroup2": "memory.events", "cgroup": "memory.oom_control"}
VMSTAT = "/proc/vmstat"
_LIMITS = {"cgroup2": "memory.max", "cgroup": "memory.limit_in_bytes"}
_PEAKS = {"cgroup2": "memory.peak", "cgroup": "memory.max_usage_in_bytes"}
_HELD = {
    "cgroup2": ("anon", "shmem", "kernel_stack", "pagetables", "percpu", "sock", "slab_unreclaimable"),
    "cgroup": ("total_rss", "total_shmem"),
}
"""Of memory.stat: what does not give way (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst)."""


@dataclass(frozen=True, slots=True)
class OomCounter:
    """How many processes were killed for want of memory, and who counted."""

    kills: int
    source: str
    """The file that was read."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What could be read; the rest is None."""

    limit_mib: float | None = None
    used_mib: float | None = None
    peak_mib: float | None = None
    """With the page cache: the kernel keeps no other."""
    kills: int | None = None


def memory() -> Memory:
    """At the level that has the least room, the kills at our own."""
    levels = _levels(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))
    for kind, folders in levels:
        read = [_read(kind, folder) for folder in folders]
        own = next((one for one in read[:1] if one != Memory()), None)
        if own is None and all(one == Memory() for one in read):
            continue  # the other version has the memory controller
        limited = [one for one in read if one.limit_mib]
        tightest = max(limited, key=lambda one: (one.used_mib or 0.0) / (one.limit_mib or 1.0), default=read[0])
        return Memory(tightest.limit_mib, tightest.used_mib, tightest.peak_mib, read[0].kills)
    return Memory()


def oom_counter() -> OomCounter | None:
    """The nearest counter that can be read: own cgroup of version 2, of version 1, the machine."""
    cgroups = memory_files(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))
    for source in (*cgroups, VMSTAT):
        kills = parse_kills(_text(source))
        if kills is not None:
            return OomCounter(kills, source)
    return None


def machine_kills() -> int | None:
    """The count of the whole machine."""
    return parse_kills(_text(VMSTAT))


def identity() -> str:
    """Names our memory cgroup within one boot; a container that is started anew has another."""
    for source in memory_files(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo")):
        try:
            found = os.stat(Path(source).parent)
        except OSError:
            continue
        if os.path.exists(source):
            return f"{found.st_dev}:{found.st_ino}"
    return ""


def parse_kills(text: str) -> int | None:
    """The count in memory.events (v2), memory.oom_control (v1, since Linux 4.13) or /proc/vmstat: one line in each."""
    for line in text.splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill" and count.strip().isdigit():
            return int(count)
    return None


def parse_mib(text: str) -> float | None:
    """A count of bytes as cgroups write it, in MiB; None for "max", for a number that means none, and for no number."""
    value = text.strip()
    mib = int(value) / MIB if value.isdigit() else None
    return None if mib is None or mib >= NO_LIMIT_MIB else mib


def parse_held_mib(stat: str, kind: str) -> float | None:
    """What memory.stat says is held; None where it says nothing of it."""
    lines = (line.partition(" ") for line in stat.splitlines())
    parts = {name: int(count) for name, _, count in lines if name in _HELD[kind] and count.strip().isdigit()}
    return sum(parts.values()) / MIB if _HELD[kind][0] in parts else None


def memory_files(cgroup: str, mountinfo: str) -> tuple[str, ...]:
    """The files of our own cgroup that may hold the count, from /proc/self/cgroup and /proc/self/mountinfo."""
    return tuple(f"{folders[0]}/{EVENTS[kind]}" for kind, folders in _levels(cgroup, mountinfo))


def _levels(cgroup: str, mountinfo: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(version, its folders from our own one up to where it is mounted)."""
    paths = {}
    for line in cgroup.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    mounts = dict(_memory_mounts(mountinfo))
    return tuple((kind, _upwards(*mounts[kind], paths[kind])) for kind in EVENTS if kind in mounts and kind in paths)


def _memory_mounts(mountinfo: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(file system, (root, mount point)) of each cgroup mount that may count memory; proc(5) has the fields."""
    for line in mountinfo.splitlines():
        own, _, system = line.partition(" - ")
        fields, kind = own.split(), system.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            yield kind[0], (fields[3], fields[4])


def _upwards(root: str, mount_point: str, path: str) -> tuple[str, ...]:
    """Our cgroup's folder and those above it; a container may see only its own part of the tree mounted."""
    if root != "/":
        path = path.removeprefix(root)
    # A path that leads out ("/../x") belongs to a cgroup above our namespace: the mount's own top is nearest.
    names = [] if path.startswith("/..") else [name for name in path.split("/") if name]
    return tuple("/".join((mount_point, *names[:upto])) for upto in range(len(names), -1, -1))


def _read(kind: str, folder: str) -> Memory:
    return Memory(
        limit_mib=parse_mib(_text(f"{folder}/{_LIMITS[kind]}")),
        used_mib=parse_held_mib(_text(f"{folder}/memory.stat"), kind),
        peak_mib=parse_mib(_text(f"{folder}/{_PEAKS[kind]}")),
        kills=parse_kills(_text(f"{folder}/{EVENTS[kind]}")),
    )


def _text(path: str) -> str:
    """The content of a file of the kernel; empty where there is none for us."""
    try:
        return Path(path).read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
