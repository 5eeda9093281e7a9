"""A GPU and what an attempt does with it, as values. None is "unknown", never 0."""

from __future__ import annotations

from guardian.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has memory on a card."""

    pid: int
    """As the driver counts: it names a process here only where pids are the host's."""
    used_mib: float | None
    ours: bool | None
    """Whether it carries the run's mark; None: pids mean nothing here."""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU."""

    index: int
    uuid: str
    name: str = ""
    lost: str | None = None
    """The driver cannot reach it any more, in its words; then nothing else is known."""
    used_mib: float | None = None
    free_mib: float | None = None
    total_mib: float | None = None
    utilisation: float | None = None
    """Percent of the time in which some kernel ran."""
    memory_traffic: float | None = None
    """Percent of the time in which its memory was read or written."""
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    slowed: tuple[str, ...] | None = None
    """Why its clocks are lower than they could be."""
    ecc_corrected: float | None = None
    ecc_uncorrected: float | None = None
    """Since the driver was loaded."""
    remapped_rows: float | None = None
    remap_failed: bool | None = None
    mig: bool | None = None
    """Cut into instances: what is known of the whole card says nothing of a job's part."""
    processes: tuple[Holder, ...] | None = None


@dataclass(frozen=True, slots=True)
class Use:
    """What an attempt was seen to do with one card."""

    index: int
    uuid: str
    total_mib: float | None = None
    first_mib: float | None = None
    """What it held when the attempt began; None: nobody looked so early."""
    peak_mib: float | None = None
    free_mib: float | None = None
    """When it was last seen in use."""
    foreign_mib: float | None = None
    """What others held when the job was last seen on it; where pids are not the host's, what it held at first."""
    ours: bool = False
    """The job uses it."""
    climb: tuple[tuple[int, float], ...] = ()
    """(step, MiB of the job): one point of a step at most, fewer and fewer in a long run."""
