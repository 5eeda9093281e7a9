"""What a supervisor finds of a run that another one left, and how it goes on from there: the table of recovery.

A held keeper socket is a living attempt, and adopted; end records are an end seen late; living processes without a
keeper are adopted without an exit code; nothing at all is an end that nobody saw. Nothing that may still run is
started again.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from guardian import finding, looking
from guardian.core import events as ev
from guardian.core import wire
from guardian.host import keeping, processes
from guardian.recording import CLOCK_JUMP_S
from guardian.watching import heed_launcher, watch_orphans

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.recording import Book
    from guardian.watching import Watching


def recover(book: Book, watching: Watching, started: ev.SupervisorStarted) -> None:
    """Look what is left of the latest attempt, say so, and go on from there."""
    behind_s = book.outlook.clock.wall() - book.run.heard_wall
    if behind_s < -CLOCK_JUMP_S:
        book.take(ev.ClockSet(behind_s))  # while no guardian lived: nothing was written in the future
    found, go_on = _look_around(book, watching)
    book.take(replace(started, found=found))
    go_on()


def _look_around(book: Book, watching: Watching) -> tuple[str, Callable[[], object]]:
    """What is left, in words, and how to go on with it."""
    attempt = book.run.attempt
    if attempt is None or attempt.ended is not None:
        return "no job runs", lambda: _look_again(book)
    number = attempt.number
    keeper = keeping.connect(os.getuid(), book.run.created.run, number)
    if keeper is not None:
        words = f"attempt {number} still runs: adopted, not started again"
        return words, lambda: _adopt(book, watching, number, keeper)
    # The keeper opens job.log before it starts anything: without it nothing has run.
    begun = (book.attempt_folder(number) / wire.JOB_LOG).exists()
    if attempt.launched is None and not begun:
        return f"attempt {number} was planned and had not begun", lambda: None
    if not begun and not looking.tree(book.run):
        words = f"the launch of attempt {number} was never carried out"
        return words, lambda: book.take(ev.LaunchUndone(number))
    if keeping.end_records(book.attempt_folder(number)).tree_end is not None:
        words = f"attempt {number} ended while no guardian watched"
        return words, lambda: _late(book, watching, number, ended=True)
    if looking.tree(book.run):
        words = f"attempt {number} still runs, its keeper does not: adopted, its exit code stays unknown"
        return words, lambda: _late(book, watching, number, ended=False)
    words = f"attempt {number} is gone and nobody saw it end"
    return words, lambda: _late(book, watching, number, ended=True)


def _look_again(book: Book) -> None:
    """Since the last attempt ended, checkpoints may have been removed, and others put there."""
    ended = book.run.attempt.ended if book.run.attempt else None
    if ended is not None:
        found, _ = finding.found(book)
        if found != ended.checkpoints:
            book.take(replace(ended, checkpoints=found, inspected=False))


def _adopt(book: Book, watching: Watching, number: int, keeper: keeping.Keeper) -> None:
    if book.run.attempts[number - 1].launched is None:
        book.take(ev.Launched(number, keeper.pid, processes.start_ticks(keeper.pid) or 0))
    watching.follow(number)
    watching.listen(number, keeper)


def _late(book: Book, watching: Watching, number: int, *, ended: bool) -> None:
    """Go on with an attempt whose keeper is gone."""
    if book.run.attempts[number - 1].launched is None:
        book.take(ev.Launched(number, 0, 0))
    watching.follow(number)
    if keeping.end_records(book.attempt_folder(number)).tree_end is None:
        book.take(ev.KeeperLost(number))
    if ended:
        heed_launcher(book, number)
        book.take(ev.TreeEnded(number))
    else:
        watch_orphans(book, number)
