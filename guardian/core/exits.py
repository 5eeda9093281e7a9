"""What an exit status means: a code of the program's own, or the signal behind it, in every form it comes in.

A process that a signal ended shows as -N to its Python parent (subprocess, torchrun's table), as 128+N through a
shell or a container, and as 256-N through a Python launcher that hands a negative returncode to sys.exit
(ms-swift: SIGKILL 247, SIGTERM 241, SIGINT 254).
"""

from __future__ import annotations

from guardian.core.values import dataclass

# signal(7), the numbers of Linux on x86 and ARM; the pure core knows no `signal` module of the host it runs on.
SIGNALS = {
    "SIGHUP": 1,
    "SIGINT": 2,
    "SIGQUIT": 3,
    "SIGILL": 4,
    "SIGTRAP": 5,
    "SIGABRT": 6,
    "SIGBUS": 7,
    "SIGFPE": 8,
    "SIGKILL": 9,
    "SIGUSR1": 10,
    "SIGSEGV": 11,
    "SIGUSR2": 12,
    "SIGPIPE": 13,
    "SIGALRM": 14,
    "SIGTERM": 15,
    "SIGXCPU": 24,
    "SIGXFSZ": 25,
    "SIGSYS": 31,
}
_NAMES = {number: name for name, number in SIGNALS.items()}
_KNOWN = frozenset(_NAMES)


@dataclass(frozen=True, slots=True)
class Exit:
    """How one process ended; both None: nobody saw it."""

    code: int | None = None
    """Its own exit code; None where a signal ended it."""
    signal: int | None = None

    @property
    def seen(self) -> bool:
        """Whether anybody saw it."""
        return self.code is not None or self.signal is not None


def normal(code: int | None, signal: int | None = None) -> Exit:
    """The exit in one form. 255 stays a code: programs that exit with -1 are commoner than a SIGHUP through swift."""
    if signal:
        return Exit(signal=signal)
    if code is None:
        return Exit()
    for number in (-code, code - 128, 256 - code):
        if number in _KNOWN and code != 255:
            return Exit(signal=number)
    return Exit(code=code)


def signal_name(number: int) -> str:
    """The name of a signal, or its number in words."""
    return _NAMES.get(number, f"signal {number}")
