"""Stand between the supervisor and the job: the supervisor may die, the job's story may not.

A script, started by keeping.py as `python -I -S keeper.py`, that imports nothing of guardian and little of the library:
it must be there in milliseconds and stay small for days. It waits for one JSON line on its standard input, the
specification: "socket" (an abstract address without its NUL), "dir" (the attempt's folder), "argv", "env", "cwd",
"joblog" (a name in that folder), "limits" ({"nofile": "hard"} raises that soft limit as far as it goes). Bytes that are
not UTF-8 come as surrogates. No line, no job: it leaves silently.

Then, in this order: hold the socket (that is the attempt's lock: the kernel releases it however we go), open the job's
log, start the job, reap every process of its tree, tell each event to whoever is connected and to whoever connects
later, and leave when no process of the tree is left. The launcher's exit is not the end: torchrun's ranks outlive a
killed agent, and as a child subreaper we inherit them.

While nobody listens no guardian lives that gives the run's ballast back when the disk fills up: then the keeper does.

Nobody can command it: what clients send is thrown away, and signals meant for the supervisor do not end it. The way to
end a job is to end its tree; the keeper follows.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import time

# The same names as in guardian/core/wire.py, which cannot be imported from here; a test compares them.
LAUNCHER_EXIT = "launcher_exit.json"
TREE_END = "tree_end.json"

LEASE = b"lease"
COMPLAINT = b"keeper.err"
LEASE_S = 30.0
RECORD_RETRY_S = 1.0
# Who hears of an end writes it down too, and starts the next attempt: behind our record on the same disk that takes
# twice as long. Until it is written we live, and tell it to whoever comes.
LISTENERS_FIRST_S = 0.05
# An end that cannot be written is held in memory, and told on the socket, for a day.
LINGER_S = 86_400.0
MAX_CLIENTS = 16

# The same as in disk.py, which tells what they are; a test compares them.
BALLAST = b"ballast"
PIECES = 8
LOW = 4
SCARCE = 4
PAGE = 4096
EVERY_S = 1.0
HURRIED_S = 0.1

EXIT_REFUSED = 3
EXIT_NOT_STARTED = 4

# Meant for the supervisor's terminal, or sent in haste (USR1 and USR2 ask trainers for a save): none ends the attempt.
IGNORED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "PIPE", "XCPU", "XFSZ", "TSTP", "TTIN", "TTOU")

# linux/prctl.h
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


class StartError(Exception):
    """The job could not be started; no process of it ever ran."""

    def __init__(self, text: str, *, file: bytes, number: int | None = None) -> None:
        super().__init__(text)
        self.file = file
        self.number = number


class Story:
    """What has happened so far, and who listens; a newcomer hears it from the beginning."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.clients: dict[int, socket.socket] = {}

    def tell(self, event: str, **fields: object) -> bytes:
        """Add an event, stamp it, send it to everybody, and return its line for the record."""
        stamped = {"ev": event, **fields, "t": time.time(), "m": time.monotonic()}
        line = json.dumps(stamped).encode() + b"\n"
        self.lines.append(line)
        for number in list(self.clients):
            self.send(number, line)
        return line

    def admit(self, client: socket.socket) -> None:
        """Take a listener in and catch it up."""
        client.settimeout(0)
        self.clients[client.fileno()] = client
        self.send(client.fileno(), b"".join(self.lines))

    def send(self, number: int, data: bytes) -> None:
        """Send without waiting: a listener that cannot take a few hundred bytes is dropped, it can come again."""
        try:
            if self.clients[number].send(data) == len(data):
                return
        except OSError:
            pass  # gone, or its buffer is full
        self.drop(number)

    def listen_to(self, number: int) -> None:
        """Notice a listener that left; what it said is not for us."""
        try:
            if self.clients[number].recv(4096):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.drop(number)

    def drop(self, number: int) -> None:
        """Forget a listener."""
        self.clients.pop(number).close()


class Records:
    """End records on their way to the disk; one that does not fit today is tried again tomorrow."""

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self.waiting: dict[str, bytes] = {}
        self.due = 0.0

    def add(self, name: str, data: bytes, *, heard: bool) -> None:
        """Take a record in; one that somebody has heard is written a little later."""
        self.waiting[name] = data
        self.due = time.monotonic() + (LISTENERS_FIRST_S if heard else 0.0)

    def flush(self) -> None:
        """Write what waits, if it is time, in order and as far as the disk lets us."""
        if time.monotonic() < self.due:
            return
        for name, data in list(self.waiting.items()):
            try:
                write_record(self.folder, name, data)
            except OSError:
                self.due = time.monotonic() + RECORD_RETRY_S
                return
            del self.waiting[name]

    def patience(self) -> float:
        """Return the seconds until something is to be written."""
        return max(0.0, self.due - time.monotonic()) if self.waiting else LEASE_S

    def hopeless(self) -> bool:
        """Whether the folder itself is gone, so that no patience helps."""
        return not os.path.isdir(self.folder)


class Ballast:
    """Room on the run folder's disk that guardian has reserved: two folders above an attempt's."""

    def __init__(self, folder: bytes) -> None:
        self.path = os.path.join(folder, b"..", b"..", BALLAST)
        self.whole = 0

    def look(self) -> float:
        """Give back where little is free, as guardian would. The seconds until the next look."""
        try:
            held = os.lstat(self.path).st_size
            room = os.statvfs(self.path)
            self.whole = max(self.whole, held)
            free = room.f_bavail * room.f_frsize
            if held and free < self.whole // LOW:
                piece = max(self.whole // PIECES, PAGE)
                pieces = -((free - self.whole // LOW) // piece)
                os.truncate(self.path, max(0, held - pieces * piece))
        except OSError:
            return EVERY_S
        return HURRIED_S if held and free < SCARCE * self.whole else EVERY_S


class Tree:
    """The processes we have to wait for, as far as waiting tells."""

    def __init__(self, launcher: int) -> None:
        self.launcher = launcher
        self.status: int | None = None
        self.reaped = 0
        self.ended = False

    def reap(self) -> None:
        """Take in every process that has ended since the last look.

        No child at all is an empty tree: when a parent dies the kernel hands its children to us before it lets us
        wait for the parent, so there is no moment in which the tree merely looks empty.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.ended = True
                return
            if pid == 0:
                return
            self.reaped += 1
            # Only once: afterwards the number may go to another process of the tree.
            if pid == self.launcher and self.status is None:
                self.status = status


def main() -> int:
    """Wait for a specification, then keep its job."""
    for name in IGNORED:
        signal.signal(getattr(signal, "SIG" + name), signal.SIG_IGN)
    subreaper = become_subreaper()
    line = read_line(0)
    if line is None:
        return 0
    spec = json.loads(line)
    story = Story()
    admit_starter(story)
    try:
        return keep(spec, story, subreaper=subreaper)
    except Exception:
        complain_in(encoded(spec["dir"]))
        raise


def complain_in(folder: bytes) -> None:
    """Let the traceback of our own mistake be found beside the job's log; until now nobody reads our standard error."""
    number = os.open(os.path.join(folder, COMPLAINT), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(number, 2)


def become_subreaper() -> bool:
    """Make orphans of the tree our children; False where that fails, and then an "empty" tree is only a claim.

    The name is for `pkill python`, by which people free their GPUs: it shall reach the job and not the one who tells
    how the job ended.
    """
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(PR_SET_NAME, b"guardian-keeper")
        return bool(prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)) == 0)
    except (OSError, AttributeError):
        return False


def read_line(source: int) -> bytes | None:
    """Read up to the first newline; None when the other side went away before it."""
    got = bytearray()
    while not got.endswith(b"\n"):
        try:
            piece = os.read(source, 1 << 16)
        except ConnectionError:
            return None
        if not piece:
            return None
        got += piece
    return bytes(got)


def admit_starter(story: Story) -> None:
    """Make our standard input, a socket when keeping.py started us, the first listener, and read /dev/null instead."""
    try:
        starter = socket.socket(fileno=os.dup(0))
    except OSError:
        starter = None  # started by hand, from a pipe
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if starter is not None:
        story.admit(starter)


def keep(spec: dict[str, object], story: Story, *, subreaper: bool) -> int:
    """Hold the lock, start the job, and stay until nothing of it is left."""
    address = str(spec["socket"])
    try:
        lock = hold(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        story.tell("refused", held=taken, error=f"{address}: {error.strerror}")
        return EXIT_REFUSED
    folder = encoded(spec["dir"])
    records = Records(folder)
    wake = wake_on_child()
    try:
        launcher = launch(spec, folder)
    except StartError as error:
        file = text(error.file)
        story.tell("start_failed", file=file, error=str(error), errno=error.number)
        failed = f"{file}: {error}"
        told = story.tell("tree_end", reaped=0, subreaper=subreaper, start_failed=failed)
        records.add(TREE_END, told, heard=bool(story.clients))
        stay(lock, wake, story, records)
        return EXIT_NOT_STARTED
    story.tell("started", pid=launcher, start_ticks=start_ticks(launcher), keeper=os.getpid(), subreaper=subreaper)
    spare_us()
    tree = Tree(launcher)
    watch(tree, lock, wake, story, records, subreaper=subreaper)
    stay(lock, wake, story, records)
    return 0


def hold(address: str) -> socket.socket:
    """Bind the abstract address: only one process in this network namespace can."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    lock.bind("\0" + address)
    lock.listen(MAX_CLIENTS)
    lock.settimeout(0)
    return lock


def wake_on_child() -> int:
    """Return a descriptor that becomes readable when a child has changed."""
    wake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wake


def launch(spec: dict[str, object], folder: bytes) -> int:
    """Start the job with its log as output and everything else as if we were not there."""
    argv = encoded_list(spec["argv"])
    env = encoded_dict(spec["env"])
    log = open_log(os.path.join(folder, encoded(spec["joblog"])))
    renew_lease(folder)
    raise_limits(spec.get("limits"))
    cwd = encoded(spec["cwd"])
    try:
        os.chdir(cwd)
    except (OSError, ValueError) as error:
        raise start_error(error, cwd, what="cannot be the job's folder: ") from error
    try:
        return spawn(argv, env, log)
    finally:
        os.close(log)
        os.chdir("/")


def open_log(path: bytes) -> int:
    """Open the job's log for appending: a file, because a pipe would kill the job when its reader dies."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except (OSError, ValueError) as error:
        raise start_error(error, path, what="cannot be the job's log: ") from error


def raise_limits(limits: object) -> None:
    """Raise our own soft limits, which the job inherits; one that cannot be raised is the job's to meet.

    "hard" is as far as anyone may go without privileges. We live on with it: the next attempt has its own keeper.
    """
    if not limits or not isinstance(limits, dict):
        return
    import resource  # noqa: PLC0415 - few launches need it, and every keeper keeps what it has loaded

    for name, value in limits.items():
        if value != "hard":
            raise StartError(f"cannot be a limit of {name}: only hard is known", file=encoded(value))
        number = getattr(resource, "RLIMIT_" + name.upper(), None)
        if number is None:
            raise StartError("is no limit that is known here", file=encoded(name))
        try:  # noqa: SIM105 - contextlib is one more module to load
            resource.setrlimit(number, (resource.getrlimit(number)[1],) * 2)
        except (OSError, ValueError):
            pass  # the hard limit itself is beyond what the kernel now allows (fs.nr_open was lowered)


def spawn(argv: list[bytes], env: dict[bytes, bytes], log: int) -> int:
    """Start argv as a shell would: found on its own PATH, run by sh where it is text without a "#!" line."""
    if not argv:
        raise StartError("no command is given", file=b"argv")
    program = find_program(argv[0], env)
    try:
        return spawn_file(program, argv, env, log)
    except OSError as error:
        if error.errno == errno.ENOEXEC and is_text(program):
            return spawn_file(b"/bin/sh", [b"sh", program, *argv[1:]], env, log)
        raise start_error(error, program) from error
    except ValueError as error:  # a NUL in an argument, a "=" in a name
        raise start_error(error, program) from error


def spawn_file(program: bytes, argv: list[bytes], env: dict[bytes, bytes], log: int) -> int:
    """Start one program file.

    All our other descriptors are close-on-exec. The group is the job's own, so that a job that signals "its group"
    does not signal us; the session stays ours, so that whatever lost its parents can still be recognised by it.
    Python ignores SIGPIPE and SIGXFSZ and we ignore more: the job gets every signal back as the kernel gives it.
    """
    return os.posix_spawn(
        program,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
        setpgroup=0,
        setsigmask=[],
        setsigdef=signal.valid_signals(),
    )


def find_program(name: bytes, env: dict[bytes, bytes]) -> bytes:
    """Find the file that execvp would run, by the PATH that the job gets and not by ours."""
    if b"/" in name:
        return name
    path = env.get(b"PATH", os.defpath.encode())
    places = [os.path.join(folder or b".", name) for folder in path.split(b":")] if name else []
    found = [place for place in places if os.path.isfile(place)]
    for place in found:
        if os.access(place, os.X_OK):
            return place
    if found:
        raise StartError(os.strerror(errno.EACCES), file=found[0], number=errno.EACCES)
    raise StartError(f"command not found on PATH={text(path)}", file=name, number=errno.ENOENT)


def start_error(error: Exception, file: bytes, *, what: str = "") -> StartError:
    """Say which file the system refused, and what it leaves unsaid when a script's interpreter is missing."""
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number else str(error)
    if number == errno.ENOENT and os.path.isfile(file):
        reason = f"its interpreter was not found: {text(first_line(file))}"
    return StartError(what + reason, file=file, number=number)


def is_text(program: bytes) -> bool:
    """Whether a file that the kernel cannot execute is for the shell (bash asks the same of the first line)."""
    return b"\0" not in first_line(program)


def first_line(file: bytes) -> bytes:
    """Read the beginning of a file, as far as it can be read."""
    try:
        with open(file, "rb") as stream:
            return stream.readline(256).rstrip(b"\n")
    except OSError:
        return b""


def spare_us() -> None:
    """Ask the kernel's memory killer to pass us over, where we may ask.

    -1000 is respected even when it ends a whole cgroup (memory.oom.group), and then only we can tell how the job ended.
    After the start of the job, which would inherit it.
    """
    try:
        with open("/proc/self/oom_score_adj", "w") as stream:
            stream.write("-1000")
    except OSError:
        pass


def watch(tree: Tree, lock: socket.socket, wake: int, story: Story, records: Records, *, subreaper: bool) -> None:
    """Reap and tell until the tree is empty."""
    lease_due = time.monotonic() + LEASE_S
    ballast = Ballast(records.folder)
    told = False
    while True:
        tree.reap()
        if tree.status is not None and not told:
            told = True
            line = story.tell("launcher_exit", pid=tree.launcher, **how(tree.status))
            records.add(LAUNCHER_EXIT, line, heard=bool(story.clients))
        if tree.ended:
            line = story.tell("tree_end", reaped=tree.reaped, subreaper=subreaper)
            records.add(TREE_END, line, heard=bool(story.clients))
            return
        records.flush()
        if time.monotonic() >= lease_due:
            renew_lease(records.folder)
            lease_due = time.monotonic() + LEASE_S
        alone = LEASE_S if story.clients else ballast.look()
        wait(min(records.patience(), max(0.0, lease_due - time.monotonic()), alone), lock, wake, story)


def stay(lock: socket.socket, wake: int, story: Story, records: Records) -> None:
    """Stay until the end is on the disk, or has been held for a day, and answer who comes meanwhile."""
    until = time.monotonic() + LINGER_S
    records.flush()
    while records.waiting and not records.hopeless() and time.monotonic() < until:
        wait(records.patience(), lock, wake, story)
        records.flush()
    greet(lock, story)


def wait(seconds: float, lock: socket.socket, wake: int, story: Story) -> None:
    """Sleep until a child changes, a listener comes or goes, or the time is over."""
    poll = select.poll()
    for number in (wake, lock.fileno(), *story.clients):
        poll.register(number, select.POLLIN)
    for number, _ in poll.poll(seconds * 1000 + 1):
        if number == wake:
            drain(wake)
        elif number == lock.fileno():
            greet(lock, story)
        else:
            story.listen_to(number)


def drain(wake: int) -> None:
    """Empty the wake-up pipe; one look at the children answers any number of signals."""
    try:
        while os.read(wake, 4096):
            pass
    except BlockingIOError:
        pass


def greet(lock: socket.socket, story: Story) -> None:
    """Take in everyone who waits at the door and belongs to us."""
    while True:
        try:
            client, _ = lock.accept()
        except OSError:
            return
        if len(story.clients) < MAX_CLIENTS and uid_of(client) in (0, os.getuid()):
            story.admit(client)
        else:
            client.close()


def uid_of(client: socket.socket) -> int:
    """Return the user at the other end, as the kernel knows him: struct ucred is pid, uid, gid."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)


def how(status: int) -> dict[str, int | None]:
    """Split a wait status into exit code and signal; one of the two is None."""
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}


def write_record(folder: bytes, name: str, data: bytes) -> None:
    """Write a file so that its name never shows half of it, not even after a power cut."""
    path = os.path.join(folder, name.encode())
    temporary = path + b".tmp"
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(number, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(number)
    finally:
        os.close(number)
    os.rename(temporary, path)
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def renew_lease(folder: bytes) -> None:
    """Show other hosts, which cannot see our socket, that the tree lives; a failure shows by the file growing old."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        number = os.open(os.path.join(folder, LEASE), flags, 0o600)
    except OSError:
        return
    try:
        os.utime(number)
    except OSError:
        pass
    finally:
        os.close(number)


def start_ticks(pid: int) -> int | None:
    """Read when a process was started, in ticks since boot: with the pid, its name for ever (proc(5), field 22)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            return int(stream.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def encoded(value: object) -> bytes:
    """Turn a text of the specification into the bytes that it stands for."""
    return str(value).encode("utf-8", "surrogateescape")


def encoded_list(value: object) -> list[bytes]:
    """Turn the arguments into bytes."""
    return [encoded(item) for item in value] if isinstance(value, list) else []


def encoded_dict(value: object) -> dict[bytes, bytes]:
    """Turn the environment into bytes."""
    return {encoded(name): encoded(item) for name, item in value.items()} if isinstance(value, dict) else {}


def text(value: bytes) -> str:
    """Make bytes printable in a message."""
    return value.decode("utf-8", "backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
