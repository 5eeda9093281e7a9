"""metrics.jsonl of an attempt: a line per window of samples, appended, for its owner alone, bounded in size.

When it has grown to its cap, its windows are joined two by two: all of the time stays in it. What cannot be written is
left out and nothing else follows from it; `problem` says why, as long as it is so.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from guardian.core.hostfacts import Window, decode, encode, thinned
from guardian.host.private import write_private

NAME = "metrics.jsonl"
CAP = 4 * 1024 * 1024
TAIL = 64 * 1024
LINE_MOST = 64 * 1024


class MetricsFile:
    """The writer."""

    def __init__(self, path: Path, cap: int = CAP) -> None:
        self._path = path
        self._cap = cap
        self.problem: str | None = None

    def write(self, one: Window) -> None:
        """Append a window."""
        line = encode(one).encode("ascii") + b"\n"
        if len(line) > LINE_MOST:
            self.problem = "a line is too long"
            return
        try:
            if _size(self._path) + len(line) > self._cap:
                self._thin()
            self._append(line)
            self.problem = None
        except OSError as error:
            self.problem = error.strerror or str(error)

    def _append(self, line: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line  # what a full disk or a killed guardian tore stands alone, and is passed over
            if os.write(fd, line) != len(line):
                raise OSError(28, "No space left on device")
        finally:
            os.close(fd)

    def _thin(self) -> None:
        kept = thinned(windows(self._path))
        write_private(self._path, "".join(f"{encode(one)}\n" for one in kept), sync=False)


def windows(path: Path) -> list[Window]:
    """All windows of a file; [] where it cannot be read."""
    return [one for line in _end_of(path, 2 * CAP).split(b"\n") if (one := decode(line)) is not None]


def last(path: Path) -> Window | None:
    """The newest window; None where there is none."""
    lines = reversed(_end_of(path, TAIL).split(b"\n"))
    return next((one for line in lines if (one := decode(line)) is not None), None)


def _end_of(path: Path, most: int) -> bytes:
    """The last bytes of a regular file; none where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        return os.pread(fd, most, max(0, found.st_size - most)) if stat.S_ISREG(found.st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0
