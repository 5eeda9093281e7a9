"""Slow work runs in a thread of its own and posts its result: Ctrl-C and `guardian stop` are heard meanwhile.

Each is begun once. How long it has taken is asked here, and whoever began it decides how long it may.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.host.clock import Clock

    Work = tuple[str, int]


class SlowWork:
    """What was begun, and when, by our own clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun: dict[Work, float] = {}

    def start(self, work: Work, target: Callable[[], None]) -> Literal[False]:
        """Begin it, if that was not done. False, as for every act that changes nothing now."""
        if work not in self._begun:
            self._begun[work] = self._clock.mono()
            threading.Thread(target=target, name=f"{work[0]}-{work[1]}", daemon=True).start()
        return False

    def seconds(self, work: Work) -> float:
        """Since work was begun; 0 if it was not. An earlier guardian's time does not count."""
        now = self._clock.mono()
        return now - self._begun.get(work, now)
