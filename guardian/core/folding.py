"""The state of a run, folded from its records: live view, recovery, tests and report use the same fold.

`fold(run, record)` is the only way a Run changes. Folding the same heartbeat line twice changes nothing, so
the files of an attempt can be read again from the start after a restart of guardian.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core.run import (
    LIVING,
    Attempt,
    Checking,
    Draining,
    Ending,
    Finished,
    Gaps,
    Idle,
    Over,
    Paused,
    Run,
    Running,
    Starting,
    Stopping,
)
from guardian.core.summing import loss_seen, own_work, settle_all, step_done
from guardian.core.trail import Trail

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.core.run import State

LOOKS_KEPT = 16
STACKS_KEPT = 6


def begin(record: ev.Record) -> Run:
    """The run that a journal's first record makes. Raises TypeError if that is not RunCreated."""
    if not isinstance(record.event, ev.RunCreated):
        raise TypeError(type(record.event).__name__)
    return Run(created=record.event, created_wall=record.stamp.wall, heard_wall=record.stamp.wall)


def fold(run: Run, record: ev.Record) -> Run:
    """The run after one more record; records of an attempt that is not known are ignored."""
    wall = record.stamp.wall
    event = record.event
    heard = max(run.heard_wall, wall)
    whole = _OF_RUN.get(type(event))
    if whole is not None:
        return whole(replace(run, heard_wall=heard), event, wall)
    part = _OF_ATTEMPT.get(type(event))
    number = getattr(event, "attempt", None)
    if part is None or number is None or not 1 <= number <= len(run.attempts):
        return replace(run, heard_wall=heard)
    after = part(run.attempts[number - 1], event, wall)
    attempts = (*run.attempts[: number - 1], after, *run.attempts[number:])
    # One copy for each record: a fold over a million steps is made of little else.
    state = _moved(run.state, after, event, wall) if number == len(attempts) else run.state
    return replace(run, attempts=attempts, state=state, heard_wall=heard)


def _supervisor_started(run: Run, event: ev.SupervisorStarted, wall: float) -> Run:
    run = replace(run, supervisors=(*run.supervisors, (wall, event)))
    if not event.reopened:
        return run
    state = _reopened(run) if isinstance(run.state, Finished) else run.state
    # What kept a copy from being made (no room, no Python with torch) may be another now.
    again = tuple(replace(a, rated=tuple(one for one in a.rated if one.why is None)) for a in run.attempts[-1:])
    attempts = (*run.attempts[:-1], *again)
    return replace(
        run, attempts=attempts, stop_requests=(), finished_wall=None, state=state, fresh_from=len(run.attempts)
    )


def _reopened(run: Run) -> State:
    """Where a finished run stands when it is taken up again: its last attempt decides."""
    last = run.attempt
    if last is None:
        return Idle()
    if last.ended is not None:
        return Over()
    return Starting() if last.launched is not None else Paused(last.plan.not_before)


def _run_finished(run: Run, event: ev.RunFinished, wall: float) -> Run:
    return replace(run, finished_wall=wall, state=Finished(event.outcome, event.exit_code, event.reason))


def _planned(run: Run, event: ev.Planned, wall: float) -> Run:
    if event.attempt <= len(run.attempts):
        return run
    waiting: State = Checking(wall) if event.resume_from else Paused(event.not_before)
    return replace(run, attempts=(*run.attempts, Attempt(plan=event, planned_wall=wall)), state=waiting)


def _clock_set(run: Run, event: ev.ClockSet, wall: float) -> Run:
    """Every time that something is still waited for moves with the clock; what is past keeps the time it had."""
    run = replace(run, heard_wall=wall)
    by, state, last = event.by_s, run.state, run.attempt
    if isinstance(state, Paused | Draining):
        state = replace(state, until=state.until + by)
    elif isinstance(state, Stopping | Checking | Ending):
        state = replace(state, since=state.since + by)
    if last is None or last.ended is not None:
        return replace(run, state=state)
    plan = replace(last.plan, not_before=last.plan.not_before + by)
    launcher = None if last.launcher_wall is None else last.launcher_wall + by
    launched = None if last.launched_wall is None else last.launched_wall + by
    signalled = tuple((at + by, event) for at, event in last.signalled)
    last = replace(
        last,
        plan=plan,
        launcher_wall=launcher,
        launched_wall=launched,
        signalled=signalled,
        clock_wall=wall,
        activity=(),
    )
    return replace(run, state=state, attempts=(*run.attempts[:-1], last))


def _gpus_seen(run: Run, event: ev.GpusSeen, _: float) -> Run:
    """Between attempts only the readings count, during one what the job does with the cards."""
    run, last = replace(run, gpus_seen=event), run.attempt
    if last is None or last.launched is None or last.tree_end is not None:
        return run
    from guardian.core.gpus import after  # noqa: PLC0415 - the first launch does not wait for it

    return replace(run, attempts=(*run.attempts[:-1], replace(last, gpus=after(last, event))))


_OF_RUN: dict[type, Callable[..., Run]] = {
    ev.ClockSet: _clock_set,
    ev.SupervisorStarted: _supervisor_started,
    ev.StopRequested: lambda r, e, w: replace(r, stop_requests=(*r.stop_requests, (w, e))),
    ev.SourceLost: lambda r, e, _: r if e in r.lost else replace(r, lost=(*r.lost, e)),
    ev.RunFinished: _run_finished,
    ev.Planned: _planned,
    ev.GpusSeen: _gpus_seen,
    ev.GpuBaseline: lambda r, e, _: replace(r, gpu_baseline=r.gpu_baseline or e.cards),
}


def _hello(attempt: Attempt, event: ev.Hello, _: float) -> Attempt:
    if event in attempt.hellos:
        return attempt
    others = tuple(h for h in attempt.hellos if h.rank != event.rank)
    # A job may train more than once: the end of an earlier loop is not the end of this one.
    ends = tuple(end for end in attempt.training_ends if end.rank != event.rank)
    gaps = attempt.gaps if event.rank else Gaps()
    return replace(attempt, hellos=(*others, event), training_ends=ends, gaps=gaps)


def _training_ended(attempt: Attempt, event: ev.TrainingEnded, _: float) -> Attempt:
    known = {(end.rank, end.step, end.by) for end in attempt.training_ends}
    if (event.rank, event.step, event.by) in known:
        return attempt
    return replace(attempt, training_ends=(*attempt.training_ends, event))


def _positions(attempt: Attempt, event: ev.Positions, wall: float) -> Attempt:
    grown = attempt.positions is None or event.offset > attempt.positions.offset
    return replace(attempt, positions=event, printed_wall=wall if grown else attempt.printed_wall)


def _logged(attempt: Attempt, event: ev.Logged, _: float) -> Attempt:
    # Heartbeats are read from their beginning when a guardian takes over: what is known is not told twice.
    for known in reversed(attempt.logged):
        if event.step is None or known.step is None or known.step < event.step:
            break
        if known.step > event.step or known == event:
            return attempt
    wall = attempt.step_wall if event.wall is None else max(attempt.step_wall or 0.0, event.wall)
    gaps = attempt.gaps
    if not attempt.hellos and event.wall is not None and event.step is not None:
        gaps = gaps.step(event.step, event.wall)
    return replace(attempt, logged=attempt.logged.append(event), step_wall=wall, gaps=gaps)


def _hit(attempt: Attempt, event: ev.Hit, _: float) -> Attempt:
    key = (event.rule, event.pattern, event.offset)
    if any((h.rule, h.pattern, h.offset) == key for h in attempt.hits):
        return attempt
    return replace(attempt, hits=(*attempt.hits, event))


def _suspected(attempt: Attempt, event: ev.Suspected, wall: float) -> Attempt:
    if any(one.rule == event.rule and one.line == event.line for _, one in attempt.suspected):
        return attempt
    return replace(attempt, suspected=(*attempt.suspected, (wall, event)))


def _longest_seen(attempt: Attempt, event: ev.LongestSeen, _: float) -> Attempt:
    known = max((one.longest for one in attempt.longest if one.rank == event.rank), default=-1)
    return attempt if event.longest <= known else replace(attempt, longest=(*attempt.longest, event))


def _phase_changed(attempt: Attempt, event: ev.PhaseChanged, _: float) -> Attempt:
    """An evaluation or a save that begins or ends is a sign of life like a step."""
    attempt = replace(attempt, step_wall=max(attempt.step_wall or 0.0, event.wall or 0.0))
    if event.rank != 0:
        return attempt
    gaps = attempt.gaps
    if gaps.last is not None and event.wall is not None:
        gaps = replace(gaps, last=max(gaps.last, event.wall))
    return replace(attempt, phase=event.phase, gaps=gaps, batch_wall=None)


def _batch_done(attempt: Attempt, event: ev.BatchDone, _: float) -> Attempt:
    """By rank 0, as the phase. No `step_wall`: ranks that wait for a failed one still end the batch they were at."""
    if event.rank != 0:
        return attempt
    return replace(attempt, batch_wall=max(attempt.batch_wall or 0.0, event.wall or 0.0))


def _checkpoint_seen(attempt: Attempt, event: ev.CheckpointSeen, _: float) -> Attempt:
    return replace(attempt, checkpoints=_add_checkpoint(attempt.checkpoints, event.checkpoint))


def _ended(attempt: Attempt, event: ev.Ended, wall: float) -> Attempt:
    spoilt = {(c.path, c.step) for c in event.checkpoints if not c.complete}
    made = tuple(c for c in attempt.checkpoints if (c.path, c.step) not in spoilt)
    for checkpoint in event.checkpoints:
        made = _add_checkpoint(made, checkpoint)
    settled = settle_all(attempt)
    return replace(settled, ended=event, checkpoints=made, tree_end_wall=settled.tree_end_wall or wall)


def _add_checkpoint(known: tuple[ev.Checkpoint, ...], one: ev.Checkpoint) -> tuple[ev.Checkpoint, ...]:
    if not one.complete or any(c.path == one.path and c.step == one.step for c in known):
        return known
    return (*known, one)


_OF_ATTEMPT: dict[type, Callable[..., Attempt]] = {
    ev.Pinned: lambda a, e, _: replace(a, pinned=e),
    ev.Rated: lambda a, e, _: replace(a, rated=(*a.rated, e)),
    ev.Launched: lambda a, e, w: replace(a, launched=e, launched_wall=w),
    ev.LaunchUndone: lambda a, _, __: replace(a, launched=None, launched_wall=None),
    ev.RankFound: lambda a, e, _: a if e in a.ranks else replace(a, ranks=(*a.ranks, e)),
    ev.JobStarted: lambda a, e, _: replace(a, job=e),
    ev.StartFailed: lambda a, e, _: replace(a, start_failed=e.error),
    ev.LauncherExited: lambda a, e, w: replace(a, launcher=e, launcher_wall=w) if a.launcher is None else a,
    ev.TreeEnded: lambda a, e, w: replace(a, tree_end=e, tree_end_wall=w) if a.tree_end is None else a,
    ev.KeeperLost: lambda a, _, __: replace(a, keeper_lost=True),
    ev.StopBegun: lambda a, e, w: replace(a, stop=e, stop_wall=w, alive=frozenset(e.pids)),
    ev.TreeSeen: lambda a, e, _: replace(a, alive=frozenset(e.pids)),
    ev.SaveAsked: lambda a, e, _: replace(a, save_asked=e),
    ev.Signalled: lambda a, e, w: replace(a, signalled=(*a.signalled, (w, e))),
    ev.Ended: _ended,
    ev.Diagnosed: lambda a, e, _: replace(a, diagnosed=e),
    ev.CheckpointSeen: _checkpoint_seen,
    ev.Activity: lambda a, e, _: replace(a, activity=(*a.activity, e)[-LOOKS_KEPT:]),
    ev.StacksTaken: lambda a, e, _: replace(a, stacks=(*a.stacks, e)[-STACKS_KEPT:]),
    ev.Measured: lambda a, e, w: replace(a, measured=(w, e)),
    ev.Hit: _hit,
    ev.Suspected: _suspected,
    ev.LongestSeen: _longest_seen,
    ev.RateSet: lambda a, e, _: a if e in a.rates_set else replace(a, rates_set=(*a.rates_set, e)),
    ev.Positions: _positions,
    ev.Hello: _hello,
    ev.TrainingEnded: _training_ended,
    ev.ExceptionLeft: lambda a, e, _: a if e in a.exceptions else replace(a, exceptions=(*a.exceptions, e)),
    ev.GpuFault: lambda a, e, _: a if e in a.gpu_faults else replace(a, gpu_faults=(*a.gpu_faults, e)),
    ev.Reaped: lambda a, e, w: replace(a, reaped=(*a.reaped, (w, e))),
    ev.DrainBegun: lambda a, _, __: a,
    ev.Drained: lambda a, e, _: replace(a, drained=e),
    ev.StepDone: step_done,
    ev.LossSeen: loss_seen,
    ev.OwnWork: own_work,
    ev.Logged: _logged,
    ev.PhaseChanged: _phase_changed,
    ev.BatchDone: _batch_done,
    ev.Saved: lambda a, e, _: replace(a, announced=a.announced | {e.path}),
    ev.Acknowledged: lambda a, e, _: a if e in a.acknowledged else replace(a, acknowledged=(*a.acknowledged, e)),
}


def _moved(state: State, attempt: Attempt, event: ev.Event, wall: float) -> State:
    """Where the run stands after an event of its latest attempt."""
    if isinstance(event, ev.Pinned | ev.LaunchUndone | ev.DrainBegun | ev.Drained):
        state = _waiting(state, attempt, event)
    elif isinstance(event, ev.Launched):
        state = Starting()
    elif isinstance(event, ev.StepDone | ev.Logged) and isinstance(state, Starting) and event.step:
        state = Running()
    elif isinstance(event, ev.StopBegun) and isinstance(state, LIVING):
        state = Stopping(event.why, "asked", wall)
    elif isinstance(event, ev.SaveAsked) and isinstance(state, Stopping):
        state = Stopping(state.why, "saving", wall)
    elif isinstance(event, ev.Signalled) and isinstance(state, Stopping):
        state = _signalled(state, event, wall)
    elif isinstance(event, ev.TreeEnded | ev.StartFailed) and not isinstance(state, Ending | Over | Finished):
        state = Ending(wall)
    elif isinstance(event, ev.Ended):
        state = Over()
    return state


def _waiting(state: State, attempt: Attempt, event: ev.Event) -> State:
    """Before a launch: what it waits for next."""
    ready = Paused(attempt.plan.not_before)
    match event, state:
        case (ev.Pinned(), Checking()) | (ev.LaunchUndone(), _) | (ev.Drained(), Draining()):
            return ready
        case ev.DrainBegun(until=until, held=held), Paused():
            return Draining(until, held)
    return state


def _signalled(state: Stopping, event: ev.Signalled, wall: float) -> Stopping:
    stage = "killing" if event.signal == 9 else "terminating"
    return state if stage == state.stage else Stopping(state.why, stage, wall)


# --- what stands in the heartbeat files ------------------------------------------------------------------------


def as_journalled(run: Run) -> Run:
    """The run without what stands in the heartbeat files alone: folding those again gives it back."""
    attempts = tuple(
        replace(
            one,
            steps=Trail(),
            partial=(),
            rank_steps=(),
            logged=Trail(),
            phase=None,
            acknowledged=(),
            announced=frozenset(),
            longest=(),
            rates_set=(),
            activity=(),
            measured=None,
            step_wall=None,
            gpus=(),
            gaps=Gaps(),
            alive=frozenset(one.stop.pids) if one.stop else frozenset(),
        )
        for one in run.attempts
    )
    state = Starting() if isinstance(run.state, Running) else run.state
    return replace(run, attempts=attempts, state=state, gpus_seen=None)


def settled(run: Run, number: int) -> Run:
    """The run after the heartbeats of an attempt that ended long ago have been folded into it."""
    after = settle_all(run.attempts[number - 1])
    return replace(run, attempts=(*run.attempts[: number - 1], after, *run.attempts[number:]))
