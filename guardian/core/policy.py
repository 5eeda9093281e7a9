"""What guardian may do and how long it waits: the policy's keys, defaults and bounds, as frozen values.

Reading a file is the host's job; `from_tables` judges the parsed tables and names every wrong key.
"""

from __future__ import annotations

from dataclasses import field, fields, replace

from guardian.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """How often guardian tries again."""

    restarts: int = 30
    """For the whole run."""
    without_progress: int = 3
    """Attempts in a row with the same cause and no new sound checkpoint."""
    backoff_s: tuple[float, ...] = (0, 10, 60, 300)
    """Wait before the n-th attempt in a row without progress; the last value repeats."""


@dataclass(frozen=True, slots=True)
class Stop:
    """How a tree is ended."""

    save_wait_s: float = 120
    """For a save that the companions were asked for."""
    term_wait_s: float = 45
    """Between TERM and KILL; torchrun's agent alone takes 30 s."""
    kill_wait_s: float = 30
    """After KILL; what is left then is unkillable."""
    linger_s: float = 30
    """For what outlives a job that finished (tracker sync) before it is left alone."""
    orphan_s: float = 2
    """For the tree of a launcher that failed, before guardian ends it."""


@dataclass(frozen=True, slots=True)
class Pending:
    """How long a fatal line waits for the job to end, or to go on, by itself."""

    settle_s: float = 30
    """Without a finished step, evaluation or save; three typical steps where those are longer. Outside of steady
    training the job must be idle besides."""


@dataclass(frozen=True, slots=True)
class Silence:
    """How long nothing may happen before a job that stands still is ended."""

    minimum_s: float = 60
    """Between two steps of steady training; longer where the job's own steps are."""
    factor: float = 5
    """Times the 99th percentile of the time between two steps."""
    startup_s: float = 1800
    """Until the training loop begins, and until its first steps are done: loading, tokenising, compiling."""
    skip_s: float = 14400
    """Until the first step where a resume skips data."""
    evaluation_s: float = 3600
    """In an evaluation."""
    saving_s: float = 1800
    """In a save."""
    teardown_s: float = 900
    """After the training of every rank is over: no print, and next to no computing, reading and writing."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """How well a checkpoint is looked at before it is resumed from."""

    read_s: float = 120
    """For reading all bytes of the newest ones until one proves sound; what takes longer is judged by its headers.
    0: headers only."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Room for the run folder."""

    minimum_free_mib: float = 1024
    ballast_mib: float = 64
    """Held in reserve, and given back when others fill the disk; 0: none."""
    joblog_cap_mib: float = 4096
    """Of a job.log that is longer the oldest part that was read is taken off the disk."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Memory of GPUs between two attempts, and how long a reading may take."""

    drain_wait_s: float = 120
    """For what still holds a GPU's memory before a relaunch; then it is launched all the same."""
    drain_tolerance_mib: float = 512
    """More than at the first launch."""
    silent_s: float = 30
    """Without a reading: the probe hangs in the driver, and is no longer waited for."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole policy; every field has the default that suits a night alone."""

    budget: Budget = field(default_factory=Budget)
    stop: Stop = field(default_factory=Stop)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    pending: Pending = field(default_factory=Pending)
    silence: Silence = field(default_factory=Silence)
    disk: Disk = field(default_factory=Disk)
    gpu: Gpu = field(default_factory=Gpu)


@dataclass(frozen=True, slots=True)
class Complaint:
    """A key of a policy that cannot be used as written."""

    key: str
    """Dotted, as in the file."""
    message: str


DEFAULT = Policy()


def from_tables(tables: dict[str, object]) -> tuple[Policy, tuple[Complaint, ...]]:
    """The policy that the parsed TOML asks for, and every complaint about it (then it must not be used)."""
    complaints: list[Complaint] = []
    sections: dict[str, object] = {}
    known = {f.name: getattr(DEFAULT, f.name) for f in fields(Policy)}
    for name, table in tables.items():
        if name not in known:
            complaints.append(Complaint(name, f"there is no section [{name}]{_nearest(name, known)}"))
        elif not isinstance(table, dict):
            complaints.append(Complaint(name, f"must be a section: [{name}]"))
        else:
            sections[name] = _section(name, known[name], table, complaints)
    return replace(DEFAULT, **sections), tuple(complaints)  # type: ignore[arg-type]


def as_tables(policy: Policy) -> dict[str, dict[str, object]]:
    """The policy as plain tables: `from_tables` of it gives the same policy."""
    return {
        f.name: {g.name: _plain(getattr(getattr(policy, f.name), g.name)) for g in fields(getattr(policy, f.name))}
        for f in fields(Policy)
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _section(name: str, default: object, table: dict[str, object], complaints: list[Complaint]) -> object:
    known = {f.name: getattr(default, f.name) for f in fields(default)}  # type: ignore[arg-type]
    chosen: dict[str, object] = {}
    for key, value in table.items():
        dotted = f"{name}.{key}"
        if key not in known:
            complaints.append(Complaint(dotted, f"there is no key {key!r} in [{name}]{_nearest(key, known)}"))
            continue
        problem = _problem(known[key], value)
        if problem:
            complaints.append(Complaint(dotted, problem))
        else:
            chosen[key] = tuple(value) if isinstance(value, list) else value
    return replace(default, **chosen)  # type: ignore[type-var]


def _problem(default: object, value: object) -> str | None:
    """Why a value cannot stand where this default stands, or None."""
    if isinstance(default, tuple):
        good = isinstance(value, list) and value and all(_is_number(v) and v >= 0 for v in value)
        return None if good else "must be a list of numbers of seconds, none negative, at least one"
    if isinstance(default, int):
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if good else "must be a whole number, not negative"
    return None if _is_number(value) and value >= 0 else "must be a number, not negative"  # type: ignore[operator]


def _is_number(value: object) -> bool:
    finite = isinstance(value, int | float) and value == value and value not in (float("inf"), float("-inf"))  # noqa: PLR0124 - x != x is how NaN is told
    return finite and not isinstance(value, bool)


def _nearest(name: str, known: dict[str, object]) -> str:
    import difflib  # noqa: PLC0415 - only for who mistypes; the job need not wait for it

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
