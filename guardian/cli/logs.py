"""`guardian logs`: what the job itself printed, byte for byte."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from guardian.cli import choosing, parsing
from guardian.cli.status import unattended
from guardian.core.run import Finished
from guardian.errors import HostError, UserError
from guardian.host import joblogs, keeping
from guardian.host.logs import Tail
from guardian.host.standing import Onlooker

if TYPE_CHECKING:
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian logs -f night1

Shown is the newest attempt, or the one that --attempt names. -f goes on with each further attempt until the run is
over; Ctrl-C ends this command alone."""
EVERY_S = 0.1
LOOK_EVERY = 5
"""Reads between two looks whether it is over."""
STDOUT = 1
EXIT_INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Copy the job's output."""
    options = parsing.parser("logs", "Show the output of a run's job.", EXAMPLE)
    parsing.add_run(options, optional=True)
    parsing.add_run_dir(options)
    options.add_argument("-f", "--follow", action="store_true", help="go on as it grows, until the run is over")
    options.add_argument(
        "--attempt", type=int, metavar="N", help="of this attempt, counted from 1 (default: the newest)"
    )
    options.add_argument("-n", "--lines", type=int, metavar="LINES", help="begin with the last so many lines")
    chosen = options.parse_args(argv)
    folder = choosing.choose(chosen.run_dir, chosen.run)
    if chosen.lines is not None and chosen.lines < 0:
        raise UserError(f"--lines {chosen.lines}: a number of lines is 0 or more")
    try:
        return _show(folder, chosen.attempt, chosen.lines, follow=chosen.follow)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _show(folder: RunFolder, wanted: int | None, lines: int | None, *, follow: bool) -> int:
    watch = _Watch(folder) if follow else None
    log = _first(folder, wanted, watch)
    while log is not None:
        _copy(log, lines, watch)
        lines = None  # of a further attempt all is new
        log = _next(log, watch) if watch and wanted is None else None
    return 0


class _Watch:
    """Tells when the run, or one of its attempts, is over; and says it where nobody has the run in hand."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._onlooker = Onlooker.of(folder)
        self._alone: str | None = None

    def is_over(self) -> bool:
        """Whether no further attempt will be made, unless somebody resumes the run."""
        for _ in self._onlooker.news():
            pass
        run = self._onlooker.run
        if isinstance(run.state, Finished):
            return True
        alone = unattended(run)
        if alone is not None and alone != self._alone:
            sys.stderr.write(f"guardian: run {self.folder.name} is {alone}\n")
        self._alone = alone
        return False

    def has_ended(self, attempt: int) -> bool:
        """Whether nothing more will be printed by an attempt."""
        if any(log.attempt > attempt for log in joblogs.of_run(self.folder)):
            return True
        return keeping.end_records(self.folder.attempt_dir(attempt)).tree_end is not None


def _first(folder: RunFolder, wanted: int | None, watch: _Watch | None) -> joblogs.JobLog | None:
    """The log to begin with; where it is watched for it may be still to come. Raises UserError when it never will."""
    while True:
        over = watch is None or watch.is_over()
        there = joblogs.of_run(folder)
        found = [log for log in there if wanted is None or log.attempt == wanted]
        if found:
            return found[-1]
        if over:
            break
        time.sleep(EVERY_S * LOOK_EVERY)
    which = "no attempt" if wanted is None else f"no attempt {wanted}"
    known = ", ".join(str(log.attempt) for log in there) or "none"
    raise UserError(f"run {folder.name} has {which} with output (there is: {known})")


def _copy(log: joblogs.JobLog, lines: int | None, watch: _Watch | None) -> None:
    """Copy a log to its end, which is that of its attempt where it is watched."""
    try:
        tail = Tail(log.path, offset=joblogs.begin(log.path, lines))
        while True:
            ended = watch is None or watch.is_over() or watch.has_ended(log.attempt)
            # What was written before the end was seen is read after it: nothing is left behind.
            _drain(tail)
            if ended:
                return
            for _ in range(LOOK_EVERY):
                time.sleep(EVERY_S)
                _drain(tail)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"{log.path} cannot be read: {error.strerror or error}") from error


def _drain(tail: Tail) -> None:
    while block := tail.read(joblogs.BLOCK):
        _write(block)


def _next(log: joblogs.JobLog, watch: _Watch) -> joblogs.JobLog | None:
    """The log of the next attempt, when there is one; None when the run is over without it."""
    while True:
        over = watch.is_over()
        found = next((later for later in joblogs.of_run(watch.folder) if later.attempt > log.attempt), None)
        if found is not None or over:
            return found
        time.sleep(EVERY_S * LOOK_EVERY)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(STDOUT, data) :]
