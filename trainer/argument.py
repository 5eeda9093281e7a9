"""What one argument is: a name, a kind of value and a default. Nothing here knows which arguments there are."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from typing import Literal

from guardian.errors import UserError

Kind = Literal["int", "float", "str", "bool", "words", "json"]
Value = int | float | str | bool | tuple[str, ...] | dict[str, object] | None

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_KIND_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "json": "a JSON object"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One `--name`; `default` None means that something else decides, and `help` says what."""

    name: str
    kind: Kind
    default: Value = None
    help: str = ""
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    also: tuple[str, ...] = ()
    majors: tuple[int, ...] = (4, 5)  # versions of transformers that know it; for ours: all

    def read(self, text: str) -> Value:
        """The value that `text` stands for, or a UserError that names this argument."""
        value = self._convert(text)
        if self.choices and value not in self.choices:
            raise UserError(f"--{self.name} {text}: choose one of {', '.join(self.choices)}")
        if self.at_least is not None and isinstance(value, int | float) and value < self.at_least:
            raise UserError(f"--{self.name} {text}: must be at least {self.at_least:g}")
        return value

    def _convert(self, text: str) -> Value:
        try:
            match self.kind:
                case "int":
                    return int(text)
                case "float":
                    return _number(text)
                case "bool":
                    return _truth(text)
                case "json":
                    return _object(text)
                case _:
                    return text
        except ValueError:
            raise UserError(f"--{self.name} {text}: is not {_KIND_WORDS[self.kind]}") from None


@dataclass(frozen=True, slots=True)
class Group:
    """Arguments that `--help` shows together."""

    title: str
    arguments: tuple[Argument, ...]


def transformers_major() -> int:
    """The installed transformers' major version, read from its metadata: importing it takes seconds."""
    try:
        return int(importlib.metadata.version("transformers").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        raise UserError("transformers is not installed; install training-guardian[train]") from None


def _number(text: str) -> float:
    """Whole numbers stay whole: `save_steps 10` and `save_steps 0.1` mean different things to the framework."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(text)
    return word in _TRUE


def _object(text: str) -> Value:
    """A JSON object as it is; anything else that does not begin one is taken as a path by the framework."""
    if not text.lstrip().startswith("{"):
        return text
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)  # noqa: TRY004 - read() turns ValueError into the line that names the argument
    return value
