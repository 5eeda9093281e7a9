"""Append, fold, tell: the only way in which anything becomes part of a run.

An intention that cannot be journalled changes nothing: whoever wanted to carry it out is told so. A fact counts even
then, and is journalled when that can be done again. Only the loop's own thread takes events.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import folding
from guardian.core.planning import attempt_folder
from guardian.core.values import dataclass
from guardian.errors import HostError
from guardian.host import disk, lock, machine, snapshots
from guardian.host.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.core.planning import Terms
    from guardian.core.rules import Rule
    from guardian.core.run import Run
    from guardian.host.clock import Clock
    from guardian.host.journal import Journal
    from guardian.host.matching import Matcher

    Post = Callable[[ev.Event], None]
    Told = Callable[[Run, ev.Record], None]

MIB = 1024 * 1024
CLOCK_JUMP_S = 5.0
"""What wall time and monotonic time may differ by without anybody having set the clock."""
GIVE_UP_BLIND = 3
"""So many requests to stop, and guardian leaves without having written why."""
INTENTIONS = (
    ev.RunCreated | ev.SupervisorStarted | ev.Planned | ev.Launched | ev.StopBegun | ev.SaveAsked | ev.Signalled
    | ev.RunFinished
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a supervisor is given besides the run: its tools and its audience."""

    terms: Terms
    rules: Callable[[], tuple[Rule, ...]]
    """Read and compiled when first needed: the job starts before."""
    matcher: Callable[[], Matcher]
    clock: Clock
    environment: dict[str, str]
    """The caller's environment: every launch adds to it and takes nothing away."""
    told: Told
    """Hears every record after it is folded."""
    shown: Callable[[], int | None] = lambda: None
    """How far the latest attempt's job.log has been shown; None: it is not being shown."""


class Book:
    """The run as it stands, with its journal."""

    def __init__(self, run: Run, journal: Journal, outlook: Outlook, post: Post) -> None:
        """`post` hands in an event from any thread: it is taken when its turn comes."""
        self.run = run
        self.outlook = outlook
        self.terms = outlook.terms
        self.folder = Path(outlook.terms.folder)
        self.post = post
        self.ballast = disk.Ballast(self.folder, outlook.terms.policy.disk.ballast_mib)
        self._journal = journal
        self._ledger = Ledger(journal, self.ballast, outlook.clock)
        self._snapped = journal.size
        self._renewed = outlook.clock.mono()
        self._ahead_s = outlook.clock.wall() - outlook.clock.mono()
        """Of wall time before monotonic time: it changes when somebody sets the clock."""

    def attempt_folder(self, number: int) -> Path:
        return Path(attempt_folder(str(self.folder), number))

    def take(self, event: ev.Event) -> bool:
        """Append, fold, tell. False for an intention that could not be journalled: then nothing has changed."""
        record = ev.Record(self._stamp(), event)
        if isinstance(event, ev.Journalled) and not self._append(record) and isinstance(event, INTENTIONS):
            return False
        self.run = folding.fold(self.run, record)
        self.outlook.told(self.run, record)
        self._keep_snapshot(event)
        return True

    def lose(self, lost: ev.SourceLost) -> None:
        """Say once that a source is blind."""
        if lost not in self.run.lost:
            self.take(lost)

    def leave_blind(self) -> None:
        """Raise where a person insists on an end that cannot be written down. Nothing is done to the job."""
        if self._ledger.failing is not None and len(self.run.stop_requests) >= GIVE_UP_BLIND:
            name = self.run.created.name
            left = f"what lives of run {name} is left alone; make room, then guardian stop {name}"
            raise HostError(f"{self._ledger.failing}; {left}")

    def watch_clock(self) -> None:
        """Say when somebody has set the clock."""
        clock = self.outlook.clock
        ahead_s = clock.wall() - clock.mono()
        by_s = ahead_s - self._ahead_s
        if abs(by_s) > CLOCK_JUMP_S:
            self._ahead_s = ahead_s
            self.take(ev.ClockSet(by_s))

    def keep_up(self) -> None:
        """Write what could not be written before, and renew the lock when that is due."""
        blind = self._ledger.failing
        if blind is not None:
            self._ledger.flush()
            self._say_sight(blind)
        if self.outlook.clock.mono() - self._renewed >= lock.RENEW_S:
            self._renewed = self.outlook.clock.mono()
            self._journal.renew()

    def _stamp(self) -> ev.Stamp:
        clock = self.outlook.clock
        return ev.Stamp(clock.wall(), clock.mono(), machine.boot_id(), machine.node(), os.getpid())

    def _append(self, record: ev.Record) -> bool:
        blind = self._ledger.failing
        intention = isinstance(record.event, INTENTIONS)
        done = self._ledger.write(record, intention=intention, at_once=not self._launches_next(record.event))
        self._say_sight(blind)
        return done

    def _launches_next(self, event: ev.Event) -> bool:
        """Whether nothing is done before the launch that this leads to: one sync, that of `Launched`, serves both."""
        match event:
            case ev.SupervisorStarted(how="run"):
                return True
            case ev.Planned(resume_from=None, not_before=due):
                return due <= self.outlook.clock.wall()
            case _:
                return False

    def _say_sight(self, before: str | None) -> None:
        """Say once when the journal can no longer be written, and once when it can again."""
        now = self._ledger.failing
        if now is not None and before is None:
            why = f"it cannot be written ({now}): guardian watches and does nothing until it can"
            self.take(ev.SourceLost("journal", why))
        elif now is None and before is not None:
            lost = f"; {self._ledger.dropped} facts are lost" if self._ledger.dropped else ""
            self.take(ev.Noted(f"the journal can be written again{lost}"))

    def _keep_snapshot(self, event: ev.Event) -> None:
        """Of each attempt that has ended, and now and then in a long one: who reads the story need not read all of it.

        Not at the end itself, but when the next attempt runs: it would wait for the disk.
        """
        match event:
            case ev.JobStarted(attempt=number):
                due = number > 1
            case ev.RunFinished():
                due = True
            case _:
                due = self._journal.size - self._snapped >= snapshots.EVERY_MIB * MIB
        if due and self._ledger.failing is None:
            snapshots.write(self.folder, self.run, self._journal)
            self._snapped = self._journal.size
