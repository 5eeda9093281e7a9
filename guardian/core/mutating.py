"""A pattern with one of its parts left out, for each of its parts: what nobody notices is proved by no sample.

Letters in a row are one part, and so is a group with what repeats it; of alternatives each is left out once.
"""

from __future__ import annotations

import itertools
import re

_TOKEN = re.compile(r"\\(?:[pP]\{[^}]*\}|x[0-9A-Fa-f]{2}|.)|\[\^?\]?(?:\\.|[^\]\\])*\]|[A-Za-z0-9_ ]+|.", re.DOTALL)
_REPEAT = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??")
_OPEN = re.compile(r"\((?:\?(?:P<\w+>|:|[a-z-]+:))?")
_FLAGS = re.compile(r"\(\?[a-z-]+\)")


def mutants(pattern: str) -> tuple[tuple[str, str], ...]:
    """(what is left out, the pattern without it), each once."""
    found = {
        rest: pattern[start:end]
        for start, end in _parts(pattern, 0, len(pattern))
        if (rest := pattern[:start] + pattern[end:]) and rest != pattern
    }
    return tuple((part, rest) for rest, part in found.items())


def _parts(pattern: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where the parts of a stretch lie, those of its groups included."""
    found: list[tuple[int, int]] = []
    branches = [start]
    at = start
    while at < end:
        begin = at
        if pattern[at] == "|":
            at += 1
            branches.append(at)
            continue
        if flags := _FLAGS.match(pattern, at, end):
            at = flags.end()
            continue
        opened = _OPEN.match(pattern, at, end)
        if opened:
            close = _closing(pattern, at, end)
            found += _parts(pattern, opened.end(), close)
            at = close + 1
        else:
            token = _TOKEN.match(pattern, at, end)
            at = token.end() if token else at + 1
        at = _repeated(pattern, begin, at, end)
        found.append((begin, at))
    return found + _branches(branches, end)


def _repeated(pattern: str, begin: int, at: int, end: int) -> int:
    """Where a part ends: what repeats letters in a row repeats the last of them alone."""
    repeat = _REPEAT.match(pattern, at, end)
    if repeat is None:
        return at
    return at - 1 if at - begin > 1 and pattern[begin] not in "\\[(" else repeat.end()


def _branches(starts: list[int], end: int) -> list[tuple[int, int]]:
    """Each alternative with the bar that parts it from the next, or from the one before."""
    if len(starts) == 1:
        return []
    return [*itertools.pairwise(starts), (starts[-1] - 1, end)]


def _closing(pattern: str, at: int, end: int) -> int:
    """Where the group that opens here closes."""
    depth = 0
    while at < end:
        if pattern[at] == "(":
            depth += 1
            at += 1
        elif pattern[at] == ")":
            depth -= 1
            if depth == 0:
                return at
            at += 1
        else:
            token = _TOKEN.match(pattern, at, end)
            at = token.end() if token else at + 1
    return end
