"""How a job is started: its checkpoint pinned, its launch written down, then handed to a keeper that stands by.

`Launched` is on the disk before the keeper is given the job. Where it cannot be written, nothing is launched, and the
keeper goes on standing by.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.host import disk, keeping, machine, processes
from guardian.host.launching import write_launch

if TYPE_CHECKING:
    from guardian.recording import Book
    from guardian.slowwork import SlowWork
    from guardian.watching import Watching


class Starting:
    """Launches attempts, with a keeper ready ahead."""

    def __init__(self, book: Book, watching: Watching) -> None:
        self._book = book
        self._watching = watching
        self._standby: keeping.Standby | None = None

    def stand_by(self, standby: keeping.Standby | None = None) -> None:
        """Have a keeper ready, so that a launch pays no interpreter's start."""
        if self._standby is None:
            self._standby = standby or keeping.Standby()

    def dismiss(self) -> None:
        """The keeper that stands by is needed no more."""
        if self._standby is not None:
            self._standby.dismiss()
            self._standby = None

    def launch(self, planned: ev.Planned) -> bool:
        """Start an attempt and watch it; False where that cannot be written down yet."""
        book, number = self._book, planned.attempt
        folder = book.attempt_folder(number)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_launch(folder, planned)
        except OSError as error:
            return self._no_folder(folder, error)
        self.stand_by()
        standby, self._standby = self._standby, None
        assert standby is not None
        ticks = processes.start_ticks(standby.pid) or 0
        job = keeping.Launch(
            run=book.run.created.run,
            attempt=number,
            folder=folder,
            argv=planned.argv,
            env=book.outlook.environment | dict(planned.env),
            cwd=Path(book.run.created.cwd),
            limits=planned.limits,
        )
        if not book.take(ev.Launched(number, standby.pid, ticks, machine.oom_kills(), machine.boot_id())):
            self._standby = standby
            return False
        self._watching.listen(number, standby.launch(job))
        self._watching.follow(number)
        return True

    def _no_folder(self, folder: Path, error: OSError) -> bool:
        """Nothing is launched into a folder that cannot be written: with more room, or the same again soon."""
        if error.errno in disk.NO_ROOM and self._book.ballast.give():
            return True
        why = f"{folder} cannot be written ({error.strerror}): the launch waits"
        self._book.lose(ev.SourceLost("run folder", why))
        return False


def pin(book: Book, slow: SlowWork, attempt: int, source: str) -> bool:
    """Keep the checkpoint that the attempt resumes from: whatever removes old ones must not take it away."""
    work = ("pin", attempt)
    if slow.seconds(work) > do.CHECKING_MAX_S:
        return book.take(ev.Pinned(attempt, source, None, "none", f"took over {do.CHECKING_MAX_S} s"))
    from guardian.host import pins  # noqa: PLC0415 - the first launch does not wait for it

    place = str(book.folder / pins.FOLDER)
    return slow.start(work, lambda: book.post(pins.pin(attempt, source, place)))
