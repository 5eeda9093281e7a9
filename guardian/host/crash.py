"""Die on request, at any of the instructions after which guardian must be able to be dead.

A switch for the crash tests, off unless the environment names a number: then the process kills itself (SIGKILL,
as the kernel or an impatient person would) when it passes its n-th point. Passing a point costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal

SWITCH = "GUARDIAN_TEST_DIE_AT"
BOOT_SWITCH = "GUARDIAN_TEST_BOOT"
"""Another boot's name: with it set, everything recorded before happened before the machine was started anew."""
STILL_SWITCH = "GUARDIAN_TEST_STILL_S"
"""Seconds that a foreign lock must have stood still, in place of two minutes."""
_die_at = int(os.environ.pop(SWITCH, "0") or 0)
"""Taken out of the environment: the keeper and the job are not to inherit it."""
_passed = itertools.count(1)


def pretended_boot() -> str | None:
    """The boot that the tests pretend, or None."""
    return os.environ.get(BOOT_SWITCH)


def stillness_s(usual: float) -> float:
    """How long a foreign lock must have stood still."""
    return float(os.environ.get(STILL_SWITCH, usual))


def point() -> None:
    """A moment at which guardian may be killed and nothing may be lost or doubled."""
    if _die_at and next(_passed) == _die_at:
        os.kill(os.getpid(), signal.SIGKILL)
