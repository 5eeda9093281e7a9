"""`guardian status`: where this user's runs stand, or those that are named, by folder or by name."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.cli import choosing, parsing
from guardian.core import figures
from guardian.core import run as stands
from guardian.core.policy import from_tables
from guardian.core.silence import standing as standing_of
from guardian.core.values import dataclass
from guardian.core.wire import JOB_LOG, socket_name
from guardian.errors import GuardianError
from guardian.host import control, keeping, metricsfile, registry, runs, standing
from guardian.ui.plain import printable

if TYPE_CHECKING:
    from guardian.core.run import Attempt, Run
    from guardian.core.silence import Standing
    from guardian.host.runs import RunFolder

EXAMPLE = """example:
  guardian status --json

Alone: the runs of ./guardian_runs and all others of this user that guardian remembers. With a folder: the runs in it
(or the run that it is), which are remembered from then on. What is no folder is the name of a run."""


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
    """How long nothing may happen in the phase that the job is in, by its newest steps; null: nobody watches that."""
    folder: str
    problem: str | None = None
    host: dict[str, float] | None = None
    """Figures of the living attempt as they were last (core/figures.py); `at` is when, in wall seconds."""
    family: str | None = None
    """The framework whose command it is; `inside`: the training itself told what the command does not."""
    silence_left_s: float | None = None
    """Of that budget; below 0 the job is being looked at, and is ended only if it stands still."""
    silence_phase: str | None = None
    """start-up, skipping data, first steps, training, evaluation, saving or teardown."""


def main(argv: list[str]) -> int:
    """Print a line per run, the newest first."""
    options = parsing.parser("status", "List your runs and where they stand.", EXAMPLE)
    options.add_argument("runs", nargs="*", metavar="RUN", help="a run's name or folder, or a folder of run folders")
    parsing.add_run_dir(options)
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    named = chosen.runs or ([chosen.run_dir] if chosen.run_dir is not parsing.RUNS else [])
    found = _listed(named, chosen.run_dir) if named else _all()
    rows = [_row(folder, remember=bool(named)) for folder in found]
    if chosen.json:
        sys.stdout.write(json.dumps({"runs": [asdict(r) for r in rows]}, indent=1) + "\n")
    elif rows:
        sys.stdout.writelines(printable(_line(r)) + "\n" for r in rows)
    else:
        sys.stdout.write(printable(f"guardian: no runs in {', '.join(map(str, named or [parsing.RUNS]))}") + "\n")
    return 0


def _listed(named: list[str | Path], run_dir: Path) -> list[RunFolder]:
    """The runs of these names and folders. Raises UserError for a name that no run has."""
    found: dict[Path, RunFolder] = {}
    for one in named:
        base = Path(one)
        if base.is_dir() and not (base / runs.JOURNAL).is_file():
            folders = runs.list_runs(base)
        else:
            folders = (choosing.choose(run_dir, str(one)),)
        found.update({folder.path: folder for folder in folders if folder.path not in found})
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
    state = _state(run)
    silence = _silence(run, attempt, folder) if state in ("starting", "running") and attempt else None
    lives = isinstance(run.state, stands.LIVING) and attempt is not None and attempt.job is not None
    return Row(
        run=run.created.name,
        state=state,
        pid=attempt.job.pid if lives and attempt and attempt.job else None,
        step=attempt.last_step if attempt else None,
        max_steps=attempt.max_steps if attempt else None,
        attempt=attempt.number if attempt else None,
        last_cause=cause.id if cause else None,
        silence_budget_s=silence.budget_s if silence else None,
        folder=str(folder.path),
        family=run.family,
        host=figures.latest(metricsfile.last(folder.attempt_dir(attempt.number) / metricsfile.NAME))
        if lives and attempt
        else None,
        silence_left_s=round(silence.due - time.time(), 1) if silence else None,
        silence_phase=silence.phase if silence else None,
    )


def _silence(run: Run, attempt: Attempt, folder: RunFolder) -> Standing | None:
    """The budget of the phase that the job is in, by what its newest words tell."""
    policy, _ = from_tables(json.loads(run.created.policy))
    with contextlib.suppress(OSError):
        log = folder.attempt_dir(attempt.number) / JOB_LOG
        attempt = replace(attempt, printed_wall=log.stat().st_mtime)
    return standing_of(run, attempt, policy) if attempt.launcher is None else None


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
    return f"{row.run}: {_in_words(row.state)}, {number}, {steps}{_countdown(row)}{cause}{_host(row.host or {})}{where}"


def _countdown(row: Row) -> str:
    """How long nothing has happened, and how long that may last."""
    if row.silence_budget_s is None or row.silence_left_s is None:
        return ""
    silent = max(0.0, row.silence_budget_s - row.silence_left_s)
    return f", silent for {silent:.0f} of {row.silence_budget_s:.0f} s ({row.silence_phase})"


def _host(known: dict[str, float]) -> str:
    """What of the figures is worth a word."""
    held, room = figures.memory(known), figures.disk(known)
    return (f", memory {held}" if held else "") + (f", disk {room}" if room else "")


def _in_words(state: str) -> str:
    """`finished:gave_up` is for programs."""
    head, mark, outcome = state.partition("finished:")
    return outcome.replace("_", " ") if mark and not head else state
