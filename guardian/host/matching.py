"""Find the rules' patterns in the bytes of a job's log, in linear time.

google-re2 is the one dialect: a Set says in one pass which patterns occur in a block at all, and each of those is
then looked for in the block's lines. A line is what stands between two line feeds or carriage returns (progress
bars); its number counts line feeds only, as editors, grep and sed do, so all parts of a bar's line share a number.
No pattern can reach over the end of a line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import re2

from guardian.core import metrics
from guardian.core.rules import PROGRESS, Rule
from guardian.core.values import dataclass

MAX_LINE = 64 << 10
"""Bytes of a line that are looked at."""
MAX_TEXT = 2000
"""Bytes of a line that are kept as evidence."""
MAX_CAPTURE = 200
CHUNK = 64 << 10
FIRST, LAST = 25, 25
"""Hits of one pattern that are kept of one log: the first are told at once, the last when `rest` is asked."""
SURVIVED_AFTER = 2
"""Logged steps after a hit that prove it survived: one more may come late from a rank that had not heard of it."""
SET_MEMORY = 8 << 20
_BEFORE = 200
_CANARY = b"\x00guardian\x00"


@dataclass(frozen=True, slots=True)
class Hit:
    """A pattern matched a line."""

    rule: str
    """PROGRESS stands for no rule: every hit before this line was survived."""
    pattern: int
    """Which of the rule's log conditions, from 0."""
    offset: int
    """Of the line's first byte in the log."""
    line: int
    text: str
    captures: tuple[tuple[str, str], ...] = ()


def regex_problem(pattern: str) -> str | None:
    """Why a pattern cannot be used, or None."""
    try:
        re2.compile(pattern.encode(), _options())
        matches_nothing = compiled(pattern).search(b"")
    except re2.error as error:
        said = error.args[0] if error.args else ""
        return f"is not a regular expression of RE2: {said.decode() if isinstance(said, bytes) else said}"
    return "matches every line" if matches_nothing else None


class Matcher:
    """Follows one log after another; a block at offset 0 begins a new one."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        listed = [(rule.id, number, pattern) for rule in rules for number, pattern in enumerate(rule.patterns)]
        self._places = [(rule, number) for rule, number, _ in listed]
        self._regexes = [compiled(pattern) for _, _, pattern in listed]
        self._set = _set([pattern for _, _, pattern in listed])
        self._begin()

    def _begin(self) -> None:
        self._counts = [0] * len(self._places)
        self._late: dict[int, deque[Hit]] = {}
        self._pending = False
        self._told = False
        self._steps = 0

    def scan(self, block: bytes, first_line: int, first_offset: int) -> list[Hit]:
        """The hits in a block of whole lines, in their order; number and offset are those of its first line.

        Where the trainer goes on after hits, a Hit of PROGRESS says so once.
        """
        if first_offset == 0:
            self._begin()
        normal = block.replace(b"\r", b"\n")
        found: list[Hit] = []
        at, line = 0, first_line
        for start, end, index in self._occurrences(normal):
            line += block.count(b"\n", at, start)
            at = start
            text = normal[start : min(end, start + MAX_LINE)]
            if index is None:
                found += self._stepped(first_offset + start, line, text)
            else:
                found += self._hit(index, first_offset + start, line, text)
        return found

    def rest(self) -> list[Hit]:
        """At the log's end: the last hits of the patterns that had more than could be told at once."""
        late = sorted((hit for hits in self._late.values() for hit in hits), key=lambda hit: hit.offset)
        self._late.clear()
        return late

    def _occurrences(self, normal: bytes) -> list[tuple[int, int, int | None]]:
        """Lines (start, end) with the pattern that occurs there, or None where the trainer logs a step."""
        found: list[tuple[int, int, int | None]] = []
        for start, end in _chunks(normal):
            candidates = self._candidates(normal[start:end])
            for index in candidates:
                found += [(a, b, index) for a, b in _lines(self._regexes[index], normal, start, end)]
            if self._pending or found:
                found += [(a, b, None) for a, b in _steps(normal, start, end)]
        # A line that is a hit and a log of a step at once: the hit comes first, and is not survived by itself.
        return sorted(found, key=lambda one: (one[0], one[2] is None, one[2]))

    def _candidates(self, chunk: bytes) -> list[int]:
        if self._set is None:
            return list(range(len(self._places)))
        return sorted(index for index in self._set.Match(chunk) or () if index < len(self._places))

    def _hit(self, index: int, offset: int, line: int, text: bytes) -> list[Hit]:
        match = self._regexes[index].search(text)
        if match is None:  # it began or ended beyond MAX_LINE
            return []
        rule, number = self._places[index]
        hit = Hit(rule, number, offset, line, _excerpt(text, match.start(), match.end()), _captures(match))
        self._pending, self._steps = True, 0
        self._counts[index] += 1
        if self._counts[index] > FIRST:
            self._late.setdefault(index, deque(maxlen=LAST)).append(hit)
            return []
        self._told = True
        return [hit]

    def _stepped(self, offset: int, line: int, text: bytes) -> list[Hit]:
        self._steps += 1
        if not self._pending or self._steps < SURVIVED_AFTER:
            return []
        told, self._told, self._pending = self._told, False, False
        self._late.clear()
        return [Hit(PROGRESS, 0, offset, line, _excerpt(text, 0, 0))] if told else []


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False  # it would print on stderr
    options.encoding = re2.Options.Encoding.LATIN1  # bytes: in UTF-8 mode `.` would stop at a broken character
    options.never_nl = True  # or a search for [^x]* would run on through all the lines that follow
    options.max_mem = SET_MEMORY
    return options


def compiled(pattern: str) -> re2._Regexp:
    """(?m): ^ and $ are the ends of a line, in a block as in a line on its own."""
    return re2.compile(b"(?m:" + pattern.encode() + b")", _options())


def _set(patterns: list[str]) -> re2.Set | None:
    """All patterns in one automaton; None where it does not fit its memory: it would match nothing, and not say so."""
    together = re2.Set.SearchSet(_options())
    for pattern in patterns:
        together.Add(b"(?m:" + pattern.encode() + b")")
    canary = together.Add(re2.escape(_CANARY))
    together.Compile()
    return together if canary in (together.Match(_CANARY) or ()) else None


def _chunks(normal: bytes) -> Iterator[tuple[int, int]]:
    """Parts of about CHUNK bytes that end with a line."""
    start = 0
    while start < len(normal):
        end = normal.find(b"\n", start + CHUNK) + 1 or len(normal)
        yield start, end
        start = end


def _lines(regex: re2._Regexp, normal: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The lines of a part in which a pattern occurs."""
    while start < end:
        match = regex.search(normal, start, end)
        if match is None:
            return
        line_end = normal.find(b"\n", match.start(), end)
        line_end = end if line_end < 0 else line_end
        yield normal.rfind(b"\n", start, match.start()) + 1 or start, line_end
        start = line_end + 1


def _steps(normal: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The lines of a part in which the trainer logs a step."""
    while (at := normal.find(b"loss", start, end)) >= 0:
        line_start = normal.rfind(b"\n", start, at) + 1 or start
        line_end = normal.find(b"\n", at, end)
        line_end = end if line_end < 0 else line_end
        if metrics.progress(normal[line_start : min(line_end, line_start + MAX_LINE)]):
            yield line_start, line_end
        start = line_end + 1


def _excerpt(text: bytes, start: int, end: int) -> str:
    """The line, or the part of it around the match where it is too long to keep."""
    cut = 0 if end <= MAX_TEXT else min(start, max(0, start - _BEFORE))
    return text[cut : cut + MAX_TEXT].decode("utf-8", "replace").strip()


def _captures(match: re2._Match) -> tuple[tuple[str, str], ...]:
    named = match.groupdict().items()
    return tuple((n.decode(), v[:MAX_CAPTURE].decode("utf-8", "replace")) for n, v in sorted(named) if v is not None)
