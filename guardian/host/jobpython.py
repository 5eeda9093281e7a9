"""Which Python a command runs in: the one it names, or the one that its program's first line names.

Installed programs (torchrun, swift, llamafactory-cli, accelerate) are scripts whose first line is that of their
environment's Python; pip writes it in two ways, the second where the path is too long for the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence

PYTHON = re.compile(r"python[\d.]*")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_PLAIN = re.compile(rb"\A#!\s*(\S+)")
_LONG = re.compile(rb"\A#!/bin/sh\n'''exec' \"?([^\"\n]+?)\"? \"\$0\"")
_BY_ENV = re.compile(rb"\A#!\s*/usr/bin/env (?:-S )?(\S+)")
HEAD = 4096
"""Bytes of a program in which its first lines lie."""


def interpreter(argv: Sequence[str], environment: Mapping[str, str], cwd: str) -> str | None:
    """Its path; None where nobody knows (a wrapper, a program that is no script)."""
    words = list(argv)
    if words and os.path.basename(words[0]) == "env":
        words = words[1:]
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    program = _found(words[0], environment, cwd) if words else None
    if program is None or PYTHON.fullmatch(os.path.basename(words[0])):
        return program
    try:
        with open(program, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    named = _LONG.match(head) or _BY_ENV.match(head) or _PLAIN.match(head)
    path = os.fsdecode(named[1]) if named else None
    if path is None or not PYTHON.fullmatch(os.path.basename(path)):
        return None
    return _found(path, environment, cwd)


def _found(word: str, environment: Mapping[str, str], cwd: str) -> str | None:
    if os.sep in word:
        path = os.path.join(cwd, word)
        return path if os.access(path, os.X_OK) else None
    return shutil.which(word, path=environment.get("PATH"))
