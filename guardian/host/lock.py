"""One guardian per run: a lock that the kernel releases when its holder is gone, however it went.

The lock is an flock on `guardian.lock` in the run folder, and what stands in that file names the holder. Where an flock
reaches (one boot of one machine, one pid and one network namespace) it alone decides, at once. Beyond, on a network
file system, it may not be seen, or there may be none at all: there the signature counts as long as it is renewed, and
so does the lease of the run's keeper, whose job lives on without a guardian. Both must have stood still for two minutes
of our own monotonic clock before the run is taken over; that wait is shown, and Ctrl-C ends it. An earlier boot of this
machine has left nobody alive: on a disk of its own, which no other machine writes, there is nothing to wait for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from guardian.core.values import dataclass
from guardian.errors import HostError
from guardian.host import crash, machine, processes
from guardian.host.clock import Clock

FILE = "guardian.lock"
ATTEMPTS = "attempts"
LEASE = "lease"
"""Renewed by the keeper of an attempt (keeper.py), in the attempt's folder."""
TEXT_MOST = 4096
PATIENCE_S = 0.5
"""A look at who holds the lock takes it, shared, for microseconds: that is no reason to be turned away."""
RENEW_S = 30.0
STILL_S = 120.0
"""Four renewals: so long must a foreign signature stand still."""
LOOK_S = 1.0
SAY_S = 10.0
SETTLE_S = 2.0
"""Where there are no locks: after signing, for another one who signs at the same moment."""
LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs"})
"""File systems of one machine at a time; any other may be shared with another one: nfs, lustre, 9p, virtiofs, fuse."""
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a run in hand; a pid means something only with the rest."""

    host: str
    boot: str
    pid_namespace: int | None
    """Inode of its pid namespace."""
    pid: int
    start_ticks: int | None
    network_namespace: int | None = None
    """Its inode; keepers and guardians of another one cannot be called. None: not told."""

    def __str__(self) -> str:
        return f"guardian pid {self.pid} on {self.host}"

    def within_sight(self, us: Holder) -> bool:
        """Whether its locks, processes and sockets are those that we see: the same boot, pids and addresses."""
        same = (self.host, self.boot, self.pid_namespace) == (us.host, us.boot, us.pid_namespace)
        return same and self.network_namespace in {None, us.network_namespace}

    def before_this_boot_of(self, us: Holder) -> bool:
        """Whether it ran on our machine before that was started anew, as far as the names tell."""
        known = machine.UNKNOWN_BOOT not in {self.boot, us.boot}
        return known and self.host == us.host and self.boot != us.boot

    def alive(self) -> bool:
        """Whether it lives, as far as `within_sight`; another process of the same number is not it."""
        return self.start_ticks is not None and processes.start_ticks(self.pid) == self.start_ticks


class RunLock:
    """A held lock; it ends with `release` or with the process."""

    def __init__(self, fd: int, folder: Path) -> None:
        self._fd = fd
        self._folder = folder

    @classmethod
    def take(cls, folder: Path, *, clock: Clock | None = None, say: Say | None = None) -> RunLock:
        """Lock a run. Raises HostError naming the holder.

        `say` hears, every ten seconds, what a foreign signature is waited for.
        """
        try:
            fd = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"run {folder.name} cannot be locked: {folder / FILE}: {error.strerror}") from error
        try:
            _take(fd, folder, clock or Clock(), say or (lambda _: None))
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, folder)

    def renew(self) -> None:
        """Show those who cannot see the lock that we live. Raises HostError where another one has taken the run over.

        That is so when we were stopped for minutes, or cut off from the file system.
        """
        named = _named(self._fd)
        if named is not None and named != _us():
            raise HostError(f"run {self._folder.name} was taken over by {named}: this guardian lets go of it")
        with contextlib.suppress(OSError):
            os.utime(self._fd)

    def release(self) -> None:
        """Let another guardian have the run; the emptied signature tells it that there is nothing to wait for."""
        if _named(self._fd) == _us():
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
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
        named = _named(fd)
        return named if named is not None and (not named.within_sight(_us()) or named.alive()) else None
    finally:
        os.close(fd)
    return None


def _take(fd: int, folder: Path, clock: Clock, say: Say) -> None:
    locked = _flock(fd, folder, clock)
    before = _named(fd)
    us = _us()
    if before is not None and before.within_sight(us):
        if not locked and before.alive():
            raise HostError(f"run {folder.name} is in use by {before}")
    elif before is not None and not (before.before_this_boot_of(us) and machine.file_system(fd) in LOCAL):
        _wait_still(fd, folder, before, clock, say)
    _sign(fd, us)
    if not locked:
        # Nothing keeps two from signing at once: the one whose signature stands has the run.
        clock.sleep(SETTLE_S)
        now = _named(fd)
        if now != us:
            raise HostError(f"run {folder.name} is in use by {now or 'another guardian'}")


def _flock(fd: int, folder: Path, clock: Clock) -> bool:
    """Whether we have the lock; False where the file system has none. Raises HostError while another one has it."""
    until = clock.mono() + PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock.mono() < until:
                clock.sleep(PATIENCE_S / 10)
                continue
            raise HostError(f"run {folder.name} is in use by {_named(fd) or 'another guardian'}") from None
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise HostError(f"run {folder.name} cannot be locked: {folder / FILE}: {error.strerror}") from error
        return True


def _wait_still(fd: int, folder: Path, before: Holder, clock: Clock, say: Say) -> None:
    """Wait until neither the signature nor the lease has moved for long enough. Raises HostError when one moves."""
    needed = crash.stillness_s(STILL_S)
    begun, seen = clock.mono(), _signs(fd, folder)
    said = begun - SAY_S
    while (stood := clock.mono() - begun) < needed:
        if clock.mono() - said >= SAY_S:
            said = clock.mono()
            left = f"{needed - stood:.0f} s more without a sign of life, and it is taken over (Ctrl-C leaves it)"
            say(f"run {folder.name} is signed by {before}, which cannot be seen from here: {left}")
        clock.sleep(LOOK_S)
        now = _signs(fd, folder)
        if now[0] != seen[0]:
            raise HostError(f"run {folder.name} is in use by {_named(fd) or before}")
        if now[1] != seen[1]:
            raise HostError(f"run {folder.name} has a job that lives on {before.host}: take it over there")


def _signs(fd: int, folder: Path) -> tuple[object, object]:
    """What moves while the holder lives, and what moves while its job does: content and times of change."""
    # Opened anew: so a network file system asks its server.
    with contextlib.suppress(OSError):
        os.close(os.open(folder / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    signed: object = None
    with contextlib.suppress(OSError):
        signed = (os.pread(fd, TEXT_MOST, 0), os.fstat(fd).st_mtime_ns)
    return signed, _lease(folder)


def _lease(folder: Path) -> tuple[str, int] | None:
    """Which attempt's lease is the newest one, and when it was renewed."""
    try:
        for name in sorted(os.listdir(folder / ATTEMPTS), reverse=True):
            with contextlib.suppress(OSError):
                return name, os.stat(folder / ATTEMPTS / name / LEASE, follow_symlinks=False).st_mtime_ns
    except OSError:
        pass
    return None


def _us() -> Holder:
    return Holder(
        host=machine.node(),
        boot=machine.boot_id(),
        pid_namespace=processes.namespace_inode("pid"),
        pid=os.getpid(),
        start_ticks=processes.start_ticks(os.getpid()),
        network_namespace=processes.namespace_inode("net"),
    )


def _sign(fd: int, us: Holder) -> None:
    """Say who we are. A text that cannot be written (a full disk) names nobody, and the lock holds all the same."""
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
            network_namespace=said.get("network_namespace"),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
