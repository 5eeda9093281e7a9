"""A YAML or JSON file as the first argument: each key stands for `--key value`, and the command line wins.

A mapping under ENV is put into the environment where the name is not set yet, as ms-swift does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardian.errors import UserError

SUFFIXES = (".json", ".yaml", ".yml")

Pairs = list[tuple[str, list[str]]]


def read_config(path: Path) -> tuple[Pairs, dict[str, str]]:
    """The arguments that the file stands for, and the environment that it asks for."""
    content = _parse(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: must hold a mapping of argument names to values")
    environment = content.get("ENV", {})
    if not isinstance(environment, Mapping):
        raise UserError(f"{path}: ENV must be a mapping of names to values")
    pairs = [(str(name), _words(value)) for name, value in content.items() if name != "ENV" and value is not None]
    return pairs, {str(name): _word(value) for name, value in environment.items()}


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if path.suffix == ".json":
        return _parse_json(path, text)
    return _parse_yaml(path, text)


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: is not JSON: {error.msg}") from None


def _parse_yaml(path: Path, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path} line {line}: is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from None


def _words(value: Any) -> list[str]:
    return [_word(item) for item in value] if isinstance(value, list) else [_word(value)]


def _word(value: Any) -> str:
    """The text that one would have written on the command line."""
    if isinstance(value, str):
        return value
    return json.dumps(value)  # true, 0.1, {"a": 1}
