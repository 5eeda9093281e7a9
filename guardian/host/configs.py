"""Read a configuration file that a training command names, or that describes it; never to change it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from guardian.errors import UserError
from guardian.host.userfiles import parse_toml, read_text


def read_config(path: str) -> Mapping[str, object]:
    """The mapping in a JSON, YAML or TOML file. Raises UserError with the reason."""
    text = read_text(path)
    if path.endswith(".toml"):
        return parse_toml(text, path)
    try:
        content = _json(path, text) if path.endswith(".json") else _yaml(path, text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be understood: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: does not hold a mapping of names to values")
    return content


def _json(path: str, text: str) -> Any:  # noqa: ANN401 - as below
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        before = text[: error.pos].rstrip()
        # Python 3.13 points at the comma, older ones behind it.
        comma = before.endswith(",") or text[error.pos : error.pos + 1] == ","
        hint = ": a comma stands before the closing bracket" if comma and _closes(text[error.pos :]) else ""
        raise UserError(f"{path}:{error.lineno}: is not JSON: {error.msg}{hint}") from None


def _closes(rest: str) -> bool:
    return rest.lstrip(", \t\r\n")[:1] in ("}", "]")


def _yaml(path: str, text: str) -> Any:  # noqa: ANN401 - a parsed file can be anything until it is looked at
    try:
        import yaml  # noqa: PLC0415 - only the training extra brings it; where it is missing JSON still works
    except ImportError:
        raise UserError(f"{path}: is YAML, and pyyaml is not installed beside guardian") from None
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        tabs = any("\t" in one for one in text.split("\n")[line - 1 : line])
        hint = ": a tab stands in this line, where YAML wants blanks" if tabs else ""
        raise UserError(f"{path}:{line}: is not YAML: {error.problem or error.context}{hint}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
