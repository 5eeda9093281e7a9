"""Decide what to do next.

Pure: the run, the time and the terms come in, one Decision goes out. `decide` is asked again after every
event, so each Decision must be followed by an event that moves the run on; until it comes, the answer stays
the same, and whoever acts on it sees that the work is already under way.
"""

from __future__ import annotations

import itertools
import math
import signal as signals
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import run as stands
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.healing import Remedy
    from guardian.core.planning import Terms
    from guardian.core.policy import Policy
    from guardian.core.run import Attempt, Run

CHECKING_MAX_S = 600
"""For pinning a checkpoint; then the attempt goes on unpinned, said so."""
LOOK_EVERY_S = 1.0
STACKS_S = 20
"""For the processes of a job that hangs to say where they stand; then it is ended without."""
AWAITED_EVERY_S = 5.0
"""Between two looks at what a launch waits for."""
SAVE_MARGIN_STEPS = 2
SAVE_MARGIN_S = 2.0
"""A save is asked for this far ahead, so that every rank reads the request before its step comes."""
HEARD_LATE_S = 1.5
"""A heartbeat file is found within half a second and read ten times a second; a loaded machine takes longer."""
RATE_OVER = 20
"""Steps over which the time of one is measured."""

EXIT_FINISHED = 0
EXIT_GAVE_UP = 1
EXIT_NOT_RETRYABLE = 4
EXIT_STOPPED = 75
EXIT_CTRL_C = 130


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before an event comes, or before `until` (wall seconds)."""

    until: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Commit to the next attempt."""

    planned: ev.Planned


@dataclass(frozen=True, slots=True)
class Pin:
    """Hold the checkpoint of the planned attempt."""

    attempt: int
    source: str


@dataclass(frozen=True, slots=True)
class Measure:
    """Look at a fact of the host that the launch waits for."""

    attempt: int
    name: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Write this down."""

    event: ev.DrainBegun | ev.Drained


@dataclass(frozen=True, slots=True)
class Reap:
    """Signal what earlier attempts left behind."""

    attempt: int
    signal: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Give the planned attempt to a keeper."""

    planned: ev.Planned


@dataclass(frozen=True, slots=True)
class BeginStop:
    """Commit to ending the living tree."""

    attempt: int
    why: str
    rule: str | None = None
    """The rule whose suspicion was confirmed."""
    silent: str | None = None
    """The phase whose silence was too long."""
    facts: tuple[tuple[str, float], ...] = ()
    """What the decision stands on, of a job that works and is to save before: it is planned, nothing has failed yet."""
    silent_s: float | None = None


@dataclass(frozen=True, slots=True)
class AskSave:
    """Tell the companions to save at a step and stop."""

    attempt: int
    save_at: int


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Signal every process of the tree."""

    attempt: int
    signal: int


@dataclass(frozen=True, slots=True)
class Look:
    """See which processes of the tree live."""

    attempt: int


@dataclass(frozen=True, slots=True)
class LookAtWork:
    """See how much the tree has computed, read and written."""

    attempt: int


@dataclass(frozen=True, slots=True)
class TakeStacks:
    """Ask the processes of the tree where they stand."""

    attempt: int


@dataclass(frozen=True, slots=True)
class LeaveAlone:
    """Call the attempt over although processes of it live on."""

    attempt: int
    unkillable: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """Read every source of the attempt to its end, then say `Ended`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Diagnose:
    """Judge the attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Inspect:
    """Read the checkpoints that an attempt left, the newest first, until one proves sound."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Make a copy of a checkpoint with another learning rate."""

    asked: ev.Rated


@dataclass(frozen=True, slots=True)
class Finish:
    """End the run."""

    finished: ev.RunFinished


Decision = (
    Wait
    | Plan
    | Pin
    | Measure
    | Tell
    | Reap
    | Launch
    | BeginStop
    | AskSave
    | SendSignal
    | Look
    | LookAtWork
    | TakeStacks
    | LeaveAlone
    | Drain
    | Diagnose
    | Inspect
    | Rate
    | Finish
)


def decide(run: Run, terms: Terms, now: float) -> Decision:
    """What to do now (`now` in wall seconds)."""
    state = run.state
    attempt = run.attempt
    if isinstance(state, stands.Finished):
        return Wait()
    if attempt is None:
        return _stopped(run) if run.stop_requests else Plan(terms.first(now))
    if isinstance(state, stands.Checking | stands.Paused | stands.Draining | stands.Idle):
        return _before_launch(run, attempt, terms.policy, now)
    if isinstance(state, stands.Starting | stands.Running):
        return _living(run, attempt, terms.policy, now)
    if isinstance(state, stands.Stopping):
        return _stopping(run, attempt, state, terms.policy, now)
    if isinstance(state, stands.Ending):
        return Drain(attempt.number)
    if attempt.diagnosed is None:
        return Diagnose(attempt.number)
    return _after(run, attempt, terms, now)


def _before_launch(run: Run, attempt: Attempt, policy: Policy, now: float) -> Decision:
    if run.stop_requests:
        return _stopped(run)
    state = run.state
    if isinstance(state, stands.Checking) and attempt.plan.resume_from is not None:
        return Pin(attempt.number, attempt.plan.resume_from)
    if isinstance(state, stands.Paused) and attempt.plan.awaits is not None:
        return _awaited(attempt, attempt.plan.awaits, state.until, now)
    if isinstance(state, stands.Paused) and now < state.until:
        return Wait(state.until)
    return _drained(run, attempt, policy, now) if run.gpu_baseline else Launch(attempt.plan)


def _drained(run: Run, attempt: Attempt, policy: Policy, now: float) -> Decision:
    """The launch, once nobody holds the memory of the GPUs any more, or has been waited for long enough."""
    from guardian.core import draining  # noqa: PLC0415 - the first launch does not wait for it

    found = draining.judge(run, attempt, policy.gpu, now)
    if isinstance(found, draining.Later):
        return Wait(found.until)
    if isinstance(found, draining.Say):
        return Tell(found.event)
    return Reap(attempt.number, found.signal) if isinstance(found, draining.Reap) else Launch(attempt.plan)


def _awaited(attempt: Attempt, awaits: tuple[str, str, float], until: float, now: float) -> Decision:
    """The launch waits for a fact of the host, looks at it now and then, and not for ever."""
    from guardian.core.rungs import Comparison  # noqa: PLC0415 - few runs wait

    name, operator, number = awaits
    looked = attempt.measured
    if looked is not None and Comparison(name, operator, number).holds({name: looked[1].value}):
        return Launch(attempt.plan)
    if looked is not None and looked[1].value is None and name.startswith("gpu_"):
        return Launch(attempt.plan)  # the GPUs are read no more: nobody would see them become free
    if looked is not None and now >= until:
        from guardian.core.units import shown  # noqa: PLC0415 - few runs wait in vain

        seen = "unknown" if looked[1].value is None else shown(looked[1].value)
        text = f"{attempt.plan.reason}: waited for {name} {operator} {number:g}, and it is still {seen}"
        return Finish(ev.RunFinished(ev.Outcome.GAVE_UP, EXIT_GAVE_UP, text))
    due = (looked[0] if looked is not None else 0.0) + AWAITED_EVERY_S
    return Measure(attempt.number, name) if now >= due else Wait(min(due, until))


def _living(run: Run, attempt: Attempt, policy: Policy, now: float) -> Decision:
    if run.stop_requests:
        return BeginStop(attempt.number, f"asked for by {run.stop_requests[-1][1].by.spelt}")
    if attempt.launcher is None or attempt.launcher_wall is None:
        found = _suspicious(attempt, policy, now)
        found = _silent(run, attempt, policy, now, found) if isinstance(found, Wait) else found
        return _filling(attempt, found) if isinstance(found, Wait) and attempt.gpus else found
    if attempt.launcher.code == 0:
        return _lingering(attempt, attempt.launcher_wall + policy.stop.linger_s, now)
    due = attempt.launcher_wall + policy.stop.orphan_s
    if now < due:
        return Wait(due)
    return BeginStop(attempt.number, "the launcher is gone and its processes live on")


def _suspicious(attempt: Attempt, policy: Policy, now: float) -> Decision:
    """After a fatal line: wait, look at what the job does, or end it."""
    if not attempt.suspected:
        return Wait()
    from guardian.core import pending  # noqa: PLC0415 - the first launch does not wait for it

    found = pending.judge(attempt, policy, now, step_seconds(attempt))
    if isinstance(found, pending.Patience):
        return Wait(found.until)
    if isinstance(found, pending.Doubt):
        return LookAtWork(attempt.number)
    first = found.suspected
    why = first.title if first.confirm == "line" else f"{first.title}, and the job neither goes on nor ends"
    return BeginStop(attempt.number, why, first.rule)


def _silent(run: Run, attempt: Attempt, policy: Policy, now: float, otherwise: Wait) -> Decision:
    """Of a job in which nothing happens: wait, look at what it does, or end it."""
    from guardian.core import pending, silence  # noqa: PLC0415 - the first launch does not wait for it

    standing = silence.standing(run, attempt, policy)
    if standing is None:
        return otherwise
    found = silence.judge(standing, attempt, now)
    if isinstance(found, pending.Patience):
        times = [until for until in (found.until, otherwise.until) if until is not None]
        return Wait(min(times, default=None))
    if isinstance(found, pending.Doubt):
        return LookAtWork(attempt.number)
    if isinstance(found, silence.Sample):
        return TakeStacks(attempt.number)
    return BeginStop(attempt.number, found.why, silent=standing.phase, silent_s=found.silent_s)


def _filling(attempt: Attempt, otherwise: Wait) -> Decision:
    """Of a job whose memory climbs until a GPU is full: save and begin again, at the last moment at which it can."""
    from guardian.core import gpus  # noqa: PLC0415 - the first launch does not wait for it

    # Without every rank's companion nothing can be saved on demand: the last checkpoint is as good after the OOM.
    ready = len(attempt.hellos) == attempt.world and bool(attempt.steps) and not attempt.exceptions
    full = gpus.full_soon(attempt, step_seconds(attempt)) if ready and not attempt.training_ends else None
    return otherwise if full is None else BeginStop(attempt.number, full[0], gpus.OOM_RULE, facts=full[1])


def _lingering(attempt: Attempt, due: float, now: float) -> Decision:
    """After a good end only what still trains is waited for without a limit."""
    trained = {h.rank for h in attempt.hellos}
    ended = {e.rank for e in attempt.training_ends}
    if not trained or trained - ended:
        return Wait()
    return Wait(due) if now < due else LeaveAlone(attempt.number)


# --- stopping ------------------------------------------------------------------------------------------------


def _stopping(run: Run, attempt: Attempt, state: stands.Stopping, policy: Policy, now: float) -> Decision:
    """Save, TERM, KILL; every further request from outside skips one stage of waiting."""
    hurry = len(run.stop_requests)
    number = attempt.number
    if state.stage == "asked":
        stop = attempt.stop
        if stop is not None and (stop.rule or stop.silent) and not stop.facts:
            # It hangs: nobody is there to save, and where it hangs is known only as long as it lives.
            ask = not hurry and now < state.since + STACKS_S and _stands_somewhere(attempt, stop)
            return TakeStacks(number) if ask else SendSignal(number, signals.SIGTERM)
        due = state.since + HEARD_LATE_S
        if hurry <= 1 and now < due and _may_have_begun(run, attempt):
            return Wait(due)
        step = save_step(attempt) if hurry <= 1 else None
        return AskSave(number, step) if step is not None else SendSignal(number, signals.SIGTERM)
    if state.stage == "saving":
        # Two steps lie before the save at least: slow ones are waited for too.
        due = state.since + max(policy.stop.save_wait_s, 2 * SAVE_MARGIN_STEPS * (step_seconds(attempt) or 0))
        if hurry > 1 or now >= due or not _save_can_come(attempt):
            return SendSignal(number, signals.SIGTERM)
        return Look(number)
    if state.stage == "terminating":
        due = state.since + policy.stop.term_wait_s
        return SendSignal(number, signals.SIGKILL) if hurry > 2 or now >= due else Wait(due)
    return _killing(attempt, state, policy, now)


def _killing(attempt: Attempt, state: stands.Stopping, policy: Policy, now: float) -> Decision:
    if now >= state.since + policy.stop.kill_wait_s:
        return LeaveAlone(attempt.number, unkillable=True)
    last = attempt.signalled[-1][0] if attempt.signalled else state.since
    due = last + LOOK_EVERY_S
    return SendSignal(attempt.number, signals.SIGKILL) if now >= due else Wait(due)


def _stands_somewhere(attempt: Attempt, stop: ev.StopBegun) -> bool:
    """Whether its stacks can tell what a silent job waits for, and have not been taken since it is being stopped."""
    stalled = any(one.rule == stop.rule and one.confirm == "stall" for _, one in attempt.suspected)
    taken = bool(attempt.stacks) and attempt.stacks[-1].wall >= (attempt.stop_wall or 0.0)
    return (stop.silent is not None or stalled) and not taken


def _may_have_begun(run: Run, attempt: Attempt) -> bool:
    """Whether a companion's first words may be on their way: finished steps are worth a moment's wait."""
    heard = len(attempt.hellos) == attempt.world and bool(attempt.steps)
    return run.created.companion and not heard and attempt.launcher is None


def save_step(attempt: Attempt) -> int | None:
    """The step at which all ranks can be asked to save and stop, or None where they cannot.

    Every rank must have a companion, live, and have finished a step; the step must lie ahead of all of them by
    two steps and by two seconds, because a rank that reads the request too late ignores it and the others
    would wait for it in the save's barrier.
    """
    last = attempt.last_step
    if last is None or not attempt.steps or attempt.save_asked is not None or not _ranks_alive(attempt):
        return None
    seconds = step_seconds(attempt)
    ahead = math.ceil(SAVE_MARGIN_S / seconds) if seconds else 0
    return last + SAVE_MARGIN_STEPS + ahead


def step_seconds(attempt: Attempt) -> float | None:
    """Wall seconds of a typical one among the latest steps; None before there are two.

    The median: a clock that is set between two steps makes one of them as long as you like.
    """
    size = len(attempt.steps)
    if size < 2:
        return None
    over = min(size - 1, RATE_OVER)
    walls = [attempt.steps[at].wall for at in range(size - 1 - over, size)]
    typical = sorted(after - before for before, after in itertools.pairwise(walls))[over // 2]
    return typical if typical > 0 else None


def _save_can_come(attempt: Attempt) -> bool:
    """Whether to go on waiting for the save that was asked for, and for what the job does after it.

    A rank that has left its training loop may still write its last model; its launcher ends after it.
    """
    ended = {e.rank for e in attempt.training_ends}
    training = {h.pid for h in attempt.hellos if h.rank not in ended}
    closing = {h.pid for h in attempt.hellos if h.rank in ended} & attempt.alive
    return not attempt.exceptions and training <= attempt.alive and bool(training or closing or not attempt.launcher)


def _ranks_alive(attempt: Attempt) -> bool:
    """Every rank said hello, none has left its training loop, and all their processes live."""
    pids = {h.pid for h in attempt.hellos}
    left = attempt.exceptions or attempt.training_ends
    return len(attempt.hellos) == attempt.world and not left and pids <= attempt.alive


# --- after an attempt ----------------------------------------------------------------------------------------


def _after(run: Run, attempt: Attempt, terms: Terms, now: float) -> Decision:
    cause = attempt.diagnosed.cause if attempt.diagnosed else None
    if cause is None:
        return Finish(_finished(run))
    terms = terms.informed(run)
    if cause.id == "unkillable" and attempt.number > run.fresh_from:
        text = f"processes of attempt {attempt.number} survive SIGKILL: the machine needs a reboot (or the GPU a reset)"
        return Finish(ev.RunFinished(ev.Outcome.GAVE_UP, EXIT_GAVE_UP, text))
    if run.stop_requests:
        return _stopped(run)
    if attempt.number <= run.fresh_from:
        return _with_its_rate(run, terms, terms.next(run, attempt, now, "asked to go on", wait_s=0))
    if _inspection_due(attempt, terms):
        return Inspect(attempt.number)
    basis = _basis(run)
    if basis is not attempt and basis.diagnosed is not None and basis.diagnosed.cause is not None:
        # The command refused what guardian had changed: the failure before it is still the one to heal.
        attempt, cause = basis, basis.diagnosed.cause
    refusal = _refusal(run, attempt, cause, terms.policy)
    if refusal is not None:
        return Finish(refusal)
    unrated = next((one.why for one in run.attempts[-1].rated if one.why is not None), None)
    remedy = _remedy(run, attempt, cause, terms, unrated)
    if isinstance(remedy, ev.RunFinished):
        return Finish(remedy)
    changes = remedy is not None and _unlike(remedy, attempt)
    pause = remedy.wait.at_most_s if remedy is not None and remedy.wait is not None else 0.0
    wait_s = pause if changes or pause else _backoff(run, terms.policy)
    return _with_its_rate(run, terms, terms.next(run, attempt, now, cause.title, wait_s=wait_s, remedy=remedy))


def _with_its_rate(run: Run, terms: Terms, planned: ev.Planned) -> Decision:
    """The plan once the learning rate that it promises is real; what cannot be made real is not launched."""
    asked = terms.rating(run, planned)
    if asked is None:
        return Plan(planned)
    done = next((o for o in run.attempts[-1].rated if (o.source, o.target) == (asked.source, asked.target)), None)
    if done is None:
        return Rate(asked)
    if done.why is None:
        return Plan(planned)
    text = f"the learning rate cannot be set to {asked.target:g} in {asked.source}: {done.why}"
    return Finish(ev.RunFinished(ev.Outcome.GAVE_UP, EXIT_GAVE_UP, text))


def _basis(run: Run) -> Attempt:
    """The attempt whose failure is to be healed next: the latest whose changes the command did not refuse."""
    from guardian.core import healing  # noqa: PLC0415 - the first launch does not wait for it

    return next((a for a in reversed(run.attempts) if not healing.was_refused(run, a)), run.attempts[-1])


def _inspection_due(attempt: Attempt, terms: Terms) -> bool:
    """Headers tell nothing of a flipped byte, or of weights that are no number: what is resumed from is read first."""
    ended = attempt.ended
    if ended is None or ended.inspected or terms.adapter is None or not terms.policy.checkpoints.read_s:
        return False
    return any(c.complete for c in ended.checkpoints)


def _remedy(
    run: Run, attempt: Attempt, cause: ev.Cause, terms: Terms, unrated: str | None
) -> Remedy | ev.RunFinished | None:
    """What the ladder of the cause's rule says is next; None: the same command again.

    `unrated`: why the learning rate of a checkpoint cannot be changed here.
    """
    rule = terms.rule(cause.rule) if cause.rule else None
    if rule is None:
        return None
    from guardian.core import facts, healing  # noqa: PLC0415 - the first launch does not wait for it

    if not healing.changes_something(rule, cause.variant):
        return None
    known = facts.facts_of(run, attempt) | dict(cause.facts)
    patient = healing.Patient(run, attempt, terms.argv, terms.folder, terms.adapter, known, unrated)
    found = healing.remedy(rule, cause, patient)
    if isinstance(found, healing.Remedy):
        return found
    passed = f" ({'; '.join(found.skipped)})" if found.skipped else ""
    return ev.RunFinished(ev.Outcome.GAVE_UP, EXIT_GAVE_UP, f"{found.why}{passed}")


def _unlike(remedy: Remedy, attempt: Attempt) -> bool:
    """Whether the next attempt runs something else than this one did."""
    plan = attempt.plan
    return (remedy.settings, remedy.variables, remedy.limits) != (plan.settings, plan.variables, plan.limits)


def _finished(run: Run) -> ev.RunFinished:
    from guardian.core.certificate import Verdict, certify  # noqa: PLC0415 - the first launch does not wait for it
    from guardian.core.diagnosing import remark  # noqa: PLC0415 - the first launch does not wait for it

    certificate = certify(run)
    if certificate.verdict is Verdict.VIOLATED:
        text = "finished, but the training that was supervised is not the one that was asked for"
        return ev.RunFinished(ev.Outcome.FINISHED, EXIT_GAVE_UP, text)
    said = remark(run, run.attempts[-1])
    return ev.RunFinished(ev.Outcome.FINISHED, EXIT_FINISHED, said or "the job ended as it should")


def _stopped(run: Run) -> Finish:
    by = run.stop_requests[-1][1].by
    code = EXIT_CTRL_C if by is ev.StopBy.CTRL_C else EXIT_STOPPED
    outcome = ev.Outcome.PREEMPTED if by is ev.StopBy.SIGTERM else ev.Outcome.STOPPED
    return Finish(ev.RunFinished(outcome, code, f"stopped by {by.spelt}"))


def _refusal(run: Run, attempt: Attempt, cause: ev.Cause, policy: Policy) -> ev.RunFinished | None:
    """Why there is no further attempt, or None."""
    if cause.retries == 0:
        return ev.RunFinished(ev.Outcome.NOT_RETRYABLE, EXIT_NOT_RETRYABLE, cause.title)
    allowed = policy.budget.without_progress if cause.retries is None else cause.retries
    used = _fruitless(run, cause.id)
    if used >= allowed:
        tried = f"{used} {'retry' if used == 1 else 'retries'} without a new checkpoint"
        return ev.RunFinished(ev.Outcome.GAVE_UP, EXIT_GAVE_UP, f"{cause.title}: {tried}")
    if attempt.number - run.fresh_from > policy.budget.restarts:
        text = f"the budget of {policy.budget.restarts} restarts is used up"
        return ev.RunFinished(ev.Outcome.GAVE_UP, EXIT_GAVE_UP, text)
    return None


def _fruitless(run: Run, cause: str | None) -> int:
    """Retries in a row, up to the latest attempt, that made no new checkpoint (of one cause, or of any)."""
    count = 0
    for attempt in reversed(run.attempts):
        if attempt.number <= run.fresh_from + 1 or made_progress(run, attempt):
            break
        before = run.attempts[attempt.number - 2]
        if cause is not None and (_cause_id(attempt) != cause or _cause_id(before) != cause):
            break
        if attempt.plan.rung is not None and _changed(before.plan, attempt.plan):
            break
        count += 1
    return count


def _changed(before: ev.Planned, after: ev.Planned) -> bool:
    old = (before.settings, before.variables, before.limits)
    return old != (after.settings, after.variables, after.limits)


def _cause_id(attempt: Attempt) -> str | None:
    cause = attempt.diagnosed.cause if attempt.diagnosed else None
    return cause.id if cause else None


def made_progress(run: Run, attempt: Attempt) -> bool:
    """Whether the attempt left a complete checkpoint beyond every earlier one.

    A higher step alone is no progress: a job that dies every 90 steps and saves every 100 would live for ever.
    """
    before = max((c.step for a in run.attempts[: attempt.number - 1] for c in a.checkpoints), default=0)
    start = attempt.plan.resume_step or 0
    return any(c.step > max(before, start) for c in attempt.checkpoints)


def _backoff(run: Run, policy: Policy) -> float:
    waits = policy.budget.backoff_s
    return waits[min(_fruitless(run, None), len(waits) - 1)]
