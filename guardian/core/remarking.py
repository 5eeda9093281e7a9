"""What is said of the pace while a job runs: each thing once in an attempt, and looked for less and less often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core import throughput

if TYPE_CHECKING:
    from guardian.core.run import Run

EVERY = 20
"""Steps or logs between two looks at first."""
SHARE = 0.02
"""Of all so far, later: a look walks over all steps, and a run of a million steps would do little else."""


class Remarks:
    """What has been said, and when the next look is due."""

    def __init__(self) -> None:
        self._said: set[tuple[str, int, int]] = set()
        self._due: dict[int, float] = {}

    def new(self, run: Run) -> tuple[str, ...]:
        """What there is to say that has not been said."""
        attempt = run.attempt
        if attempt is None:
            return ()
        seen = len(attempt.steps) + len(attempt.logged)
        if seen < self._due.get(attempt.number, EVERY):
            return ()
        self._due[attempt.number] = seen * (1 + SHARE) + EVERY
        fresh = [one for one in throughput.remarks(run) if one.about not in self._said]
        self._said.update(one.about for one in fresh)
        return tuple(one.text for one in fresh)
