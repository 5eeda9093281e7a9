"""A real instruction set with nothing to download: questions about the standard library, answered by its docstrings.

Sources are parsed, never imported. The order is that of the file names, so that every process and rank of one
Python sees the same rows; another Python version has other docstrings.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from guardian.errors import UserError

from .conversation import Conversation, Message

ROWS = 1024  # a multiple of every usual batch, so that no epoch ends in a part of one
_SHORTEST, _LONGEST = 20, 160  # characters of an answer: a sentence or two, quick to train on

# Dense with docstrings, and there in every Python that has its sources: parsing all of the library takes seconds.
_PACKAGES = ("asyncio", "collections", "email", "http", "importlib", "logging", "multiprocessing", "unittest")


def docstring_conversations() -> tuple[Conversation, ...]:
    library = Path(sysconfig.get_path("stdlib"))
    rows: list[Conversation] = []
    for source in _sources(library):
        module = ".".join(source.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        rows += [(Message("user", asked), Message("assistant", answer)) for asked, answer in _pairs(source, module)]
        if len(rows) >= ROWS:
            return tuple(rows[:ROWS])
    whole = len(rows) - len(rows) % 64
    if not whole:
        raise UserError(f"--dataset demo: {library} holds no Python sources; give a .jsonl file")
    return tuple(rows[:whole])


def _sources(library: Path) -> Iterator[Path]:
    for package in _PACKAGES:
        yield from sorted((library / package).glob("*.py"))
    yield from sorted(library.glob("*.py"))


def _pairs(source: Path, module: str) -> Iterator[tuple[str, str]]:
    """Question and answer for every public function, class and method that has a fitting docstring."""
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError):
        return  # one odd file of an installation is no reason not to train
    for owner, node in _definitions(tree, module):
        answer = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        if _SHORTEST <= len(answer) <= _LONGEST:
            kind = "the class" if isinstance(node, ast.ClassDef) else "the function"
            yield f"What does {kind} {owner}.{node.name} do?", answer


_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(parent: ast.AST, owner: str) -> Iterator[tuple[str, _Definition]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, _Definition) and not node.name.startswith("_"):
            yield owner, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, f"{owner}.{node.name}")
