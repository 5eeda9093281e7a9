"""The output of a run's attempts, for readers: byte for byte, from where they want it.

What guardian gave back to the file system of a long log (its beginning) is passed over: nothing is there to be read.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from guardian.core import wire
from guardian.core.values import dataclass
from guardian.host import heartbeats
from guardian.host.runs import RunFolder

BLOCK = 256 * 1024
ATTEMPTS = "attempts"


@dataclass(frozen=True, slots=True)
class JobLog:
    """The output of one attempt."""

    attempt: int
    path: Path


def of_run(folder: RunFolder) -> tuple[JobLog, ...]:
    """The logs that there are, in the order of their attempts."""
    try:
        names = os.listdir(folder.path / ATTEMPTS)
    except OSError:
        return ()
    numbers = sorted(int(name) for name in names if name.isascii() and name.isdecimal())
    logs = (JobLog(number, folder.attempt_dir(number) / wire.JOB_LOG) for number in numbers)
    return tuple(log for log in logs if log.path.exists())


def begin(path: Path, last: int | None = None) -> int:
    """The offset of its last so many lines, or (None) of the first byte that is there. Raises OSError."""
    fd = heartbeats.open_file(path)
    try:
        size = os.fstat(fd).st_size
        first = _first_byte(fd, size)
        return first if last is None else max(first, _lines_from_end(fd, size, last))
    finally:
        os.close(fd)


def _first_byte(fd: int, size: int) -> int:
    """Past the hole at the beginning, if there is one."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else 0


def _lines_from_end(fd: int, size: int, count: int) -> int:
    """Where the last lines begin; one without its end counts."""
    if count <= 0:
        return size
    missing = count
    end = max(0, size - 1)  # the line feed that ends the last line begins no further one
    while end > 0:
        start = max(0, end - BLOCK)
        block = os.pread(fd, end - start, start)
        feeds = block.count(b"\n")
        if feeds >= missing:
            at = len(block)
            for _ in range(missing):
                at = block.rfind(b"\n", 0, at)
            return start + at + 1
        missing -= feeds
        end = start
    return 0
