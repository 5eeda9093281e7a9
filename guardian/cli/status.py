"""`guardian status`: where this user's runs stand, or those of the folders that are named."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.cli import parsing
from guardian.core import figures
from guardian.core import run as stands
from guardian.core.values import dataclass
from guardian.core.wire import socket_name
from guardian.errors import GuardianError
from guardian.host import control, keeping, metricsfile, registry, runs, standing
from guardian.ui.plain import printable

if TYPE_CHECKING:
    from guardian.core.run import Run
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian status --json

Without a folder: the runs of ./guardian_runs and all others of this user that guardian remembers. With one: the runs in
it (or the run that it is), which are remembered from then on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run; public keys of `status --json`."""

    run: str
    state: str
    """idle, checking, paused, draining, starting, running, stopping, ending, finished:<outcome>; `unattended` in front
    where no guardian lives; `unreadable` where the folder cannot be read."""
    pid: int | None
    """Of the job's first process while it lives."""
    step: int | None
    max_steps: int | None
    attempt: int | None
    last_cause: str | None
    silence_budget_s: float | None
    folder: str
    problem: str | None = None
    host: dict[str, float] | None = None
    """Figures of the living attempt as they were last (core/figures.py); `at` is when, in wall seconds."""
    family: str | None = None
    """The framework whose command it is; `inside`: the training itself told what the command does not."""


def main(argv: list[str]) -> int:
    """Print a line per run, the newest first."""
    options = parsing.parser("status", "List your runs and where they stand.", EXAMPLE)
    options.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="a folder of run folders, or a run folder"
    )
    parsing.add_run_dir(options)
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    named = [*chosen.folders, *([chosen.run_dir] if chosen.run_dir is not parsing.RUNS else [])]
    found = _listed(named) if named else _all()
    rows = [_row(folder, remember=bool(named)) for folder in found]
    if chosen.json:
        sys.stdout.write(json.dumps({"runs": [asdict(r) for r in rows]}, indent=1) + "\n")
    elif rows:
        sys.stdout.writelines(printable(_line(r)) + "\n" for r in rows)
    else:
        sys.stdout.write(printable(f"guardian: no runs in {', '.join(map(str, named or [parsing.RUNS]))}") + "\n")
    return 0


def _listed(named: list[Path]) -> list[RunFolder]:
    """The runs of these folders; one that is a run folder itself is one."""
    found: dict[Path, RunFolder] = {}
    for base in named:
        for folder in (runs.at(base),) if (base / runs.JOURNAL).is_file() else runs.list_runs(base):
            found.setdefault(folder.path, folder)
    return list(found.values())


def _all() -> list[RunFolder]:
    """The runs here, then those of other folders; a run that is known by two ways is listed once."""
    found = {folder.path: folder for folder in runs.list_runs(parsing.RUNS)}
    for entry in registry.entries():
        found.setdefault(entry.folder.path, entry.folder)
    return list(found.values())


def _row(folder: RunFolder, *, remember: bool) -> Row:
    try:
        run = standing.look(folder)
    except GuardianError as error:
        return Row(folder.name, "unreadable", None, None, None, None, None, None, str(folder.path), str(error))
    if remember:
        registry.enter(registry.Entry(run.created.run, folder, run.created.name, run.created_wall))
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
        family=run.family,
        host=figures.latest(metricsfile.last(folder.attempt_dir(attempt.number) / metricsfile.NAME))
        if lives and attempt
        else None,
    )


def _state(run: Run) -> str:
    state = run.state
    if isinstance(state, stands.Finished):
        return f"finished:{state.outcome.value}"
    return unattended(run) or type(state).__name__.lower()


def unattended(run: Run) -> str | None:
    """What is left of a run that has no living guardian; None while it has one."""
    if control.lives(os.getuid(), run.created.run):
        return None
    job = run.attempt is not None and keeping.reach(socket_name(os.getuid(), run.created.run, run.attempt.number))
    if job:
        job[0].close()
    return f"unattended: {'the job lives' if job else 'nothing lives'}, guardian resume {run.created.name}"


def _line(row: Row) -> str:
    if row.problem:
        return f"{row.run}: {row.state}: {row.problem}"
    steps = f"step {row.step} of {row.max_steps}" if row.step is not None else "no step yet"
    cause = f", last cause {row.last_cause}" if row.last_cause else ""
    number = f"attempt {row.attempt}" if row.attempt else "no attempt"
    folder = Path(row.folder)
    where = "" if folder.parent == parsing.RUNS.absolute() else f" ({folder})"
    return f"{row.run}: {_in_words(row.state)}, {number}, {steps}{cause}{_host(row.host or {})}{where}"


def _host(known: dict[str, float]) -> str:
    """What of the figures is worth a word."""
    held, room = figures.memory(known), figures.disk(known)
    return (f", memory {held}" if held else "") + (f", disk {room}" if room else "")


def _in_words(state: str) -> str:
    """`finished:gave_up` is for programs."""
    head, mark, outcome = state.partition("finished:")
    return outcome.replace("_", " ") if mark and not head else state
