"""All runs of this user, wherever their folders lie: one small file per run below $XDG_STATE_HOME/guardian.

Derived, and never more than an index: it can be deleted at any time, a run folder that is named on the command line
enters its run again, and an entry whose folder is gone goes with it. What stands in it is believed only as far as a
folder of ours lies there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path

from guardian.core.values import dataclass
from guardian.errors import GuardianError
from guardian.host import runs

ENTRY_MOST = 64 * 1024
"""Bytes; a path of 4096 bytes, each escaped, fits."""
ID = re.compile(r"[0-9a-zA-Z-]{1,64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a run lies, as it was when it was last taken in hand."""

    run: str
    folder: runs.RunFolder
    name: str
    started: float
    """Wall seconds."""


def place() -> Path:
    """The folder of the entries. An XDG_STATE_HOME that is not absolute counts as none, as XDG says."""
    named = os.environ.get("XDG_STATE_HOME", "")
    base = named if named.startswith("/") else os.path.expanduser("~/.local/state")
    return Path(base, "guardian")


def enter(entry: Entry) -> str | None:
    """Write a run's entry by rename; why that could not be done, or None. Nothing depends on it."""
    folder = place()
    told = {"folder": str(entry.folder.path), "name": entry.name, "started": entry.started}
    half = folder / f".{entry.run}.{os.getpid()}.tmp"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(folder)
        # Not synced: a lost entry costs a line of `status`, a sync at the start of each run costs more.
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(json.dumps(told).encode("ascii") + b"\n")
        half.replace(folder / entry.run)
    except OSError as error:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)
        return f"{folder} cannot be written ({error.strerror or error}): status elsewhere does not list this run"
    return None


def entries() -> tuple[Entry, ...]:
    """The runs whose folders are there and ours, the newest first; entries of folders that are gone are dropped."""
    folder = place()
    try:
        _check(folder)
        names = os.listdir(folder)
    except OSError:
        return ()
    known = [entry for name in names if ID.fullmatch(name) and (entry := _read(folder / name)) is not None]
    return tuple(sorted(known, key=lambda e: (e.started, e.run), reverse=True))


def _read(path: Path) -> Entry | None:
    """An entry that leads to a run folder of ours; one that leads nowhere is dropped."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            told = json.loads(file.read(ENTRY_MOST))
        where, name, started = str(told["folder"]), str(told["name"]), float(told["started"])
        if not where.startswith("/") or "\0" in where:
            return None
        gone = not os.path.lexists(where)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if gone:
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    try:
        return Entry(path.name, runs.at(Path(where)), name, started)
    except GuardianError:
        return None


def _check(folder: Path) -> None:
    """Raises OSError where the entries could be another user's."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(1, "it is not a folder of this user")
