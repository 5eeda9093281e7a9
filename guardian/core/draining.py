"""Say whether a relaunch must wait for memory of GPUs that is still held, and for how long. Pure.

Drained is what holds no more than at the run's first launch, and a little. What an earlier attempt left behind is
ended; strangers are named and waited for. Every wait has an end: then the launch is made all the same, because what is
held may be none of what the job needs. Without GPUs, a first look or a fresh one nothing is waited for.
"""

from __future__ import annotations

import signal as signals
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import run as stands
from guardian.core.gpus import held
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.policy import Gpu
    from guardian.core.run import Attempt, Run

LOOK_WITHIN_S = 5.0
"""For readings that are younger than the end of the attempt before; a probe that is silent is not waited for."""
REAP_EVERY_S = 5.0
"""Between two signals to what an earlier attempt left: TERM, then KILL."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Nothing is waited for."""


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing to do before this time."""

    until: float


@dataclass(frozen=True, slots=True)
class Say:
    """This is to be written down."""

    event: ev.DrainBegun | ev.Drained


@dataclass(frozen=True, slots=True)
class Reap:
    """Signal what earlier attempts left."""

    signal: int


def judge(run: Run, attempt: Attempt, policy: Gpu, now: float) -> Clear | Later | Say | Reap:
    """What to do about the memory of the GPUs before this attempt is launched."""
    ended = run.attempts[attempt.number - 2].tree_end_wall if attempt.number > 1 else None
    if attempt.drained is not None or ended is None or not run.gpu_baseline:
        return Clear()
    seen, state = run.gpus_seen, run.state
    if seen is None or seen.wall <= ended:
        since = max(ended, run.supervisors[-1][0] if run.supervisors else ended)
        if since <= now < since + LOOK_WITHIN_S:  # a clock that was set back keeps no launch waiting
            return Later(since + LOOK_WITHIN_S)
        return Say(ev.Drained(attempt.number, state.held)) if isinstance(state, stands.Draining) else Clear()
    still = held(run, policy.drain_tolerance_mib)
    if not isinstance(state, stands.Draining):
        begun = ev.DrainBegun(attempt.number, still, now + policy.drain_wait_s)
        return Say(begun) if still and policy.drain_wait_s > 0 else Clear()
    if not still or now >= state.until:
        return Say(ev.Drained(attempt.number, still))
    return _reap(attempt, now) or Later(state.until)


def _reap(attempt: Attempt, now: float) -> Reap | None:
    """The next signal, if it is time for one; None: it was sent, or nothing was there to be sent to."""
    if not attempt.reaped:
        return Reap(signals.SIGTERM)
    wall, last = attempt.reaped[-1]
    due = last.processes and now >= wall + REAP_EVERY_S
    return Reap(signals.SIGKILL) if due else None
