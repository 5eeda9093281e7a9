"""Why the device batch is smaller now than it was, and whether it could have stayed.

Pure. The companion tells each row that was longer than all before it, before it enters forward, so that a process
which the kernel killed has told it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.run import Attempt, Run

MUCH_LONGER = 1.5
"""Times the longest row before it: then one sample is to blame, and not the batch."""


@dataclass(frozen=True, slots=True)
class Fall:
    """The micro-batch that memory did not suffice for."""

    step: int
    """The optimizer step that was at work."""
    rows: int | None
    longest: int | None
    """Tokens of its longest row."""
    before: int | None
    """Tokens of the longest row that had passed before it."""


def reasons(run: Run) -> tuple[str, ...]:
    """A sentence for each time that the device batch was lowered."""
    told = []
    for attempt in run.attempts[1:]:
        edit = next((e for e in attempt.plan.edits if e.knob == "device_batch"), None)
        if edit is not None:
            told.append(f"device batch {edit.old} -> {edit.new} in attempt {attempt.number}: {_why(run, attempt)}")
    return tuple(told)


def _why(run: Run, attempt: Attempt) -> str:
    failed = run.attempts[attempt.number - 2]
    cause = failed.diagnosed.cause if failed.diagnosed else None
    name = cause.id if cause else "memory"
    fall = _fall(failed)
    if fall is None:
        return f"{name} at an unknown step; what was in memory then is unknown"
    where = f"{name} at step {fall.step:,}"
    done = len(failed.steps)
    if fall.longest is None:
        return f"{where}; how long its samples were is unknown"
    if fall.before is not None and done and fall.longest > MUCH_LONGER * fall.before:
        return (
            f"{where}, with one sample of {fall.longest:,} tokens (none before it had more than {fall.before:,}): "
            "without it the batch could have stayed; a lower max_length would cut it"
        )
    if not done:
        return f"{where}, its first: it never fitted (longest sample {fall.longest:,} tokens)"
    return f"{where}, with a longest sample of {fall.longest:,} tokens, no outlier: the batch could not have stayed"


def _fall(failed: Attempt) -> Fall | None:
    """From the exception where there was one, else from what entered forward last."""
    longest = max(failed.longest, key=lambda one: one.longest, default=None)
    thrown = failed.exceptions[0] if failed.exceptions else None
    if thrown is not None and thrown.longest is not None:
        step, rows, size = thrown.step + 1, thrown.rows, thrown.longest
    elif longest is not None and longest.step > (failed.last_step or 0):
        step, rows, size = longest.step, longest.rows, longest.longest
    elif failed.last_step is not None:
        return Fall(
            failed.last_step + 1, None, longest.longest if longest else None, longest.longest if longest else None
        )
    else:
        return None
    passed = [one.longest for one in failed.longest if one.step < step and one.longest < size]
    return Fall(step, rows, size, max(passed, default=None))
