"""A record as one line of the journal, and back.

A line is one JSON object in ASCII. Its first key is the CRC-32 of every byte between it and the line's end, at a
fixed place, so that a line is checked as it lies there and never as something parsed and written anew:

    {"crc":"5f0c9a11","v":1,"event":"KeeperLost","of":{"attempt":2},"at":{"wall":1.5,"mono":9.0,...}}

What an event looks like follows from its dataclass alone. Text that came from foreign bytes (surrogate escapes)
survives, and so do numbers that JSON has no words for: they are written as "nan", "inf" and "-inf".
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
import zlib
from collections.abc import Callable
from enum import Enum

from guardian.core import events as ev
from guardian.core.trail import Trail
from guardian.core.values import dataclass

VERSION = 1
LINE_MOST = 16 * 1024 * 1024
"""Bytes; an argv of 2 MiB, the most that Linux executes, fits several times over."""

_HEAD = b'{"crc":"'
_CHECKED = len(_HEAD) + 8 + 2
"""Where the checked bytes begin: after eight hex digits, a quote and a comma."""
_NO_NUMBER = frozenset({"nan", "inf", "-inf"})


class Damaged(ValueError):  # noqa: N818 - it names what the line is; its text follows "line 7 "
    """A line is not what guardian wrote; the text says how, to follow "line 7 "."""


class Newer(Damaged):
    """A line is whole, and says what only a newer guardian understands."""


def encode(record: ev.Record) -> bytes:
    """The record as a whole line. Raises TypeError for an event that has no place in a journal."""
    name = type(record.event).__name__
    if name not in _EVENTS:
        raise TypeError(f"{name} is not journalled")
    body = {
        "v": VERSION,
        "event": name,
        "of": codec(_EVENTS[name]).to_plain(record.event),
        "at": codec(ev.Stamp).to_plain(record.stamp),
    }
    return seal(body)


def decode(line: bytes) -> ev.Record:
    """The record of a line, with or without its line feed. Raises Damaged, or Newer."""
    return _record(unseal(line))


def seal(body: dict[str, object]) -> bytes:
    """An object as a line that begins with the checksum of the rest."""
    checked = json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")[1:]
    return b'%s%08x",%s\n' % (_HEAD, zlib.crc32(checked), checked)


def checksum(line: bytes) -> str:
    """What a line says of itself."""
    return line[len(_HEAD) : len(_HEAD) + 8].decode("ascii", "replace")


def unseal(line: bytes) -> dict[str, object]:
    """The object of a line, with or without its line feed. Raises Damaged."""
    line = line.removesuffix(b"\n")
    checked = line[_CHECKED:]
    if line[:_CHECKED] != b'%s%08x",' % (_HEAD, zlib.crc32(checked)):
        raise Damaged("is damaged (its checksum does not match)")
    try:
        body = json.loads(b"{" + checked)
    except (ValueError, RecursionError) as error:
        raise Damaged("is damaged (its checksum matches, and yet it is not JSON)") from error
    if not isinstance(body, dict):
        raise Damaged("is damaged (it holds no record)")
    return body


def _record(body: dict[str, object]) -> ev.Record:
    version, name = body.get("v"), body.get("event")
    if not isinstance(version, int) or not isinstance(name, str):
        raise Damaged("is damaged (it names no event)")
    if version > VERSION or name not in _EVENTS:
        raise Newer(f"was written by a newer guardian (event {name[:80]!r} of version {version})")
    stamp = codec(ev.Stamp).from_plain(body.get("at"))
    event = codec(_EVENTS[name]).from_plain(body.get("of"))
    return ev.Record(typing.cast("ev.Stamp", stamp), typing.cast("ev.Event", event))


# --- values and what JSON has for them -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec:
    """How the values of one type are written and read."""

    to_plain: Callable[[object], object]
    """Raises TypeError for a value of another type: what cannot be read back must not be written."""
    from_plain: Callable[[object], object]
    """Raises Damaged for what no value of this type looks like."""


@functools.cache
def codec(hint: object) -> Codec:
    """How values of a type are written, made from its annotation: a dataclass, tuple, enum, `| None` or plain type."""
    if hint in _LEAVES:
        return _LEAVES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [one for one in arguments if one is not type(None)]
        return _or_none(codec(inner[0])) if len(inner) == 1 else _one_of(tuple(inner))
    if origin is frozenset:
        return _converted(frozenset, sorted, codec(arguments[0]))
    if origin is Trail:
        return _converted(Trail, tuple, codec(arguments[0]))
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return _any_number_of(codec(arguments[0]))
    if origin is tuple:
        return _each_of(tuple(codec(one) for one in arguments))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member_of(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _fields_of(hint)
    raise TypeError(f"no way to write a value of {hint!r}")


def _leaf(kind: type, name: str) -> Codec:
    def checked(value: object) -> object:
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise TypeError(f"{value!r:.60} is not {name}")

    def read(plain: object) -> object:
        if type(plain) is kind:
            return plain
        raise Damaged(f"is damaged ({plain!r:.60} is not {name})")

    return Codec(checked, read)


def _float() -> Codec:
    def written(value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if math.isfinite(value) else str(float(value))
        raise TypeError(f"{value!r:.60} is not a number")

    def read(plain: object) -> object:
        if type(plain) is float or type(plain) is int or (isinstance(plain, str) and plain in _NO_NUMBER):
            return float(plain)
        raise Damaged(f"is damaged ({plain!r:.60} is not a number)")

    return Codec(written, read)


def _or_none(inner: Codec) -> Codec:
    to_plain, from_plain = inner.to_plain, inner.from_plain
    return Codec(
        lambda value: None if value is None else to_plain(value),
        lambda plain: None if plain is None else from_plain(plain),
    )


def _any_number_of(inner: Codec) -> Codec:
    to_plain, from_plain = inner.to_plain, inner.from_plain

    def written(value: object) -> object:
        if isinstance(value, tuple):
            return [to_plain(one) for one in value]
        raise TypeError(f"{value!r:.60} is not a tuple")

    def read(plain: object) -> object:
        if isinstance(plain, list):
            return tuple([from_plain(one) for one in plain])
        raise Damaged(f"is damaged ({plain!r:.60} is not a list)")

    return Codec(written, read)


def _converted(kind: Callable[..., object], plain: Callable[..., object], inner: Codec) -> Codec:
    """A collection that is written as the list of what is in it; a Trail is read by appending."""
    items = _any_number_of(inner)

    def read(value: object) -> object:
        members = typing.cast("tuple[object, ...]", items.from_plain(value))
        return functools.reduce(Trail.append, members, Trail[object]()) if kind is Trail else kind(members)

    return Codec(lambda value: items.to_plain(tuple(typing.cast("typing.Any", plain(value)))), read)


def _one_of(kinds: tuple[type, ...]) -> Codec:
    """A value of one of several types, with the type's name."""
    names = {kind.__name__: codec(kind) for kind in kinds}

    def written(value: object) -> object:
        name = type(value).__name__
        if name not in names:
            raise TypeError(f"{value!r:.60} is none of {', '.join(names)}")
        return [name, names[name].to_plain(value)]

    def read(plain: object) -> object:
        if isinstance(plain, list) and len(plain) == 2 and plain[0] in names:
            return names[plain[0]].from_plain(plain[1])
        raise Damaged(f"is damaged ({plain!r:.60} is none of {', '.join(names)})")

    return Codec(written, read)


def _each_of(parts: tuple[Codec, ...]) -> Codec:
    def written(value: object) -> object:
        if isinstance(value, tuple) and len(value) == len(parts):
            return [part.to_plain(one) for part, one in zip(parts, value, strict=True)]
        raise TypeError(f"{value!r:.60} is not a tuple of {len(parts)}")

    def read(plain: object) -> object:
        if isinstance(plain, list) and len(plain) == len(parts):
            return tuple([part.from_plain(one) for part, one in zip(parts, plain, strict=True)])
        raise Damaged(f"is damaged ({plain!r:.60} is not a list of {len(parts)})")

    return Codec(written, read)


def _member_of(kind: type[Enum]) -> Codec:
    def written(value: object) -> object:
        if isinstance(value, kind):
            return value.value
        raise TypeError(f"{value!r:.60} is not a {kind.__name__}")

    def read(plain: object) -> object:
        try:
            return kind(plain)
        except ValueError:
            raise Newer(f"was written by a newer guardian ({kind.__name__} {plain!r:.60})") from None

    return Codec(written, read)


def _fields_of(kind: type) -> Codec:
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    parts = tuple((field.name, codec(hints[field.name])) for field in fields)
    writers = tuple((name, part.to_plain) for name, part in parts)
    readers = {name: part.from_plain for name, part in parts}
    required = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)

    def written(value: object) -> object:
        if type(value) is kind:
            return {name: write(getattr(value, name)) for name, write in writers}
        raise TypeError(f"{value!r:.60} is not a {kind.__name__}")

    def read(plain: object) -> object:
        if not isinstance(plain, dict):
            raise Damaged(f"is damaged ({plain!r:.60} is not a {kind.__name__})")
        if not plain.keys() <= readers.keys():
            strange = ", ".join(sorted(plain.keys() - readers.keys()))
            raise Newer(f"was written by a newer guardian ({kind.__name__} with {strange:.80})")
        if not required <= plain.keys():
            raise Damaged(f"is damaged ({kind.__name__} without {', '.join(sorted(required - plain.keys()))})")
        return kind(**{name: readers[name](one) for name, one in plain.items()})

    return Codec(written, read)


_LEAVES: dict[object, Codec] = {
    str: _leaf(str, "a text"),
    int: _leaf(int, "a whole number"),
    bool: _leaf(bool, "true or false"),
    float: _float(),
}
_EVENTS: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(ev.Journalled)}
"""Their codecs are made when first needed: a launch needs four, and the job waits for it."""
