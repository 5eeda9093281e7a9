"""Which checkpoints a run has, and where it writes: to begin again because nobody could look would throw them away.

What is on the disk counts; where a folder cannot be read, what was ever seen whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from guardian.core import wire
from guardian.host import checkpoints

if TYPE_CHECKING:
    from guardian.core import events as ev
    from guardian.core.run import Run
    from guardian.recording import Book


def found(book: Book) -> tuple[tuple[ev.Checkpoint, ...], str | None]:
    """This run's checkpoints by ascending step, originals before pins, and what could not be read."""
    from guardian.host import pins  # noqa: PLC0415 - the first launch does not wait for it

    announced = frozenset(path for a in book.run.attempts for path in a.announced)
    pinned: tuple[ev.Checkpoint, ...] = ()
    since = first_write(book)
    try:
        pinned = checkpoints.scan(str(book.folder / pins.FOLDER), world=world(book.run))
        saved = [
            c
            for folder in output_dirs(book)
            for c in checkpoints.scan(folder, since=since, announced=announced, world=world(book.run))
        ]
    except OSError as error:
        why = f"the checkpoint folder cannot be read: {error.strerror}"
        return tuple(sorted([*pinned, *known(book.run)], key=lambda c: c.step)), why
    return tuple(sorted([*saved, *pinned], key=lambda c: c.step)), None


def known(run: Run) -> tuple[ev.Checkpoint, ...]:
    """The checkpoints that were ever seen whole."""
    seen = {one.path: one for attempt in run.attempts for one in attempt.checkpoints}
    return tuple(sorted(seen.values(), key=lambda c: c.step))


def first_write(book: Book) -> float | None:
    """When the run began, by the clock of the disk: what is older is another run's."""
    return checkpoints.first_write(book.attempt_folder(1) / wire.LAUNCH)


def world(run: Run) -> int | None:
    """The ranks whose part each checkpoint must hold, as the job last said; None: unknown, or they save elsewhere.

    Ranks of other nodes may keep their random state on disks of their own.
    """
    if dict(run.created.env).get("NNODES", "1") != "1":
        return None
    return next((a.hello.world for a in reversed(run.attempts) if a.hello), None)


def output_dirs(book: Book) -> tuple[str, ...]:
    """Where the job said it saves; where it said nothing, where its command says."""
    run, adapter = book.run, book.terms.adapter
    said = {a.hello.output_dir for a in run.attempts if a.hello}
    if said or adapter is None:
        return tuple(sorted(said))
    argument = adapter.output_dir(run.created.argv)
    edits = (edit.new for attempt in run.attempts for edit in attempt.plan.edits if edit.knob == "output_dir")
    asked = dict.fromkeys(str(Path(run.created.cwd, name)) for name in (argument, *edits) if name)
    return tuple(dict.fromkeys(folder for name in asked for folder in checkpoints.versions(name)))


def places(book: Book) -> tuple[Path, ...]:
    """Where the run needs room: its own folder and those that checkpoints go to."""
    return (book.folder, *(Path(one) for one in output_dirs(book)))
