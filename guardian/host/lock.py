"""One guardian per run: a lock that the kernel releases when its holder is gone, however it went.

The lock is an flock on `guardian.lock` in the run folder; what stands in that file only names the holder, and is
believed only while the lock is held. Nobody waits for a run: who finds it held says by whom, and goes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from guardian.core.values import dataclass
from guardian.errors import HostError
from guardian.host import machine, processes

FILE = "guardian.lock"
TEXT_MOST = 4096
PATIENCE_S = 0.5
"""A look at who holds the lock takes it, shared, for microseconds: that is no reason to be turned away."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a run in hand; a pid means something only with the rest."""

    host: str
    boot: str
    pid_namespace: int | None
    """Inode of its pid namespace."""
    pid: int
    start_ticks: int | None

    def __str__(self) -> str:
        return f"guardian pid {self.pid} on {self.host}"


class RunLock:
    """A held lock; it ends with `release` or with the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, folder: Path) -> RunLock:
        """Lock a run. Raises HostError naming the holder, or why there is no locking."""
        try:
            fd = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"run {folder.name} cannot be locked: {folder / FILE}: {error.strerror}") from error
        try:
            _lock(fd, folder)
            _sign(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd)

    def release(self) -> None:
        """Let another guardian have the run."""
        os.close(self._fd)


def holder(folder: Path) -> Holder | None:
    """Who holds a run now; None when nobody does, or when there is no such lock to look at."""
    try:
        fd = os.open(folder / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(fd) or Holder("an unknown host", "", None, 0, None)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _lock(fd: int, folder: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(PATIENCE_S / 10)
                continue
            raise HostError(f"run {folder.name} is in use by {_named(fd) or 'another guardian'}") from None
        except OSError as error:
            why = "its file system has no locks" if error.errno in NO_LOCKS else error.strerror
            raise HostError(f"run {folder.name} cannot be locked: {folder / FILE}: {why}") from error
        return


def _sign(fd: int) -> None:
    """Say who we are. A text that cannot be written (a full disk) names nobody, and the lock holds all the same."""
    us = Holder(
        host=machine.node(),
        boot=machine.boot_id(),
        pid_namespace=processes.namespace_inode("pid"),
        pid=os.getpid(),
        start_ticks=processes.start_ticks(os.getpid()),
    )
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asdict(us)).encode() + b"\n", 0)
    except OSError:
        return


def _named(fd: int) -> Holder | None:
    """What the lock file says; None where it says nothing that can be read."""
    try:
        said = json.loads(os.pread(fd, TEXT_MOST, 0))
        return Holder(
            host=str(said["host"]),
            boot=str(said["boot"]),
            pid_namespace=said["pid_namespace"],
            pid=int(said["pid"]),
            start_ticks=said["start_ticks"],
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
