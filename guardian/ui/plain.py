"""The terminal of a run: the job's own output as it is, guardian's lines between, nothing redrawn.

One thread writes, so that a terminal that does not read (Ctrl-S, a stuck pipe) holds up nobody else. The job's
output is read from job.log itself: the file is the buffer, nothing is dropped and nothing held in memory.
"""

from __future__ import annotations

import errno
import os
import queue
import threading

from guardian.core.values import dataclass

PREFIX = "guardian: "
EVERY_S = 0.1
BLOCK = 65536


@dataclass(frozen=True, slots=True)
class _Follow:
    path: str
    offset: int


class Terminal:
    """Writes to a file descriptor (1 by default) until it is closed or broken."""

    def __init__(self, out: int = 1, *, echo: bool = True) -> None:
        self._out = out
        self._echo = echo
        self._queue: queue.SimpleQueue[str | _Follow | None] = queue.SimpleQueue()
        self._log: int | None = None
        self._offset = 0
        self._at_line_start = True
        self._broken = False
        self._thread = threading.Thread(target=self._work, name="terminal", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """One of guardian's lines; control characters in it cannot reach the terminal."""
        self._queue.put(PREFIX + printable(text))

    def show(self, text: str) -> None:
        """Text of guardian's own making, as it is."""
        self._queue.put(text)

    def follow(self, path: str, offset: int = 0) -> None:
        """Show a job.log from a byte offset on, in place of the one before."""
        if self._echo:
            self._queue.put(_Follow(path, offset))

    def lost(self) -> None:
        """The terminal is gone: write no more."""
        self._broken = True

    @property
    def gone(self) -> bool:
        """Nobody reads any more."""
        return self._broken

    def shown(self) -> int | None:
        """How far the log that is followed has been shown; None where nobody sees it."""
        return None if self._broken or not self._echo else self._offset

    def close(self, patience_s: float) -> None:
        """Write what is still to be written, as long as the other end takes it; then stop."""
        self._queue.put(None)
        self._thread.join(patience_s)

    def _work(self) -> None:
        pending: str | None = None
        while True:
            try:
                item = self._queue.get(timeout=EVERY_S if self._log is not None or pending else None)
            except queue.Empty:
                pending = self._open(pending)
                self._copy_log()
                continue
            pending = self._open(pending)
            self._copy_log()
            if item is None:
                return
            if isinstance(item, _Follow):
                pending = self._switch(item)
            else:
                self._line(item)

    def _switch(self, item: _Follow) -> str | None:
        if self._log is not None:
            os.close(self._log)
            self._log = None
        self._offset = item.offset
        return self._open(item.path)

    def _open(self, path: str | None) -> str | None:
        """Open the log; the path again where it does not exist yet."""
        if path is None:
            return None
        try:
            self._log = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return path
        os.lseek(self._log, self._offset, os.SEEK_SET)
        return None

    def _copy_log(self) -> None:
        while self._log is not None:
            block = os.read(self._log, BLOCK)
            if not block:
                return
            self._write(block)
            self._offset += len(block)
            self._at_line_start = block.endswith(b"\n")

    def _line(self, text: str) -> None:
        start = b"" if self._at_line_start else b"\n"
        self._write(start + text.encode("utf-8", "replace") + b"\n")
        self._at_line_start = True

    def _write(self, data: bytes) -> None:
        while data and not self._broken:
            try:
                data = data[os.write(self._out, data) :]
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    return  # guardian.log on a full disk: this is lost, later lines may fit again
                # EPIPE or EIO: nobody reads any more. The run goes on without a terminal.
                self._broken = True


def printable(text: str) -> str:
    """The text with control characters shown as escapes, so that a log line cannot drive the terminal."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)
