"""Who is who in a job's tree, and whom the kernel killed for want of memory. Pure.

A rank is known by its heartbeat, else by the environment that launchers give it; a data loader's process is a child of
a rank that runs the rank's own program (forked), or one that multiprocessing has spawned. Whom the kernel killed is
known from its own log where that can be read and speaks of our pids. Else from the counter: whoever was gone when it
had risen. Where that may have been two, it is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from guardian.core.hostfacts import Member
from guardian.core.values import dataclass

RANK, WORKER, LAUNCHER, OTHER = "rank", "worker", "launcher", "other"
WORKER_NAME = "pt_data_worker"
"""What newer versions of torch call the process (and the kernel then in its log)."""
SPAWNED = "multiprocessing.spawn"
LATE_S = 5.0
"""A kill this long before a step was finished may still be the one that ended the job."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it is found."""

    pid: int
    ticks: int
    parent: int
    name: str
    cmdline: str
    local_rank: bool = False
    """Whether its environment names a rank of its own node."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The kernel says that it has killed a process for want of memory."""

    wall: float
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Rise:
    """The counter of kills was higher than at the look before."""

    wall: float
    kills: int
    gone: tuple[Member, ...]
    """Who lived then and does not now."""
    workers: bool
    """Whether any data loader's process was there before."""


def members(found: Iterable[Seen], ranks: Collection[int]) -> tuple[Member, ...]:
    """Each process with its role; `ranks`: the pids that heartbeats name."""
    by_pid = {one.pid: one for one in found}
    known = {pid for pid in ranks if pid in by_pid} or _ranks(by_pid)
    above = {pid for rank in known for pid in _above(by_pid, rank)}
    return tuple(
        Member(one.pid, one.ticks, _role(one, by_pid, known, above), one.parent)
        for one in sorted(by_pid.values(), key=_age)
    )


def lasting(
    found: Iterable[Member], before: Mapping[tuple[int, int], str], ranks: Collection[int]
) -> tuple[Member, ...]:
    """A process keeps the role that it had: one that dies has no command line any more, its orphans another parent."""
    return tuple(
        replace(one, role=role)
        if one.pid not in ranks and (role := before.get((one.pid, one.ticks), OTHER)) != OTHER
        else one
        for one in found
    )


def _age(one: Seen) -> tuple[int, int]:
    return one.ticks, one.pid


def _ranks(by_pid: Mapping[int, Seen]) -> set[int]:
    """Where no heartbeat names them: the topmost with a rank in their environment, else whoever loads data."""
    named = {
        one.pid
        for one in by_pid.values()
        if one.local_rank and not (one.parent in by_pid and by_pid[one.parent].local_rank)
    }
    return named or {one.parent for one in by_pid.values() if one.name == WORKER_NAME and one.parent in by_pid}


def _above(by_pid: Mapping[int, Seen], pid: int) -> list[int]:
    """Its parents in the tree, the nearest first."""
    found: list[int] = []
    at = by_pid[pid].parent
    while at in by_pid and at not in found:
        found.append(at)
        at = by_pid[at].parent
    return found


def _role(one: Seen, by_pid: Mapping[int, Seen], ranks: set[int], above: set[int]) -> str:
    if one.pid in ranks:
        return RANK
    if one.pid in above:
        return LAUNCHER
    parents = _above(by_pid, one.pid)
    rank = next((pid for pid in parents if pid in ranks), None)
    if one.name == WORKER_NAME:
        return WORKER
    if rank is None:
        return OTHER
    forked = one.parent == rank and bool(one.cmdline) and one.cmdline == by_pid[rank].cmdline
    return WORKER if forked or SPAWNED in one.cmdline else OTHER


def victim(
    kills: Sequence[Kill],
    rises: Sequence[Rise],
    roles: Mapping[int, str],
    *,
    by_sigkill: bool,
    step_wall: float | None,
) -> str | None:
    """The role of whom the kernel killed so that the job ended; None: unknown, or nobody.

    `roles`: of every pid that was ever seen in the tree. `by_sigkill`: that is how the job's first process ended.
    """
    since = float("-inf") if step_wall is None else step_wall - LATE_S
    told = [roles[kill.pid] for kill in kills if kill.pid in roles and kill.wall >= since]
    if told:
        return next((role for role in (RANK, WORKER, LAUNCHER) if role in told), OTHER)
    for rise in reversed([rise for rise in rises if rise.wall >= since]):
        gone = {member.role for member in rise.gone}
        if gone == {WORKER}:
            return WORKER
        # A rank takes its data loader's processes with it, and one that has lost such a process ends by itself.
        if RANK in gone and (by_sigkill or not rise.workers):
            return RANK
    return None
