"""`guardian status`: where the runs of a folder stand."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from guardian.cli import parsing
from guardian.core import run as stands
from guardian.core.values import dataclass
from guardian.errors import GuardianError
from guardian.host import control, keeping, runs, story

if TYPE_CHECKING:
    from guardian.core.run import Run
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian status --json"""


@dataclass(frozen=True, slots=True)
class Row:
    """One run; public keys of `status --json`."""

    run: str
    state: str
    """idle, checking, paused, starting, running, stopping, ending, finished:<outcome>; `unattended` in front where no
    guardian lives; `unreadable` where the folder cannot be read."""
    pid: int | None
    """Of the job's first process while it lives."""
    step: int | None
    max_steps: int | None
    attempt: int | None
    last_cause: str | None
    silence_budget_s: float | None
    folder: str
    problem: str | None = None


def main(argv: list[str]) -> int:
    """Print a line per run, the newest last."""
    options = parsing.parser("status", "List the runs of a folder and where they stand.", EXAMPLE)
    parsing.add_run_dir(options)
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    rows = [_row(folder) for folder in runs.list_runs(chosen.run_dir)]
    if chosen.json:
        sys.stdout.write(json.dumps({"runs": [asdict(r) for r in rows]}, indent=1) + "\n")
    elif rows:
        sys.stdout.writelines(_line(r) + "\n" for r in rows)
    else:
        sys.stdout.write(f"guardian: no runs in {chosen.run_dir}\n")
    return 0


def _row(folder: RunFolder) -> Row:
    try:
        run = story.load(folder)
    except GuardianError as error:
        return Row(folder.name, "unreadable", None, None, None, None, None, None, str(folder.path), str(error))
    attempt = run.attempt
    cause = next((a.diagnosed.cause for a in reversed(run.attempts) if a.diagnosed and a.diagnosed.cause), None)
    lives = isinstance(run.state, stands.LIVING) and attempt is not None and attempt.job is not None
    return Row(
        run=run.created.name,
        state=_state(run),
        pid=attempt.job.pid if lives and attempt and attempt.job else None,
        step=attempt.last_step if attempt else None,
        max_steps=attempt.max_steps if attempt else None,
        attempt=attempt.number if attempt else None,
        last_cause=cause.id if cause else None,
        silence_budget_s=None,
        folder=str(folder.path),
    )


def _state(run: Run) -> str:
    state = run.state
    if isinstance(state, stands.Finished):
        return f"finished:{state.outcome.value}"
    word = type(state).__name__.lower()
    if control.lives(os.getuid(), run.created.run):
        return word
    job = run.attempt is not None and keeping.connect(os.getuid(), run.created.run, run.attempt.number)
    return f"unattended: {'the job lives' if job else 'nothing lives'}, guardian resume {run.created.name}"


def _line(row: Row) -> str:
    if row.problem:
        return f"{row.run}: {row.state}: {row.problem}"
    steps = f"step {row.step} of {row.max_steps}" if row.step is not None else "no step yet"
    cause = f", last cause {row.last_cause}" if row.last_cause else ""
    number = f"attempt {row.attempt}" if row.attempt else "no attempt"
    return f"{row.run}: {row.state}, {number}, {steps}{cause}"
