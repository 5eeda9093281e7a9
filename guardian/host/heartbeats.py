"""The heartbeat files of an attempt: which there are, and all that they say, told again in the order of the steps.

The ranks' files are merged as they are read, a line of each at a time, so that a million steps take no more memory
than ten. A rank's own lines keep their order; among the ranks, earlier steps come first.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from pathlib import Path

from guardian.core import events as ev
from guardian.core import hearing, wire

NAME = re.compile(re.escape(wire.HEARTBEAT).replace(re.escape("{rank}"), r"(0|[1-9]\d{0,6})"))
BUFFER = 64 * 1024

_Place = tuple[int, int]
"""(training loop, step): where in the story a line stands."""


def files(folder: Path) -> dict[int, Path]:
    """The heartbeat files of an attempt's folder by rank. Raises OSError when it cannot be listed."""
    found = ((NAME.fullmatch(name), name) for name in os.listdir(folder))
    return {int(match[1]): folder / name for match, name in sorted(found, key=lambda one: one[1]) if match}


def open_file(path: Path) -> int:
    """A descriptor of a plain file that a job wrote, and of nothing else. Raises OSError.

    The folder is the job's to write: a link there may lead anywhere, a FIFO would block its reader for ever.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if os.fstat(fd).st_mode & 0o170000 != 0o100000:
        os.close(fd)
        raise OSError(f"{path} is not a plain file")
    return fd


class Replay:
    """Everything that an attempt's heartbeats say; iterate once."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.offsets: dict[int, int] = {}
        """How far each rank's file has been read: a follower goes on from there."""
        self._attempt = attempt
        self._folder = folder

    def __iter__(self) -> Iterator[ev.Event]:
        """What cannot be read is told as lost."""
        try:
            found = files(self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            yield ev.SourceLost("heartbeats", why(error), self._attempt)
            return
        ranks = [self._rank(rank, path) for rank, path in sorted(found.items())]
        for _, events in heapq.merge(*ranks, key=lambda told: told[0]):
            yield from events

    def _rank(self, rank: int, path: Path) -> Iterator[tuple[_Place, tuple[ev.Event, ...]]]:
        loop = step = 0
        try:
            for line in self._lines(rank, path):
                events = hearing.parse(line, self._attempt, rank)
                for event in events:
                    if isinstance(event, ev.Hello):
                        loop, step = loop + 1, event.step
                    elif isinstance(event, ev.StepDone):
                        step = max(step, event.step)
                if events:
                    yield (loop, step), events
        except OSError as error:
            yield (loop, step), (ev.SourceLost(path.name, why(error), self._attempt),)

    def _lines(self, rank: int, path: Path) -> Iterator[bytes]:
        """Whole lines, none longer than a line may be; the rest of a longer one says nothing."""
        self.offsets[rank] = 0
        begun = True
        with os.fdopen(open_file(path), "rb", BUFFER) as file:
            while raw := file.readline(hearing.LINE_MOST):
                ended = raw.endswith(b"\n")
                if not ended and len(raw) < hearing.LINE_MOST:
                    return  # still being written, or cut off with its rank
                self.offsets[rank] += len(raw)
                if begun and ended:
                    yield raw
                begun = ended


def why(error: OSError) -> str:
    """What went wrong, without numbers and paths that the source's name makes plain."""
    return error.strerror or str(error)


def replay(folder: Path, attempt: int) -> Iterator[ev.Event]:
    """All that the heartbeats in an attempt's folder say, lazily."""
    return iter(Replay(folder, attempt))
