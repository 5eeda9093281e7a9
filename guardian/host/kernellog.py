"""The kernel's log (/dev/kmsg), where we may read it. Only what the kernel itself says: programs may write there too.

Its pids are those of the whole machine: in a pid namespace of its own they are nobody's (`our_pids`).
"""

from __future__ import annotations

import os
import re
import time

from guardian.core.values import dataclass
from guardian.core.victims import Kill

FILE = "/dev/kmsg"
RECORD = 8192
"""The longest record that the kernel gives."""
READ_MOST = 2000
"""Records at one time: a kernel that floods its log shall not keep us."""
TEXT_MOST = 1000
INITIAL_PIDS = 0xEFFFFFFC
"""The inode of the first pid namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""
_KILLED = re.compile(r"\bKilled process (?P<pid>\d{1,10})(?:, UID \d+,)? \((?P<name>.{0,16}?)\)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the kernel's log."""

    wall: float
    text: str


class KernelLog:
    """Reads on from where it was; what was there before comes first. Where it may not be read nothing ever comes."""

    def __init__(self, path: str = FILE) -> None:
        self._fd: int | None = None
        self._caught_up = False
        self.problem: str | None = None
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.problem = error.strerror or str(error)

    def read(self) -> list[Entry]:
        """The lines that are new."""
        found: list[Entry] = []
        for _ in range(READ_MOST):
            raw = self._record()
            if raw is None:
                self._caught_up = True
                break
            entry = parse(raw, None if not self._caught_up else time.time())
            if entry is not None:
                found.append(entry)
        return found

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _record(self) -> bytes | None:
        """One record; None: there is no more. What was overwritten before we came is lost."""
        while self._fd is not None:
            try:
                return os.read(self._fd, RECORD) or None
            except BrokenPipeError:
                continue
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                self.problem = error.strerror or str(error)
                self.close()
        return None


def parse(raw: bytes, wall: float | None = None) -> Entry | None:
    """A record of Documentation/ABI/testing/dev-kmsg; None for what a program wrote.

    `wall`: when it was read, if at once: the kernel's own clock goes wrong by seconds in days.
    """
    head, _, text = raw.partition(b";")
    fields = head.split(b",")
    if len(fields) < 3 or not fields[0].isdigit() or int(fields[0]) >> 3 or not fields[2].isdigit():
        return None
    line = text.split(b"\n", 1)[0].decode("utf-8", "replace")[:TEXT_MOST]
    return Entry(time.time() - time.monotonic() + int(fields[2]) / 1e6 if wall is None else wall, line)


def kill(entry: Entry) -> Kill | None:
    """The process that the line says was killed for want of memory."""
    match = _KILLED.search(entry.text)
    return Kill(entry.wall, int(match["pid"]), match["name"]) if match else None


def our_pids() -> bool:
    """Whether the pids that the kernel names are those that we know."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == INITIAL_PIDS
    except OSError:
        return False
