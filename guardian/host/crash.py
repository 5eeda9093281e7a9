"""Die on request, at any of the instructions after which guardian must be able to be dead.

A switch for the crash tests, off unless the environment names a number: then the process kills itself (SIGKILL,
as the kernel or an impatient person would) when it passes its n-th point. Passing a point costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal

SWITCH = "GUARDIAN_TEST_DIE_AT"
_die_at = int(os.environ.pop(SWITCH, "0") or 0)
"""Taken out of the environment: the keeper and the job are not to inherit it."""
_passed = itertools.count(1)


def point() -> None:
    """A moment at which guardian may be killed and nothing may be lost or doubled."""
    if _die_at and next(_passed) == _die_at:
        os.kill(os.getpid(), signal.SIGKILL)
