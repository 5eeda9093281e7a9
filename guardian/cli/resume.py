"""`guardian resume`: go on with a run that was stopped, or take over one whose guardian is gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.cli import choosing, parsing
from guardian.core import adapters
from guardian.core import events as ev
from guardian.core.reporting import OUTCOMES
from guardian.core.run import Finished
from guardian.host import configs, story
from guardian.host.journal import Journal

if TYPE_CHECKING:
    from guardian.cli.background import Background
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian resume night1

A job that still trains is adopted, never started twice. Exit codes: guardian --help."""


def main(argv: list[str]) -> int:
    """Take the run in hand again; the exit code of the run."""
    options = parsing.parser("resume", "Go on with a run.", EXAMPLE)
    parsing.add_run(options, optional=True)
    parsing.add_run_dir(options)
    options.add_argument("--rules", type=Path, metavar="DIR", help="rule files that override the built-in ones by id")
    parsing.add_detach(options)
    chosen = options.parse_args(argv)
    folder = choosing.choose(chosen.run_dir, chosen.run)
    parsing.judge_rules(chosen.rules)
    if not chosen.detach:
        return take_over(folder, rules=chosen.rules)
    from guardian.cli import background

    return background.start(lambda behind: take_over(folder, rules=chosen.rules, background=behind))


def take_over(
    folder: RunFolder,
    *,
    rules: Path | None = None,
    stop: bool = False,
    out: int = 1,
    background: Background | None = None,
) -> int:
    """Become the supervisor of a run (`stop`: to end it), shown on `out`. Raises HostError while another one lives."""
    from guardian.cli.session import Session, terms

    journal, _ = Journal.open(folder.journal, say=parsing.say)
    told = story.tell(folder)
    journal.lines = told.lines
    journal.checked(*told.checked)
    run = told.run
    if isinstance(run.state, Finished) and (stop or run.state.outcome is ev.Outcome.FINISHED):
        sys.stdout.write(
            f"guardian: run {folder.name} is over: {OUTCOMES[run.state.outcome]}; there is nothing to do\n"
        )
        journal.close()
        return 0 if stop else run.state.exit_code
    created = run.created
    environment = os.environ | dict(created.env)
    adapter = adapters.recognise(created.argv, environment, configs.read_config)
    run_terms = terms(created, folder.path, adapter, environment)
    session = Session(run, journal, run_terms, rules, heard_upto=told.heartbeat_offsets, out=out, background=background)
    code = session.conduct(ev.SupervisorStarted("resume", "", reopened=not stop), stop=stop)
    journal.close()
    return code
