"""What is watched while an attempt lives: its files, its checkpoints, its host, its GPUs, the room on its disk.

Whoever watches only posts; what follows at once from what was heard, whatever is decided, is done here. Nothing here
touches the job.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from guardian import finding, looking, sources
from guardian.core import events as ev
from guardian.core import run as stands
from guardian.core import wire
from guardian.host import disk, keeping, processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardian.host.gpus import Probe
    from guardian.host.sampling import Sampler
    from guardian.recording import Book

PATIENCE_S = 5.0


class Watching:
    """All that watches for one supervisor."""

    def __init__(self, book: Book, heard_upto: Mapping[int, int]) -> None:
        """`heard_upto`: bytes of each rank's heartbeat that the run knows already, where its last attempt may live."""
        self._book = book
        self._heard_upto = heard_upto
        self._keeper: keeping.Keeper | None = None
        self.files: sources.AttemptFiles | None = None
        self._checkpoints: sources.CheckpointWatch | None = None
        self.sampler: Sampler | None = None
        self._disk: disk.Watch | None = None
        self.probe: Probe | None = None
        self._probed = 0
        """The attempt for which it was last started, or not."""

    def open(self) -> None:
        """Watch the room on the disk, from the first launch to the run's end."""
        book = self._book
        cap = book.terms.policy.disk.joblog_cap_mib
        self._disk = disk.Watch(book.ballast, cap, lambda text: book.post(ev.Noted(text)))
        if book.run.attempt is not None and book.run.attempt.ended is None:
            self._disk.keep_ahead(book.attempt_folder(book.run.attempt.number) / wire.JOB_LOG)

    def close(self) -> None:
        """Let go of everything; bounded."""
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None
        if self.sampler is not None:
            self.sampler.finish(PATIENCE_S)
            self.sampler = None
        if self._disk is not None:
            self._disk.close(PATIENCE_S)
            self._disk = None
        if self.probe is not None:
            self.probe.close()
            self.probe = None

    def listen(self, number: int, keeper: keeping.Keeper) -> None:
        """Hear what an attempt's keeper tells."""
        self._keeper = keeper
        sources.listen_to_keeper(keeper, self._book.run.created.run, number, self._book.post)

    def follow(self, number: int) -> None:
        """Follow an attempt's files; have its processes and its host looked at."""
        book = self._book
        attempt, folder = book.run.attempts[number - 1], book.attempt_folder(number)
        heard, self._heard_upto = self._heard_upto, {}
        self.files = sources.AttemptFiles(
            attempt, folder, book.post, matcher=book.outlook.matcher, heartbeat_offsets=heard
        )
        if self._disk is not None:
            self._disk.keep_ahead(folder / wire.JOB_LOG)
        if attempt.hello is not None:
            self._watch_checkpoints(attempt.hello)
        from guardian.host.sampling import Sampler  # noqa: PLC0415 - the first launch does not wait for it

        self.sampler = Sampler(
            number, folder, lambda: looking.view(book.run, number), lambda: finding.places(book), book.post
        )

    def attend(self, event: ev.Event) -> None:
        """What follows at once from what was heard, whatever is decided."""
        if isinstance(event, ev.Hello):
            know_rank(self._book, event)
            self._watch_checkpoints(event)
            self._miss_gpus(event)
        if isinstance(event, ev.JobStarted):
            self.watch_gpus()
        if isinstance(event, ev.Hit | ev.Logged):
            suspect(self._book, event.attempt)
        if isinstance(event, ev.Saved) and self._checkpoints is not None:
            self._checkpoints.look()
        if isinstance(event, ev.KeeperLost):
            watch_orphans(self._book, event.attempt)
        if isinstance(event, ev.Positions) and self._disk is not None:
            shown = self._book.outlook.shown()
            log = self._book.attempt_folder(event.attempt) / wire.JOB_LOG
            self._disk.was_read(log, event.offset if shown is None else min(shown, event.offset))

    def _watch_checkpoints(self, hello: ev.Hello) -> None:
        known = self._checkpoints
        if known is not None and (known.attempt, known.folder) == (hello.attempt, hello.output_dir):
            return
        if known is not None:
            known.close()
        run = self._book.run
        self._checkpoints = sources.CheckpointWatch(
            hello.attempt,
            hello.output_dir,
            self._book.post,
            since=finding.first_write(self._book),
            known=frozenset(c.path for a in run.attempts for c in a.checkpoints),
            world=finding.world(run),
        )

    def watch_gpus(self) -> None:
        """Have the GPUs read, where there may be some; after the launch, and again when another attempt begins."""
        run, outlook = self._book.run, self._book.outlook
        number = len(run.attempts)
        if self._probed == number or (self.probe is not None and not self.probe.over):
            return
        self._probed = number
        from guardian.host import gpus  # noqa: PLC0415 - the first launch does not wait for it

        # Where none is expected nothing is said: most machines without NVML have no GPU.
        if gpus.expected(outlook.environment | dict(run.attempts[-1].plan.env)):
            silent_s, given = self._book.terms.policy.gpu.silent_s, outlook.environment
            self.probe = gpus.Probe(run.created.run, self._book.post, silent_s=silent_s, environment=given)

    def miss(self) -> None:
        """What has fallen silent among those who watch is told."""
        if self.sampler is not None:
            self.sampler.miss()

    def hear_gpus(self, event: ev.GpusSeen | ev.GpuFault) -> None:
        """Readings belong to the latest attempt; a fault is told once."""
        book, attempt = self._book, self._book.run.attempt
        if attempt is None:
            return
        if isinstance(event, ev.GpuFault):
            known = {(one.card, one.kind, one.xid) for one in attempt.gpu_faults}
            if (event.card, event.kind, event.xid) not in known:
                book.take(replace(event, attempt=attempt.number))
                suspect(book, attempt.number)
            return
        from guardian.core.gpus import baseline  # noqa: PLC0415 - the first launch does not wait for it
        from guardian.core.probelines import readings  # noqa: PLC0415 - as above

        book.take(replace(event, attempt=attempt.number))
        if self.sampler is not None:
            self.sampler.give(readings(event.cards))
        first = baseline(book.run, event)
        if first:
            book.take(ev.GpuBaseline(attempt.number, first))

    def _miss_gpus(self, hello: ev.Hello) -> None:
        """Say once that a job trains on GPUs which nobody can look at."""
        if self.probe is None and self._probed and (hello.device or "").startswith("cuda"):
            why = "the job trains on cuda, and no library of NVML is found here"
            self._book.lose(ev.SourceLost("the GPUs", why))


def know_rank(book: Book, hello: ev.Hello) -> None:
    """Keep a rank's identity; its pid counts only if the process there carries this attempt's mark or descends."""
    ticks = processes.start_ticks(hello.pid)
    if ticks is not None and hello.pid in looking.pids(book.run):
        book.take(ev.RankFound(hello.attempt, hello.rank, hello.pid, ticks))


def suspect(book: Book, number: int) -> None:
    """Keep what a living job's log and numbers make true of the rules that need not wait for its end."""
    run = book.run
    if number != len(run.attempts) or not isinstance(run.state, stands.Starting | stands.Running):
        return
    from guardian.core import suspecting  # noqa: PLC0415 - the first launch does not wait for it

    for suspected in suspecting.suspect(book.outlook.rules(), run.attempts[-1], run):
        book.take(suspected)


def watch_orphans(book: Book, number: int) -> None:
    """Without the keeper nobody hears the last process end: look until none is left."""
    heed_launcher(book, number)
    _, known = looking.identities(book.run.attempts[number - 1])
    sources.watch_orphans(number, wire.mark(book.run.created.run, number), known, book.post)


def heed_launcher(book: Book, number: int) -> None:
    """What the keeper wrote of the launcher before it was gone counts."""
    launcher = keeping.end_records(book.attempt_folder(number)).launcher
    if launcher is not None:
        book.take(ev.LauncherExited(number, launcher.code, launcher.signal))
