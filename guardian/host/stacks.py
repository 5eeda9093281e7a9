"""Ask the processes of a living job where they stand, without ever costing the job.

Three ways, each for those that the one before got nothing from: the companion's armed faulthandler (also where Python
hangs in a call, no ptrace needed), py-spy where somebody installed it, and what the kernel shows of every process.

The request is a real-time signal, which ends a process that is not armed for it. It goes only to a process of which
all of this holds: it, or the rank that it descends from, said in its hello that it is armed, or it has not spoken and
is above no rank that has (a start that hangs); it has the start time that was recorded; the kernel shows a handler; it
holds the memory that bears its own pid, which is made where the handler is. A stopped process is not asked, it could
not answer. Slow: seconds. Call it in a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from guardian.core import flight, stacks, stacktext, wire
from guardian.core.stacks import Rank, Stack
from guardian.core.values import dataclass
from guardian.host import processes
from guardian.host.processes import Identity, Process

PROCESSES_MOST = 512
"""Looked at in one go: ranks first, then what descends from them."""
FILE_MOST = 4 << 20
"""Bytes of one process's file; what comes after is not kept."""
DUMPS_MOST = 64
SETTLED_S = 0.3
"""A dump that has grown, ends in a line's end, and has not grown for so long, is whole."""
LOOK_S = 0.05
PYSPY_EACH_S = 5.0
PYSPY_AFTER = 0.6
"""The share of the time after which silent processes are not waited for any longer."""
REQUEST = signal.SIGRTMIN + wire.STACKS_AFTER_RTMIN
SYSCALLS = {
    "x86_64": {0: "read", 1: "write", 7: "poll", 45: "recvfrom", 47: "recvmsg", 61: "wait4", 73: "flock", 74: "fsync",
               202: "futex", 230: "clock_nanosleep", 232: "epoll_wait", 247: "waitid", 270: "pselect6", 271: "ppoll",
               281: "epoll_pwait"},
    "aarch64": {22: "epoll_pwait", 32: "flock", 63: "read", 64: "write", 72: "pselect6", 73: "ppoll", 82: "fsync",
                95: "waitid", 98: "futex", 115: "clock_nanosleep", 207: "recvfrom", 212: "recvmsg", 260: "wait4"},
}  # fmt: skip
"""Calls in which a process waits, by their numbers (asm/unistd.h of each machine)."""


def collect(
    tree: Iterable[Process], ranks: Iterable[Rank], folder: Path, deadline_s: float = 10.0
) -> tuple[Stack, ...]:
    """Where each of these processes stands; whole printed are kept in the attempt's folder (wire.STACKS_FILE).

    `tree` is the attempt's (processes.tree), `ranks` those who said who they are (core/stacks.ranks_of).
    """
    end = time.monotonic() + deadline_s
    looked = _looked(tuple(tree), tuple(ranks))
    printed = _ask([one for one in looked if one.armed], time.monotonic() + deadline_s * PYSPY_AFTER)
    for pid, text in printed.items():
        _keep(folder, pid, text)
    found = [
        _stack(one, "faulthandler", stacktext.parse_faulthandler(printed.get(one.process.pid, ""))) for one in looked
    ]
    silent = [one for one, stack in zip(looked, found, strict=True) if not stack.frames]
    spied = _spy(silent, end)
    return tuple(
        _stack(one, "py-spy", spied[one.process.pid]) if one.process.pid in spied else stack
        for one, stack in zip(looked, found, strict=True)
    )


def dumps(folder: Path) -> tuple[str, ...]:
    """What torch's flight recorder wrote into the attempt's folder: it stays there, for torch's own reader."""
    return tuple(sorted(str(one) for one in folder.glob(f"{flight.DUMP}*"))[:DUMPS_MOST])


@dataclass(frozen=True, slots=True)
class Looked:
    """A process with its place in the job and what the kernel shows of it."""

    process: Process
    kind: str
    rank: int | None
    armed: bool
    """Whoever speaks for it said so, or nobody does, as at the start; the process itself is still to be looked at."""
    state: str | None
    waits: str | None


def _looked(tree: tuple[Process, ...], ranks: tuple[Rank, ...]) -> list[Looked]:
    present = {process.pid: process for process in tree}
    known = {
        rank.pid: rank for rank in ranks if rank.pid in present and present[rank.pid].start_ticks == rank.start_ticks
    }
    above = {pid for rank in known for pid in _line(rank, present)} - known.keys()
    again = {rank.pid for rank in ranks} - known.keys()  # numbers that were given again
    found = [_look(process, known, present, above=above, unasked=again) for process in tree]
    found.sort(key=lambda one: (one.kind != "rank", one.rank is None))
    return found[:PROCESSES_MOST]


def _look(
    process: Process, known: Mapping[int, Rank], present: Mapping[int, Process], *, above: set[int], unasked: set[int]
) -> Looked:
    rank = next((known[pid] for pid in (process.pid, *_line(process.pid, present)) if pid in known), None)
    if rank is None:
        kind = "launcher" if process.pid in above else "process"
    else:
        kind = "rank" if rank.pid == process.pid else "child"
    now = processes.find(process.identity)
    may = rank.armed if rank else kind == "process" and process.pid not in unasked
    return Looked(
        process=process,
        kind=kind,
        rank=rank.rank if rank else None,
        armed=may and now is not None and now.state not in stacks.STANDS_STILL,
        state=now.state if now else None,
        waits=waits(process.pid) if now else None,
    )


def _line(pid: int, present: Mapping[int, Process]) -> list[int]:
    """The pids above a process, as far as they are in the tree."""
    found: list[int] = []
    process = present.get(pid)
    while process is not None and process.ppid not in found and process.ppid in present:
        found.append(process.ppid)
        process = present[process.ppid]
    return found


def _stack(looked: Looked, source: str, threads: tuple[stacktext.Thread, ...]) -> Stack:
    frames = stacktext.main_frames(threads)
    return Stack(
        pid=looked.process.pid,
        start_ticks=looked.process.start_ticks,
        kind="worker" if looked.kind == "child" and stacktext.is_loader(frames) else looked.kind,
        rank=looked.rank,
        name=looked.process.name,
        source=source if frames else "proc",
        frames=frames[: stacks.KEPT],
        digest=stacktext.digest(frames),
        state=looked.state,
        waits=looked.waits,
    )


# --- the armed faulthandler ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A process that was asked, and its memory, open here."""

    pid: int
    file: int
    before: int
    """Bytes that lay there already."""


def _ask(looked: list[Looked], until: float) -> dict[int, str]:
    """What each process printed; those that printed nothing in time are left out."""
    asked: list[Asked] = []
    try:
        asked.extend(request for one in looked if (request := _request(one.process.identity)) is not None)
        _wait(asked, until)
        return {one.pid: text for one in asked if (text := _read(one))}
    finally:
        for held in asked:
            os.close(held.file)


def _request(identity: Identity) -> Asked | None:
    """Signal a process that is armed; None for every other."""
    file = armed_memory(identity)
    if file is None:
        return None
    before = os.fstat(file).st_size
    if processes.send(identity, REQUEST):
        return Asked(identity.pid, file, before)
    os.close(file)
    return None


def armed_memory(identity: Identity) -> int | None:
    """The memory into which this very process prints its stacks, opened; None where it would not, or nobody knows."""
    found = catches(identity.pid, REQUEST) and _memory(identity.pid)
    if not found:
        return None
    try:
        file = os.open(found, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if processes.alive(identity):
        return file
    os.close(file)
    return None


def catches(pid: int, signum: int) -> bool:
    """Whether the process has a handler for a signal, as the kernel sees it."""
    mask = next((line.split()[1] for line in _text(pid, "status").splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(mask, 16) >> (signum - 1) & 1)


def _memory(pid: int) -> str | None:
    """The descriptor of a process that leads to the memory of its own pid; a forked child also holds its parent's."""
    wanted = f"memfd:{wire.STACKS_MEMORY.format(pid=pid)}"
    try:
        numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return None
    for number in sorted(one for one in numbers if one >= wire.STACKS_FD_AT_LEAST):
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/fd/{number}"
            if os.readlink(path).removeprefix("/").removesuffix(" (deleted)") == wanted:
                return path
    return None


def _wait(asked: list[Asked], until: float) -> None:
    """Until all have printed, or the time is over."""
    seen = {one.pid: (one.before, time.monotonic()) for one in asked}
    waiting = list(asked)
    while waiting and time.monotonic() < until:
        time.sleep(LOOK_S)
        now = time.monotonic()
        for one in list(waiting):
            size = os.fstat(one.file).st_size
            if size != seen[one.pid][0]:
                seen[one.pid] = (size, now)
            elif size > one.before and now - seen[one.pid][1] >= SETTLED_S and os.pread(one.file, 1, size - 1) == b"\n":
                waiting.remove(one)


def _read(asked: Asked) -> str:
    return os.pread(asked.file, stacktext.TEXT_MOST, asked.before).decode("utf-8", "replace")


def _keep(folder: Path, pid: int, text: str) -> None:
    """Append a dump to the process's file; that it cannot be written costs the file, not the stacks."""
    path = folder / wire.STACKS_FILE.format(pid=pid)
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "ab") as file:
            if os.fstat(file.fileno()).st_size < FILE_MOST:
                file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n{text}\n".encode("utf-8", "replace"))


# --- py-spy --------------------------------------------------------------------------------------------------


def _spy(looked: list[Looked], end: float) -> dict[int, tuple[stacktext.Thread, ...]]:
    """The threads of those that py-spy can read within the time; nothing where nobody installed it."""
    found: dict[int, tuple[stacktext.Thread, ...]] = {}
    for one in looked:
        program = pyspy(one.process) if one.state is not None and one.state != "Z" else None
        left_s = end - time.monotonic()
        if program is not None and left_s > 0:
            threads = stacktext.parse_pyspy(_dumped(program, one.process.pid, min(left_s, PYSPY_EACH_S)))
            if any(thread.frames for thread in threads):
                found[one.process.pid] = threads
    return found


def pyspy(process: Process) -> str | None:
    """The program: on PATH, or beside the process's own Python; None also for a process that is not Python's."""
    python = process.cmdline.split(" ", 1)[0]
    if "python" not in os.path.basename(python):
        return None
    beside = os.path.join(os.path.dirname(python), "py-spy")
    return shutil.which("py-spy") or (beside if os.path.isabs(beside) and os.access(beside, os.X_OK) else None)


def _dumped(program: str, pid: int, limit_s: float) -> str:
    # Not paused while it is read: a py-spy that is killed in between would leave the job stopped.
    words = [program, "dump", "--nonblocking", "--json", "--pid", str(pid)]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


# --- the kernel ----------------------------------------------------------------------------------------------


def waits(pid: int) -> str | None:
    """What a process waits in: the kernel's own name of the place, else the system call; None where neither is told."""
    channel = _text(pid, "wchan").strip()
    if channel not in ("", "0"):
        return channel[: stacktext.NAME_MOST]
    number = _text(pid, "syscall").split(" ", 1)[0].strip()
    return SYSCALLS.get(os.uname().machine, {}).get(int(number)) if number.isdecimal() else None


def _text(pid: int, name: str) -> str:
    """The beginning of a small file of the kernel; empty where we may not look, or the process is gone."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as stream:
            return stream.read(8192).decode("utf-8", "replace")
    except OSError:
        return ""
