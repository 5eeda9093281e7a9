"""Follow what a living attempt writes: job.log and the ranks' heartbeats, by plain reads ten times a second.

Every byte is given exactly once and in order. Nothing is said of what it means: that is for the handlers. A source
that cannot be read is told as lost, and the others are read on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from guardian.core import hearing, wire
from guardian.core.events import Line, Positions
from guardian.host import heartbeats

POLL_S = 0.1
"""Measured: inotify wakes up for each write and costs a hundred times more on a busy log."""
RANKS_EVERY_S = 0.5
QUIET_S = 1.0
"""A line without an end that has stood for so long is given as it is."""
BLOCK = 256 * 1024
LOST_MOST = 100
"""Losses that are told; a source that fails anew at each read has been told enough."""
LINE_SHOWN = 4096
"""Bytes of a line in a tail, its last ones: what a progress bar wrote before them is gone from the screen too."""
COUNTED_MOST = 64 * 1024 * 1024
"""Line numbers are counted from the top of a file: for a tail at most so many bytes are read for them."""

OnLog = Callable[[bytes, int, int], None]
"""(block, offset of its first byte, number of its first line)."""
OnHeartbeat = Callable[[int, bytes], None]
"""(rank, line)."""
OnLost = Callable[[str, str], None]
"""(source, why)."""


def own_bytes(folder: Path) -> int:
    """What an attempt has written for guardian alone, or has had written: its log and its heartbeats."""
    total = 0
    for path in (folder / wire.JOB_LOG, *folder.glob(wire.HEARTBEAT_GLOB)):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


class Tail:
    """A growing file, read on from where the last read ended; it need not exist yet."""

    def __init__(self, path: Path, *, offset: int = 0, lines: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.lines = lines
        """Line feeds before `offset`."""
        self._fd: int | None = None

    def read(self, limit: int) -> bytes:
        """The next bytes, none when there are none yet. Raises OSError; the next call tries again."""
        try:
            return self._read(limit)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; a later read opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _read(self, limit: int) -> bytes:
        if self._fd is None:
            try:
                self._fd = heartbeats.open_file(self.path)
            except FileNotFoundError:
                return b""
        data = os.pread(self._fd, limit, self.offset)
        if not data:
            self._check(self._fd, os.fstat(self._fd))
        self.offset += len(data)
        self.lines += data.count(b"\n")
        return data

    def _check(self, fd: int, now: os.stat_result) -> None:
        """A file that others cut or removed is read on from what is left of it, and the gap is told."""
        if now.st_nlink == 0:
            self.offset = self.lines = 0
            raise OSError(f"{self.path} was removed")
        if now.st_size < self.offset:
            lost, self.offset = self.offset - now.st_size, now.st_size
            self.lines = _lines_before(fd, self.offset) or 0
            raise OSError(f"{self.path} was cut from outside by {lost} bytes; what was written there since is not seen")


class Follower:
    """A thread that reads the files of one attempt's folder and calls the handlers with what it finds.

    A carriage return ends a piece of the log as well as a line feed does: progress bars redraw with it, for hours.
    The handlers are called in that thread, one at a time.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_log: OnLog,
        on_heartbeat: OnHeartbeat,
        on_lost: OnLost,
        offset: int = 0,
        lines: int = 0,
        heartbeat_offsets: Mapping[int, int] | None = None,
    ) -> None:
        self._folder = folder
        self._on_log = on_log
        self._on_heartbeat = on_heartbeat
        self._on_lost = on_lost
        self._log = _LogPieces(Tail(folder / wire.JOB_LOG, offset=offset, lines=lines), self._give_log)
        self._begin = dict(heartbeat_offsets or {})
        self._ranks: dict[int, _HeartbeatLines] = {}
        self._told: set[tuple[str, str]] = set()
        self._look_at = 0.0
        self._ending = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"follow {folder.name}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def finish(self, patience_s: float) -> bool:
        """Read everything to its end and stop. False when that took longer: then nothing more is given soon.

        Not to be called by a thread that a handler waits for.
        """
        self._ending.set()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._given_up.set()
            return False
        return True

    def _work(self) -> None:
        while not self._ending.wait(POLL_S):
            self._read_to_end()
        # Twice: what was written while the first pass was busy with another file belongs to this attempt too.
        for _ in range(2):
            self._look_at = 0.0
            self._read_to_end()
        self._safely(wire.JOB_LOG, self._log.flush)
        for tail in (self._log.tail, *(rank.tail for rank in self._ranks.values())):
            tail.close()

    def _read_to_end(self) -> None:
        """A block of each source in turn, until none has more."""
        more = True
        while more and not self._given_up.is_set():
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + RANKS_EVERY_S
                self._safely("heartbeats", self._look_for_ranks)
            more = self._safely(wire.JOB_LOG, self._log.read)
            for number, rank in self._ranks.items():
                more |= self._safely(wire.HEARTBEAT.format(rank=number), rank.read)

    def _look_for_ranks(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            for rank, path in heartbeats.files(self._folder).items():
                if rank not in self._ranks:
                    tail = Tail(path, offset=self._begin.get(rank, 0))
                    self._ranks[rank] = _HeartbeatLines(tail, rank, self._give_heartbeat)
        return False

    def _give_log(self, block: bytes, offset: int, line: int) -> None:
        try:
            self._on_log(block, offset, line)
        except Exception as error:  # noqa: BLE001 - what a handler fails on is lost, the thread reads on
            self._lose(wire.JOB_LOG, f"block at byte {offset}: {error!r}")

    def _give_heartbeat(self, rank: int, line: bytes) -> None:
        try:
            self._on_heartbeat(rank, line)
        except Exception as error:  # noqa: BLE001 - as in _give_log
            self._lose(wire.HEARTBEAT.format(rank=rank), f"line {line[:200]!r}: {error!r}")

    def _safely(self, source: str, read: Callable[[], bool]) -> bool:
        """Whether there may be more to read; a source that fails is tried again with the next turn."""
        try:
            return read()
        except OSError as error:
            self._lose(source, heartbeats.why(error))
            return False

    def _lose(self, source: str, why: str) -> None:
        if (source, why) not in self._told and len(self._told) < LOST_MOST:
            self._told.add((source, why))
            with contextlib.suppress(Exception):  # nobody is left to tell
                self._on_lost(source, why)


class _LogPieces:
    """Cuts job.log where a line ends, and holds the rest back until it does or stays as it is."""

    def __init__(self, tail: Tail, give: OnLog) -> None:
        self.tail = tail
        self._give = give
        self._held = b""
        self._offset = tail.offset
        self._line = tail.lines + 1
        self._grown = time.monotonic()

    def read(self) -> bool:
        """Read and give one block; whether there may be more."""
        data = self.tail.read(BLOCK - len(self._held))
        if not data:
            if self._held and time.monotonic() - self._grown >= QUIET_S:
                self.flush()
            return False
        self._grown = time.monotonic()
        if self._offset + len(self._held) + len(data) != self.tail.offset:
            # The file was cut from outside: what is held has lost its end.
            self.flush()
            self._offset, self._line = self.tail.offset - len(data), self.tail.lines - data.count(b"\n") + 1
        self._held += data
        end = max(self._held.rfind(b"\n"), self._held.rfind(b"\r")) + 1
        if end or len(self._held) >= BLOCK:
            self._pass_on(end or BLOCK)
        return True

    def flush(self) -> bool:
        """Give what is held, though its line has no end."""
        if self._held:
            self._pass_on(len(self._held))
        return False

    def _pass_on(self, length: int) -> None:
        block, self._held = self._held[:length], self._held[length:]
        offset, line = self._offset, self._line
        self._offset += len(block)
        self._line += block.count(b"\n")
        self._give(block, offset, line)


class _HeartbeatLines:
    """Cuts a rank's heartbeat into its lines. Of one that is too long the end is kept, which is still too long."""

    def __init__(self, tail: Tail, rank: int, give: OnHeartbeat) -> None:
        self.tail = tail
        self._rank = rank
        self._give = give
        self._held = b""

    def read(self) -> bool:
        """Read one block and give its lines; whether there may be more."""
        data = self.tail.read(hearing.LINE_MOST)
        if not data:
            return False
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > hearing.LINE_MOST:
            self._held = self._held[-hearing.LINE_MOST :]
        for line in lines:
            self._give(self._rank, line + b"\n")
        return True


def tail_lines(path: Path, count: int, known: Positions | None = None) -> tuple[Line, ...]:
    """The last lines of a file that may be huge, as they are; () where it cannot be read.

    `known`: a place whose line number is known; lines are counted from there instead of from the top.
    """
    try:
        fd = heartbeats.open_file(path)
    except OSError:
        return ()
    try:
        begin, data = _end_of(fd, count)
        first = _lines_before(fd, begin, known)
    except OSError:
        return ()
    finally:
        os.close(fd)
    pieces = data.removesuffix(b"\n").split(b"\n") if data else []
    skipped = max(0, len(pieces) - count)
    return tuple(
        Line(
            None if first is None else first + number + 1,
            piece[-LINE_SHOWN:].decode("utf-8", "surrogateescape"),
        )
        for number, piece in enumerate(pieces)
        if number >= skipped
    )


def _end_of(fd: int, count: int) -> tuple[int, bytes]:
    """Where enough of a file's end for `count` lines begins, and what it holds; its first line may be cut in front."""
    begin = size = os.fstat(fd).st_size
    parts: list[bytes] = []
    feeds = 0
    while begin > 0 and feeds <= count and size - begin < count * LINE_SHOWN + BLOCK:
        length = min(BLOCK, begin)
        begin -= length
        parts.insert(0, os.pread(fd, length, begin))
        feeds += parts[0].count(b"\n")
    return begin, b"".join(parts)


def _lines_before(fd: int, end: int, known: Positions | None = None) -> int | None:
    """Line feeds before an offset; None where counting them would mean to read too much, or what is gone."""
    if known is not None and known.offset <= os.fstat(fd).st_size:
        low, high = sorted((known.offset, end))
        feeds = _feeds(fd, low, high)
        return None if feeds is None else known.lines + (feeds if end >= known.offset else -feeds)
    return _feeds(fd, 0, end)


def _feeds(fd: int, begin: int, end: int) -> int | None:
    if end - begin > COUNTED_MOST or not _is_there(fd, begin, end):
        return None
    return sum(os.pread(fd, min(BLOCK, end - at), at).count(b"\n") for at in range(begin, end, BLOCK))


def _is_there(fd: int, begin: int, end: int) -> bool:
    """Whether the file begins there and was not taken off the disk (host/disk.py takes the oldest part)."""
    try:
        return begin >= end or os.lseek(fd, begin, os.SEEK_DATA) == begin
    except OSError:
        return False
