"""The time, as a thing that is handed in: who decides by time can be told any.

Wall time places a record in the story and may jump; monotonic time measures waits and means nothing after a reboot.
"""

from __future__ import annotations

import time


class Clock:
    """The machine's clocks."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def mono(self) -> float:
        """Seconds that never run backwards within one boot."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let this much monotonic time pass."""
        time.sleep(seconds)


class StandingClock(Clock):
    """A clock that stands until it is moved; scripted histories run on it."""

    def __init__(self, wall: float, mono: float = 0.0) -> None:
        self._wall = wall
        self._mono = mono

    def wall(self) -> float:
        return self._wall

    def mono(self) -> float:
        return self._mono

    def sleep(self, seconds: float) -> None:
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall += seconds
        self._mono += seconds

    def set_wall(self, wall: float) -> None:
        """Somebody sets the machine's clock, back or forward; monotonic time does not notice."""
        self._wall = wall
