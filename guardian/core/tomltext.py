"""Find where a key stands in a TOML text, because the parser forgets it.

Good for texts as people write them; a text made to mislead gets the line of the table, or line 1.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


def line_of(text: str, path: Path, value: object = None) -> int:
    """The line, from 1, that comes nearest to a key; of the text `value` in or after it where that is given.

    The n-th table of an array is named by its index: ("try", 1, "give_up"), ("variant", 0, "try", 1, "set").
    """
    best, line = 0, 1
    table: Path = ()
    counts: dict[Path, int] = {}
    for number, content in enumerate(text.splitlines(), 1):
        here = table
        if header := _HEADER.fullmatch(content):
            here = table = _entered(header, counts)
        elif key := _KEY.match(content):
            here = (*table, *_parts(key[1]))
        else:
            continue
        common = _common(here, path)
        if common > best:
            best, line = common, number
    return _line_of_value(text, line, value) if isinstance(value, str) and value else line


def _entered(header: re.Match[str], counts: dict[Path, int]) -> Path:
    """The table that a header begins; a table inside an array belongs to its latest member."""
    *outer, last = _parts(header[2])
    table: Path = ()
    for part in outer:
        table = (*table, part)
        table = (*table, counts[table]) if table in counts else table
    table = (*table, last)
    if header[1] == "[":
        return table
    counts[table] = counts.get(table, -1) + 1
    return (*table, counts[table])


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _common(one: Path, other: Path) -> int:
    """How many parts agree, or 0 where the first goes elsewhere."""
    agree = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            return 0
        agree += 1
    return agree


def _line_of_value(text: str, line: int, value: str) -> int:
    lines = text.splitlines()
    first = value.splitlines()[0]
    return next((n for n in range(line, len(lines) + 1) if first in lines[n - 1]), line)
