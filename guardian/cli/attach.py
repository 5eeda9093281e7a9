"""`guardian attach`: follow a run from another terminal, as its own guardian shows it. It only reads."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from guardian.cli import choosing, parsing
from guardian.cli.session import PATIENCE_S, screen
from guardian.cli.status import unattended
from guardian.core import events as ev
from guardian.core.reporting import report
from guardian.core.run import Finished
from guardian.core.wire import JOB_LOG
from guardian.host import joblogs, story
from guardian.host.logged import with_logged
from guardian.host.standing import Onlooker
from guardian.ui.narrating import narrate
from guardian.ui.plain import Terminal

if TYPE_CHECKING:
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian attach night1

Ctrl-C ends this command alone: the run goes on. When the run is over its report is shown, and its exit code is ours."""
EVERY_S = 0.2
LOOK_EVERY_S = 2.0
LAST_LINES = 20
EXIT_DETACHED = 130


def main(argv: list[str]) -> int:
    """Follow the run; its exit code, or 130 when this command was ended first."""
    options = parsing.parser("attach", "Follow a run from another terminal.", EXAMPLE)
    parsing.add_run(options, optional=True)
    parsing.add_run_dir(options)
    chosen = options.parse_args(argv)
    folder = choosing.choose(chosen.run_dir, chosen.run)
    return _Follower(folder).follow()


class _Follower:
    """One terminal that looks on."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._onlooker = Onlooker.of(folder)
        self._alone: str | None = None
        self._looked = 0.0
        self._terminal = Terminal()

    def follow(self) -> int:
        """Show what happens until the run is over or nobody looks any more."""
        try:
            self._begin()
            while not self._terminal.gone:
                self._news()
                state = self._onlooker.run.state
                if isinstance(state, Finished):
                    return self._tell(state)
                self._look_after()
                time.sleep(EVERY_S)
        except KeyboardInterrupt:
            self._terminal.say(
                f"detached; run {self._folder.name} is left as it is: guardian attach {self._folder.name}"
            )
            self._terminal.close(PATIENCE_S)
        return EXIT_DETACHED

    def _begin(self) -> None:
        attempt = self._onlooker.run.attempt
        number = attempt.number if attempt else 0
        # Later ones are news: they are shown whole when the journal tells of them.
        logs = [log for log in joblogs.of_run(self._folder) if log.attempt <= number]
        if logs:
            self._terminal.follow(str(logs[-1].path), _recent(logs[-1]))

    def _news(self) -> None:
        for run, record in self._onlooker.news():
            for part in (narrate(run, record) or "").split("\n"):
                if part:
                    self._terminal.say(part)
            if isinstance(record.event, ev.Launched):
                self._terminal.follow(str(self._folder.attempt_dir(record.event.attempt) / JOB_LOG))

    def _look_after(self) -> None:
        """Say it when the run's guardian is gone, and when there is one again."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        alone = unattended(self._onlooker.run)
        if alone != self._alone:
            self._terminal.say(f"run {self._folder.name} is {alone or 'attended again'}")
        self._alone = alone

    def _tell(self, state: Finished) -> int:
        width, color = screen()
        self._terminal.show(_report(self._folder, width, color=color))
        self._terminal.close(PATIENCE_S)
        return state.exit_code


def _report(folder: RunFolder, width: int, *, color: bool) -> str:
    from guardian.ui.report import render

    return render(report(with_logged(story.load(folder), folder)), width, color)


def _recent(log: joblogs.JobLog) -> int:
    """Where the last lines begin; the beginning where that cannot be found out."""
    try:
        return joblogs.begin(log.path, LAST_LINES)
    except OSError:
        return 0
