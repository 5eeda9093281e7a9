"""The values of a run: where it can stand, and what is known of its attempts and steps.

They are frozen. Only the fold makes new ones from records (core/folding.py); here is what can be read off them.
"""

from __future__ import annotations

from dataclasses import field, replace

from guardian.core import events as ev
from guardian.core.cards import Use
from guardian.core.trail import Trail
from guardian.core.values import dataclass

GAPS_KEPT = 64
"""The longest pauses between two steps: the 99th percentile of up to 6400 is among them."""


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
    batch_wall: float | None = None
    """When the evaluation, or the training, at hand last told of a batch; None: it does not, or not yet."""
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
