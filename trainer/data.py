"""Read and check every row before anything slow begins: a fault is one line with file, line, column and fix.

A source is PATH, PATH#COUNT or 'demo'. COUNT takes the first COUNT rows of a permutation made by the seed, going
around again where the file has fewer; without it all rows count, in the file's order.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardian.errors import UserError

from .conversation import Conversation, FormError, Message, from_row
from .demo_data import docstring_conversations

DEMO = "demo"


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which rows to train and to evaluate on."""

    sources: tuple[str, ...]
    evaluation_sources: tuple[str, ...] = ()
    split_ratio: float = 0.0
    seed: int = 42
    columns: Mapping[str, str] | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Conversations to train on and, where asked for, to evaluate on."""

    train: tuple[Conversation, ...]
    evaluation: tuple[Conversation, ...] = ()


def load_rows(request: DataRequest) -> Rows:
    train = _load_all(request.sources, request)
    evaluation = _load_all(request.evaluation_sources, request)
    if request.split_ratio > 0:
        train, kept_out = _split(train, request)
        evaluation = [*evaluation, *kept_out]
    return Rows(tuple(train), tuple(evaluation))


def check_files(request: DataRequest) -> None:
    """Every row of every file is looked at and dropped again; what we make ourselves needs no check."""
    for source in (*request.sources, *request.evaluation_sources):
        path, _ = _path_and_count(source)
        if path != DEMO:
            _load(source, request)


def _load_all(sources: Sequence[str], request: DataRequest) -> list[Conversation]:
    return [conversation for source in sources for conversation in _load(source, request)]


def _load(source: str, request: DataRequest) -> list[Conversation]:
    name, count = _path_and_count(source)
    rows = list(docstring_conversations() if name == DEMO else _read_file(Path(name), request.columns))
    if not rows:
        raise UserError(f"{name}: holds no rows")
    if request.system:
        rows = [_with_system(row, request.system) for row in rows]
    return rows if count is None else _take(rows, count, request.seed)


def _path_and_count(source: str) -> tuple[str, int | None]:
    """`rows.jsonl#500` names 500 rows; any other `#` belongs to the file's name."""
    match = re.fullmatch(r"(?P<path>.+)#(?P<count>[0-9]+)", source)
    if match is None:
        return source, None
    if int(match["count"]) == 0:
        raise UserError(f"{source}: asks for no rows; leave #0 out for all of them")
    return match["path"], int(match["count"])


def _take(rows: list[Conversation], count: int, seed: int) -> list[Conversation]:
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[order[place % len(order)]] for place in range(count)]


def _split(rows: list[Conversation], request: DataRequest) -> tuple[list[Conversation], list[Conversation]]:
    order = list(range(len(rows)))
    random.Random(request.seed).shuffle(order)
    kept_out = set(order[: round(len(rows) * request.split_ratio)])
    if not kept_out or len(kept_out) == len(rows):
        raise UserError(
            f"--split_dataset_ratio {request.split_ratio}: leaves {len(rows) - len(kept_out)} of {len(rows)} rows"
            f" to train on and {len(kept_out)} to evaluate on; both need some"
        )
    train = [row for place, row in enumerate(rows) if place not in kept_out]
    return train, [row for place, row in enumerate(rows) if place in kept_out]


def _with_system(row: Conversation, system: str) -> Conversation:
    return row if row[0].role == "system" else (Message("system", system), *row)


def _read_file(path: Path, columns: Mapping[str, str] | None) -> Iterator[Conversation]:
    reader = _json_array if path.suffix == ".json" else _json_lines
    for line, row in reader(path, _read_text(path)):
        try:
            yield from_row(row, columns)
        except FormError as error:
            raise UserError(f"{path} line {line}: {error}") from None


def _read_text(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path}: no such data file; give a .jsonl or .json file, or demo")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a .jsonl or .json file in it")
    if path.suffix not in {".jsonl", ".json"}:
        raise UserError(f"{path}: is neither .jsonl nor .json; write one JSON object a line into a .jsonl file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {line}: is not UTF-8; save the file as UTF-8") from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path} line {number}: is not JSON: {error.msg} at column {error.colno};"
                    " a .jsonl file holds one whole object a line"
                ) from None


def _json_array(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The rows of one JSON list with the line that each begins on, which json.loads would not tell."""
    decoder = json.JSONDecoder()
    place, line, counted = _skip(text, 0), 1, 0
    if not text.startswith("[", place):
        raise UserError(f"{path}: must hold a list of objects: [{{...}}, ...]; for one object a line name it .jsonl")
    place = _skip(text, place + 1)
    while not text.startswith("]", place):
        line, counted = line + text.count("\n", counted, place), place
        try:
            row, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {error.lineno}: is not JSON: {error.msg} at column {error.colno}") from None
        yield line, row
        place = _skip(text, place)
        if text.startswith(",", place):
            place = _skip(text, place + 1)
        elif not text.startswith("]", place):
            raise UserError(
                f"{path} line {text.count(chr(10), 0, place) + 1}: is not JSON: expected , or ] after a row"
            )


_BLANK = re.compile(r"[ \t\r\n]*")


def _skip(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    return match.end() if match else place
