"""Say how long nothing may happen in a living attempt, and when its silence is a hang. Pure.

Every phase has a budget of its own; in steady training it is learnt from the job's own steps. That it has run out is
the first sign. Acting needs a second one that does not depend on it: over the last part of the silence the whole tree
computes, reads and writes next to nothing, or, in training, its GPUs are all busy at low power without memory traffic
(kernels that wait for other ranks), or, in training and evaluation, every rank's Python stack is the same in samples
that are spread over it (a rank that spins in C, a bar that is drawn again without a step). What nobody can know (no
companion that tells of steps and no log that shows them, ranks on other machines) has no budget: nothing is done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from guardian.core.pending import IDLE_OVER_S, IDLE_SHARE, Doubt, Patience, idle, moves
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardian.core.events import Activity, StacksTaken
    from guardian.core.policy import Policy
    from guardian.core.run import Attempt, Run

STARTUP, SKIPPING, FIRST_STEPS = "start-up", "skipping data", "first steps"
TRAINING, EVALUATION, SAVING, TEARDOWN = "training", "evaluation", "saving", "teardown"

STEADY = 10
"""Pauses between steps that must be known before they say anything of the next."""
HEARD_FROM = frozenset({"embedded", "llamafactory", "swift", "transformers", "trl"})
"""Families whose training loop the companion joins: before it does, the job starts up."""
STILL_SHARE = 4
"""The tree must be idle over this part of the budget at least (a fourth)."""
LOOKS = 16
"""At most in a budget."""
SAMPLES = {TRAINING: 3, FIRST_STEPS: 5, EVALUATION: 5}
"""Of the ranks' stacks, spread over the later half of the budget: what is the same in all of them stands still.

Only where the companion tells of every piece of work, so that no piece is as long as the budget. Who skips data, saves,
uploads or cleans up may be in one long call. What has no learnt budget is looked at more often, and must not read and
write meanwhile.
"""


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

    @property
    def middle(self) -> float:
        """From here on it is looked at: what is silent for a short time only never is."""
        return self.since + self.budget_s / 2


@dataclass(frozen=True, slots=True)
class Sample:
    """The ranks must be asked now where they stand."""


@dataclass(frozen=True, slots=True)
class Hung:
    """Silent for longer than the phase allows, and a second sign says that it stands still."""

    why: str
    silent_s: float


# --- how long it may last ------------------------------------------------------------------------------------


def standing(run: Run, attempt: Attempt, policy: Policy) -> Standing | None:
    """Where a living attempt stands; None: nobody can say, and so nothing is too long."""
    if dict(run.created.env).get("NNODES", "1") != "1":
        return None  # what the ranks of other machines do is not seen here, and these wait for them
    where = _phase(run, attempt, policy)
    # What was noted before the clock was set is older, or younger, than it looks.
    return where and replace(where, since=max(where.since, attempt.clock_wall or where.since))


def _phase(run: Run, attempt: Attempt, policy: Policy) -> Standing | None:
    if attempt.hellos:
        return _heard(attempt, policy)
    if attempt.logged:
        return _logged(attempt, policy)
    if run.created.companion and run.created.family in HEARD_FROM:
        return _standing(STARTUP, policy.silence.startup_s, attempt.launched_wall, attempt.printed_wall)
    return None


def trained(attempt: Attempt) -> bool:
    """Whether every rank has said that its training loop has returned."""
    ended = {end.rank for end in attempt.training_ends}
    return len(attempt.hellos) == attempt.world and {h.rank for h in attempt.hellos} <= ended


def training_s(attempt: Attempt, policy: Policy) -> float | None:
    """How long steady training may be silent, by the job's own steps; None before there are enough of them."""
    typical = attempt.gaps.percentile_99()
    if typical is None or attempt.gaps.count < STEADY:
        return None
    return max(policy.silence.minimum_s, policy.silence.factor * typical)


def _heard(attempt: Attempt, policy: Policy) -> Standing | None:
    """By the companion, which tells of steps, evaluations and saves."""
    allowed = policy.silence
    if trained(attempt):
        over = (end.wall for end in attempt.training_ends)
        return _standing(TEARDOWN, allowed.teardown_s, attempt.step_wall, attempt.printed_wall, *over)
    begun = max(hello.wall for hello in attempt.hellos)
    if len(attempt.hellos) < attempt.world:
        if any(hello.local_world != attempt.world for hello in attempt.hellos):
            return None  # they may be on other machines, and the phase is told by rank 0
        return _standing(STARTUP, allowed.startup_s, attempt.step_wall, attempt.printed_wall, begun)
    if attempt.phase == "eval":
        return _standing(EVALUATION, allowed.evaluation_s, attempt.step_wall, attempt.batch_wall, begun)
    if attempt.phase == "save":
        return _standing(SAVING, allowed.saving_s, attempt.step_wall, begun)
    signs = (attempt.step_wall, attempt.batch_wall, begun)
    if attempt.gaps.last is None and any(hello.step for hello in attempt.hellos):
        return _standing(SKIPPING, max(allowed.skip_s, allowed.startup_s), *signs)
    learnt = training_s(attempt, policy)
    if learnt is None:
        return _standing(FIRST_STEPS, allowed.startup_s, *signs)
    return _standing(TRAINING, learnt, *signs)


def _logged(attempt: Attempt, policy: Policy) -> Standing | None:
    """By the steps that the log shows; evaluations and saves do not show in it, and move something all the same."""
    step, total = attempt.logged[-1].step, attempt.max_steps
    if step is not None and total is not None and step >= total:
        return _standing(TEARDOWN, policy.silence.teardown_s, attempt.step_wall, attempt.printed_wall)
    learnt = training_s(attempt, policy)
    if learnt is None:
        return _standing(FIRST_STEPS, policy.silence.startup_s, attempt.step_wall, attempt.launched_wall)
    return _standing(TRAINING, learnt, attempt.step_wall)


def _standing(phase: str, budget_s: float, *signs: float | None) -> Standing | None:
    known = [sign for sign in signs if sign is not None]
    return Standing(phase, max(known), budget_s) if known else None


# --- what to make of it --------------------------------------------------------------------------------------


def judge(where: Standing, attempt: Attempt, now: float) -> Patience | Doubt | Sample | Hung:
    """What to make of the silence, from the looks at what the tree does and from its ranks' stacks.

    A guardian that was itself stopped, or has just taken over, has no looks yet, and hears what happened meanwhile
    before it has any.
    """
    if now < where.middle:
        return Patience(where.middle)
    looks = [one for one in attempt.activity if one.wall >= where.middle]
    between = max(min(IDLE_OVER_S, where.budget_s / 4), where.budget_s / LOOKS)
    if not looks or now >= looks[-1].wall + between:
        return Doubt()
    again = looks[-1].wall + between
    last = looks[-1]
    if last.held or last.gpu:
        return Patience(again)
    needed = max(min(IDLE_OVER_S, where.budget_s / 2), where.budget_s / STILL_SHARE)
    if last.wall >= where.due and still_s(looks) >= needed:
        return _hung(where, last.wall, "its processes neither compute nor read nor write")
    if where.phase == TRAINING and last.wall >= where.due and still_s(looks, spin) >= needed:
        return _hung(where, last.wall, "its GPUs are busy, at low power and without memory traffic: they wait")
    if len(looks) < 2 or idle(looks[-2], last) or not _stacks_tell(where, attempt, looks[-2], last):
        return Patience(again)
    return _by_stacks(where, attempt, now, again)


def still_s(looks: Sequence[Activity], still: Callable[[Activity, Activity], bool] = idle) -> float:
    """Seconds up to the last look over which the tree has been idle, or still in another way, from look to look."""
    since = len(looks) - 1
    while since > 0 and still(looks[since - 1], looks[since]):
        since -= 1
    return looks[-1].wall - looks[since].wall


def spin(before: Activity, after: Activity) -> bool:
    """Whether kernels waited for other ranks all the time, on every GPU of the same processes, and nothing was saved.

    The processors are no sign then: a rank that waits for its GPU keeps one busy.
    """
    return before.pids == after.pids and before.gpu_spins and after.gpu_spins and not moves(before, after)


def _stacks_tell(where: Standing, attempt: Attempt, before: Activity, after: Activity) -> bool:
    """Whether ranks that stand at the same place all the time would stand still."""
    if where.phase not in SAMPLES or not attempt.hellos or _others_work(before, after):
        return False
    if where.phase == EVALUATION and attempt.batch_wall is None:
        return False  # no batches are told of: all of it is silent, and its loop one place
    return where.phase == TRAINING or not moves(before, after)


def _others_work(before: Activity, after: Activity) -> bool:
    """Whether the ranks may wait for processes of theirs that compute (an inference engine, a compiler)."""
    if before.others_cpu_s is None or after.others_cpu_s is None:
        return True
    return (after.others_cpu_s - before.others_cpu_s) / max(after.wall - before.wall, 1e-3) >= IDLE_SHARE


def _by_stacks(where: Standing, attempt: Attempt, now: float, again: float) -> Patience | Sample | Hung:
    """Of ranks that compute: whether every one of them stands at the same place, sample after sample."""
    taken = [one for one in attempt.stacks if one.wall >= where.middle]
    needed = SAMPLES[where.phase]
    apart = where.budget_s / 2 / (needed - 1)
    if not taken or now >= taken[-1].wall + apart:
        return Sample()
    if len(taken) >= needed and taken[-1].wall >= where.due and _same(taken[-needed:], attempt):
        return _hung(where, taken[-1].wall, f"in {needed} looks every rank stood at the same place")
    return Patience(min(again, taken[-1].wall + apart))


def _same(taken: Sequence[StacksTaken], attempt: Attempt) -> bool:
    from guardian.core.stacks import same  # noqa: PLC0415 - only a job that is silent and busy needs it

    return {hello.rank for hello in attempt.hellos} == set(same(*(one.stacks for one in taken)))


def _hung(where: Standing, seen: float, sign: str) -> Hung:
    silent_s = float(round(seen - where.since))
    return Hung(f"{_SILENT[where.phase]} for {silent_s:.0f} s (at most {where.budget_s:.0f} s), and {sign}", silent_s)


_SILENT = {
    STARTUP: "it starts, and no rank has told or printed anything",
    SKIPPING: "its training loop has begun, and no step has been made",
    FIRST_STEPS: "its training loop has begun, and no step has been made",
    TRAINING: "no step has been made",
    EVALUATION: "an evaluation has told nothing",
    SAVING: "a save has told nothing",
    TEARDOWN: "every rank's training has been over, and nothing has happened",
}
