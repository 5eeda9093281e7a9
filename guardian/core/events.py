"""Everything that can happen to a run, as small frozen values.

An event that is a conclusion or a rare fact is journalled (`JOURNALLED`); the others come from files that stay
in the run folder and are read again. `attempt` counts launches from 1. Wall times are seconds since the epoch,
`None` means "unknown", never "zero" or "off".
"""

from __future__ import annotations

from enum import Enum

from guardian.core.cards import Card
from guardian.core.stacks import Stack
from guardian.core.values import dataclass


class StopBy(str, Enum):
    """Who asked for the end of the run from outside."""

    CTRL_C = "ctrl-c"
    SIGTERM = "sigterm"
    COMMAND = "guardian stop"

    @property
    def spelt(self) -> str:
        """As people write it."""
        return {"ctrl-c": "Ctrl-C", "sigterm": "SIGTERM"}.get(self.value, self.value)


class Outcome(str, Enum):
    """How a run ended; public in `report --json`."""

    FINISHED = "finished"
    GAVE_UP = "gave_up"
    NOT_RETRYABLE = "not_retryable"
    STOPPED = "stopped"
    PREEMPTED = "preempted"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of job.log as evidence."""

    number: int | None
    """Counted from 1; None where the text is not a line of the log."""
    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """One change that guardian made to the command or its environment."""

    knob: str
    old: str | None
    new: str | None
    kind: str
    """`resume`, `preserving` or `changing` the experiment."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What ended an attempt, as far as is known."""

    id: str
    """The class of the failure, e.g. `code_bug` (rules.CLASSES)."""
    variant: str | None
    rule: str | None
    title: str
    evidence: tuple[Line, ...]
    retries: int | None
    """Retries without progress that make sense; None: the policy's budget."""
    advice: str | None = None
    blind: tuple[str, ...] = ()
    """What could not be seen, and would have mattered."""
    facts: tuple[tuple[str, float | str], ...] = ()
    """What was known when it was judged, the rule's captures included; the ladder stands on it."""
    symptoms: tuple[str, ...] = ()
    """Classes that were seen too and that this cause explains."""


# --- the run -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunCreated:
    """A run folder was made for a command; nothing is launched yet."""

    run: str
    name: str
    argv: tuple[str, ...]
    cwd: str
    family: str | None
    """The adapter that recognised the command; None: restarted and explained, never edited."""
    companion: bool
    policy: str
    """The policy in force, as JSON, so that a later supervisor acts the same."""
    version: str
    uid: int
    env: tuple[tuple[str, str], ...] = ()
    """The caller's values of the names that shape a training (planning.SHAPING): a resume from another shell must not
    lose a rank."""
    ranks: int | None = None
    """As many as the command asks for; None: it does not say."""
    weakened: tuple[str, ...] = ()
    """What the command asks for that a proof suffers from, each `--name: why`."""


@dataclass(frozen=True, slots=True)
class SupervisorStarted:
    """A guardian took the run in hand."""

    how: str
    """`run` or `resume`."""
    found: str
    """What was found on the host, in words; empty at the first start."""
    reopened: bool = False
    """The run had been stopped (or the user wants it tried again): what asked for its end no longer counts."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody outside wants the run to end; the second and third request hurry it."""

    by: StopBy


@dataclass(frozen=True, slots=True)
class TerminalLost:
    """SIGHUP: the terminal is gone, the supervisor goes on without it."""


@dataclass(frozen=True, slots=True)
class SourceLost:
    """A source can no longer be read: what it would have told is unknown, not fine."""

    source: str
    why: str
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """Something about the host that a reader should know; nothing follows from it."""

    text: str


@dataclass(frozen=True, slots=True)
class ClockSet:
    """Somebody set the machine's clock: what is waited for is put off, or brought forward, by as much."""

    by_s: float
    """Positive: forward."""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The last record of a run, unless it is resumed later."""

    outcome: Outcome
    exit_code: int
    reason: str


# --- an attempt, from plan to end ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Planned:
    """The next attempt is decided: what runs, from where, not before when."""

    attempt: int
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    """Set on top of the caller's environment."""
    resume_from: str | None
    resume_step: int | None
    edits: tuple[Edit, ...]
    not_before: float
    """Wall seconds; a back-off is a state of the run, never a sleep."""
    reason: str
    passed_over: tuple[tuple[str, str], ...] = ()
    """Checkpoints that were not resumed from: (path, reason)."""
    settings: tuple[tuple[str, bool | int | float | str], ...] = ()
    """Knobs whose value guardian has changed, all attempts up to this one together (job.KNOBS)."""
    variables: tuple[tuple[str, str], ...] = ()
    """Variables of the environment that guardian has changed as a remedy, all attempts together; part of `env`."""
    limits: tuple[tuple[str, str], ...] = ()
    """Resource limits to raise before the job starts, e.g. ("nofile", "hard")."""
    overlays: tuple[tuple[str, str], ...] = ()
    """Changed copies of configuration files: (file name in the attempt's folder overlays/, content)."""
    rule: str | None = None
    """The rule whose ladder led here; None: no rule did."""
    rung: int | None = None
    """Which rung of that ladder, from 0."""
    skipped: tuple[str, ...] = ()
    """Rungs that were passed by, each with its reason, in words."""
    awaits: tuple[str, str, float] | None = None
    """A fact of the host that the launch waits for (name, comparison, number), until `not_before` at most."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """The checkpoint to resume from cannot vanish any more (or it could not be held: `how` is "none")."""

    attempt: int
    source: str
    pin: str | None
    how: str
    """`reflink`, `hard links`, `copy` or `none`."""
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Rated:
    """A copy of a checkpoint with another learning rate was made, for a job that has no companion to set it.

    `attempt` is the one that has ended; the copy is for the next.
    """

    attempt: int
    source: str
    target: float
    """The base rate of the first parameter group, absolute."""
    copy: str | None
    """None: none was made, because of `why`, or because the rate is the checkpoint's already."""
    before: float | None = None
    """The base rate that the checkpoint had."""
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Launched:
    """The keeper of the attempt was given the job."""

    attempt: int
    keeper_pid: int
    keeper_ticks: int
    """Start time of the keeper in clock ticks after boot (proc(5), /proc/pid/stat field 22)."""
    oom_kills: int | None = None
    """The host's or cgroup's counter of OOM kills at launch."""
    boot: str = ""
    """Of the machine (boot_id): pids and counters mean nothing in another one."""


@dataclass(frozen=True, slots=True)
class JobStarted:
    """The job's first process runs."""

    attempt: int
    pid: int
    ticks: int


@dataclass(frozen=True, slots=True)
class LaunchUndone:
    """A launch that was journalled and never carried out: guardian was killed in between. It is repeated."""

    attempt: int


@dataclass(frozen=True, slots=True)
class RankFound:
    """The process of a rank, so that it is known for this job's even when its keeper is gone."""

    attempt: int
    rank: int
    pid: int
    ticks: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The command could not be executed at all."""

    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class LauncherExited:
    """The first process is gone; its tree may live on."""

    attempt: int
    code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class TreeEnded:
    """No process of the attempt is left."""

    attempt: int
    left_alone: tuple[str, ...] = ()
    """Processes that were left running, named: they outlived a finished job, or SIGKILL."""
    unkillable: bool = False
    """They were killed and are still there."""


@dataclass(frozen=True, slots=True)
class KeeperLost:
    """The keeper was killed alone: nobody will see the exit code."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StopBegun:
    """Guardian decided to end the living tree of the attempt."""

    attempt: int
    why: str
    pids: tuple[int, ...]
    """The living processes of the tree at that moment."""
    rule: str | None = None
    """The rule whose suspicion was confirmed; None: the stop was asked for, or the launcher fell."""
    silent: str | None = None
    """The phase (core/silence.py) in which nothing happened for longer than it may; None: it was not for that."""
    facts: tuple[tuple[str, float], ...] = ()
    """What the decision stands on, where the job worked and was asked to save first."""
    silent_s: float | None = None
    """For how long."""


@dataclass(frozen=True, slots=True)
class SaveAsked:
    """The companions were told to save at a step and stop."""

    attempt: int
    save_at: int


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal was sent to the whole tree."""

    attempt: int
    signal: int
    processes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt is over and every source has been read to its end."""

    attempt: int
    code: int | None
    """None: nobody saw it end (host restart, lost keeper), or it died of a signal."""
    signal: int | None
    last_step: int | None
    tail: tuple[Line, ...]
    """The last lines of job.log."""
    oom_kills: int | None
    """OOM kills on this host or in this cgroup during the attempt; None: not readable."""
    checkpoints: tuple[Checkpoint, ...]
    blind: tuple[str, ...] = ()
    rebooted: bool = False
    """The machine was started anew while the attempt lived."""
    facts: tuple[tuple[str, float | str], ...] = ()
    """What the host measured over the attempt (core/facts.py names them)."""
    inspected: bool = False
    """The checkpoints were read byte by byte, the newest first, until one proved sound."""
    unmet: tuple[str, ...] = ()
    """Where the learning rate was not the one that was set; what job.log told of it is not told again later."""
    dumps: tuple[str, ...] = ()
    """What torch's flight recorder wrote (core/flight.py)."""


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """What ended the attempt."""

    attempt: int
    cause: Cause | None
    """None: it ended as it should."""


# --- what the sources say ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint folder as found."""

    path: str
    step: int
    complete: bool
    """It may be resumed from."""
    why: str | None = None
    """Why it may not be; of a sound one what nobody could look into."""
    verdict: str = ""
    """`sound`, `damaged`, `poisoned`, `incompatible` or `unknown` (core/checkpoints.py); "": nobody looked."""
    first_bad_step: int | None = None
    """Of a poisoned one."""


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """A checkpoint folder has appeared or become complete while the job trains."""

    attempt: int
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule's pattern matched a line of job.log."""

    attempt: int
    rule: str
    pattern: int
    """Which of the rule's log conditions, from 0."""
    offset: int
    """Byte offset of the line in job.log: a hit is told apart by it when a line is read twice."""
    line: Line
    captures: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Suspected:
    """A rule that need not wait for the job's end has become true; it acts if the job does not go on."""

    attempt: int
    rule: str
    title: str
    confirm: str
    """`line`: at once; `stall`: when no optimizer step completes for a while."""
    settle_s: float | None
    """The shortest while; None: the policy's."""
    line: Line


@dataclass(frozen=True, slots=True)
class Positions:
    """How far job.log has been read and judged."""

    attempt: int
    offset: int
    lines: int


@dataclass(frozen=True, slots=True)
class Hello:
    """A rank's training loop begins (the companion's hello; see core/wire.py for the fields)."""

    attempt: int
    rank: int
    pid: int
    world: int
    step: int
    max_steps: int
    device_batch: int
    accumulation: int
    data_parallel: int
    effective_batch: int
    steps_per_epoch: int | None
    save_steps: float | None
    learning_rate: float | None
    output_dir: str
    trainer: str
    resumed_from: str | None
    versions: tuple[tuple[str, str], ...]
    wall: float
    device: str | None = None
    """What the model is on: `cpu`, `cuda`, ..."""
    precision: str | None = None
    """The narrowest floats that the model computes in: `float32`, `bfloat16`, `float16`, ..."""
    workers: int | None = None
    """Data loader processes of this rank, as the loader has them."""
    prefetch: int | None = None
    pin_memory: bool | None = None
    eval_batch: int | None = None
    gradient_checkpointing: bool | None = None
    local_world: int | None = None
    """Of the ranks those on this machine."""
    armed: bool | None = None
    """It prints its stacks when asked (core/wire.py, STACKS)."""
    optimizer: str | None = None
    """As the argument names it: `adamw_torch`, `sgd`, ..."""
    argv: tuple[str, ...] = ()
    """The script's own, cut."""
    launcher: str | None = None
    """`torchrun` or `python`."""
    training: int | None = None
    """Which of the attempt it is on this rank, from 1."""
    takes_resume: bool | None = None
    """Its command line was read by a parser that knows `--resume_from_checkpoint`."""
    save_total_limit: int | None = None
    batch_argument: int | None = None
    """What the arguments say of the device batch; the loader may make another."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Knobs that cannot be changed from inside, each with the reason."""
    weakening: tuple[str, ...] = ()
    """What it was made with that a resumed run cannot be proved under (core/weakening.py), by name."""


@dataclass(frozen=True, slots=True)
class TrainingEnded:
    """A rank's training loop returned."""

    attempt: int
    rank: int
    step: int
    max_steps: int
    by: str
    """`max_steps`, `epochs`, `trainer` (its own decision), `guardian` or `signal`."""
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class ExceptionLeft:
    """An exception left a rank's training loop."""

    attempt: int
    rank: int
    step: int
    type: str
    text: str
    phase: str | None = None
    """Where it happened: `train`, `optimizer`, `eval` or `save`."""
    rows: int | None = None
    """Of the micro-batch that was in forward or backward."""
    longest: int | None = None
    """Tokens of that micro-batch's longest row."""
    rescued: str | None = None
    """The checkpoint of the last finished step, which the companion saved before the exception went on."""
    not_rescued: str | None = None
    """Why none was saved."""


@dataclass(frozen=True, slots=True)
class LongestSeen:
    """A micro-batch is about to enter forward whose longest row is the longest so far. Not journalled."""

    attempt: int
    rank: int
    step: int
    """The optimizer step that is at work (global step + 1)."""
    rows: int
    longest: int
    """Tokens of its longest row."""


@dataclass(frozen=True, slots=True)
class RateSet:
    """The companion set the learning rate (absolute), or found nothing to set. Not journalled."""

    attempt: int
    rank: int
    step: int
    before: float
    """Of the first parameter group, before and after."""
    after: float
    error: str | None = None
    """Why it could not be set."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One rank finished an optimizer step. Not journalled: the heartbeat file keeps it."""

    attempt: int
    rank: int
    step: int
    rows: int | None
    tokens: int | None
    fingerprint: int | None
    """Sum over the rows of a 64-bit hash, modulo 2^64: adds over ranks and micro-batches."""
    lr: float | None
    wall: float


@dataclass(frozen=True, slots=True)
class LossSeen:
    """One rank's loss of a step (sum over its micro-batches of what training_step returned)."""

    attempt: int
    rank: int
    step: int
    loss: float


@dataclass(frozen=True, slots=True)
class OwnWork:
    """How long one rank of several worked by itself in a step, without what it waited for the others."""

    attempt: int
    rank: int
    step: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Logged:
    """Numbers that the job itself logged, from the companion or from a line of job.log."""

    attempt: int
    step: int | None
    max_steps: int | None
    loss: float | None
    grad_norm: float | None
    lr: float | None
    wall: float | None = None
    step_s: float | None = None
    """Seconds a step, as the job says; core/metrics.py has what that means for whom."""
    tokens_seen: int | None = None
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class PhaseChanged:
    """A rank trains, evaluates or saves."""

    attempt: int
    rank: int
    phase: str
    step: int
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A rank's evaluation, or a long step of it, gets on."""

    attempt: int
    rank: int
    batch: int
    """How many it has finished; 0: an evaluation begins, and will tell."""
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A fact of the host that a launch waits for, as it is now."""

    attempt: int
    name: str
    value: float | None
    """None: it cannot be measured here."""


@dataclass(frozen=True, slots=True)
class TreeSeen:
    """The living processes of a tree that is being stopped."""

    attempt: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """What the living processes of the tree have done so far, all together. Not journalled."""

    attempt: int
    pids: tuple[int, ...]
    cpu_s: float
    io_bytes: int | None
    """Read and written by system calls, to any file, pipe or socket, without what job.log and the heartbeats took;
    None: nobody may look."""
    wall: float
    others_cpu_s: float | None = None
    """Of processes that are no ranks; None: nobody knows which are."""
    held: bool = False
    """Somebody stopped all of it (SIGSTOP), or debugs one of its processes."""
    gpu: bool | None = None
    """Whether a GPU computes for it; None: nobody tells."""
    gpu_spins: bool = False
    """Its GPUs are all busy, at low power and without memory traffic."""
    running: bool = False
    """One of its threads had a processor at that moment, or waited for one."""


@dataclass(frozen=True, slots=True)
class StacksTaken:
    """Where the processes of the tree stood."""

    attempt: int
    stacks: tuple[Stack, ...]
    """Empty: none could be had."""
    wall: float


@dataclass(frozen=True, slots=True)
class GpusSeen:
    """The readings of the GPUs at one moment. Not journalled."""

    attempt: int
    wall: float
    host_pids: bool
    """Whether the pids in it are those of this namespace."""
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class GpuFault:
    """A GPU reports an error: told once for each card, kind and number of an attempt."""

    attempt: int
    card: int | None
    """Its index; None: the report names none that is known."""
    kind: str
    """`lost`, `hardware`, `program`; `aftermath` or `note` for what ends no job by itself."""
    xid: int | None
    text: str
    wall: float


@dataclass(frozen=True, slots=True)
class GpuBaseline:
    """What each GPU held at the run's first launch, before the job used it: (uuid, MiB)."""

    attempt: int
    cards: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class DrainBegun:
    """The launch waits for memory of GPUs that somebody still holds."""

    attempt: int
    held: tuple[str, ...]
    """The cards, and who holds them, in words."""
    until: float
    """Wall seconds; then it is launched all the same."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """Processes that an earlier attempt left behind were signalled."""

    attempt: int
    signal: int
    processes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drained:
    """The launch waits for the GPUs no longer."""

    attempt: int
    held: tuple[str, ...] = ()
    """What is held still, its time being over."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A rank says that a checkpoint has been written."""

    attempt: int
    rank: int
    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A rank has read the control file."""

    attempt: int
    rank: int
    save_at: int


Journalled = (
    RunCreated | SupervisorStarted | StopRequested | TerminalLost | SourceLost | Noted | ClockSet | RunFinished
    | Planned | Pinned | Rated | Launched | LaunchUndone | JobStarted | RankFound | StartFailed | LauncherExited
    | TreeEnded | KeeperLost | StopBegun | SaveAsked | Signalled | Ended | Diagnosed | CheckpointSeen | Hit | Suspected
    | StacksTaken | Positions | Hello | TrainingEnded | ExceptionLeft | GpuFault | GpuBaseline | DrainBegun | Reaped
    | Drained
)  # fmt: skip
Observed = (
    StepDone | LossSeen | OwnWork | Logged | LongestSeen | RateSet | PhaseChanged | BatchDone | Measured | TreeSeen
    | Activity | Saved | Acknowledged | GpusSeen
)  # fmt: skip
Event = Journalled | Observed


@dataclass(frozen=True, slots=True)
class Stamp:
    """When and where something was recorded."""

    wall: float
    mono: float
    """Monotonic seconds; comparable only within one boot."""
    boot: str
    node: str
    pid: int


@dataclass(frozen=True, slots=True)
class Record:
    """An event with its place in the story."""

    stamp: Stamp
    event: Event
