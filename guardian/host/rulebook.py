"""Find and read rule files: the package's own, then the user's, which replace them by id.

A rule decides what is done to a job at night, so files that somebody else could have written are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from guardian.core.rulefile import merge, parse
from guardian.core.rules import Rule
from guardian.core.tomltable import Complaint
from guardian.core.tomltext import line_of
from guardian.errors import HostError, UserError
from guardian.host.matching import regex_problem
from guardian.host.userfiles import own_rules, parse_toml, read_text, refuse_strangers

PACKAGE = "guardian.rules"
MAX_FILES = 1000

File = tuple[str, str]
"""Name and text."""


def load(folder: Path | None) -> tuple[Rule, ...]:
    """The rules in force: the package's, the user's own, those of `--rules`; the later replace the earlier by id.

    Raises UserError with a line per complaint: file:line: key: message.
    """
    layers = [list(packaged()), _own(), list(_folder(str(folder))) if folder is not None else []]
    texts = {name: text for layer in layers for name, text in layer}
    complaints: list[Complaint] = []
    read = [[rule for file in layer if (rule := _rule(file, complaints))] for layer in layers]
    rules, clashes = merge(read, lambda rule: line_of(texts[rule.source], ("id",)))
    complaints += clashes
    if complaints:
        raise UserError("\n".join(map(str, complaints)))
    return rules


def text_of(rule: Rule) -> str:
    """The rule's file. Raises UserError, HostError."""
    return _beside(rule, rule.source) or ""


def samples_of(rule: Rule) -> str | None:
    """The text of the samples beside the rule; None: there are none."""
    return _beside(rule, rule.source.removesuffix(".toml") + ".samples")


def folder(path: Path) -> tuple[Rule, ...]:
    """The rules of a folder alone. Raises UserError with a line per complaint, but for rules that they ask for."""
    complaints: list[Complaint] = []
    rules = tuple(rule for file in _folder(str(path)) if (rule := _rule(file, complaints)))
    if complaints:
        raise UserError("\n".join(map(str, complaints)))
    return rules


def _beside(rule: Rule, name: str) -> str | None:
    if not rule.source.startswith(f"{PACKAGE}/"):
        return read_text(name, trusted=True) if os.path.exists(name) else None
    with resources.as_file(resources.files(PACKAGE)) as packages:
        path = packages / name.removeprefix(f"{PACKAGE}/")
        return path.read_text("utf-8") if path.exists() else None


def packaged() -> Iterator[File]:
    """The rule files that guardian brings."""
    try:
        package = resources.files(PACKAGE)
    except ModuleNotFoundError:
        raise HostError("the rules are missing from this installation: reinstall training-guardian") from None
    with resources.as_file(package) as folder:
        for path in sorted(folder.glob("*/*.toml")):
            yield f"{PACKAGE}/{path.parent.name}/{path.name}", path.read_text("utf-8")


def _rule(file: File, complaints: list[Complaint]) -> Rule | None:
    name, text = file
    rule, wrong = parse(parse_toml(text, name), text, name, regex_problem)
    complaints += wrong
    return rule


def _own() -> list[File]:
    folder = own_rules()
    return list(_folder(folder)) if folder else []


def _folder(folder: str) -> Iterator[File]:
    """The rule files of a folder and of the folders in it."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: is not a folder with rules")
    count = 0
    for inner, folders, names in os.walk(folder):
        folders.sort()
        refuse_strangers(inner, os.stat(inner))
        for name in sorted(names):
            if name.endswith(".toml"):
                count += 1
                if count > MAX_FILES:
                    raise UserError(f"{folder}: holds more than {MAX_FILES} rule files")
                path = os.path.join(inner, name)
                yield path, read_text(path, trusted=True)
