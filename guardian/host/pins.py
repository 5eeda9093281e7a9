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


def pin(attempt: int, source: str, pins: str, *, exclusive: bool = False) -> ev.Pinned:
    """Hold `source` below `pins`: reflink, else hard links, else a copy where there is room, else not at all.

    `exclusive`: without hard links. Where the job may save at the pinned step or below it, a link would be written
    through: torch.save writes in place, safetensors into a new file, so the pin would become a mixture of both saves.
    The folder's name stays, since trainers read the step from it. A pin that is there already is kept. Older pins go
    once this one is whole. Never raises: what could not be done is in the answer.
    """
    target = os.path.join(pins, os.path.basename(source))
    try:
        os.makedirs(pins, mode=0o700, exist_ok=True)
        _clear(pins, keep=os.path.basename(target))
        itself = os.path.realpath(source) == os.path.realpath(target)
        if (itself or _same(source, target)) and not (exclusive and _shared(target)):
            return ev.Pinned(attempt, source, target, "kept")
        how = _make(source, target, exclusive=exclusive)
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


def _shared(folder: str) -> bool:
    """Whether a file of it has another name, by which the job could write into it."""
    return any(os.stat(os.path.join(base, name)).st_nlink > 1 for base, _, names in os.walk(folder) for name in names)


def _state_time(folder: str) -> int:
    return os.stat(os.path.join(folder, "trainer_state.json")).st_mtime_ns


def _sizes(folder: str) -> dict[str, int]:
    return {
        os.path.relpath(os.path.join(base, name), folder): os.stat(os.path.join(base, name)).st_size
        for base, _, names in os.walk(folder)
        for name in names
    }


def _make(source: str, target: str, *, exclusive: bool) -> str | None:
    """Build the pin under a hidden name and rename it; how it was made, or None where a copy has no room."""
    ways = (("reflink", _reflink), ("hard links", os.link), ("copy", _copy))
    half = os.path.join(os.path.dirname(target), "." + os.path.basename(target))
    shutil.rmtree(half, ignore_errors=True)
    for how, place in ways:
        if exclusive and place is os.link:
            continue
        if how == "copy" and not _room(source, os.path.dirname(target)):
            return None
        try:
            _mirror(source, half, place)
        except OSError as error:
            shutil.rmtree(half, ignore_errors=True)
            if how == "copy" or error.errno in (errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.EIO):
                raise
            continue
        _flush(half, files=place is not os.link)
        shutil.rmtree(target, ignore_errors=True)
        crash.point()
        os.rename(half, target)
        _flush_one(os.path.dirname(target))
        crash.point()
        return how
    return None


def _mirror(source: str, target: str, place: Callable[[str, str], object]) -> None:
    for base, _, names in os.walk(source, onerror=_raise):
        folder = os.path.join(target, os.path.relpath(base, source))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in names:
            place(os.path.join(base, name), os.path.join(folder, name))


def _raise(error: OSError) -> None:
    """os.walk leaves out what it cannot list: half a pin would look whole."""
    raise error


def _flush(folder: str, *, files: bool) -> None:
    """Bring the pin to the disk: the job may delete the original in the next second."""
    for base, _, names in os.walk(folder):
        for name in names if files else ():
            _flush_one(os.path.join(base, name))
        _flush_one(base)


def _flush_one(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reflink(source: str, target: str) -> None:
    with open(source, "rb") as old, open(target, "xb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
    shutil.copystat(source, target)


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=True)


def _room(source: str, folder: str) -> bool:
    size = sum(_sizes(source).values())
    return shutil.disk_usage(folder).free - size >= FREE_AFTER_COPY * size
