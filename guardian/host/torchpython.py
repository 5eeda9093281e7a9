"""Ask the job's own Python, which has torch, to read or write torch files: a script in a process of its own.

Guardian itself never loads torch, and a file that cannot be read ends that process and not us.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from guardian.core.values import dataclass

SCRIPT = Path(__file__).with_name("scan_script.py")
ASK_EVERY_S = 0.5
NOT_OURS = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Emptied: the reader shall touch no accelerator that the job wants next."""


VERSION = re.compile(r"^__version__ = ['\"](\d{1,4})\.(\d{1,4})", re.MULTILINE)


def version(interpreter: str) -> tuple[int, int] | None:
    """Torch's version in a Python's own folder, as its file says it: nothing is started; None where none lies there."""
    home = Path(interpreter).parent.parent
    for file in home.glob("lib/python3*/site-packages/torch/version.py"):
        with contextlib.suppress(OSError), file.open("rb") as stream:
            said = VERSION.search(stream.read(4096).decode("utf-8", "replace"))
            if said:
                return int(said[1]), int(said[2])
    return None


@dataclass(frozen=True, slots=True)
class Said:
    """What became of one file."""

    tainted: str | None = None
    """Where it holds what is no number."""
    broken: str | None = None
    unread: str | None = None
    """Why nobody knows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a script printed, and what to say where that is not what it should be."""

    out: str
    why: str


def read(interpreter: str, paths: Sequence[str], check: Callable[[], None]) -> dict[str, Said]:
    """What torch says of each file."""
    answer = ask(interpreter, SCRIPT, json.dumps({"files": list(paths)}), check)
    said = dict(map(_line, answer.out.splitlines()))
    return {path: said.get(path, Said(unread=f"{interpreter}: {answer.why}")) for path in paths}


def ask(interpreter: str, script: Path, request: str, check: Callable[[], None]) -> Answer:
    """Have the job's Python run a script. `check` is asked twice a second and may raise: then the process is ended."""
    try:
        process = subprocess.Popen(
            [interpreter, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(NOT_OURS, "")},
            text=True,
            errors="replace",
        )
    except OSError as error:
        return Answer("", str(error.strerror))
    try:
        out, complaint = _communicate(process, request, check)
    finally:
        process.kill()
        process.wait()
    return Answer(out, (complaint.strip().splitlines() or [f"it ended with {process.returncode}"])[-1][:200])


def _communicate(process: subprocess.Popen[str], text: str, check: Callable[[], None]) -> tuple[str, str]:
    given: str | None = text
    while True:
        check()
        try:
            return process.communicate(given, timeout=ASK_EVERY_S)
        except subprocess.TimeoutExpired:
            given = None  # communicate goes on where it was, with what it was given first


# What torch raises for a file that was cut off or altered; other errors speak of torch or of the pickle's content.
_DAMAGE = (
    "EOFError",
    "RuntimeError",
    "UnpicklingError: pickle data was truncated",
    "UnpicklingError: invalid load key",
)


def _line(line: str) -> tuple[str, Said]:
    told = json.loads(line)
    why = told["unreadable"]
    if why is None:
        return told["file"], Said(tainted=told["tainted"])
    return told["file"], Said(broken=f"cannot be read ({why})") if why.startswith(_DAMAGE) else Said(unread=why)
