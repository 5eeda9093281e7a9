"""What a row says, whatever form it was written in: messages that end with the assistant's answer.

`from_row` raises FormError with what is wrong and how to write it; the caller knows file and line.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

KNOWN_COLUMNS = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "query",
    "response",
    "system",
    "history",
)
_FORMS = "messages, or instruction and output, or query and response"
_ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",
    "gpt": "assistant",
}


class FormError(Exception):
    """A row cannot be read as a conversation."""


class Message(NamedTuple):
    """One turn."""

    role: str
    content: str


Conversation = tuple[Message, ...]


def from_row(row: Any, columns: Mapping[str, str] | None = None) -> Conversation:
    """The conversation in one JSON object, its columns renamed first."""
    if not isinstance(row, dict):
        raise FormError(f"is {_name(row)}, not an object such as {{...}}")
    renamed = {(columns or {}).get(name, name): value for name, value in row.items() if value is not None}
    for name in ("messages", "conversations"):
        if name in renamed:
            return _checked(_from_messages(name, renamed[name]), name)
    if "instruction" in renamed:
        return _checked(_from_alpaca(renamed), "output")
    if "query" in renamed or "response" in renamed:
        return _checked(_from_query(renamed), "response")
    raise FormError(_no_form(renamed))


def _from_messages(column: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise FormError(f"column {column} must be a list of messages, and is {_name(value)}")
    return [_message(f"{column}[{number}]", item) for number, item in enumerate(value)]


def _message(where: str, item: Any) -> Message:
    if not isinstance(item, dict):
        raise FormError(f'{where} is {_name(item)}; write {{"role": "user", "content": "..."}}')
    role = item.get("role", item.get("from"))
    if role not in _ROLES:
        raise FormError(f"{where} has role {role!r}; use one of system, user, assistant, tool")
    content = item.get("content", item.get("value"))
    if not isinstance(content, str):
        raise FormError(f"{where} has {_name(content)} as content; it must be text")
    return Message(_ROLES[role], content)


def _from_alpaca(row: Mapping[str, Any]) -> list[Message]:
    question, extra = _text(row, "instruction"), _text(row, "input", optional=True)
    asked = f"{question}\n{extra}" if extra else question
    return [*_system_and_history(row), Message("user", asked), Message("assistant", _text(row, "output"))]


def _from_query(row: Mapping[str, Any]) -> list[Message]:
    turn = [Message("user", _text(row, "query")), Message("assistant", _text(row, "response"))]
    return [*_system_and_history(row), *turn]


def _system_and_history(row: Mapping[str, Any]) -> list[Message]:
    system = _text(row, "system", optional=True)
    messages = [Message("system", system)] if system else []
    history = row.get("history", [])
    if not isinstance(history, list):
        raise FormError(f'column history is {_name(history)}; write [["question", "answer"], ...]')
    for number, pair in enumerate(history):
        match pair:
            case [str(asked), str(answered)]:
                messages += [Message("user", asked), Message("assistant", answered)]
            case _:
                raise FormError(f'column history[{number}] must be a pair of texts: ["question", "answer"]')
    return messages


def _text(row: Mapping[str, Any], column: str, *, optional: bool = False) -> str:
    if column not in row:
        if optional:
            return ""
        raise FormError(f"column {column} is missing (there are: {_listed(row)}){_rename(row, column)}")
    if not isinstance(row[column], str):
        raise FormError(f"column {column} is {_name(row[column])}; it must be text")
    return str(row[column])


def _checked(messages: list[Message], column: str) -> Conversation:
    if messages[-1].role != "assistant":
        raise FormError(
            f"column {column} ends with a message of {messages[-1].role}; the last one must be the assistant's"
        )
    if any(message.role == "system" for message in messages[1:]):
        raise FormError(f"column {column} has a system message after the first place; put it first")
    if any(message.role == "assistant" and not message.content.strip() for message in messages):
        raise FormError(f"column {column} holds an empty answer; remove the row or answer it")
    if all(message.role not in {"user", "tool"} for message in messages):
        raise FormError(f"column {column} holds no question of a user")
    return tuple(messages)


def _no_form(row: Mapping[str, Any]) -> str:
    return f"has columns {_listed(row)}; it needs {_FORMS}{_rename(row, *KNOWN_COLUMNS)}"


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(list(row)[:8]) or "none"


def _rename(row: Mapping[str, Any], *wanted: str) -> str:
    """The --columns that would do, where a column's name is near; else how to write it."""
    for name in row:
        if name not in KNOWN_COLUMNS and (near := difflib.get_close_matches(name, wanted, n=1, cutoff=0.7)):
            return f"""; rename with --columns '{{"{name}": "{near[0]}"}}'"""
    return """; rename with --columns '{"yours": "query", ...}'"""


def _name(value: Any) -> str:
    """The JSON name of what stands there."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    if isinstance(value, list) and not value:
        return "an empty list"
    return names.get(type(value), "a number")
