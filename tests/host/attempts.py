"""Tiny real jobs under real keepers, and an end for everything that a test started."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from pathlib import Path

from guardian.core import wire
from guardian.host import keeping, processes

PATIENCE_S = 120  # for a machine under load; a wait ends as soon as its condition holds


def until(condition, what="the condition"):
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)
    return value


class Attempt:
    """One job under a keeper, with everything that the keeper has told."""

    def __init__(self, folder: Path, *, run: str, number: int = 1):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.run, self.number = run, number
        self.heard: list[keeping.KeeperMessage] = []
        self._news = threading.Condition()
        self.keeper: keeping.Keeper | None = None
        self._seen: set[processes.Identity] = set()

    @property
    def mark(self) -> str:
        return wire.mark(self.run, self.number)

    def launch(self, *argv: str, env=None, cwd=None, standby=None, limits=()) -> Attempt:
        """Start the job; `env` is added to a minimal one."""
        whole = {"PATH": os.defpath, wire.ENV_MARK: self.mark, **(env or {})}
        job = keeping.Launch(self.run, self.number, self.folder, argv, whole, cwd or self.folder, limits)
        self.keeper = (standby or keeping.Standby()).launch(job)
        self.keeper.listen(self._hear)
        return self

    def adopt(self) -> Attempt:
        """Listen to the keeper that holds the attempt."""
        self.keeper = keeping.connect(os.getuid(), self.run, self.number)
        assert self.keeper is not None
        self.keeper.listen(self._hear)
        return self

    def _hear(self, message: keeping.KeeperMessage) -> None:
        with self._news:
            self.heard.append(message)
            self._news.notify_all()

    def told(self, kind):
        """The keeper's message of a kind, when it has come."""
        with self._news:
            came = self._news.wait_for(lambda: any(isinstance(m, kind) for m in self.heard), PATIENCE_S)
            assert came, f"no {kind.__name__}, only {self.heard}"
            return next(m for m in self.heard if isinstance(m, kind))

    def kinds(self) -> list[str]:
        """The story in words, once the keeper is gone."""
        self.told(keeping.KeeperGone)
        return [type(message).__name__ for message in self.heard]

    @property
    def log(self) -> str:
        return (self.folder / wire.JOB_LOG).read_text()

    def said(self, text: str) -> str:
        """The job's log, when it holds a text."""
        log = self.folder / wire.JOB_LOG
        return until(lambda: log.exists() and text in self.log and self.log, f"{text!r} in the log")

    def tree(self) -> tuple[processes.Process, ...]:
        """The attempt's processes, by all that is known of them."""
        found = processes.tree(self.keeper.identity, self.mark, frozenset(self._seen))
        self._seen |= {process.identity for process in found}
        return found

    def end(self) -> None:
        """Kill what is left of the tree, then the keeper if it will not go."""
        if self.keeper is None or self.keeper.identity is None:
            return
        deadline = time.monotonic() + PATIENCE_S
        while (left := self.tree()) or not self._idle():
            assert time.monotonic() < deadline, f"cannot end {left}"
            for process in left:
                processes.send(process.identity, signal.SIGKILL)
            time.sleep(0.01)
        processes.send(self.keeper.identity, signal.SIGKILL)

    def _idle(self) -> bool:
        """Whether the keeper starts and keeps nothing any more."""
        over = any(isinstance(message, keeping.TreeEnd | keeping.KeeperGone) for message in self.heard)
        return over or not processes.alive(self.keeper.identity)


def new_run() -> str:
    """A run's name that no test before has used."""
    return str(uuid.uuid4())
