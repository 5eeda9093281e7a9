"""Make a copy of a checkpoint with another learning rate, for a job in which no companion can set it.

The checkpoint is only read: its other files are linked into the copy, or copied where links do not reach, and the job's
own Python writes the two files that hold the rate (host/rate_script.py). The copy appears whole, by a rename. Where the
form is not known nothing is made and the reason is told: a rate that is only said is worse than none.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from guardian.core import events as ev
from guardian.core.planning import PATCHED
from guardian.host import torchpython

SCRIPT = Path(__file__).with_name("rate_script.py")
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
"""The two files that the script writes."""
FREE_AFTER = 1.1
"""A copy is made only if this many times its size stays free, so that the next save still fits."""


class Impossible(Exception):  # noqa: N818 - an answer, with its reason
    """No copy can be made."""


def rate(
    asked: ev.Rated, *, interpreter: str | None, deadline_s: float, stop: Callable[[], bool] = lambda: False
) -> ev.Rated:
    """What became of the copy that is asked for; `asked` says from where, what rate and to where. Never raises."""
    end = time.monotonic() + deadline_s

    def check() -> None:
        if stop():
            raise Impossible("interrupted")
        if time.monotonic() >= end:
            raise Impossible(f"it took over {deadline_s:.0f} s")

    assert asked.copy is not None
    half = os.path.join(os.path.dirname(asked.copy), "." + os.path.basename(asked.copy))
    try:
        _known(asked.source)
        before, changed = _made(asked, half, interpreter, check)
        if changed:
            _appear(half, asked.copy)
        return replace(asked, copy=asked.copy if changed else None, before=before)
    except Impossible as why:
        return replace(asked, copy=None, why=str(why))
    except OSError as error:
        return replace(asked, copy=None, why=f"{error.strerror}: {error.filename}")
    finally:
        shutil.rmtree(half, ignore_errors=True)


def release(attempts: str) -> None:
    """Remove the copies of all attempts: none is read after its attempt has begun."""
    for folder in glob.glob(os.path.join(glob.escape(attempts), "*", PATCHED)):
        shutil.rmtree(folder, ignore_errors=True)


def _known(source: str) -> None:
    """Raises Impossible for a checkpoint whose rate does not lie in the two files."""
    names = os.listdir(source)
    if any(name.startswith(("global_step", "zero_pp_rank")) for name in names):
        raise Impossible("its optimizer lies in DeepSpeed's shards")
    if any(name.startswith(("pytorch_model_fsdp", "optimizer_")) or name.endswith(".distcp") for name in names):
        raise Impossible("its optimizer lies in FSDP's own form")
    missing = [name for name in (OPTIMIZER, SCHEDULER) if name not in names]
    if missing:
        raise Impossible(f"there is no {missing[0]} in it")


def _made(asked: ev.Rated, half: str, interpreter: str | None, check: Callable[[], None]) -> tuple[float | None, bool]:
    """The rate that the checkpoint had, and whether another was written, into the half-made copy."""
    if interpreter is None:
        raise Impossible("the Python of the job is not known, and only it can write its optimizer's state")
    shutil.rmtree(half, ignore_errors=True)
    os.makedirs(half, mode=0o700)
    _have_room(asked.source, half)
    _mirror(asked.source, half, check)
    request = json.dumps({"source": asked.source, "copy": half, "rate": asked.target})
    answer = torchpython.ask(interpreter, SCRIPT, request, check)
    try:
        said = json.loads(answer.out)
        why, before, changed = said["why"], said["before"], said["changed"]
    except (ValueError, KeyError, TypeError):
        raise Impossible(f"{interpreter}: {answer.why}") from None
    if why is not None:
        raise Impossible(str(why))
    return before, bool(changed)


def _have_room(source: str, half: str) -> None:
    """Links take none; across file systems everything is copied."""
    linked = os.stat(source).st_dev == os.stat(half).st_dev
    sizes = {
        os.path.join(base, name): os.stat(os.path.join(base, name)).st_size
        for base, _, names in os.walk(source)
        for name in names
    }
    both = {os.path.join(source, OPTIMIZER), os.path.join(source, SCHEDULER)}
    needed = sum(size for path, size in sizes.items() if path in both or not linked)
    if shutil.disk_usage(half).free - needed < FREE_AFTER * sum(sizes.values()):
        raise Impossible("no room for a copy beside the next save")


def _mirror(source: str, half: str, check: Callable[[], None]) -> None:
    """Everything but the two files that are written anew."""
    for base, _, names in os.walk(source, onerror=_raise):
        folder = os.path.join(half, os.path.relpath(base, source))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in names:
            if base == source and name in (OPTIMIZER, SCHEDULER):
                continue
            check()
            _place(os.path.join(base, name), os.path.join(folder, name))


def _raise(error: OSError) -> None:
    """os.walk leaves out what it cannot list: half a checkpoint would look whole."""
    raise error


def _place(old: str, new: str) -> None:
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)
        _flush(new)


def _appear(half: str, copy: str) -> None:
    for base, _, _ in os.walk(half):
        _flush(base)
    shutil.rmtree(copy, ignore_errors=True)
    os.rename(half, copy)
    _flush(os.path.dirname(copy))


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
