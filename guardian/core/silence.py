"""Say how long nothing may happen in a living attempt, and when its silence is a hang. Pure.

Every phase has a budget of its own. That it has run out is the first sign; acting needs a second one that does not
depend on it: over the last part of the silence the whole tree computes, reads and writes next to nothing. What nobody
can know (no companion that tells of steps, no log that shows them) has no budget, and is never acted on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core.pending import IDLE_OVER_S, Doubt, Patience, idle
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardian.core.events import Activity
    from guardian.core.policy import Policy
    from guardian.core.run import Attempt

TEARDOWN = "teardown"

STILL_SHARE = 4
"""The tree must be idle over this part of the budget at least (a fourth)."""
LOOKS = 16
"""At most in a budget."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the job is at, since when nothing has happened, and how long that may last."""

    phase: str
    since: float
    """Wall seconds."""
    budget_s: float

    @property
    def due(self) -> float:
        """When the silence is over its budget (wall seconds)."""
        return self.since + self.budget_s


@dataclass(frozen=True, slots=True)
class Hung:
    """Silent for longer than the phase allows, and idle."""

    why: str


def standing(attempt: Attempt, policy: Policy) -> Standing | None:
    """Where a living attempt stands; None: nobody can say, and so nothing is too long."""
    if trained(attempt):
        signs = (attempt.step_wall, attempt.printed_wall, attempt.launched_wall)
        since = max(sign or 0.0 for sign in signs)
        return Standing(TEARDOWN, since, policy.silence.teardown_s) if since else None
    return None


def trained(attempt: Attempt) -> bool:
    """Whether every rank has said that its training loop has returned."""
    ended = {end.rank for end in attempt.training_ends}
    return len(attempt.hellos) == attempt.world and {h.rank for h in attempt.hellos} <= ended


def judge(where: Standing, activity: Sequence[Activity], now: float) -> Patience | Doubt | Hung:
    """What to make of the silence, from the looks at what the tree does.

    They begin in the middle of the budget: what is silent for a short time only is never looked at. A guardian that
    was itself stopped, or has just taken over, has no looks yet, and hears what happened meanwhile before it has any.
    """
    middle = where.since + where.budget_s / 2
    if now < middle:
        return Patience(middle)
    looks = [one for one in activity if one.wall >= middle]
    between = max(min(IDLE_OVER_S, where.budget_s / 4), where.budget_s / LOOKS)
    again = looks[-1].wall + between if looks else now
    if now >= again:
        return Doubt()
    needed = max(min(IDLE_OVER_S, where.budget_s / 2), where.budget_s / STILL_SHARE)
    if looks[-1].wall >= where.due and still_s(looks) >= needed:
        return Hung(f"{_SILENT[where.phase]} for {looks[-1].wall - where.since:.0f} s")
    return Patience(again)


def still_s(looks: Sequence[Activity]) -> float:
    """Seconds up to the last look over which the tree has been idle from look to look."""
    since = len(looks) - 1
    while since > 0 and idle(looks[since - 1], looks[since]):
        since -= 1
    return looks[-1].wall - looks[since].wall


_SILENT = {TEARDOWN: "every rank's training is over, and its processes neither work nor leave"}
