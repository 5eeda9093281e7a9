"""Read Python tracebacks out of the lines of a log: which exception ended the process, and which ones did not."""

from __future__ import annotations

import re
from collections.abc import Iterable

from guardian.core.events import Line
from guardian.core.values import dataclass

HEADER = "Traceback (most recent call last):"
# torch's excepthook puts `[rank0]: ` before each line of an exception that ends a rank (torch.distributed).
_RANK = re.compile(r"\[rank(\d+)\]: ?")
_ASIDE = ("Exception ignored in", "Exception in thread", "Exception in callback")
"""Before a traceback: it is told, and the process goes on."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The line that names an exception, at the end of its traceback."""

    line: Line
    rank: int | None
    """The rank that it ended, where it says so."""
    aside: bool
    """The process went on after it."""


def raised(lines: Iterable[Line]) -> tuple[Raised, ...]:
    """The exceptions whose tracebacks end in these lines, in order."""
    found: list[Raised] = []
    before = ""
    header: str | None = None
    for line in lines:
        text = line.text.rpartition("\r")[2]
        rank, text = _split_rank(text)
        if HEADER in text:
            header = before if text.lstrip().startswith(HEADER) else text
        elif header is not None and text.strip() and not text[0].isspace():
            found.append(Raised(Line(line.number, text.strip()), rank, header.startswith(_ASIDE)))
            header = None
        before = text if text.strip() else before
    return tuple(found)


def without_asides(texts: Iterable[str]) -> list[str]:
    """The lines without the tracebacks after which Python goes on."""
    left: list[str] = []
    skipping = False
    for text in texts:
        bare = _split_rank(text)[1]
        skipping = skipping or bare.startswith(_ASIDE)
        if not skipping:
            left.append(text)
        elif not (bare.startswith((*_ASIDE, HEADER)) or bare[:1].isspace() or not bare.strip()):
            skipping = False  # the exception's own line ends it
    return left


def rank_of(text: str) -> int | None:
    """The rank that a line belongs to, where it says so."""
    return _split_rank(text)[0]


def _split_rank(text: str) -> tuple[int | None, str]:
    match = _RANK.match(text)
    return (int(match[1]), text[match.end() :]) if match else (None, text)
