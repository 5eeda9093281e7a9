"""`guardian doctor`: which checkpoints of a folder can be resumed from, and why the others cannot."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.cli import parsing
from guardian.core import checkpoints as judging
from guardian.core.planning import newest_complete
from guardian.errors import UserError
from guardian.host import checkpoints
from guardian.ui.plain import printable

if TYPE_CHECKING:
    from guardian.core.events import Checkpoint
    from guardian.host.inspecting import Progress

EXAMPLE = """example:
  guardian doctor out

DIR is a checkpoint folder, or an output folder with some. Every byte is read: checksums of optimizer, schedule and
random states, NaN and infinite numbers in all tensors; no torch is needed, and nothing is unpickled. --python lets a
Python that has torch read what torch wrote in its old form. Exit codes: 0 one can be resumed from, 1 none can, 2 DIR
is no such folder."""
EXIT_NONE = 1
SHOWN_EVERY_S = 0.5
QUIET_EVERY_S = 30.0
"""Where nobody watches a line change."""


def main(argv: list[str]) -> int:
    """A line per checkpoint, then the one that guardian would resume from."""
    options = parsing.parser("doctor", "Say which checkpoints can be resumed from, and why the others cannot.", EXAMPLE)
    options.add_argument("folder", metavar="DIR", help="a checkpoint folder, or an output folder with some")
    options.add_argument("--quick", action="store_true", help="look at headers and directories only")
    options.add_argument("--world", type=_positive, metavar="N", help="the ranks of the run that shall go on")
    options.add_argument("--python", metavar="PATH", help="a Python that has torch, for files in torch's old form")
    options.add_argument(
        "--at-most", type=_positive, default=3600, metavar="SECONDS", help="then stop reading (default: 3600)"
    )
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    paths = _paths(chosen.folder)
    if chosen.quick:
        found = tuple(checkpoints.glance(p, checkpoints.step_in_name(p), chosen.world) for p in paths)
    else:
        from guardian.host.inspecting import inspect

        shown = _Shown()
        found = inspect(
            paths, world=chosen.world, interpreter=chosen.python, deadline_s=chosen.at_most, progress=shown.show
        )
        shown.clear()
    found = tuple(sorted(found, key=lambda c: c.step))
    best = newest_complete(found)
    if chosen.json:
        sys.stdout.write(json.dumps(_as_json(found, best, quick=chosen.quick), indent=1) + "\n")
    else:
        sys.stdout.writelines(printable(line) + "\n" for line in _lines(chosen.folder, found, best, quick=chosen.quick))
    return 0 if best is not None else EXIT_NONE


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _paths(folder: str) -> tuple[str, ...]:
    """The checkpoint folders that are meant: those in it and in its versions, or itself. Raises UserError."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is no folder")
    try:
        found = [path for base in checkpoints.versions(folder) for path in checkpoints.folders(base)]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    # A finished run leaves a trainer_state.json in its output folder as well.
    if not found and (checkpoints.step_in_name(folder) is not None or Path(folder, judging.STATE).exists()):
        return (str(Path(folder)),)
    return tuple(found)


# --- what a person sees --------------------------------------------------------------------------------------------


def _lines(folder: str, found: tuple[Checkpoint, ...], best: Checkpoint | None, *, quick: bool) -> list[str]:
    if not found:
        return [f"guardian: no checkpoint-<step> in {folder}"]
    wide = max(len(str(c.step)) for c in found)
    lines = [f"{'step':>{max(4, wide)}}  {'verdict':<12}  why"]
    lines += [f"{c.step:>{max(4, wide)}}  {c.verdict:<12}  {c.why or ''}".rstrip() for c in found]
    if quick:
        lines.append("Only headers were looked at; without --quick every byte is read.")
    if best is None:
        return [*lines, "None of them can be resumed from."]
    return [*lines, f"guardian would resume from {best.path}"]


def _as_json(found: tuple[Checkpoint, ...], best: Checkpoint | None, *, quick: bool) -> dict[str, object]:
    """Public keys of `doctor --json`."""
    return {
        "checkpoints": [
            {
                "path": c.path,
                "step": c.step,
                "verdict": c.verdict,
                "reason": None if c.complete else c.why,
                "remark": c.why if c.complete else None,
                "first_bad_step": c.first_bad_step,
            }
            for c in found
        ],
        "read": "headers" if quick else "all",
        "resume_from": best.path if best else None,
    }


class _Shown:
    """A line on stderr that says how far the reading is, not before it has taken a moment."""

    def __init__(self) -> None:
        self._live = os.isatty(2)
        self._last = time.monotonic()
        self._wide = 0

    def show(self, at: Progress) -> None:
        every_s = SHOWN_EVERY_S if self._live else QUIET_EVERY_S
        if time.monotonic() - self._last < every_s:
            return
        self._last = time.monotonic()
        line = f"guardian: {100 * at.done // at.total} % of {at.total / 2**30:.1f} GiB, {_tail(at.path)}"
        sys.stderr.write(f"\r{printable(line):<{self._wide}}" if self._live else f"{printable(line)}\n")
        sys.stderr.flush()
        self._wide = len(line)

    def clear(self) -> None:
        if self._live and self._wide:
            sys.stderr.write("\r" + " " * self._wide + "\r")
            sys.stderr.flush()


def _tail(path: str) -> str:
    """The checkpoint's and the file's name."""
    return str(Path(*Path(path).parts[-2:]))
