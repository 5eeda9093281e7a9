"""Where the processes of a job stand: compared, grouped by what is the same, and told in few lines.

Pure. A stack is that of a process's main thread, innermost call first; without one, what the kernel says of the process
stands for it (stopped, waiting for a disk), and where that says nothing either it is unknown, never "the same".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core.stacktext import Frame
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardian.core.run import Attempt

KEPT = 16
"""Frames of a stack that are kept, innermost first."""
LINE_MOST = 240
OURS = "/companion/guardian_"
"""Files of the companion: where a process of the job stands is told without them."""
LIBRARIES = ("/site-packages/", "/dist-packages/", "/lib/python3", "<frozen ")
COLLECTIVES = ("torch/distributed/", "deepspeed/comm/")
WAITING_CALLS = frozenset({
    "_engine_run_backward", "synchronize", "all_gather", "all_reduce", "barrier", "broadcast", "reduce_scatter",
})  # fmt: skip
"""Innermost calls in which a rank waits for the others, in whatever file."""
STANDS_STILL = {
    "T": "is stopped by a signal (SIGSTOP or SIGTSTP) and waits for SIGCONT",
    "t": "is stopped by a debugger",
    "D": "waits in the kernel for a disk, a network file system or a device, and hears no signal",
    "Z": "has ended and waits for its parent",
}
"""Letters of proc(5) that say by themselves why a process does nothing."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Where one process stood when it was looked at."""

    pid: int
    start_ticks: int
    kind: str
    """`rank`; `worker`: a data loader's process; `child`: another process below a rank; `launcher`: above one; else
    `process`."""
    rank: int | None
    """Its own, or that of the rank that it descends from."""
    name: str
    """The kernel's short name of the program."""
    source: str
    """Who told: `faulthandler`, `py-spy` or, without a stack, `proc`."""
    frames: tuple[Frame, ...] = ()
    """Of the main thread, innermost first, the first KEPT."""
    digest: str | None = None
    """Of the whole stack; None: there is none."""
    state: str | None = None
    """The kernel's letter; None: the process was gone."""
    waits: str | None = None
    """What the kernel waits in on its behalf, where it tells."""

    @property
    def standing(self) -> str | None:
        """What is compared: equal for two looks between which nothing can have moved; None: unknown."""
        if self.state is not None and self.state in "Tt":
            return self.state
        if self.digest is not None:
            return self.digest
        return f"D {self.waits}" if self.state == "D" else None


@dataclass(frozen=True, slots=True)
class Rank:
    """A process that said which rank it is."""

    rank: int
    pid: int
    start_ticks: int
    armed: bool
    """It said that it prints its stacks when asked."""


@dataclass(frozen=True, slots=True)
class Group:
    """Processes of one kind that stand at the same place."""

    kind: str
    ranks: tuple[int, ...]
    pids: tuple[int, ...]
    name: str
    frames: tuple[Frame, ...]
    state: str | None
    waits: str | None
    odd: bool
    """These ranks stand elsewhere than the others, which probably wait for them."""


def ranks_of(attempt: Attempt) -> tuple[Rank, ...]:
    """The ranks of an attempt that are known by pid and start time, with what their hellos said."""
    armed = {(hello.rank, hello.pid) for hello in attempt.hellos if hello.armed}
    known = {one.rank: one for one in attempt.ranks}
    return tuple(Rank(one.rank, one.pid, one.ticks, (one.rank, one.pid) in armed) for _, one in sorted(known.items()))


# --- comparing -----------------------------------------------------------------------------------------------


def same(*samples: tuple[Stack, ...]) -> tuple[int, ...]:
    """The ranks that stood at the same place in every sample; none for fewer than two samples.

    A rank counts only as the same process, with a stack (or a state that says as much) in each of them.
    """
    if len(samples) < 2:
        return ()
    places = [
        {one.rank: (one.pid, one.start_ticks, one.standing) for one in sample if one.kind == "rank"}
        for sample in samples
    ]
    first = places[0]
    return tuple(
        sorted(
            rank
            for rank, place in first.items()
            if rank is not None and place[2] is not None and all(other.get(rank) == place for other in places[1:])
        )
    )


def group(stacks: Iterable[Stack]) -> tuple[Group, ...]:
    """Processes by kind and place: the odd ranks first, then the other ranks, their children, and what is left."""
    places: dict[tuple[str, str], list[Stack]] = {}
    for one in stacks:
        places.setdefault((one.kind, one.standing or f"{one.state} {one.waits}"), []).append(one)
    odd = _odd([members for (kind, _), members in places.items() if kind == "rank"])
    groups = [_grouped(members, odd=members[0].pid in odd) for members in places.values()]
    return tuple(sorted(groups, key=lambda g: (_KINDS.index(g.kind), not g.odd, g.ranks, g.pids)))


def odd_ranks(groups: Iterable[Group]) -> tuple[int, ...]:
    """The ranks that the others probably wait for."""
    return tuple(sorted({rank for one in groups if one.odd for rank in one.ranks}))


_KINDS = ("rank", "worker", "child", "launcher", "process")


def _odd(groups: list[list[Stack]]) -> frozenset[int]:
    """Pids of the ranks that stand elsewhere than those that wait; empty where nothing tells them apart."""
    if len(groups) < 2:
        return frozenset()
    waiting = [members for members in groups if _waits_for_others(members[0])]
    if waiting and len(waiting) < len(groups):
        rest = waiting
    else:
        most = max(len(members) for members in groups)
        rest = [members for members in groups if len(members) == most]
        if len(rest) > 1:
            return frozenset()
    return frozenset(one.pid for members in groups if members not in rest for one in members)


def _waits_for_others(stack: Stack) -> bool:
    if not stack.frames or (stack.state is not None and stack.state in STANDS_STILL):
        return False
    inner = stack.frames[0]
    return inner.function in WAITING_CALLS or any(name in one.file for one in stack.frames[:4] for name in COLLECTIVES)


def _grouped(members: list[Stack], *, odd: bool) -> Group:
    first = members[0]
    return Group(
        kind=first.kind,
        ranks=tuple(sorted({one.rank for one in members if one.rank is not None})),
        pids=tuple(sorted(one.pid for one in members)),
        name=first.name,
        frames=first.frames,
        state=first.state,
        waits=first.waits,
        odd=odd,
    )


# --- telling -------------------------------------------------------------------------------------------------


def summary(groups: Iterable[Group]) -> str:
    """The ranks in one line: `rank 1 stands in train_step at job.py:31; ranks 0, 2-7 in all_reduce at ...`."""
    told = [f"{who(one)} {_place(one)}" for one in groups if one.kind == "rank"]
    return "; ".join(told)[: 2 * LINE_MOST]


def words(groups: Iterable[Group], *, most: int = 40, frames: int = 8) -> tuple[str, ...]:
    """A line for each group with its place, and below it its innermost calls; `most` lines in all."""
    lines = [line for one in groups for line in _told(one, frames)]
    left = len(lines) - most
    return tuple(lines) if left <= 0 else (*lines[:most], f"({left} more lines)")


def who(one: Group) -> str:
    """`rank 1`, `ranks 0, 2-7`, `4 loader processes of ranks 0-1`, `the launcher torchrun (pid 7)`."""
    ranks = ("rank " if len(one.ranks) == 1 else "ranks ") + spans(one.ranks)
    match one.kind:
        case "rank":
            return ranks
        case "worker" | "child":
            noun = "loader process" if one.kind == "worker" else "child process"
            counted = noun if len(one.pids) == 1 else f"{len(one.pids)} {noun}es"
            return f"{counted} of {ranks}"
        case _:
            named = "launcher" if one.kind == "launcher" else "process"
            pids = ", ".join(str(pid) for pid in one.pids[:4]) + (", ..." if len(one.pids) > 4 else "")
            return f"{named} {one.name} (pid {pids})"


def spans(numbers: tuple[int, ...]) -> str:
    """`0, 2-7`; at most a dozen spans."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    told = [str(a) if a == b else f"{a}-{b}" for a, b in found[:12]]
    return ", ".join(told) + (", ..." if len(found) > 12 else "")


def place(frame: Frame) -> str:
    """`train_step at job.py:31`."""
    file = frame.file.rpartition("/")[2]
    return f"{frame.function} at {file}" + (f":{frame.line}" if frame.line is not None else "")


def _place(one: Group) -> str:
    many = one.kind == "rank" and len(one.ranks) > 1
    if one.state is not None and one.state in STANDS_STILL and (one.state != "D" or not one.frames):
        return STANDS_STILL[one.state]
    if not one.frames:
        does = {"R": "it runs", "S": "it sleeps", None: "it is gone"}.get(one.state, "nobody knows why")
        state = f"it is in {one.waits}" if one.waits else does
        return f"gave no stack ({state})"
    inner = place(one.frames[0])
    own = next((frame for frame in one.frames if _is_own(frame)), None)
    below = f", called from {place(own)}" if own is not None and own != one.frames[0] else ""
    return f"{'stand' if many or len(one.pids) > 1 else 'stands'} in {inner}{below}"


def _is_own(frame: Frame) -> bool:
    """Of the job's own code, not of a library or of the companion."""
    return not any(name in frame.file for name in LIBRARIES) and OURS not in frame.file and frame.file != "<string>"


def _told(one: Group, frames: int) -> Iterator[str]:
    yield f"{who(one)} {_place(one)}"[:LINE_MOST]
    told = [frame for frame in one.frames if OURS not in frame.file]
    for frame in told[:frames] if len(told) > 1 else ():
        file = "/".join(frame.file.split("/")[-3:])
        yield f"  {frame.function} ({file}:{frame.line if frame.line is not None else '?'})"[:LINE_MOST]
