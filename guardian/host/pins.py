"""Hold a checkpoint so that the job's own rotation cannot take it away.

Frameworks rotate by number or mtime and delete the sound checkpoint when newer, damaged ones exist. A pin is a
second name for its files in the run folder. Guardian deletes nothing but its own pins.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.host import crash

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "pins"
"""Below the run folder."""
FICLONE = 0x40049409
"""ioctl_ficlone(2): share the extents of another file until one of them is written."""
FREE_AFTER_COPY = 1.1
"""A copy is made only if this many times its size stays free, so that the next save still fits."""


def pin(attempt: int, source: str, pins: str) -> ev.Pinned:
    """Hold `source` below `pins`: reflink, else hard links, else a copy where there is room, else not at all.

    A pin that is there already is kept. Older pins go once this one is whole. Never raises: what could not be
    done is in the answer.
    """
    if os.path.dirname(source) == os.path.realpath(pins):
        return ev.Pinned(attempt, source, source, "kept")
    target = os.path.join(pins, os.path.basename(source))
    try:
        os.makedirs(pins, mode=0o700, exist_ok=True)
        _clear(pins, keep=os.path.basename(target))
        if _same(source, target):
            return ev.Pinned(attempt, source, target, "kept")
        how = _make(source, target)
    except OSError as error:
        return ev.Pinned(attempt, source, None, "none", f"{error.strerror}: {error.filename}")
    if how is None:
        return ev.Pinned(attempt, source, None, "none", "no room for a copy beside the next save")
    _clear_others(pins, keep=os.path.basename(target))
    return ev.Pinned(attempt, source, target, how)


def release(pins: str) -> None:
    """Remove every pin; the originals stay."""
    with contextlib.suppress(OSError):
        for name in os.listdir(pins):
            shutil.rmtree(os.path.join(pins, name), ignore_errors=True)
        os.rmdir(pins)


def held(pins: str) -> tuple[str, ...]:
    """Paths of the whole pins."""
    try:
        return tuple(os.path.join(pins, n) for n in sorted(os.listdir(pins)) if not n.startswith("."))
    except FileNotFoundError:
        return ()


def _clear(pins: str, keep: str) -> None:
    """Take away what a killed guardian left half made."""
    for name in os.listdir(pins):
        if name.startswith(".") and name != keep:
            shutil.rmtree(os.path.join(pins, name), ignore_errors=True)


def _clear_others(pins: str, keep: str) -> None:
    for name in os.listdir(pins):
        if name != keep:
            shutil.rmtree(os.path.join(pins, name), ignore_errors=True)


def _same(source: str, target: str) -> bool:
    """Whether the pin holds the files of this very source (a folder of the same name may have been saved anew)."""
    if not os.path.isdir(target):
        return False
    try:
        return _sizes(source) == _sizes(target) and _state_time(source) == _state_time(target)
    except OSError:
        return False


def _state_time(folder: str) -> int:
    return os.stat(os.path.join(folder, "trainer_state.json")).st_mtime_ns


def _sizes(folder: str) -> dict[str, int]:
    return {
        os.path.relpath(os.path.join(base, name), folder): os.stat(os.path.join(base, name)).st_size
        for base, _, names in os.walk(folder)
        for name in names
    }


def _make(source: str, target: str) -> str | None:
    """Build the pin under a hidden name and rename it; how it was made, or None where a copy has no room."""
    half = os.path.join(os.path.dirname(target), "." + os.path.basename(target))
    shutil.rmtree(half, ignore_errors=True)
    for how, place in (("reflink", _reflink), ("hard links", os.link), ("copy", _copy)):
        if how == "copy" and not _room(source, os.path.dirname(target)):
            return None
        try:
            _mirror(source, half, place)
        except OSError as error:
            shutil.rmtree(half, ignore_errors=True)
            if how == "copy" or error.errno in (errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EIO):
                raise
            continue
        shutil.rmtree(target, ignore_errors=True)
        crash.point()
        os.rename(half, target)
        crash.point()
        return how
    return None


def _mirror(source: str, target: str, place: Callable[[str, str], object]) -> None:
    for base, _, names in os.walk(source):
        folder = os.path.join(target, os.path.relpath(base, source))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in names:
            place(os.path.join(base, name), os.path.join(folder, name))


def _reflink(source: str, target: str) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
    shutil.copystat(source, target)


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=True)


def _room(source: str, folder: str) -> bool:
    size = sum(_sizes(source).values())
    return shutil.disk_usage(folder).free - size >= FREE_AFTER_COPY * size
