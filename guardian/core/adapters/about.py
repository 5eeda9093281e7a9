"""What is said of a family in docs/frameworks.md, beside what its adapter itself answers."""

from __future__ import annotations

from guardian.core.values import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """One family, for people."""

    title: str
    example: str
    """A command of it, which the adapter is asked about; no word of it holds a blank."""
    started: str
    """The forms in which it is recognised."""
    fills_in: str
    """What counts where nothing is given."""
    resumes: str
    proved: tuple[str, ...] = ()
    """By a real run that was killed, went on and proved its batch and its rows (tests/frameworks)."""
    dry: tuple[str, ...] = ()
    """Read from the framework's sources or parsed by its real parser, and never run here."""
    refused: tuple[str, ...] = ()
