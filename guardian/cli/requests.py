"""What is asked of a supervisor by signals: heard from the first moment on, and kept until it listens."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from guardian.core import events as ev

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

EVENTS: dict[signal.Signals, ev.Event] = {
    signal.SIGINT: ev.StopRequested(ev.StopBy.CTRL_C),
    signal.SIGTERM: ev.StopRequested(ev.StopBy.SIGTERM),
    signal.SIGHUP: ev.TerminalLost(),
}


class Requests:
    """Signals become events; none of them ends this process any more, and a lost terminal ends nothing at all."""

    def __init__(self) -> None:
        self._kept: list[ev.Event] = []
        self._post: Callable[[ev.Event], None] = self._kept.append
        for number in EVENTS:
            signal.signal(number, self._hear)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def give_to(self, post: Callable[[ev.Event], None]) -> None:
        """From now on `post` is called with each event, and now with those that came before."""
        self._post = post
        for event in self._kept:
            post(event)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._post(EVENTS[signal.Signals(number)])
