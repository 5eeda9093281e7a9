"""The processes of an attempt: who they are, which still live, and how to signal one and never another.

A pid alone names nobody: numbers are reused. A process is named by its pid and its start time, and a signal goes to
that pair or to no one. The tree of an attempt is gathered by several marks at once, since each is lost by some real
job: descent (lost when the keeper is killed), the environment's mark (wiped by setproctitle, sudo and `env -i`), and
what was seen before, with the sessions and groups it leads (torchrun gives each rank a session of its own).

Plain reads of /proc and no psutil: one pass over the `stat` files gives all that is asked here, psutil opens several
files per process and field, and would be a third of the supervisor's start-up time. A read of `environ` or `cmdline`
takes the other process's memory lock and can wait for it for long: call `tree` from an observer, not from the loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from pathlib import Path

from guardian.core import wire
from guardian.core.values import dataclass

# Set to 1: signal by plain kill, as on kernels and sandboxes without pidfd.
NO_PIDFD = "GUARDIAN_NO_PIDFD"
COUNTED = ("rchar:", "wchar:", "read_bytes:")
"""Of /proc/PID/io: system calls, and what page faults fetch (a data set that is mapped into memory)."""
SHOWN_ARGUMENTS = 200  # characters of a command line


class Life(Enum):
    """What is left of a process."""

    ALIVE = "alive"
    ZOMBIE = "zombie"
    """It runs nothing and holds nothing, and waits for its parent to notice."""
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be taken for another one within a boot."""

    pid: int
    start_ticks: int
    """Clock ticks after boot (proc(5), /proc/pid/stat field 22)."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as found in one look."""

    pid: int
    start_ticks: int
    ppid: int
    group: int
    session: int
    state: str
    """A letter of proc(5): R, S, D, Z, T (stopped), ..."""
    threads: int
    name: str
    """The kernel's short name of the program."""
    cmdline: str = ""
    """Shortened; not read for processes that are nobody's."""

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_ticks)

    @property
    def life(self) -> Life:
        """A leading thread may end before the others; then the kernel shows a zombie that still computes."""
        if self.state in "Xx":
            return Life.GONE
        return Life.ZOMBIE if self.state == "Z" and self.threads <= 1 else Life.ALIVE

    @property
    def stopped(self) -> bool:
        """It hears of no signal but SIGKILL until SIGCONT."""
        return self.state == "T"


def look(pid: int) -> Process | None:
    """The process that has this number now, without its command line."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return parse_stat(stream.read())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def parse_stat(line: bytes) -> Process:
    """One line of /proc/pid/stat; the name between the parentheses may itself hold blanks and parentheses."""
    pid, _, rest = line.partition(b" (")
    name, _, fields = rest.rpartition(b") ")
    field = fields.split()
    return Process(
        pid=int(pid),
        name=name.decode("utf-8", "replace"),
        state=field[0].decode("ascii"),
        ppid=int(field[1]),
        group=int(field[2]),
        session=int(field[3]),
        threads=int(field[17]),
        start_ticks=int(field[19]),
    )


def start_ticks(pid: int) -> int | None:
    """When the process with this number was started; None when there is none."""
    process = look(pid)
    return process.start_ticks if process else None


def identify(pid: int) -> Identity | None:
    """The identity of the process that has this number now."""
    process = look(pid)
    return process.identity if process else None


def find(identity: Identity) -> Process | None:
    """The process, or None when it is gone and perhaps another one has its number."""
    process = look(identity.pid)
    return process if process and process.start_ticks == identity.start_ticks else None


def life(identity: Identity) -> Life:
    """Whether the process runs, waits to be buried, or is gone."""
    process = find(identity)
    return process.life if process else Life.GONE


def alive(identity: Identity) -> bool:
    """Whether the process can still do anything; a zombie cannot (see `life`)."""
    return life(identity) is Life.ALIVE


# --- the tree -----------------------------------------------------------------------------------------------


def tree(keeper: Identity | None, mark: str, known: frozenset[Identity] = frozenset()) -> tuple[Process, ...]:
    """Every living process of an attempt, parents before children.

    `known` are processes recorded as the attempt's while it ran. Never the caller, never the keeper. Another user's
    process belongs to the attempt by descent or by name only: its marks could be anybody's.
    """
    everyone = snapshot()
    present = {identity.pid for identity in known if here(everyone, identity)}
    members = present | marked(everyone, mark) | led(everyone, known | ({keeper} if keeper else set()))
    if keeper and here(everyone, keeper):
        members.add(keeper.pid)
    members = descendants(everyone, members) - ({keeper.pid} if keeper else set())
    living = [everyone[pid] for pid in members if everyone[pid].life is Life.ALIVE]
    return tuple(with_cmdline(process) for process in sorted(living, key=age))


@dataclass(frozen=True, slots=True)
class Work:
    """What processes have done since they began."""

    cpu_s: float
    io_bytes: int | None
    """Read and written (COUNTED); network file systems count too. None: of a process that lives nobody may know."""


def work(pids: Iterable[int]) -> Work:
    """The sums over these processes; what has gone meanwhile counts nothing."""
    cpu, moved, hidden = 0, 0, False
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            cpu += int(fields[11]) + int(fields[12])
            try:
                lines = Path(f"/proc/{pid}/io").read_text().splitlines()
            except PermissionError:
                hidden = True
                continue
            moved += sum(int(line.split()[1]) for line in lines if line.startswith(COUNTED))
    return Work(cpu / os.sysconf("SC_CLK_TCK"), None if hidden else moved)


def running(pids: Iterable[int]) -> bool:
    """Whether any thread of these processes runs, or waits for a processor to run on."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{pid}/task/{thread}/stat").read_bytes()
                    if stat.rpartition(b")")[2].split()[:1] == [b"R"]:
                        return True
    return False


def held(tree: Iterable[Process]) -> bool:
    """Whether somebody has stopped all of these processes, or looks into one of them with a debugger."""
    states = [process.state for process in tree]
    return "t" in states or (bool(states) and all(state == "T" for state in states))


def age(process: Process) -> tuple[int, int]:
    """Orders a tree: a parent by birth is never younger than its child."""
    return process.start_ticks, process.pid


def snapshot() -> dict[int, Process]:
    """Everyone on this machine, as far as /proc shows them to us."""
    found = (look(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return {process.pid: process for process in found if process}


def here(everyone: dict[int, Process], identity: Identity) -> bool:
    """Whether the process itself is there, and not one that has got its number."""
    process = everyone.get(identity.pid)
    return process is not None and process.identity == identity


def led(everyone: dict[int, Process], leaders: Iterable[Identity]) -> set[int]:
    """Processes in a session or group that one of the leaders leads or led.

    The kernel gives a number to nobody else while a session or group bears it, so a dead leader's still tells.
    """
    numbers = {leader.pid for leader in leaders if leader.pid not in everyone or here(everyone, leader)}
    return {
        process.pid
        for process in everyone.values()
        if (process.session in numbers or process.group in numbers) and is_ours(process.pid)
    }


def marked(everyone: dict[int, Process], mark: str) -> set[int]:
    """Processes of ours whose environment carries the attempt's mark."""
    entry = f"{wire.ENV_MARK}={mark}".encode()
    return {pid for pid in everyone if entry in environment(pid) and is_ours(pid)}


def environment(pid: int) -> list[bytes]:
    """The environment that a process was executed with; empty where we may not look (kernel threads have none)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read().split(b"\0")
    except OSError:
        return []


def is_ours(pid: int) -> bool:
    """Whether the process runs as our user. Not the owner of /proc/pid: that is root for any undumpable process."""
    try:
        with open(f"/proc/{pid}/status", "rb") as stream:
            uids = next(line.split()[1:3] for line in stream if line.startswith(b"Uid:"))
    except (OSError, StopIteration):
        return False
    return str(os.geteuid()).encode() in uids


def descendants(everyone: dict[int, Process], roots: Iterable[int]) -> set[int]:
    """The roots and all that descend from them, but nothing below the caller: its helpers are not the job's."""
    children: dict[int, list[int]] = {}
    for process in everyone.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid != os.getpid()]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += [child for child in children.get(pid, []) if child != os.getpid()]
    return found


def with_cmdline(process: Process) -> Process:
    """The process with the beginning of its command line, as it is: whoever writes it down masks secrets."""
    try:
        with open(f"/proc/{process.pid}/cmdline", "rb") as stream:
            words = stream.read(4 * SHOWN_ARGUMENTS).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        words = ""
    return replace(process, cmdline=words[:SHOWN_ARGUMENTS] or f"[{process.name}]")


# --- signals ------------------------------------------------------------------------------------------------


def send(identity: Identity, signum: int) -> bool:
    """Signal this process and no other that may have got its number; whether it was delivered to a living one.

    A pidfd holds on to the process between the check of its start time and the signal. Without one the gap between
    the two is microseconds, in which the process would have to end and its number come round.
    """
    pidfd = open_pidfd(identity.pid)
    if pidfd is None:
        return alive(identity) and kill(identity.pid, signum)
    try:
        if not alive(identity):
            return False
        signal.pidfd_send_signal(pidfd, signum)
        return True
    except ProcessLookupError:
        return False
    except OSError:  # sandboxes may give the descriptor and refuse the call
        return alive(identity) and kill(identity.pid, signum)
    finally:
        os.close(pidfd)


def open_pidfd(pid: int) -> int | None:
    """A descriptor of the process; None where kernel, sandbox or switch give none, or nobody has the number."""
    if os.environ.get(NO_PIDFD) == "1" or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def kill(pid: int, signum: int) -> bool:
    """The plain signal; False when nobody is there or it is not ours to signal."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


# --- where we are -------------------------------------------------------------------------------------------


def boot_id() -> str | None:
    """The kernel's name for this boot: pids, ticks and monotonic times of another one mean nothing here."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return None


def namespace_inode(kind: str) -> int | None:
    """Names the namespace (`pid`, `net`, ...) that we are in, within one boot of one host."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino
    except OSError:
        return None
