"""A run's records on their way to the journal, also through a time in which nothing can be written.

A fact that cannot be written is held in memory and written first, in its place, when there is room again: what the
journal tells has no gaps. An intention that cannot be written is refused, and must not be carried out.
"""

from __future__ import annotations

from collections import deque

from guardian.core import events as ev
from guardian.host.clock import Clock
from guardian.host.disk import NO_ROOM, Ballast
from guardian.host.journal import Journal, JournalFull

RETRY_S = 5.0
HELD_MOST = 10_000
"""Records that are held in memory; a log that matches a rule at each line would fill that too."""


class Ledger:
    """Writes records; `failing` says why it cannot at the moment."""

    def __init__(self, journal: Journal, ballast: Ballast, clock: Clock) -> None:
        self.failing: str | None = None
        self.dropped = 0
        """Facts that could not be held either."""
        self._journal = journal
        self._ballast = ballast
        self._clock = clock
        self._held: deque[ev.Record] = deque()
        self._next_try = 0.0

    def write(self, record: ev.Record, *, intention: bool, at_once: bool = True) -> bool:
        """Whether the record is in the journal, an intention durably; a fact that is not is held.

        An intention that is not carried out `at_once` becomes durable with the one that is.
        """
        if self.flush() and self._append(record, sync=intention and at_once):
            return True
        if not intention:
            self._hold(record)
        return False

    def flush(self) -> bool:
        """Write what is held, where it is time to try again. Whether the journal can be written."""
        if self.failing is not None and self._clock.mono() < self._next_try:
            return False
        while self._held:
            if not self._append(self._held[0], sync=False):
                return False
            self._held.popleft()
        return True

    def _append(self, record: ev.Record, *, sync: bool) -> bool:
        while True:
            try:
                self._journal.append(record, sync=sync)
            except JournalFull as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in NO_ROOM and self._ballast.give():
                    continue
                self.failing = str(error)
                self._next_try = self._clock.mono() + RETRY_S
                return False
            self.failing = None
            return True

    def _hold(self, record: ev.Record) -> None:
        if isinstance(record.event, ev.Positions):
            return  # another one comes; without it more is read again, and nothing twice
        if len(self._held) < HELD_MOST:
            self._held.append(record)
        else:
            self.dropped += 1
