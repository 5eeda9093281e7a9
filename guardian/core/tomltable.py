"""Read the tables of a TOML file with a complaint, at its line, about whatever is not as it should be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from guardian.core.tomltext import Path, line_of
from guardian.core.units import seconds
from guardian.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a rule file cannot be used as written."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.message}"


@dataclass(frozen=True, slots=True)
class Reader:
    """The file that is being read, and what is wrong with it so far."""

    text: str
    file: str
    complaints: list[Complaint]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the file; every getter returns something of its type and complains where it had to invent it."""

    reader: Reader
    path: Path
    values: Mapping[str, object]

    def complain(self, key: str, message: str, value: object = None) -> None:
        at = (*self.path, key) if key else self.path
        name = "".join(f"[{p + 1}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")
        line = line_of(self.reader.text, at, value)
        self.reader.complaints.append(Complaint(self.reader.file, line, name, message))

    def only(self, *keys: str) -> None:
        for key in self.values:
            if key not in keys:
                self.complain(key, f"there is no such key here{nearest(key, keys)}", key)

    def text(self, key: str, *, required: bool = True) -> str:
        value = self.values.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if required or key in self.values:
            self.complain(key, "must be a text, not empty" if key in self.values else "is missing")
        return ""

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        self.complain(key, "must be a list of texts")
        return []

    def table(self, key: str) -> Mapping[str, object]:
        value = self.values.get(key)
        if isinstance(value, dict):
            return value
        self.complain(key, f"must be a section: [{key}]" if key in self.values else "is missing")
        return {}

    def choice(self, key: str, known: Iterable[str]) -> str:
        value = self.text(key)
        return self.known(key, value, known) if value else ""

    def known(self, key: str, value: str, known: Iterable[str]) -> str:
        if value not in known:
            self.complain(key, f"{value!r} is not known here{nearest(value, known)}", value)
        return value

    def inner(self, key: str, hint: str) -> Table:
        """A table inside this one, empty where there is none."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.complain(key, hint)
            value = {}
        return Table(self.reader, (*self.path, key), value)

    def tables(self, key: str, hint: str) -> list[Table]:
        """The tables of a list, none where it is left out."""
        listed = self.values.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            self.complain(key, hint)
            return []
        return [Table(self.reader, (*self.path, key, place), one) for place, one in enumerate(listed)]

    def seconds(self, key: str) -> float | None:
        """A time, written with its unit; None where it is left out."""
        value = self.values.get(key)
        found = seconds(value) if isinstance(value, str) else None
        if value is not None and found is None:
            self.complain(key, 'must be a time with its unit, like "30 s" or "10 min"')
        return found

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.complain(key, "must be true or false")
        return value is True


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of a complaint about a name: which one may have been meant."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
