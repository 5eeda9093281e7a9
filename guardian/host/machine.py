"""Facts of this machine: its name, its boot, its room on disk; what can be asked of it while no job runs."""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Iterable
from pathlib import Path

from guardian.host import cgroups, crash, processes

MIB = 1024 * 1024
UNKNOWN_BOOT = "unknown"


def oom_kills() -> int | None:
    """The count of the nearest counter, None where nothing counts; see cgroups.oom_counter."""
    counter = cgroups.oom_counter()
    return counter.kills if counter else None


def facts(places: Iterable[Path]) -> tuple[tuple[str, float], ...]:
    """What can be measured of this host for the ladder of a rule (core/facts.py has the units); the rest is left out.

    Disk is what the fullest of the places has. What the job's cgroup allows is ours: it is in the same or below.
    """
    from guardian.host import filesystems  # noqa: PLC0415 - the first launch does not wait for it

    held = cgroups.memory()
    read: dict[str, float | None] = {
        **filesystems.look(tuple(places)),
        "host_memory_mib": _host_memory_mib(_text("/proc/meminfo")),
        "memory_limit_mib": held.limit_mib,
        "memory_peak_mib": held.peak_mib,
        "open_files_limit": float(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
    }
    return tuple((name, value) for name, value in read.items() if value is not None)


def _host_memory_mib(meminfo: str) -> float | None:
    total = next((line.split()[1] for line in meminfo.splitlines() if line.startswith("MemTotal:")), "")
    return int(total) / 1024 if total.isdigit() else None


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
