"""`-d`: guardian goes on without a terminal; the command that was typed tells how it began, and returns."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.cli.complaints import complain
from guardian.core import events as ev
from guardian.errors import GuardianError, HostError, UserError
from guardian.host import detaching
from guardian.ui.plain import PREFIX, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.core.run import Run

LOG = "guardian.log"


class Background:
    """The end that goes on: its lines are written to guardian.log, and told to the command until the job is started."""

    def __init__(self, link: detaching.Child) -> None:
        self._link = link

    def log_to(self, folder: Path) -> None:
        """Write to the run folder from now on. Raises HostError."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            detaching.write_to(folder / LOG)
        except OSError as error:
            raise HostError(f"{folder / LOG} cannot be written: {error.strerror}") from error

    def told(self, run: Run, record: ev.Record, line: str | None) -> None:
        """Pass a line on; the start of the job is the last thing that the command waits for."""
        if line is not None:
            self._link.tell({"say": line})
        if isinstance(record.event, ev.JobStarted | ev.KeeperLost):
            self._link.tell({"begun": run.created.name})
            self._link.close()


def start(work: Callable[[Background], int]) -> int:
    """Do the work in the background; the exit code of the command: 0 once the job is started."""
    if os.getpid() == 1:
        raise UserError("guardian is process 1 here: all ends when it returns, so it cannot go on behind; leave -d out")
    sys.stdout.flush()
    sys.stderr.flush()
    link = detaching.detach()
    return _behind(link, work) if isinstance(link, detaching.Child) else _in_front(link)


def _behind(link: detaching.Child, work: Callable[[Background], int]) -> int:
    try:
        code = work(Background(link))
    except GuardianError as error:
        link.tell({"error": str(error), "code": error.exit_code})
        raise SystemExit(error.exit_code) from None
    sys.stdout.flush()  # before the command returns, not after
    link.tell({"code": code})
    return code


def _in_front(link: detaching.Parent) -> int:
    """Show what is said from behind until the job is started or cannot be; Ctrl-C is handed on."""
    signal.signal(signal.SIGINT, lambda *_: os.kill(link.pid, signal.SIGINT))
    for message in link.messages():
        match message:
            case {"say": str(text)}:
                _say(text)
            case {"begun": str(name)}:
                return _begun(name, link.pid)
            case {"error": str(text), "code": int(code)}:
                complain(text)
                return code
            case {"code": int(code)}:
                return code
    raise HostError("guardian ended in the background before the job was started")


def _begun(name: str, pid: int) -> int:
    from guardian.host import session

    for danger in session.dangers():
        _say(danger)
    _say(f"run {name} goes on in the background (pid {pid})")
    _say(f"to see it: guardian attach {name}, guardian logs -f {name}; to end it: guardian stop {name}")
    return 0


def _say(text: str) -> None:
    for line in text.split("\n"):
        sys.stdout.write(PREFIX + printable(line) + "\n")
    sys.stdout.flush()
