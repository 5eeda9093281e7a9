"""A supervisor's life at a terminal: signals, the control socket, the story, the report at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from guardian.cli.requests import Requests
from guardian.core import events as ev
from guardian.core import flight
from guardian.core import policy as policies
from guardian.core.planning import Terms, attempt_folder
from guardian.core.run import Attempt, Finished
from guardian.core.wire import JOB_LOG
from guardian.errors import HostError
from guardian.host import jobpython, registry, torchpython
from guardian.host.clock import Clock
from guardian.host.control import Ear
from guardian.host.private import write_private
from guardian.host.runs import RunFolder
from guardian.recording import Outlook
from guardian.supervisor import Supervisor
from guardian.ui.narrating import narrate
from guardian.ui.plain import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from guardian.cli.background import Background
    from guardian.core.adapters import Adapter
    from guardian.core.rules import Rule
    from guardian.core.run import Run
    from guardian.host.journal import Journal
    from guardian.host.keeping import Standby
    from guardian.host.matching import Matcher

T = TypeVar("T")
PATIENCE_S = 10.0
"""For a terminal that does not take the last lines."""


def companion_folder() -> str:
    """The folder that is put on the job's PYTHONPATH. Raises HostError where the installation lacks it."""
    spec = importlib.util.find_spec("guardian.trainer")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    for place in places:
        folder = Path(place) / "companion"
        if (folder / "sitecustomize.py").is_file():
            return str(folder)
    raise HostError("the companion is missing from this installation: reinstall training-guardian")


def terms(created: ev.RunCreated, folder: Path, adapter: Adapter | None, environment: Mapping[str, str]) -> Terms:
    """The terms of a run, the same for its first supervisor and for every later one."""
    policy, _ = policies.from_tables(json.loads(created.policy))
    python = sys.executable
    words = adapter.launch_argv(created.argv, python) if adapter is not None else created.argv
    interpreter = jobpython.interpreter(words, environment, created.cwd)
    return Terms(
        run=created.run,
        argv=created.argv,
        adapter=adapter,
        policy=policy,
        folder=str(folder),
        python=python,
        companion=companion_folder() if created.companion else None,
        pythonpath=environment.get("PYTHONPATH"),
        taken=flight.NAMES & environment.keys(),
        torch=torchpython.version(interpreter) if interpreter is not None else None,
    )


class Session:
    """One supervisor with its terminal; `conduct` returns the exit code of the process."""

    def __init__(
        self,
        run: Run,
        journal: Journal,
        run_terms: Terms,
        rules: Path | None,
        *,
        heard_upto: Mapping[int, int] | None = None,
        out: int = 1,
        background: Background | None = None,
    ) -> None:
        self._folder = Path(run_terms.folder)
        self._background = background
        if background is not None:
            background.log_to(self._folder)
        self._terminal = Terminal(out, echo=background is None)
        self._entered = False
        read_rules, matcher = _rules(rules)
        outlook = Outlook(
            terms=replace(run_terms, rule=lambda wanted: next((r for r in read_rules() if r.id == wanted), None)),
            rules=read_rules,
            matcher=matcher,
            clock=Clock(),
            environment=os.environ | dict(run.created.env),
            told=self._told,
            shown=self._terminal.shown,
        )
        self._supervisor = Supervisor(run, journal, outlook, heard_upto=heard_upto)

    def conduct(
        self,
        started: ev.SupervisorStarted,
        *,
        requests: Requests | None = None,
        standby: Standby | None = None,
        stop: bool = False,
    ) -> int:
        """Supervise to the end. `stop`: end the run as soon as what lives of it is found."""
        supervisor = self._supervisor
        (requests or Requests()).give_to(supervisor.post)
        ear = self._ear(supervisor)
        try:
            if started.how == "run":
                supervisor.stand_by(standby)
                supervisor.take(started)
            else:
                supervisor.recover(started)
            if stop:
                supervisor.post(ev.StopRequested(ev.StopBy.COMMAND))
            finished = supervisor.supervise()
        finally:
            ear.close()
        self._tell(supervisor.run)
        return finished.exit_code

    def _ear(self, supervisor: Supervisor) -> Ear:
        created = supervisor.run.created
        try:
            return Ear(os.getuid(), created.run, lambda: supervisor.post(ev.StopRequested(ev.StopBy.COMMAND)))
        except OSError as error:
            raise HostError(f"run {created.name} has a living guardian already") from error

    def _told(self, run: Run, record: ev.Record) -> None:
        line = narrate(run, record)
        if line is not None:
            for part in line.split("\n"):
                self._terminal.say(part)
        # Not before: until the job has started nothing may keep it waiting.
        if isinstance(record.event, ev.JobStarted | ev.StartFailed | ev.KeeperLost) and not self._entered:
            self._enter(run)
        if self._background is not None:
            self._background.told(run, record, line)
        if isinstance(record.event, ev.Launched):
            self._terminal.follow(str(self._log_of(run.attempts[-1])))
        if isinstance(record.event, ev.SupervisorStarted) and record.event.how != "run" and run.attempt:
            log = self._log_of(run.attempt)
            self._terminal.follow(str(log), log.stat().st_size if log.exists() else 0)

    def _enter(self, run: Run) -> None:
        """Enter the run in the registry."""
        self._entered = True
        folder = RunFolder(self._folder)
        failed = registry.enter(registry.Entry(run.created.run, folder, run.created.name, run.created_wall))
        if failed is not None:
            self._terminal.say(failed)

    def _log_of(self, attempt: Attempt) -> Path:
        return Path(attempt_folder(str(self._folder), attempt.number)) / JOB_LOG

    def _tell(self, run: Run) -> None:
        """Write report.md and show the report."""
        # rich takes a tenth of a second to import: not before the job has ended.
        from guardian.core.reporting import report
        from guardian.ui.report import markdown, render

        told = report(run)
        if isinstance(run.state, Finished):
            try:
                write_private(self._folder / "report.md", markdown(told))
            except OSError as error:
                self._terminal.say(f"report.md was not written: {error.strerror}")
        width, color = screen()
        self._terminal.show(render(told, width, color))
        self._terminal.close(PATIENCE_S)


def screen() -> tuple[int, bool]:
    """Width in columns, and whether colors make sense."""
    try:
        tty = os.isatty(1)
        return (max(60, os.get_terminal_size(1).columns), "NO_COLOR" not in os.environ) if tty else (100, False)
    except OSError:
        return 100, False


def _rules(folder: Path | None) -> tuple[Callable[[], tuple[Rule, ...]], Callable[[], Matcher]]:
    """Rules and their matcher, read when first asked for: the job starts before."""

    def read() -> tuple[Rule, ...]:
        from guardian.host.rulebook import load

        return load(folder)

    def matcher() -> Matcher:
        from guardian.host.matching import Matcher

        return Matcher(rules())

    rules = _once(read)
    return rules, _once(matcher)


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """What it makes, made when first asked for and whoever asks: of two threads the second waits."""
    lock = threading.Lock()

    @cache
    def made() -> T:
        return make()

    def locked() -> T:
        with lock:
            return made()

    return locked
