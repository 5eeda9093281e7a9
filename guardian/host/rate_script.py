"""What a checkpoint's copy is made to say of the learning rate. Run by the job's own Python, which has torch.

A rate lies in two files, and both count at a resume: the first step uses optimizer.pt's, every later one is made of
scheduler.pt's. What is written is scaled from what the checkpoint says, so that groups keep their ratios and a copy of
a copy is what it was. The checkpoint itself is only read, and nothing that a pickle says is executed.

    stdin   {"source": "/out/checkpoint-8", "copy": "/run/attempts/0002/patched/.checkpoint-8", "rate": 1e-05}
    stdout  {"before": 0.001 or null, "changed": true, "why": null or text}
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
# The same names as in the companion's guardian_rates.py, which does this inside a living job.
KEPT = "guardian_base_lr"
GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr", KEPT)
SCHEDULE_RATES = ("base_lrs", "_last_lr")
SAME = 1e-9  # relative


class Refused(Exception):  # noqa: N818 - an answer, with its reason
    """The checkpoint does not say its learning rate in a form that is known."""


def main() -> None:
    """One line of JSON."""
    asked = json.load(sys.stdin)
    try:
        said = copied(asked["source"], asked["copy"], asked["rate"])
    except Refused as why:
        said = {"before": None, "changed": False, "why": str(why)}
    except Exception as error:  # noqa: BLE001 - torch raises of any kind; the reader of our output judges
        said = {"before": None, "changed": False, "why": f"{type(error).__name__}: {first_line(error)}"}
    sys.stdout.write(json.dumps(said) + "\n")


def copied(source: str, copy: str, rate: float) -> dict[str, object]:
    """Write both files with another base rate into a folder; nothing where it is the checkpoint's already."""
    optimizer, scheduler = loaded(source)
    before = base_of(optimizer, scheduler)
    factor = rate / before
    if abs(factor - 1) <= SAME:
        return {"before": before, "changed": False, "why": None}
    scale(optimizer, scheduler, factor)
    save(optimizer, os.path.join(copy, OPTIMIZER))
    save(scheduler, os.path.join(copy, SCHEDULER))
    after = base_of(*loaded(copy))
    if not math.isclose(after, rate, rel_tol=1e-6):
        raise Refused(f"it was written as {rate:g} and reads back as {after:g}")
    return {"before": before, "changed": True, "why": None}


def loaded(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The optimizer's and the scheduler's state."""
    optimizer, scheduler = load(os.path.join(folder, OPTIMIZER)), load(os.path.join(folder, SCHEDULER))
    groups = optimizer.get("param_groups") if isinstance(optimizer, dict) else None
    if not isinstance(groups, list) or not groups or not all(isinstance(g, dict) and "lr" in g for g in groups):
        raise Refused(f"{OPTIMIZER} is not in a form that is known")
    if not isinstance(scheduler, dict):
        raise Refused(f"{SCHEDULER} is not in a form that is known")
    return optimizer, scheduler


def load(path: str) -> Any:  # noqa: ANN401 - what a file holds
    """Mapped where torch can: an optimizer's state may be larger than what memory is free."""
    import torch  # noqa: PLC0415 - only where this is run, and after this file's folder has left sys.path

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (TypeError, RuntimeError):  # before torch 2.1; a file in torch's old form
        return torch.load(path, map_location="cpu", weights_only=True)


def save(content: dict[str, Any], path: str) -> None:
    """On the disk before anybody relies on it."""
    import torch  # noqa: PLC0415 - as above

    with open(path, "xb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def base_of(optimizer: dict[str, Any], scheduler: dict[str, Any]) -> float:
    """The rate that the schedule of the first group is relative to."""
    group = optimizer["param_groups"][0]
    if "max_lr" in group:  # OneCycleLR, CyclicLR: named after the top of their cycle
        return number(group["max_lr"])
    for one in family(scheduler):
        if one.get("base_lrs"):
            return number(one["base_lrs"][0])
    raise Refused("its scheduler does not say which learning rate it began with")


def number(rate: Any) -> float:  # noqa: ANN401 - a number, or a tensor of one
    """A rate that can be scaled."""
    value = float(rate)
    if not math.isfinite(value) or value <= 0:
        raise Refused(f"its learning rate is {value:g}")
    return value


def scale(optimizer: dict[str, Any], scheduler: dict[str, Any], factor: float) -> None:
    """Everything that is a learning rate, by the same factor."""
    for group in optimizer["param_groups"]:
        for name in GROUP_RATES:
            if group.get(name) is not None:
                group[name] = group[name] * factor  # a new tensor where it is one: several names may share it
    for one in family(scheduler):
        for name in SCHEDULE_RATES:
            if one.get(name):
                one[name] = [rate * factor for rate in one[name]]
        if one.get("eta_min"):
            one["eta_min"] = one["eta_min"] * factor


def family(scheduler: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A scheduler's state and those of the schedulers that it combines."""
    yield scheduler
    for child in scheduler.get("_schedulers") or ():
        if isinstance(child, dict):
            yield from family(child)


def first_line(error: Exception) -> str:
    """What it says, in short."""
    return str(error).split("\n")[0][:200]


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its neighbours are no modules of the job
    main()
