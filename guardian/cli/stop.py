"""`guardian stop`: save and stop a run."""

from __future__ import annotations

import os
import sys

from guardian.cli import choosing, parsing
from guardian.cli.resume import take_over
from guardian.core.run import Finished
from guardian.host import control, story

EXAMPLE = """example:
  guardian stop night1

The job saves at its next steps and stops; `guardian resume night1` goes on from there. Called again, it is ended
without a save; a third time, at once. Without a living guardian this command ends the job itself."""
EXIT_STOPPED = 75


def main(argv: list[str]) -> int:
    """Ask the run's guardian to stop it, or do it in its place; 0 when it was asked or is stopped."""
    options = parsing.parser("stop", "Save and stop a run.", EXAMPLE)
    parsing.add_run(options, optional=True)
    parsing.add_run_dir(options)
    chosen = options.parse_args(argv)
    folder = choosing.choose(chosen.run_dir, chosen.run)
    run = story.load(folder)
    if isinstance(run.state, Finished):
        sys.stdout.write(f"guardian: run {folder.name} is over: {run.state.outcome.value}\n")
        return 0
    if control.ask_stop(os.getuid(), run.created.run):
        sys.stdout.write(f"guardian: run {folder.name} is told to save and stop\n")
        return 0
    code = take_over(folder, stop=True)
    return 0 if code == EXIT_STOPPED else code
