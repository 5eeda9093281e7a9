"""`guardian stop`: save and stop a run."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from guardian.cli import choosing, parsing
from guardian.cli.resume import take_over
from guardian.core.reporting import OUTCOMES
from guardian.core.run import Finished
from guardian.host import control, story

if TYPE_CHECKING:
    from guardian.core.run import Run
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian stop night1

The job saves at its next steps and stops; `guardian resume night1` goes on from there. Called again, it is ended
without a save; a third time, at once. Without a living guardian this command ends the job itself."""
EXIT_STOPPED = 75
STDOUT, STDERR = 1, 2


def main(argv: list[str]) -> int:
    """Ask the run's guardian to stop it, or do it in its place; 0 when it was asked or is stopped."""
    options = parsing.parser("stop", "Save and stop a run.", EXAMPLE)
    parsing.add_run(options, optional=True)
    parsing.add_run_dir(options)
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    folder = choosing.choose(chosen.run_dir, chosen.run)
    run = story.load(folder)
    if isinstance(run.state, Finished):
        return _said(folder, run, "over", as_json=chosen.json)
    if control.ask_stop(os.getuid(), run.created.run):
        return _said(folder, run, "asked", as_json=chosen.json)
    # What happens meanwhile is for a person: with --json it is shown on stderr.
    code = take_over(folder, stop=True, out=STDERR if chosen.json else STDOUT)
    if chosen.json:
        _said(folder, story.load(folder), "over", as_json=True)
    return 0 if code == EXIT_STOPPED else code


def _said(folder: RunFolder, run: Run, now: str, *, as_json: bool) -> int:
    """Tell how it stands: `asked` of a living guardian, or `over`. Public keys of `stop --json`."""
    state = run.state if isinstance(run.state, Finished) else None
    if as_json:
        told = {
            "run": folder.name,
            "now": now,
            "outcome": state.outcome.value if state else None,
            "exit_code": state.exit_code if state else None,
        }
        sys.stdout.write(json.dumps(told) + "\n")
    elif state is not None:
        sys.stdout.write(f"guardian: run {folder.name} is over: {OUTCOMES[state.outcome]}; there is nothing to do\n")
    else:
        sys.stdout.write(f"guardian: run {folder.name} is asked to save and stop; guardian attach shows it do so\n")
    return 0
