"""The story of a run, from its folder: what the journal says, and what the heartbeats say, in the order it happened.

The journal holds conclusions and rare facts; an optimizer step stands in the heartbeat files alone. They are folded in
just before the attempt's end is, as they came while it lived, so that a loaded run is the one that was watched. What a
later guardian reads on from is told with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guardian.core import events as ev
from guardian.core.run import Run, begin, fold
from guardian.core.values import dataclass
from guardian.errors import HostError
from guardian.host.heartbeats import Replay
from guardian.host.journal import read_records
from guardian.host.runs import RunFolder


@dataclass(frozen=True, slots=True)
class Story:
    """A run as its folder tells it."""

    run: Run
    heartbeat_offsets: Mapping[int, int]
    """How far the heartbeats of the attempt that may still live have been read, by rank; empty: none does."""


def load(folder: RunFolder) -> Run:
    """The run as its folder tells it. Raises HostError for a journal that cannot be read."""
    return tell(folder).run


def tell(folder: RunFolder) -> Story:
    """The run, and where to read on. Raises HostError for a journal that cannot be read."""
    records = read_records(folder.journal)
    first = next(records, None)
    if first is None or not isinstance(first.event, ev.RunCreated):
        raise HostError(f"{folder.journal} does not tell how the run began")
    run, last = begin(first), first
    for record in records:
        if isinstance(record.event, ev.Ended):
            run, _ = _with_heartbeats(run, folder, record.event.attempt, last.stamp)
        run, last = fold(run, record), record
    offsets: Mapping[int, int] = {}
    if run.attempt is not None and run.attempt.ended is None:
        run, offsets = _with_heartbeats(run, folder, run.attempt.number, last.stamp)
    return Story(run, offsets)


def _with_heartbeats(run: Run, folder: RunFolder, number: int, stamp: ev.Stamp) -> tuple[Run, Mapping[int, int]]:
    """The run after all that an attempt's heartbeats say, and how far they were read.

    Where the companion gave the time it counts; the rest of the stamp is that of the record before.
    """
    replay = Replay(folder.attempt_dir(number), number)
    for event in replay:
        wall = getattr(event, "wall", None)
        run = fold(run, ev.Record(stamp if wall is None else replace(stamp, wall=wall), event))
    return run, replay.offsets
