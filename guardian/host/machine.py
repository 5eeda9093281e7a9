"""Facts of this machine: its name, its boot, its room on disk, its count of processes killed for memory.

The count of OOM kills is read from the cgroup that we are in: the job is in it too (or below), it counts kills by any
limit and by the host alike, and the neighbours' kills are not in it. Version 2 counts what lies below a cgroup as
well, version 1 does not. Only where no cgroup tells is the whole machine's count taken (/proc/vmstat): there a kill
may be anybody's. Counts of different files must never be subtracted: `OomCounter.source` says which was read.
"""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Callable, Iterable, Iterator
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


def facts(places: Iterable[Path]) -> tuple[tuple[str, float], ...]:
    """What can be measured of this host for the ladder of a rule (core/facts.py has the units); the rest is left out.

    Disk is what the fullest of the places has. What the job's cgroup allows is ours: it is in the same or below.
    """
    room = [free for place in places if (free := free_mib(place)) is not None]
    read = {
        "shm_total_mib": _room(Path("/dev/shm")),  # noqa: S108 - its size, not a file in it
        "shm_free_mib": free_mib(Path("/dev/shm")),  # noqa: S108 - as above
        "disk_free_mib": min(room, default=None),
        "host_memory_mib": _host_memory_mib(_text("/proc/meminfo")),
        "memory_limit_mib": _first(_LIMITS, parse_bytes_mib),
        "memory_peak_mib": _first(_PEAKS, parse_bytes_mib),
        "open_files_limit": float(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    }
    return tuple((name, value) for name, value in read.items() if value is not None)


_LIMITS = ("memory.max", "memory.limit_in_bytes")
_PEAKS = ("memory.peak", "memory.max_usage_in_bytes")
_NO_LIMIT_MIB = 1 << 40
"""cgroup v1 writes a number near 2^63 where there is no limit."""


def parse_bytes_mib(text: str) -> float | None:
    """A count of bytes as cgroups write it, in MiB; None for "max", for a number that means none, and for no number."""
    value = text.strip()
    mib = int(value) / MIB if value.isdigit() else None
    return None if mib is None or mib >= _NO_LIMIT_MIB else mib


def _first(names: tuple[str, ...], parse: Callable[[str], float | None]) -> float | None:
    """From the nearest memory cgroup's files of these names."""
    counters = memory_files(_text("/proc/self/cgroup"), _text("/proc/self/mountinfo"))
    values = (parse(_text(f"{Path(counter).parent}/{name}")) for counter in counters for name in names)
    return next((value for value in values if value is not None), None)


def _host_memory_mib(meminfo: str) -> float | None:
    total = next((line.split()[1] for line in meminfo.splitlines() if line.startswith("MemTotal:")), "")
    return int(total) / 1024 if total.isdigit() else None


def _room(path: Path) -> float | None:
    """The size of the file system of a path, in MiB."""
    try:
        room = os.statvfs(path)
    except OSError:
        return None
    return room.f_blocks * room.f_frsize / MIB


@functools.cache
def boot_id() -> str:
    """The kernel's name for this boot; what was recorded under another one is gone."""
    return crash.pretended_boot() or processes.boot_id() or UNKNOWN_BOOT


def node() -> str:
    """The name of this machine."""
    return os.uname().nodename


def file_system(fd: int) -> str | None:
    """The kind of file system that an open file lies on ("ext4", "nfs4", ...); None where the kernel does not tell."""
    for line in _text(f"/proc/self/fdinfo/{fd}").splitlines():
        name, _, mount = line.partition(":")
        if name == "mnt_id":
            return mounted(_text("/proc/self/mountinfo"), mount.strip())
    return None


def mounted(mountinfo: str, mount: str) -> str | None:
    """The kind of file system of a mount, by its number; proc(5) has the fields."""
    for line in mountinfo.splitlines():
        own, _, system = line.partition(" - ")
        if own.split(" ", 1)[0] == mount and system:
            return system.split(" ", 1)[0]
    return None


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
