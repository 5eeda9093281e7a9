"""The supervisor's side of the keeper: start one, give it a job, listen to it, find it again.

A keeper tells; it takes no orders. What it tells comes as messages in the order of the story: `Started` (or
`StartFailed`, or `Refused`), `LauncherExit`, `TreeEnd`, and always `KeeperGone` as the last. `KeeperGone` without a
`TreeEnd` before it means that the keeper was lost: look at the end records and at the processes, assume nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from guardian.core import wire
from guardian.core.values import dataclass
from guardian.errors import HostError
from guardian.host import crash, processes

SCRIPT = Path(__file__).resolve().with_name("keeper.py")
# The keeper touches this file of the attempt's folder every 30 s while the tree lives.
LEASE = "lease"
ANSWER_S = 10  # a keeper reads its specification at once, or something is wrong with the machine


@dataclass(frozen=True, slots=True)
class Started:
    """The job's first process runs."""

    pid: int
    start_ticks: int | None
    orphans_kept: bool
    """Whether orphans come to the keeper; if not, its tree's end is only the launcher's."""
    wall_s: float
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The job could not be executed: no process of it ever ran. A `TreeEnd` follows."""

    file: str
    """What the system refused: the program, the folder to run in, or the log."""
    error: str
    """Why, without the file's name."""
    errno: int | None
    wall_s: float
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The keeper could not take the attempt's socket and started nothing."""

    held: bool
    """Another keeper has the attempt: adopt it."""
    error: str


@dataclass(frozen=True, slots=True)
class LauncherExit:
    """The job's first process is gone; its tree may live on."""

    code: int | None
    signal: int | None
    """One of the two is None."""
    wall_s: float
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class TreeEnd:
    """No process of the job is left."""

    reaped: int
    orphans_kept: bool
    wall_s: float
    monotonic_s: float
    start_failed: str | None = None
    """The file and the reason, if no process ever ran."""


@dataclass(frozen=True, slots=True)
class KeeperGone:
    """The keeper has left; the attempt's socket is free."""

    code: int | None
    """Its own exit code, below zero a signal; None: it was not our child."""


KeeperMessage = Started | StartFailed | Refused | LauncherExit | TreeEnd | KeeperGone


@dataclass(frozen=True, slots=True)
class Launch:
    """What a keeper is given: which attempt, and the job exactly as it shall run."""

    run: str
    attempt: int
    folder: Path
    """The attempt's folder; it exists."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment of the job, mark and all."""
    cwd: Path
    limits: tuple[tuple[str, str], ...] = ()
    """Soft resource limits to raise first: ("nofile", "hard") and the like (RLIMIT_* by its name in small letters)."""

    def line(self) -> bytes:
        """The specification as the keeper reads it, the same whatever our locale makes of foreign bytes."""
        spec = {
            "socket": wire.socket_name(os.getuid(), self.run, self.attempt)[1:],
            "dir": portable(str(self.folder.absolute())),
            "argv": [portable(argument) for argument in self.argv],
            "env": {portable(name): portable(value) for name, value in self.env.items()},
            "cwd": portable(str(self.cwd.absolute())),
            "joblog": wire.JOB_LOG,
            "limits": dict(self.limits),
        }
        return json.dumps(spec).encode() + b"\n"


def portable(text: str) -> str:
    """A system string with every byte that is not UTF-8 as a surrogate."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")


class Standby:
    """A new keeper that has paid its interpreter's start and waits for a job; it leaves by itself when we do."""

    def __init__(self) -> None:
        self._link, self._process = start_keeper()

    @property
    def pid(self) -> int:
        return self._process.pid

    def launch(self, job: Launch) -> Keeper:
        """Give it the job. Whether and how that started comes as the first message.

        A keeper that died while it waited is replaced: without the whole line it cannot have started anything.
        """
        line = job.line()
        if not self._give(line):
            self._link, self._process = start_keeper()
            if not self._give(line):
                raise HostError(f"No keeper can be started: {sys.executable} -I -S {SCRIPT} ends at once.")
        return Keeper(self._link, self.pid, run=job.run, attempt=job.attempt, child=self._process)

    def dismiss(self) -> None:
        """Let it go; it has nothing to lose."""
        self._link.close()
        self._process.kill()
        self._process.wait()

    def _give(self, line: bytes) -> bool:
        """Whether it took the line; if not, it is gone."""
        self._link.settimeout(ANSWER_S)
        crash.point()
        try:
            self._link.sendall(line)
        except OSError:
            self.dismiss()
            return False
        crash.point()
        self._link.settimeout(None)
        return True


def start_keeper() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A new keeper, and our end of the line to it.

    Its own session: the terminal's signals, and our end, are not for it. Nothing of ours stays open in it, not even the
    terminal: an ssh that waits for the last one who has it open would wait for the job.
    """
    ours, theirs = socket.socketpair()
    crash.point()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SCRIPT)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise HostError(f"No keeper can be started: {error}.") from error
    crash.point()
    return ours, process


class Keeper:
    """A keeper at work, heard over its socket."""

    def __init__(
        self, link: socket.socket, pid: int, *, run: str, attempt: int, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.identity = processes.identify(pid)
        """None where the keeper's pid means nothing here (another pid namespace) or it is gone already."""
        self.pid = pid
        self._link = link
        self._address = wire.socket_name(os.getuid(), run, attempt)
        self._child = child
        self._closed = False

    def messages(self) -> Iterator[KeeperMessage]:
        """All that it tells, from the start of the attempt, waiting for the next; the last is `KeeperGone`.

        It drops a listener that does not read, a suspended supervisor for one: so the end of the stream alone does not
        mean that it is gone. It tells a newcomer the whole story, of which we skip what we know.
        """
        heard = 0
        over = False
        while not self._closed:
            for number, line in enumerate(lines(self._link), start=1):
                if number <= heard:
                    continue
                heard = number
                message = read_message(line)
                over |= isinstance(message, Refused | TreeEnd)
                if message:
                    yield message
            if over or not self._reconnect():
                break
        if not self._closed:
            yield KeeperGone(self._exit_code())

    def listen(self, post: Callable[[KeeperMessage], None]) -> threading.Thread:
        """Post every message from a thread of its own, until `KeeperGone` or `close`."""
        thread = threading.Thread(target=self._listen, args=(post,), name="keeper", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop listening; the keeper and the job go on."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def _listen(self, post: Callable[[KeeperMessage], None]) -> None:
        for message in self.messages():
            post(message)

    def _reconnect(self) -> bool:
        """Whether it is still there; only the same one will do."""
        self._link.close()
        if self._closed:
            return False
        try:
            found = reach(self._address)
        except HostError:
            return False
        if found is None:
            return False
        link, pid = found
        if pid != self.pid:
            link.close()
            return False
        self._link = link
        return True

    def _exit_code(self) -> int | None:
        self._link.close()
        if self._child is None:
            return None
        try:
            return self._child.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            return None


def connect(uid: int, run: str, attempt: int) -> Keeper | None:
    """The living keeper of an attempt, to be adopted; None when nobody holds the attempt."""
    found = reach(wire.socket_name(uid, run, attempt))
    if found is None:
        return None
    link, pid = found
    return Keeper(link, pid, run=run, attempt=attempt)


def reach(address: str) -> tuple[socket.socket, int] | None:
    """Call at an abstract address: the line and who answered, or None when nobody holds it.

    Anyone may take a free abstract name, so it is asked who did.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bounds the wait of a blocking connect too (socket(7)); Python's own timeout would fail at once at a full queue.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", ANSWER_S, 0))
    try:
        link.connect(address)
    except ConnectionRefusedError:
        link.close()
        return None
    except OSError as error:
        link.close()
        raise HostError(f"The keeper at {address[1:]} does not answer: {error}.") from error
    pid, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid not in {0, os.getuid()}:
        link.close()
        raise HostError(f"The address {address[1:]} is held by a process ({pid}) of another user ({uid}).")
    return link, pid


def lines(link: socket.socket) -> Iterator[bytes]:
    """Complete lines as they come, until the other side is gone or drops us."""
    rest = b""
    while True:
        try:
            got = link.recv(1 << 16)
        except OSError:
            return
        if not got:
            return
        *whole, rest = (rest + got).split(b"\n")
        yield from whole


def read_message(line: bytes) -> KeeperMessage | None:
    """A line of a keeper, perhaps of another version, as a message; None for what we do not know."""
    try:
        told = json.loads(line)
        match told["ev"]:
            case "started":
                return Started(told["pid"], told["start_ticks"], told["subreaper"], told["t"], told["m"])
            case "start_failed":
                return StartFailed(told["file"], told["error"], told["errno"], told["t"], told["m"])
            case "refused":
                return Refused(told["held"], told["error"])
            case "launcher_exit":
                return LauncherExit(told["code"], told["signal"], told["t"], told["m"])
            case "tree_end":
                return TreeEnd(told["reaped"], told["subreaper"], told["t"], told["m"], told.get("start_failed"))
    except (ValueError, KeyError, TypeError):
        pass
    return None


@dataclass(frozen=True, slots=True)
class EndRecords:
    """What a keeper left on the disk about the end of its attempt."""

    launcher: LauncherExit | None
    """None: the first process has not ended, or nobody saw it end."""
    tree_end: TreeEnd | None
    """None: the tree lives, or its keeper died first."""
    unreadable: tuple[str, ...] = ()
    """Records that are there and say nothing."""


def end_records(folder: Path) -> EndRecords:
    """The end of an attempt as its keeper wrote it, for the case that nobody was listening."""
    launcher: LauncherExit | None = None
    tree_end: TreeEnd | None = None
    unreadable = []
    for name in (wire.LAUNCHER_EXIT, wire.TREE_END):
        try:
            message = read_message((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except OSError:
            message = None
        match message:
            case LauncherExit():
                launcher = message
            case TreeEnd():
                tree_end = message
            case _:
                unreadable.append(name)
    return EndRecords(launcher, tree_end, tuple(unreadable))
