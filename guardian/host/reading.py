"""Read a log that is finished, from its beginning to its end, in blocks; nothing of it is kept but what is asked for.

What cannot be read twice (a pipe) is copied into a temporary file first.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from guardian.core import events as ev
from guardian.core import explaining, metrics
from guardian.core.explaining import Explanation, Log
from guardian.core.rules import Rule
from guardian.host.matching import Hit, Matcher

BLOCK = 1 << 20
TAIL_LINES = 200
LINE_KEPT = 4096
LOGGED_MOST = 20_000
"""Logs of numbers that are kept, the last ones."""
BEFORE = 128 << 10

Told = Callable[[int], None]
"""Bytes read so far."""


def twice(stream: BinaryIO) -> BinaryIO:
    """The stream, or a copy of it that can be read again."""
    if stream.seekable():
        return stream
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as its reader
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy


def explain(
    rules: tuple[Rule, ...], matcher: Matcher, stream: BinaryIO, code: int | None, told: Told = lambda _: None
) -> Explanation:
    """What a log tells; the matcher is that of these rules. Raises OSError."""
    log = read(stream, matcher, code, told)
    cause = explaining.judge(rules, log)
    before = _before(stream, log, cause)
    cause = explaining.judge(rules, log, before)
    return explaining.explain(rules, log, cause, before)


def read(stream: BinaryIO, matcher: Matcher, code: int | None, told: Told) -> Log:
    """Everything, once."""
    hits: list[ev.Hit] = []
    logged: deque[ev.Logged] = deque(maxlen=LOGGED_MOST)
    tail: deque[ev.Line] = deque(maxlen=TAIL_LINES)
    held, offset, line = b"", 0, 1
    while True:
        data = stream.read(BLOCK)
        held += data
        end = max(held.rfind(b"\n"), held.rfind(b"\r")) + 1
        block = held if not data or (not end and len(held) >= BLOCK) else held[:end]
        if block:
            hits += map(_event, matcher.scan(block, line, offset))
            logged += [metrics.logged(numbers, 1) for numbers in metrics.read(block)]
            _extend(tail, block, line)
            held = held[len(block) :]
            offset += len(block)
            line += block.count(b"\n")
            told(offset)
        if not data:
            break
    hits += map(_event, matcher.rest())
    return Log(tuple(hits), tuple(logged), tuple(tail), code)


def _before(stream: BinaryIO, log: Log, cause: ev.Cause | None) -> tuple[str, ...]:
    """The lines up to the one that decides; a log that works is looked at from its end."""
    number = next((line.number for line in cause.evidence if line.number is not None), None) if cause else None
    hit = next((hit for hit in log.hits if hit.line.number == number), None)
    if hit is None:
        last = number if number is not None else log.tail[-1].number if log.tail else 0
        upto = [line for line in log.tail if (line.number or 0) <= (last or 0)]
        return tuple(part for line in upto for part in line.text.split("\r"))
    begin = max(0, hit.offset - BEFORE)
    stream.seek(begin)
    data = stream.read(hit.offset - begin) or b""
    return (*data.replace(b"\r", b"\n").decode("utf-8", "replace").split("\n")[:-1], hit.line.text)


def _event(hit: Hit) -> ev.Hit:
    return ev.Hit(1, hit.rule, hit.pattern, hit.offset, ev.Line(hit.line, hit.text), hit.captures)


def _extend(tail: deque[ev.Line], block: bytes, first: int) -> None:
    """The last lines of a block, whatever was begun on the line before."""
    pieces = block.removesuffix(b"\n").split(b"\n")
    skipped = max(0, len(pieces) - TAIL_LINES)
    if skipped == 0 and tail and tail[-1].number == first:
        pieces[0] = tail.pop().text.encode("utf-8", "surrogateescape") + pieces[0]
    for number, piece in enumerate(pieces[skipped:], first + skipped):
        tail.append(ev.Line(number, piece[-LINE_KEPT:].decode("utf-8", "surrogateescape")))
