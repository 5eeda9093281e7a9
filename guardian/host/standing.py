"""Where a run stands, at the price of its journal: no step of the past is read again.

For lists and for those who look on. The report and whoever supervises need all of it: host/story.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guardian.core import events as ev
from guardian.core import hearing, records
from guardian.core.folding import begin, fold
from guardian.core.run import Run
from guardian.errors import HostError
from guardian.host import heartbeats, snapshots
from guardian.host.runs import RunFolder

BLOCK = 1024 * 1024
TAIL = 16 * 1024
"""Bytes of a heartbeat's end: some dozens of lines."""
_CHECKED = len(b'{"crc":"01234567",')
_POSITIONS = b'"v":1,"event":"Positions",'
"""How most lines of a long run's journal go on after their checksum: they say where readers were, which is nothing to
us, and are not parsed."""


class JournalTail:
    """Reads a journal on from where it was, while its writer appends; a line is given when it is whole."""

    def __init__(self, path: Path, *, offset: int = 0, line: int = 0) -> None:
        """From a place on, before which there are so many lines."""
        self._path = path
        self._offset = offset
        self._line = line

    def read(self) -> Iterator[ev.Record]:
        """The records that are new. Raises HostError for what is damaged or cannot be read."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{self._path} cannot be read: {error.strerror}") from error
        with os.fdopen(fd, "rb", BLOCK) as file:
            file.seek(self._offset)
            while (raw := file.readline(records.LINE_MOST + 1)).endswith(b"\n"):
                self._offset += len(raw)
                self._line += 1
                if raw.startswith(_POSITIONS, _CHECKED):
                    continue
                try:
                    yield records.decode(raw)
                except records.Damaged as why:
                    raise HostError(f"{self._path}, line {self._line}, {why}") from why


@dataclass(slots=True)
class Onlooker:
    """A reader of a run that somebody else writes."""

    run: Run
    _tail: JournalTail

    @classmethod
    def of(cls, folder: RunFolder) -> Onlooker:
        """The run up to now. Raises HostError."""
        try:
            begun = snapshots.read(folder.path, folder.journal, glance=True)
            run, tail = begun.run, JournalTail(folder.journal, offset=begun.offset, line=begun.line)
            told = tail.read()
        except snapshots.NoSnapshot:
            tail = JournalTail(folder.journal)
            told = tail.read()
            first = next(told, None)
            if first is None or not isinstance(first.event, ev.RunCreated):
                raise HostError(f"{folder.journal} does not tell how the run began") from None
            run = begin(first)
        for record in told:
            run = fold(run, record)
        return cls(run, tail)

    def news(self) -> Iterator[tuple[Run, ev.Record]]:
        """Each new record with the run after it. Raises HostError."""
        for record in self._tail.read():
            self.run = fold(self.run, record)
            yield self.run, record


def look(folder: RunFolder) -> Run:
    """The run as its journal tells it, and the newest step of an attempt that has not ended. Raises HostError."""
    run = Onlooker.of(folder).run
    attempt = run.attempt
    if attempt is None or attempt.ended is not None:
        return run
    stamp = ev.Stamp(run.heard_wall, 0.0, "", "", 0)
    for event in _newest(folder.attempt_dir(attempt.number), attempt.number):
        run = fold(run, ev.Record(stamp, event))
    return run


def _newest(folder: Path, number: int) -> Iterator[ev.Event]:
    """What the heartbeats of an attempt say at their ends."""
    try:
        found = heartbeats.files(folder)
    except OSError:
        return
    for rank, path in found.items():
        for line in _last_lines(path):
            yield from hearing.parse(line, number, rank)


def _last_lines(path: Path) -> list[bytes]:
    """The whole lines at the end of a file; [] where it cannot be read."""
    try:
        fd = heartbeats.open_file(path)
    except OSError:
        return []
    try:
        size = os.fstat(fd).st_size
        begin = max(0, size - TAIL)
        lines = os.pread(fd, size - begin, begin).split(b"\n")
    except OSError:
        return []
    finally:
        os.close(fd)
    return lines[1 if begin else 0 : -1]
