"""The story of a run, from its folder: what the journal says, and what the heartbeats say, in the order it happened.

The journal holds conclusions and rare facts; an optimizer step stands in the heartbeat files alone. They are folded in
just before the attempt's end is, as they came while it lived, so that a loaded run is the one that was watched. What a
later guardian reads on from is told with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guardian.core import events as ev
from guardian.core.folding import begin, fold, settled
from guardian.core.run import Run
from guardian.core.values import dataclass
from guardian.errors import HostError
from guardian.host import snapshots
from guardian.host.heartbeats import Replay
from guardian.host.journal import read_records
from guardian.host.runs import RunFolder


@dataclass(frozen=True, slots=True)
class Story:
    """A run as its folder tells it."""

    run: Run
    heartbeat_offsets: Mapping[int, int]
    """How far the heartbeats of the attempt that may still live have been read, by rank; empty: none does."""
    lines: int
    """Of the journal."""
    checked: tuple[int, int]
    """So many bytes of the journal have this checksum."""
    snapshot: str
    """Which snapshot was used, or why none was: for whoever wonders how long this took."""


def load(folder: RunFolder) -> Run:
    """The run as its folder tells it. Raises HostError for a journal that cannot be read."""
    return tell(folder).run


def tell(folder: RunFolder) -> Story:
    """The run, and where to read on. Raises HostError for a journal that cannot be read."""
    try:
        begun = snapshots.read(folder.path, folder.journal)
        run, lines, how = _with_past(begun.run, folder), begun.line, f"{begun.line} lines were in the snapshot"
        checked = begun.offset, begun.crc
        records = read_records(folder.journal, offset=begun.offset, line=begun.line + 1)
        stamp = ev.Stamp(run.heard_wall, 0.0, "", "", 0)
    except snapshots.NoSnapshot as why:
        records = read_records(folder.journal)
        first = next(records, None)
        if first is None or not isinstance(first.event, ev.RunCreated):
            raise HostError(f"{folder.journal} does not tell how the run began") from None
        run, lines, how, stamp, checked = begin(first), 1, str(why), first.stamp, (0, 0)
    for record in records:
        if isinstance(record.event, ev.Ended):
            run, _ = _with_heartbeats(run, folder, record.event.attempt, stamp)
        run, stamp, lines = fold(run, record), record.stamp, lines + 1
    offsets: Mapping[int, int] = {}
    if run.attempt is not None and run.attempt.ended is None:
        run, offsets = _with_heartbeats(run, folder, run.attempt.number, stamp)
    return Story(run, offsets, lines, checked, how)


def _with_past(run: Run, folder: RunFolder) -> Run:
    """The run of a snapshot after what the heartbeats say of the attempts that have ended."""
    stamp = ev.Stamp(run.heard_wall, 0.0, "", "", 0)
    for attempt in run.attempts:
        if attempt.ended is not None:
            run, _ = _with_heartbeats(run, folder, attempt.number, stamp)
            run = settled(run, attempt.number)
    return run


def _with_heartbeats(run: Run, folder: RunFolder, number: int, stamp: ev.Stamp) -> tuple[Run, Mapping[int, int]]:
    """The run after all that an attempt's heartbeats say, and how far they were read.

    Where the companion gave the time it counts; the rest of the stamp is that of the record before.
    """
    replay = Replay(folder.attempt_dir(number), number)
    for event in replay:
        wall = getattr(event, "wall", None)
        run = fold(run, ev.Record(stamp if wall is None else replace(stamp, wall=wall), event))
    return run, replay.offsets
