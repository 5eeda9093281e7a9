"""How a job is asked to end, and what is left of one: each step is journalled before anybody is asked or signalled.

A step that cannot be journalled is not done. Signals go to processes by pid and start time, never to a number alone.
"""

from __future__ import annotations

import signal

from guardian import looking, sources
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.host import crash, processes
from guardian.recording import Book


def begin(book: Book, asked: do.BeginStop) -> bool:
    """Say why, and who lives now."""
    living = looking.pids(book.run)
    said = ev.StopBegun(asked.attempt, asked.why, living, asked.rule, asked.silent, asked.facts, asked.silent_s)
    return book.take(said)


def ask_save(book: Book, attempt: int, save_at: int) -> bool:
    """Ask all ranks to save at one step and to stop."""
    if not book.take(ev.SaveAsked(attempt, save_at)):
        return False
    try:
        sources.write_control(book.attempt_folder(attempt), request=1, save_at=save_at)
    except OSError as error:
        book.take(ev.SourceLost("control file", str(error), attempt))
    return True


def send(book: Book, attempt: int, number: int) -> bool:
    """Signal every process of the attempt; one that is suspended is woken, so that it hears it."""
    found = looking.tree(book.run)
    if not book.take(ev.Signalled(attempt, number, len(found))):
        return False
    crash.point()
    for process in found:
        processes.send(process.identity, number)
        crash.point()
        if number != signal.SIGKILL and process.stopped:
            processes.send(process.identity, signal.SIGCONT)
    return True


def leave_alone(book: Book, attempt: int, *, unkillable: bool) -> bool:
    """Go on without the processes that still live, and name them."""
    left = tuple(_named(p) for p in looking.tree(book.run))
    return book.take(ev.TreeEnded(attempt, left, unkillable))


def reap(book: Book, attempt: int, number: int) -> bool:
    """Signal what earlier attempts of this run left on the GPUs, each by its pid and start time.

    What holds no memory there (a tracker that still sends) is left alone, where that can be told.
    """
    from guardian.core.gpus import holders  # noqa: PLC0415 - few runs leave anything
    from guardian.host import leftovers  # noqa: PLC0415 - as above

    seen = holders(book.run)
    found = [p for p in leftovers.find(book.run.created.run) if seen is None or p.pid in seen]
    if not book.take(ev.Reaped(attempt, number, tuple(_named(p) for p in found))):
        return False
    for process in found:
        processes.send(process.identity, number)
    return True


def _named(process: processes.Process) -> str:
    return f"{process.pid} {process.cmdline or process.name}"
