"""Going back behind checkpoints that exist: which of them no longer count, and where the new ones are saved.

Pure. Where the numbers went bad, or from the beginning again: the newer checkpoints stay where they are, are never
resumed from again, and nothing is written over them: the attempt saves into a folder of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardian.core.events import Checkpoint
    from guardian.core.run import Attempt, Run

LEFT_BEHIND = "it is of a course of the training that was given up: the run went back behind it"


def given_up(run: Run) -> frozenset[str]:
    """Paths of the checkpoints that a later attempt went back behind."""
    gone: set[str] = set()
    for attempt in run.attempts[1:]:
        before = run.attempts[attempt.number - 2].ended
        if attempt.plan.rung is None or before is None:
            continue
        start = attempt.plan.resume_step or 0
        gone |= {c.path for c in before.checkpoints if c.complete and c.step > start}
    return frozenset(gone)


def standing(run: Run, attempt: Attempt) -> tuple[Checkpoint, ...]:
    """What was found at the attempt's end, without what was given up."""
    found = attempt.ended.checkpoints if attempt.ended else ()
    gone = given_up(run)
    return tuple(c for c in found if c.path not in gone)


def goes_back(run: Run, best: Checkpoint | None, home: str | None) -> bool:
    """Whether whole checkpoints lie ahead of the chosen one, or where the attempt would save over ones given up."""
    start, gone = best.step if best else 0, given_up(run)
    ended = run.attempts[-1].ended
    ahead = [c for c in (ended.checkpoints if ended else ()) if c.complete and c.step > start]
    return any(c.path not in gone or best is None or c.path.rpartition("/")[0] == home for c in ahead)


def folder(output_dir: str, attempt: int) -> str:
    """Where an attempt that goes back saves: inside the user's folder, beside what it must not touch."""
    return f"{output_dir.rstrip('/')}/again-{attempt:04d}"
