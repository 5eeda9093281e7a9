"""Which steps of which attempt survive: the line that leads from the first step to where the run stands.

An attempt goes on from a checkpoint, so the steps that an earlier attempt finished beyond it are run again.
What is kept of an attempt ends where the lowest later attempt began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.run import Attempt, Run


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one attempt contributed."""

    attempt: Attempt
    start: int | None
    """Steps that were finished when it began; None: nobody said."""
    last: int | None
    """Its last finished step; None: none was seen."""
    until: int | None
    """The start of the lowest later attempt: its own steps up to here were not run again. None: nothing came after."""

    @property
    def stepped(self) -> bool:
        """Whether it finished a step."""
        return self.last is not None and (self.start is None or self.last > self.start)

    @property
    def kept_to(self) -> int | None:
        """The last of its steps that was not run again."""
        if self.last is None or self.until is None:
            return self.last
        return min(self.last, self.until)

    @property
    def lost(self) -> int:
        """Finished steps that were run again later."""
        if self.last is None or self.until is None or not self.stepped:
            return 0
        return max(0, self.last - max(self.until, self.start or 0))


def stretches(run: Run) -> tuple[Stretch, ...]:
    """One for each attempt, in order."""
    found: list[Stretch] = []
    until: int | None = None
    for attempt in reversed(run.attempts):
        one = Stretch(attempt, _start(attempt), attempt.last_step, until)
        found.append(one)
        # An attempt that died before its first step ran nothing again; the latest one will.
        if one.start is not None and (one.stepped or attempt is run.attempt):
            until = one.start if until is None else min(until, one.start)
    return tuple(reversed(found))


def steps_done(run: Run) -> int | None:
    """The highest finished step on the surviving line; None: no source ever spoke of steps."""
    for one in reversed(stretches(run)):
        known = [step for step in (one.start, one.last) if step is not None]
        if known:
            return max(known)
    return None


def _start(attempt: Attempt) -> int | None:
    """What the job says, else what the plan asked for, else what the first step that was seen implies."""
    if attempt.hello is not None:
        return attempt.hello.step
    if attempt.plan.resume_step is not None:
        return attempt.plan.resume_step
    first = attempt.first_step
    if first is None:
        first = next((seen.step for seen in attempt.logged if seen.step), None)
    return None if first is None else first - 1
