"""The journal of a run: a file of records, one line each, that only grows.

One process writes it (host/lock.py), anyone may read it meanwhile. A record that was appended with `sync` is on the
disk when `append` returns: only then may what it announces be done. A line that was cut off at the end by a crash was
never acted on, and is cut away before the next one is written; a line that is damaged elsewhere is named, and nothing
behind it is believed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from guardian.core import events as ev
from guardian.core import records
from guardian.errors import HostError
from guardian.host import crash
from guardian.host.clock import Clock
from guardian.host.lock import RunLock, Say

BLOCK = 64 * 1024
READ_BUFFER = 1024 * 1024


class JournalFull(HostError):  # noqa: N818 - named for what the supervisor must act on; the tree is drawn in errors.py
    """A record could not be written whole; the journal stands as it was before."""


class Journal:
    """The writer's end. One thread appends."""

    def __init__(self, path: Path, fd: int, size: int, lock: RunLock) -> None:
        self.path = path
        self.size = size
        """Bytes, up to the end of the last whole line."""
        self._fd = fd
        self._lock = lock
        self._torn = False
        self.lines: int | None = None
        """Lines so far; None where nobody has counted those that were there."""
        self.last: tuple[int, str] | None = None
        """Where the last line that we wrote begins, and its checksum."""
        self._summed = (0, 0)
        """Up to which byte a checksum of the whole has been made, and what it is."""
        self._named = False
        """Whether the file's name is on the disk for certain."""

    @classmethod
    def create(cls, path: Path, *, clock: Clock | None = None, say: Say | None = None) -> Journal:
        """An empty journal in a run folder that exists. Raises HostError: in use, there already, not writable."""
        lock = RunLock.take(path.parent, clock=clock, say=say)
        try:
            fd = _open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            if not unborn(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            os.ftruncate(fd, 0)
        except OSError as error:
            lock.release()
            raise HostError(f"{path} cannot be made: {error.strerror}") from error
        journal = cls(path, fd, 0, lock)
        journal.lines = 0
        return journal

    @classmethod
    def open(
        cls, path: Path, *, clock: Clock | None = None, say: Say | None = None
    ) -> tuple[Journal, Iterator[ev.Record]]:
        """Go on with a journal, and all its records so far. Raises HostError: in use, or not to be opened.

        The records are read as they are asked for; damage is found there. `say` hears what is waited for where the run
        was last held by a guardian out of our sight.
        """
        lock = RunLock.take(path.parent, clock=clock, say=say)
        try:
            if not os.access(path.parent, os.W_OK | os.X_OK):
                # The files in it might still be written: it would be found out at the next attempt, in the night.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))
            fd = _open(path, os.O_RDWR | os.O_APPEND)
            size = _cut(path, fd)
        except OSError as error:
            lock.release()
            raise HostError(f"{path} cannot be opened: {error.strerror}") from error
        except HostError:
            lock.release()
            raise
        return cls(path, fd, size, lock), read_records(path, until=size)

    def append(self, record: ev.Record, *, sync: bool = True) -> None:
        """Write one record; with `sync` it is durable on return, and so is all before it. Raises JournalFull.

        After a failure the journal ends with its last whole line, or will before anything else is written to it.
        """
        line = records.encode(record)
        crash.point()
        try:
            self._mend()
            _write(self._fd, line)
            if sync:
                self._sync()
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):
                self._mend()
            raise JournalFull(f"{self.path} cannot be written: {error.strerror}") from error
        self.last = (self.size, records.checksum(line))
        if self._summed[0] == self.size:
            self._summed = (self.size + len(line), zlib.crc32(line, self._summed[1]))
        self.size += len(line)
        if self.lines is not None:
            self.lines += 1
        crash.point()

    def checksum(self) -> int:
        """Of all its bytes, as they were written; what was there before us is read once. Raises OSError."""
        if self._summed[0] < self.size:
            self._summed = self.size, checksum(self._fd, self._summed[0], self.size, self._summed[1])
        return self._summed[1]

    def checked(self, upto: int, crc: int) -> None:
        """So much of it has this checksum: it need not be read again for that."""
        self._summed = (upto, crc)

    def renew(self) -> None:
        """Show that the writer lives, every lock.RENEW_S. Raises HostError where another one has taken the run over."""
        self._lock.renew()

    def close(self) -> None:
        """Let go of the file and of the run."""
        os.close(self._fd)
        self._lock.release()

    def _sync(self) -> None:
        """All that was written, and once the file's name, which is as durable as its folder."""
        os.fdatasync(self._fd)
        if not self._named:
            _sync_folder(self.path.parent)
            self._named = True

    def _mend(self) -> None:
        """Take half a line away; see that nobody else had his hands in the file."""
        seen = os.fstat(self._fd)
        if self._torn and seen.st_size > self.size:
            os.ftruncate(self._fd, self.size)
            seen = os.fstat(self._fd)
        self._torn = False
        if seen.st_size != self.size:
            raise JournalFull(f"{self.path} was changed by someone else: {seen.st_size} bytes, not {self.size}")
        if seen.st_nlink == 0:
            raise JournalFull(f"{self.path} was removed")


def read_records(path: Path, *, offset: int = 0, line: int = 1, until: int | None = None) -> Iterator[ev.Record]:
    """The records of a journal, also while another process appends; a last line without its end is left out.

    `offset` and `line` say where the first one begins. Raises HostError for what is damaged, with file and line.
    """
    try:
        with os.fdopen(_open(path, os.O_RDONLY), "rb", READ_BUFFER) as file:
            file.seek(offset)
            while until is None or offset < until:
                raw = file.readline(records.LINE_MOST + 1)
                if not raw.endswith(b"\n"):
                    if len(raw) > records.LINE_MOST:
                        raise HostError(f"{path}, line {line}, is damaged (no record is that long)")
                    return
                yield _decoded(path, line, raw)
                offset += len(raw)
                line += 1
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from error


def checksum(fd: int, begin: int, end: int, crc: int = 0) -> int:
    """The checksum `crc` of what lies before `begin`, carried on to `end`. Raises OSError."""
    while begin < end:
        piece = os.pread(fd, min(READ_BUFFER, end - begin), begin)
        if not piece:
            break  # somebody has cut it
        begin, crc = begin + len(piece), zlib.crc32(piece, crc)
    return crc


def unborn(path: Path) -> bool:
    """Whether a journal's writer was killed before its first whole line: then nothing has happened."""
    with os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
        return b"\n" not in file.read(records.LINE_MOST)


def last_record(path: Path) -> ev.Record | None:
    """The newest whole record, found from the end of the file; None where there is none to be had."""
    try:
        fd = _open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        end = _whole_lines(fd, os.fstat(fd).st_size)
        if not end:
            return None
        begin = _whole_lines(fd, end - 1)
        return records.decode(os.pread(fd, end - begin, begin))
    except (OSError, records.Damaged):
        return None
    finally:
        os.close(fd)


def _decoded(path: Path, line: int, raw: bytes) -> ev.Record:
    try:
        return records.decode(raw)
    except records.Damaged as why:
        raise HostError(f"{path}, line {line}, {why}") from why


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """All of it: a disk that fills up takes a part, and says so at the next try only."""
    while data:
        data = data[os.write(fd, data) :]


def _cut(path: Path, fd: int) -> int:
    """Take a torn last line away; the size that is left."""
    size = os.fstat(fd).st_size
    whole = _whole_lines(fd, size)
    if size - whole > records.LINE_MOST:
        # Nothing that guardian was writing is that long: whatever it is, it is not ours to cut.
        raise HostError(f"{path} is damaged (its last {size - whole} bytes hold no line)")
    if whole < size:
        os.ftruncate(fd, whole)  # undone by a crash, it is done again; the next synced record makes it last
    return whole


def _whole_lines(fd: int, end: int) -> int:
    """Where the last line feed before `end` leaves off; 0 where there is none."""
    while end > 0:
        begin = max(0, end - BLOCK)
        at = os.pread(fd, end - begin, begin).rfind(b"\n")
        if at >= 0:
            return begin + at + 1
        end = begin
    return 0
