"""Go on behind the back of the terminal: the process forks, the child lives in a session of its own.

The parent stays until the child has said how it began, and passes its words on; the child never waits for the parent.
Only to be done while the process has a single thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FIRST_FREE = 3
FD_MOST = 1 << 20


@dataclass(slots=True)
class Child:
    """We are the one that goes on."""

    _link: int | None

    def tell(self, message: dict[str, object]) -> None:
        """Say something to the parent; where it is gone or was told the last word, nobody hears it."""
        if self._link is not None:
            try:
                os.write(self._link, json.dumps(message).encode("ascii") + b"\n")
            except OSError:
                self.close()

    def close(self) -> None:
        """That was the last word."""
        if self._link is not None:
            link, self._link = self._link, None
            os.close(link)


@dataclass(frozen=True, slots=True)
class Parent:
    """We are the one that returns to the terminal."""

    pid: int
    """Of the child."""
    _link: int

    def messages(self) -> Iterator[dict[str, object]]:
        """What the child says, to its last word."""
        with os.fdopen(self._link, "rb") as file:
            for line in file:
                yield json.loads(line)


def detach() -> Child | Parent:
    """Fork. The child has no terminal, reads nothing, and holds nothing open that was open before.

    What is open at a terminal's end (an ssh that waits for the last holder) must not wait for the run. Its output still
    goes where ours goes, until `write_to`.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Parent(pid, ours)
    os.setsid()
    link = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
    os.closerange(FIRST_FREE, link)
    os.closerange(link + 1, FD_MOST)
    with contextlib.closing(_Open("/dev/null", os.O_RDONLY)) as null:
        os.dup2(null.fd, 0)
    return Child(link)


def write_to(path: Path) -> None:
    """From now on our output is appended to this file, which is for its owner alone. Raises OSError."""
    with contextlib.closing(_Open(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)) as file:
        os.fchmod(file.fd, 0o600)
        os.dup2(file.fd, 1)
        os.dup2(file.fd, 2)


class _Open:
    """A descriptor for as long as it is needed."""

    def __init__(self, path: str, flags: int) -> None:
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        os.close(self.fd)
