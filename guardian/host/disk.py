"""Room on the run folder's disk: a ballast that is given back when others fill it, and old job output as well.

A job whose output goes to a file on a full disk dies of it. So the run folder holds some room in reserve, really
allocated, and gives it back piece by piece when little is left; then there is time to make room. The same for the log
itself: what has been read of a very long one is punched out of the file, whose size and offsets stay as they are.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

FILE = "ballast"
MIB = 1024 * 1024
PIECES = 8
"""The ballast is given back in this many parts."""
LOW = 4
"""Less free room than this part of the ballast is little."""
SCARCE = 4
"""With less free room than this many ballasts it is looked more often."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
FALLOC_FL_KEEP_SIZE = 1
"""Flags of fallocate(2), from linux/falloc.h."""
FALLOC_FL_PUNCH_HOLE = 2
STAT_BLOCK = 512
"""Unit of st_blocks whatever the file system's own (stat(2))."""
PAGE = 4096
AHEAD = MIB
"""So much is allocated behind the end of the log that is written: a disk may fill up faster than anybody looks."""
KEEP = MIB
"""Of what was read so much stays in the log: the last lines are the evidence when the job ends."""


class Ballast:
    """Reserved room in a folder. Used by two threads: the one that looks, and the one whose write found no room."""

    def __init__(self, folder: Path, size_mib: float) -> None:
        self._path = folder / FILE
        self._whole = int(size_mib * MIB)
        self._lock = threading.Lock()

    @property
    def whole(self) -> int:
        """Bytes that shall be in reserve."""
        return self._whole

    @property
    def held(self) -> int:
        """Bytes in reserve; what a killed guardian had reserved counts."""
        with contextlib.suppress(OSError):
            return os.lstat(self._path).st_size
        return 0

    def look(self) -> bool:
        """Give back where little is free, reserve where there is plenty again. Whether room is getting scarce."""
        with self._lock:
            free = _free(self._path.parent)
            if free is None:
                return False
            if free < self._whole // LOW:
                self._give(self._whole // LOW - free)
            elif free - (self._whole - self.held) >= self._whole:
                self._reserve()
            return free < SCARCE * self._whole

    def give(self) -> bool:
        """A write found no room: give a piece back. False when there is none left."""
        with self._lock:
            return self._give(1)

    def remove(self) -> None:
        """The run is over."""
        with self._lock, contextlib.suppress(OSError):
            self._path.unlink()

    def _give(self, need: int) -> bool:
        held = self.held
        piece = max(self._whole // PIECES, PAGE)
        pieces = -(-need // piece)
        if not held:
            return False
        try:
            os.truncate(self._path, max(0, held - pieces * piece))
        except OSError:
            return False
        return True

    def _reserve(self) -> None:
        """All of it, in real blocks; what cannot be had whole is not kept in part."""
        held = self.held
        if held >= self._whole:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, held, self._whole - held)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, held)
        finally:
            os.close(fd)


class Watch:
    """Looks after a folder's room in a thread of its own: a network file system may be slow to answer."""

    EVERY_S = 1.0
    HURRIED_S = 0.1

    def __init__(self, ballast: Ballast, cap_mib: float, note: Callable[[str], None]) -> None:
        self.ballast = ballast
        self._cap = int(cap_mib * MIB)
        self._note = note
        self._log: Path | None = None
        self._reserved = 0
        self._ahead = min(AHEAD, int(ballast.whole // LOW))
        self._read: tuple[Path, int] | None = None
        self._last = 0
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
        self._thread.start()

    def keep_ahead(self, log: Path) -> None:
        """This is the log that is being written."""
        self._reserved = 0
        self._log = log

    def was_read(self, log: Path, upto: int) -> None:
        """Everybody has read this log so far, and nobody will ask for it again."""
        self._read = (log, upto)

    def close(self, patience_s: float) -> None:
        """Stop looking; bounded."""
        self._stop.set()
        self._thread.join(patience_s)

    def _work(self) -> None:
        while True:
            scarce = self.ballast.look()
            self._reserve()
            self._tell(self.ballast.held)
            self._shorten()
            if self._stop.wait(self.HURRIED_S if scarce and self._last else self.EVERY_S):
                return

    def _reserve(self) -> None:
        """Allocate what the job will print next. Where that cannot be done, the ballast alone must do."""
        log = self._log
        if log is None or not self._ahead:
            return
        with contextlib.suppress(OSError):
            size = os.stat(log, follow_symlinks=False).st_size
            if size + self._ahead // 2 >= self._reserved:
                fd = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    _fallocate(fd, FALLOC_FL_KEEP_SIZE, size, self._ahead)
                finally:
                    os.close(fd)
                self._reserved = size + self._ahead

    def _tell(self, held: int) -> None:
        last, self._last = self._last, held
        if held < last:
            left = f"{held / MIB:.0f} MiB of it are left" if held else "nothing of it is left: make room now"
            self._note(f"the disk of the run folder is full: ballast is given back, {left}")
        elif held > last and "whole" in self._told:
            self._note("the disk of the run folder has room again: the ballast is whole")
        if held:
            self._told.add("whole")

    def _shorten(self) -> None:
        if self._read is None or "punch" in self._told:
            return
        log, upto = self._read
        try:
            given = shorten(log, upto, self._cap)
        except OSError as error:
            self._told.add("punch")
            self._note(f"{log} grows beyond its cap: {error.strerror or error}")
            return
        if given and "short" not in self._told:
            self._told.add("short")
            self._note(
                f"{log} is longer than {self._cap / MIB:.0f} MiB: what was read of it is taken out, oldest first"
            )


def shorten(log: Path, upto: int, cap: int) -> bool:
    """Take the oldest part of a log that occupies more than `cap` bytes off the disk, to half of the cap.

    Of what was read (`upto`) the last MiB stays. Offsets and size stay: a hole reads as zeros. Raises OSError where
    the file system cannot do that.
    """
    try:
        now = os.stat(log, follow_symlinks=False)
    except OSError:
        return False
    begin = now.st_size - now.st_blocks * STAT_BLOCK
    end = min(upto - KEEP, now.st_size - cap // 2) // PAGE * PAGE
    if now.st_blocks * STAT_BLOCK <= cap or end <= max(0, begin):
        return False
    fd = os.open(log, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, end)
    finally:
        os.close(fd)
    return True


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which Python knows in its POSIX form only."""
    import ctypes  # noqa: PLC0415 - for logs that grow past their cap; the job's start need not wait for it

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        call = libc.fallocate64
    except AttributeError:  # musl: off_t has 64 bits, there is one name
        call = libc.fallocate
    if call(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _free(folder: Path) -> int | None:
    """Bytes for ordinary users; None where it cannot be told."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize
