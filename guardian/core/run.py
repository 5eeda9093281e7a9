"""The state of a run, folded from its records: live view, recovery, tests and report use the same fold.

`fold(run, record)` is the only way a Run changes. Folding the same heartbeat line twice changes nothing, so
the files of an attempt can be read again from the start after a restart of guardian.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import field, replace
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import throughput
from guardian.core.cards import Use
from guardian.core.trail import Trail
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

LOSS_MAY_LAG = 2
"""Steps after which a loss that has not come is taken as unknown (companions read it one step late)."""
LOOKS_KEPT = 16
STACKS_KEPT = 4
GAPS_KEPT = 64
"""The longest pauses between two steps: the 99th percentile of up to 6400 is among them."""
PARTIAL_MOST = 4096
"""Steps that wait for a rank's report; beyond it that rank is silent for good (its companion broke)."""


# --- where a run can stand -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idle:
    """No attempt is planned yet."""


@dataclass(frozen=True, slots=True)
class Checking:
    """The checkpoint to resume from is being pinned."""

    since: float


@dataclass(frozen=True, slots=True)
class Paused:
    """The next attempt is ready and waits for its time."""

    until: float


@dataclass(frozen=True, slots=True)
class Draining:
    """The next attempt is ready, and memory of a GPU that it needs is still held."""

    until: float
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Starting:
    """The job runs, no optimizer step has completed."""


@dataclass(frozen=True, slots=True)
class Running:
    """Optimizer steps complete."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """Guardian is ending the tree: `saving`, then `terminating`, then `killing`."""

    why: str
    stage: str
    since: float
    """Wall seconds at which the stage began."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The tree is gone; every source is being read to its end."""

    since: float


@dataclass(frozen=True, slots=True)
class Over:
    """The attempt is whole and can be judged."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run is over."""

    outcome: ev.Outcome
    exit_code: int
    reason: str


State = Idle | Checking | Paused | Draining | Starting | Running | Stopping | Ending | Over | Finished
LIVING = (Starting, Running, Stopping)


# --- what is known of an attempt -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step that every rank has finished, summed over the ranks."""

    step: int
    rows: int | None
    tokens: int | None
    fingerprint: int | None
    loss: float | None
    """Mean over the ranks, which is what the trainer logs."""
    lr: float | None
    wall: float
    late: tuple[int, ...] = ()
    """Ranks whose own work took much longer than the middle rank's (core/throughput.py)."""
    behind_s: float | None = None
    """How much longer the slowest rank's own work took; None: not every rank told."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A step that some rank has not reported whole yet."""

    step: int
    done: tuple[ev.StepDone, ...] = ()
    losses: tuple[ev.LossSeen, ...] = ()
    own: tuple[ev.OwnWork, ...] = ()


@dataclass(frozen=True, slots=True)
class Gaps:
    """Wall seconds between the steps of a training loop, without evaluations and saves.

    Those of rank 0 alone: a replay hears the ranks in another order.
    """

    count: int = 0
    longest: tuple[float, ...] = ()
    """The longest first."""
    last: float | None = None
    """When the last step, evaluation or save was over; None: before the loop's first step."""
    at: int = -1
    """The last step."""

    def step(self, step: int, wall: float) -> Gaps:
        """After one more step."""
        if step <= self.at:
            return self
        gap, longest = wall - (wall if self.last is None else self.last), self.longest
        if gap <= 0:  # the first one, or the clock was set back
            return replace(self, last=wall, at=step)
        if len(longest) < GAPS_KEPT or gap > longest[-1]:
            longest = tuple(sorted((*longest, gap), reverse=True)[:GAPS_KEPT])
        return Gaps(self.count + 1, longest, wall, step)

    def percentile_99(self) -> float | None:
        """The pause that one in a hundred exceeds; None before there are any."""
        at = -(-self.count // 100)
        return self.longest[min(at, len(self.longest)) - 1] if self.longest else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One launch of the job, from its plan to its diagnosis."""

    plan: ev.Planned
    planned_wall: float
    pinned: ev.Pinned | None = None
    rated: tuple[ev.Rated, ...] = ()
    """Checkpoints whose learning rate was to be another for the next attempt, and what came of it."""
    launched: ev.Launched | None = None
    launched_wall: float | None = None
    job: ev.JobStarted | None = None
    ranks: tuple[ev.RankFound, ...] = ()
    start_failed: str | None = None
    hellos: tuple[ev.Hello, ...] = ()
    steps: Trail[Step] = field(default_factory=Trail)
    partial: tuple[Partial, ...] = ()
    rank_steps: tuple[tuple[int, int], ...] = ()
    """The last finished step of each rank that reports."""
    logged: Trail[ev.Logged] = field(default_factory=Trail)
    phase: str | None = None
    acknowledged: tuple[ev.Acknowledged, ...] = ()
    hits: tuple[ev.Hit, ...] = ()
    suspected: tuple[tuple[float, ev.Suspected], ...] = ()
    """What may have to be acted on before the job ends: (wall, suspicion)."""
    longest: tuple[ev.LongestSeen, ...] = ()
    """Rows that were longer than all before them on their rank, as they came."""
    rates_set: tuple[ev.RateSet, ...] = ()
    """What each rank's companion did to the learning rate."""
    activity: tuple[ev.Activity, ...] = ()
    """The last looks at what the tree does."""
    measured: tuple[float, ev.Measured] | None = None
    """What the launch waits for, as it was when it was last looked at: (wall, measure)."""
    step_wall: float | None = None
    """When an optimizer step was last seen to complete, or a phase to begin or end."""
    printed_wall: float | None = None
    """When job.log was last seen to have grown."""
    clock_wall: float | None = None
    """When the machine's clock was last set: no time before it can be compared with one after it."""
    gaps: Gaps = Gaps()
    """Of the training loop at hand."""
    stacks: tuple[ev.StacksTaken, ...] = ()
    """The last times that its processes were asked where they stand."""
    exceptions: tuple[ev.ExceptionLeft, ...] = ()
    training_ends: tuple[ev.TrainingEnded, ...] = ()
    launcher: ev.LauncherExited | None = None
    launcher_wall: float | None = None
    keeper_lost: bool = False
    stop: ev.StopBegun | None = None
    stop_wall: float | None = None
    save_asked: ev.SaveAsked | None = None
    signalled: tuple[tuple[float, ev.Signalled], ...] = ()
    alive: frozenset[int] = frozenset()
    """Pids of the tree when it was last looked at, which is only done while it is being stopped."""
    tree_end: ev.TreeEnded | None = None
    tree_end_wall: float | None = None
    ended: ev.Ended | None = None
    diagnosed: ev.Diagnosed | None = None
    positions: ev.Positions | None = None
    checkpoints: tuple[ev.Checkpoint, ...] = ()
    """Complete checkpoints that this attempt was seen to make."""
    announced: frozenset[str] = frozenset()
    """Checkpoint folders that the job itself said it wrote."""
    gpus: tuple[Use, ...] = ()
    """What it was seen to do with each GPU."""
    gpu_faults: tuple[ev.GpuFault, ...] = ()
    drained: ev.Drained | None = None
    """The launch waited for memory of GPUs, and no longer does."""
    reaped: tuple[tuple[float, ev.Reaped], ...] = ()

    @property
    def number(self) -> int:
        """Counted from 1."""
        return self.plan.attempt

    @property
    def hello(self) -> ev.Hello | None:
        """The hello of the lowest rank that spoke."""
        return min(self.hellos, key=lambda h: h.rank, default=None)

    @property
    def world(self) -> int:
        """Ranks that train together, as the job says; 1 until it has spoken."""
        return self.hello.world if self.hello else 1

    @property
    def last_step(self) -> int | None:
        """The highest optimizer step that any rank finished in this attempt, or that the log showed."""
        heard = [step for _, step in self.rank_steps]
        if self.logged and self.logged[-1].step is not None:
            heard.append(self.logged[-1].step)
        if self.ended is not None and self.ended.last_step is not None:
            # Steps that only job.log showed are not told again when the run is loaded.
            heard.append(self.ended.last_step)
        return max(heard, default=None)

    @property
    def first_step(self) -> int | None:
        """The first optimizer step that completed in this attempt."""
        return self.steps[0].step if self.steps else None

    @property
    def max_steps(self) -> int | None:
        """The planned number of optimizer steps, as the job says."""
        if self.hello is not None:
            return self.hello.max_steps
        return next((seen.max_steps for seen in reversed(self.logged) if seen.max_steps is not None), None)

    @property
    def end_wall(self) -> float | None:
        """When its last process was gone."""
        return self.tree_end_wall


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that is known of a run."""

    created: ev.RunCreated
    created_wall: float
    state: State = Idle()
    attempts: tuple[Attempt, ...] = ()
    stop_requests: tuple[tuple[float, ev.StopRequested], ...] = ()
    """Requests that still count: (wall, request)."""
    supervisors: tuple[tuple[float, ev.SupervisorStarted], ...] = ()
    lost: tuple[ev.SourceLost, ...] = ()
    finished_wall: float | None = None
    heard_wall: float = 0.0
    """Wall time of the last record."""
    fresh_from: int = 0
    """Attempts up to this number came before a person asked to go on: no budget counts them."""
    gpus_seen: ev.GpusSeen | None = None
    """The latest readings."""
    gpu_baseline: tuple[tuple[str, float], ...] = ()
    """What each GPU held at the first launch: (uuid, MiB)."""

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt, planned or launched."""
        return self.attempts[-1] if self.attempts else None

    @property
    def family(self) -> str | None:
        """The adapter of the command; `inside`: of none, and a training in it has spoken (core/adapters/inside.py)."""
        spoke = any(a.hello is not None and a.hello.takes_resume is not None for a in self.attempts)
        return self.created.family or ("inside" if spoke else None)

    @property
    def best_step(self) -> int:
        """The highest step of a complete checkpoint that was ever seen: what progress is measured by."""
        return max((c.step for a in self.attempts for c in a.checkpoints), default=0)


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
    after = _settle_all(run.attempts[number - 1])
    return replace(run, attempts=(*run.attempts[: number - 1], after, *run.attempts[number:]))


# --- the fold ------------------------------------------------------------------------------------------------


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


def _step_done(attempt: Attempt, event: ev.StepDone, _: float) -> Attempt:
    rank_steps = _raise_rank(attempt.rank_steps, event.rank, event.step)
    gaps = attempt.gaps if event.rank else attempt.gaps.step(event.step, event.wall)
    step_wall = max(attempt.step_wall or 0.0, event.wall)
    if gaps is not attempt.gaps or step_wall != attempt.step_wall:
        attempt = replace(attempt, step_wall=step_wall, gaps=gaps)
    part = _partial(attempt, event.step)
    if part is None or any(d.rank == event.rank for d in part.done):
        return attempt if rank_steps == attempt.rank_steps else replace(attempt, rank_steps=rank_steps)
    done = tuple(sorted((*part.done, event), key=lambda d: d.rank))
    return _settle(attempt, rank_steps, replace(part, done=done))


def _loss_seen(attempt: Attempt, event: ev.LossSeen, _: float) -> Attempt:
    part = _partial(attempt, event.step)
    if part is None or any(x.rank == event.rank for x in part.losses):
        return attempt
    # By rank, not as they came: a sum of floats depends on its order, and a replay hears the ranks in another one.
    losses = tuple(sorted((*part.losses, event), key=lambda x: x.rank))
    return _settle(attempt, attempt.rank_steps, replace(part, losses=losses))


def _own_work(attempt: Attempt, event: ev.OwnWork, _: float) -> Attempt:
    part = _partial(attempt, event.step)
    if part is None or any(x.rank == event.rank for x in part.own):
        return attempt
    return _settle(
        attempt, attempt.rank_steps, replace(part, own=tuple(sorted((*part.own, event), key=lambda x: x.rank)))
    )


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
    return replace(attempt, phase=event.phase, gaps=gaps)


def _checkpoint_seen(attempt: Attempt, event: ev.CheckpointSeen, _: float) -> Attempt:
    return replace(attempt, checkpoints=_add_checkpoint(attempt.checkpoints, event.checkpoint))


def _ended(attempt: Attempt, event: ev.Ended, wall: float) -> Attempt:
    spoilt = {(c.path, c.step) for c in event.checkpoints if not c.complete}
    made = tuple(c for c in attempt.checkpoints if (c.path, c.step) not in spoilt)
    for checkpoint in event.checkpoints:
        made = _add_checkpoint(made, checkpoint)
    settled = _settle_all(attempt)
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
    ev.StepDone: _step_done,
    ev.LossSeen: _loss_seen,
    ev.OwnWork: _own_work,
    ev.Logged: _logged,
    ev.PhaseChanged: _phase_changed,
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


# --- putting the ranks' reports together -----------------------------------------------------------------------


def _raise_rank(known: tuple[tuple[int, int], ...], rank: int, step: int) -> tuple[tuple[int, int], ...]:
    at = dict(known)
    if step <= at.get(rank, -1):
        return known
    at[rank] = step
    return tuple(sorted(at.items()))


def _partial(attempt: Attempt, step: int) -> Partial | None:
    """What is known of a step that may still be made whole; None: it is settled already."""
    if attempt.steps and step <= attempt.steps[-1].step:
        return None
    at = bisect_left(attempt.partial, step, key=lambda p: p.step)
    found = attempt.partial[at : at + 1]
    return found[0] if found and found[0].step == step else Partial(step)


def _settle(attempt: Attempt, rank_steps: tuple[tuple[int, int], ...], news: Partial) -> Attempt:
    """Put the news in its place, and move the steps that are whole, oldest first, from `partial` to `steps`."""
    at = bisect_left(attempt.partial, news.step, key=lambda p: p.step)
    after = bisect_right(attempt.partial, news.step, key=lambda p: p.step)
    partial = (*attempt.partial[:at], news, *attempt.partial[after:])[-PARTIAL_MOST:]
    world, steps, settled = attempt.world, attempt.steps, 0
    # The slowest rank counts: the file of another may have been read far ahead of it.
    heard = min((step for _, step in rank_steps), default=0)
    for part in partial:
        if len(part.done) >= world:
            if len(part.losses) < world and heard - part.step < LOSS_MAY_LAG:
                break
            steps = steps.append(_summed(part, world))
        elif len(rank_steps) < world or heard <= part.step:
            break
        # Else every rank is past it: a line was lost, and the step can never be counted whole.
        settled += 1
    return replace(attempt, rank_steps=rank_steps, steps=steps, partial=partial[settled:])


def _settle_all(attempt: Attempt) -> Attempt:
    """At the end nothing more will come: what every rank finished counts, with or without its loss."""
    whole = [p for p in attempt.partial if len(p.done) >= attempt.world]
    steps = attempt.steps
    for part in whole:
        steps = steps.append(_summed(part, attempt.world))
    return replace(attempt, steps=steps, partial=())


def _summed(part: Partial, world: int) -> Step:
    rows = [d.rows for d in part.done]
    tokens = [d.tokens for d in part.done]
    prints = [d.fingerprint for d in part.done]
    losses = [x.loss for x in part.losses]
    late, behind_s = throughput.lateness([(x.rank, x.seconds) for x in part.own], world)
    return Step(
        step=part.step,
        rows=_total(rows),
        tokens=_total(tokens),
        fingerprint=None if None in prints else sum(p for p in prints if p is not None) % 2**64,
        loss=sum(losses) / world if len(losses) == world else None,
        lr=part.done[0].lr,
        wall=max(d.wall for d in part.done),
        late=late,
        behind_s=behind_s,
    )


def _total(parts: list[int | None]) -> int | None:
    known = [p for p in parts if p is not None]
    return sum(known) if len(known) == len(parts) else None
