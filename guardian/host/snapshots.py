"""What a journal tells up to some line, so that a reader need not begin at its beginning.

A snapshot is a convenience that anyone may delete. It is used only when it is whole, of this version, and covers the
beginning of this very journal, byte for byte; else it is ignored and the journal is folded from its start, which names
what is damaged. Steps are not in it: the heartbeat files have them, and are read again as ever.
"""

from __future__ import annotations

import os
import typing
from pathlib import Path

from guardian import __version__
from guardian.core import records
from guardian.core.folding import as_journalled
from guardian.core.run import Run
from guardian.core.values import dataclass
from guardian.host import heartbeats
from guardian.host.journal import Journal, checksum
from guardian.host.private import write_private

FILE = "snapshot.json"
EVERY_MIB = 1
"""A snapshot is renewed when the journal has grown by this much, and at each attempt's end: reading that much takes a
few tenths of a second, writing a snapshot some milliseconds."""
SIZE_MOST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run up to some line of its journal."""

    run: Run
    offset: int
    """Bytes of the journal that are in it, whole lines."""
    line: int
    """Lines that are in it."""
    crc: int
    """Checksum of those bytes."""


class NoSnapshot(Exception):  # noqa: N818 - nothing went wrong: there is more to read
    """There is none that fits; the text says why."""


def write(folder: Path, run: Run, journal: Journal) -> bool:
    """Keep a run that is made of all of its journal; False where that could not be done, which changes nothing."""
    if journal.lines is None or journal.last is None:
        return False
    begin, crc = journal.last
    told = records.codec(Run).to_plain(as_journalled(run))
    try:
        covers = {"offset": journal.size, "line": journal.lines, "last": [begin, crc], "sum": journal.checksum()}
        body = {"version": __version__, "format": records.VERSION, **covers, "run": told}
        write_private(folder / FILE, records.seal(body).decode("ascii"))
    except OSError:
        return False
    return True


def read(folder: Path, journal: Path, *, glance: bool = False) -> Snapshot:
    """The newest snapshot. Raises NoSnapshot.

    For a `glance` the covered part of the journal is not read, and damage in it not found: nothing is done by that.
    """
    try:
        body = records.unseal(_content(folder / FILE))
        if (body["version"], body["format"]) != (__version__, records.VERSION):
            raise NoSnapshot(f"{FILE} was written by guardian {body['version']!r:.40}")
        offset, line = _whole(body["offset"]), _whole(body["line"])
        begin, crc = typing.cast("list[object]", body["last"])
        _check(journal, _whole(begin), offset, str(crc))
        covered = _whole(body["sum"])
        if not glance:
            _check_all(journal, offset, covered)
        return Snapshot(typing.cast("Run", records.codec(Run).from_plain(body["run"])), offset, line, covered)
    except records.Damaged as why:
        raise NoSnapshot(f"{FILE} {why}") from why
    except OSError as error:
        raise NoSnapshot(f"{FILE} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise NoSnapshot(f"{FILE} is not what guardian writes: {error!r:.80}") from error


def _content(path: Path) -> bytes:
    with os.fdopen(heartbeats.open_file(path), "rb") as file:
        return file.read(SIZE_MOST)


def _check(journal: Path, begin: int, offset: int, crc: str) -> None:
    """The journal's line that ends where the snapshot does is the one that it remembers."""
    with os.fdopen(heartbeats.open_file(journal), "rb") as file:
        file.seek(begin)
        line = file.readline(records.LINE_MOST + 1)
    if begin + len(line) != offset or not line.endswith(b"\n") or records.checksum(line) != crc:
        raise NoSnapshot(f"{FILE} is of another journal")
    records.unseal(line)


def _check_all(journal: Path, offset: int, crc: int) -> None:
    """Nothing in the covered part of the journal has changed since."""
    with os.fdopen(heartbeats.open_file(journal), "rb") as file:
        if checksum(file.fileno(), 0, offset) != crc:
            raise NoSnapshot(f"{FILE} does not know what the journal says now")


def _whole(value: object) -> int:
    if isinstance(value, int) and value >= 0:
        return value
    raise ValueError(value)
