"""The loop: take an event, append it, fold it, decide, act. The one place where judgement meets the world.

One thread owns all state. Observers post events into one queue; slow work (pinning, reading to the end) runs in a
thread of its own and posts its result, so that Ctrl-C and `guardian stop` are heard in every state. An intention is
journalled before it is carried out; one that cannot be journalled is not carried out and the job is left alone.

`recording` holds the run; `starting`, `looking`, `stopping` and `ending` carry decisions out; `taking_over` goes first
where another supervisor was.
"""

from __future__ import annotations

import contextlib
import queue
import time
from typing import TYPE_CHECKING

from guardian import ending, looking, starting, stopping
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core import run as stands
from guardian.core.remarking import Remarks
from guardian.errors import GuardianError
from guardian.recording import Book
from guardian.slowwork import SlowWork
from guardian.starting import Starting
from guardian.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardian.core.run import Run
    from guardian.host.journal import Journal
    from guardian.host.keeping import Standby
    from guardian.recording import Outlook

IDLE_S = 1.0
"""The longest sleep of the loop: an event ends it at once."""
BATCH = 1000
STANDBY_AFTER_S = 3.0
"""The next keeper is started, and the rules are read, when the job has had this long to start without company."""


class Supervisor:
    """Owns a run until it is finished."""

    def __init__(
        self, run: Run, journal: Journal, outlook: Outlook, *, heard_upto: Mapping[int, int] | None = None
    ) -> None:
        """`heard_upto`: bytes of each rank's heartbeat that are in `run` already, where its last attempt may live."""
        self._queue: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()
        self._book = Book(run, journal, outlook, self.post)
        self._outlook = outlook
        self._terms = outlook.terms
        self._watching = Watching(self._book, heard_upto or {})
        self._starting = Starting(self._book, self._watching)
        self._slow = SlowWork(outlook.clock)
        self._looked = 0.0
        self._remarks = Remarks()

    @property
    def run(self) -> Run:
        """As it stands."""
        return self._book.run

    # --- from outside --------------------------------------------------------------------------------------

    def post(self, event: ev.Event) -> None:
        """Hand in an event; from any thread, and from a signal handler."""
        self._queue.put(event)

    def stand_by(self, standby: Standby | None = None) -> None:
        """Have a keeper ready, so that a launch pays no interpreter's start."""
        self._starting.stand_by(standby)

    def recover(self, started: ev.SupervisorStarted) -> None:
        """Take over a run that another supervisor left."""
        from guardian import taking_over  # noqa: PLC0415 - the first launch takes nothing over

        taking_over.recover(self._book, self._watching, started)

    def supervise(self) -> ev.RunFinished:
        """Run until the run is finished; the last record of its journal."""
        self._watching.open()
        try:
            while True:
                self._hear_waiting()
                self._book.watch_clock()
                decision = do.decide(self.run, self._terms, self._outlook.clock.wall())
                if isinstance(self.run.state, stands.Finished):
                    state = self.run.state
                    return ev.RunFinished(state.outcome, state.exit_code, state.reason)
                self._book.leave_blind()
                if not self._act(decision):
                    self._hear(decision.until if isinstance(decision, do.Wait) else None)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything but the job."""
        self._starting.dismiss()
        self._watching.close()
        if isinstance(self.run.state, stands.Finished):
            self._book.ballast.remove()

    # --- events --------------------------------------------------------------------------------------------

    def take(self, event: ev.Event) -> bool:
        """Append, fold, tell. False for an intention that could not be journalled: then nothing has changed."""
        return self._book.take(event)

    def _hear(self, until: float | None) -> None:
        """Wait for events, at most until a wall time, and take all that are there."""
        wait = IDLE_S if until is None else min(IDLE_S, max(0.0, until - self._outlook.clock.wall()))
        with contextlib.suppress(queue.Empty):
            self._hear_one(self._queue.get(timeout=wait))
            self._hear_waiting()
        self._housekeeping()

    def _hear_waiting(self) -> None:
        """Take what has come meanwhile: nothing is launched past a request to stop."""
        with contextlib.suppress(queue.Empty):
            for _ in range(BATCH):
                self._hear_one(self._queue.get_nowait())

    def _hear_one(self, event: ev.Event) -> None:
        if isinstance(event, ev.GpusSeen | ev.GpuFault):
            self._watching.hear_gpus(event)
            return
        if isinstance(event, ev.SourceLost) and event in self.run.lost:
            return
        if isinstance(event, ev.Ended):
            ended = ending.told(self.run, event)
            if ended is None:
                return
            event = ended
        self.take(event)
        self._watching.attend(event)

    def _housekeeping(self) -> None:
        self._book.keep_up()
        self._watching.miss()
        attempt = self.run.attempt
        if self.run.gpu_baseline and not isinstance(self.run.state, stands.Finished):
            self._watching.watch_gpus()  # a guardian that takes over before a launch has none yet
        if attempt is None or attempt.launched_wall is None:
            return
        if isinstance(self.run.state, stands.Running):
            for text in self._remarks.new(self.run):
                self.take(ev.Noted(text))
        if self._outlook.clock.wall() - attempt.launched_wall > STANDBY_AFTER_S:
            if attempt.tree_end is None:
                self._watching.watch_gpus()
            self._starting.stand_by()
            self._slow.start(("prepare", 0), self._prepare)

    def _prepare(self) -> None:
        """Read and compile what judging needs: the job's end shall not wait for it. What is wrong is told there."""
        import guardian.core.diagnosing  # noqa: F401, PLC0415 - the first launch does not wait for it

        with contextlib.suppress(GuardianError):
            self._outlook.rules()
            self._outlook.matcher()

    # --- acting --------------------------------------------------------------------------------------------

    def _act(self, decision: do.Decision) -> bool:  # noqa: C901, PLR0912 - one line per decision is the table of what there is
        """Carry a decision out; False where nothing changed and there is nothing to do but listen."""
        match decision:
            case do.Wait():
                return False
            case do.Plan(planned=planned):
                return self.take(planned)
            case do.Pin(attempt=attempt, source=source):
                return starting.pin(self._book, self._slow, attempt, source)
            case do.Measure(attempt=attempt, name=name):
                return self.take(ev.Measured(attempt, name, looking.measured(self._book, name)))
            case do.Launch(planned=planned):
                return self._starting.launch(planned)
            case do.BeginStop():
                return stopping.begin(self._book, decision)
            case do.Tell(event=event):
                return self.take(event)
            case do.Reap(attempt=attempt, signal=number):
                return stopping.reap(self._book, attempt, number)
            case do.AskSave(attempt=attempt, save_at=save_at):
                return stopping.ask_save(self._book, attempt, save_at)
            case do.SendSignal(attempt=attempt, signal=number):
                return stopping.send(self._book, attempt, number)
            case do.Look(attempt=attempt):
                return self._look(attempt)
            case do.LookAtWork(attempt=attempt):
                return self.take(looking.work(self._book, attempt))
            case do.TakeStacks(attempt=attempt):
                return looking.stacks(self._book, self._slow, attempt)
            case do.LeaveAlone(attempt=attempt, unkillable=unkillable):
                return stopping.leave_alone(self._book, attempt, unkillable=unkillable)
            case do.Drain(attempt=attempt):
                return ending.read_out(self._book, self._slow, self._watching, attempt)
            case do.Diagnose():
                return ending.diagnose(self._book)
            case do.Inspect(attempt=attempt):
                return ending.inspect(self._book, self._slow, attempt)
            case do.Rate(asked=asked):
                return ending.rate(self._book, self._slow, asked)
            case do.Finish(finished=finished):
                return ending.finish(self._book, finished)

    def _look(self, attempt: int) -> bool:
        now = time.monotonic()
        if now - self._looked < do.LOOK_EVERY_S:
            return False
        self._looked = now
        return self.take(ev.TreeSeen(attempt, looking.pids(self.run)))
