"""The numbers of a DeepSpeed file that repeat the command's, kept equal to them in a copy.

transformers refuses to start where they differ (integrations/deepspeed.py, fill_match); `auto` repeats nothing. An
accumulation that is left out is 1 for DeepSpeed, whatever the command says; which of the two counts differs by version.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from guardian.core.job import Finding, ReadConfig, Value
from guardian.core.values import dataclass
from guardian.errors import UserError

PRESETS = frozenset({"zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"})
UNREADABLE = "deepspeed-unreadable"
MEND = f"mend the file or its path; ms-swift's own are named {', '.join(sorted(PRESETS))}"
ACCUMULATION = "gradient_accumulation_steps"


@dataclass(frozen=True, slots=True)
class Overlaid:
    """A configuration file that a copy may stand in for."""

    name: str
    """Of the copy."""
    text: str
    """The user's content, as JSON."""


def read(named: Value, read_config: ReadConfig, findings: list[Finding]) -> Overlaid | None:
    """The file that a command names; None for a preset, for none, and where it cannot be read."""
    if not isinstance(named, str) or named in PRESETS:
        return None
    try:
        content = json.loads(named) if named.lstrip().startswith("{") else read_config(named)
    except UserError as error:
        findings.append(Finding(UNREADABLE, "warning", f"{error}; what it says is unknown here", MEND))
        return None
    except ValueError:
        findings.append(Finding(UNREADABLE, "warning", "the text after --deepspeed is not JSON", MEND))
        return None
    name = "deepspeed.json" if named.lstrip().startswith("{") else named.rstrip("/").rpartition("/")[2]
    return Overlaid(name, json.dumps(content))


def with_numbers(
    file: Overlaid, device_batch: Value, accumulation: Value, ranks: int | None, *, learning_rate: Value = None
) -> str | None:
    """The content with these numbers where it gives numbers of its own; None where nothing changes."""
    old: dict[str, Any] = json.loads(file.text)
    new: dict[str, Any] = json.loads(file.text)
    _put(new, "train_micro_batch_size_per_gpu", device_batch)
    if left_out(file) and isinstance(accumulation, int) and accumulation > 1:
        new[ACCUMULATION] = accumulation
    _put(new, ACCUMULATION, accumulation)
    known = isinstance(device_batch, int) and isinstance(accumulation, int)
    total = int(device_batch or 0) * int(accumulation or 0) * ranks if known and ranks is not None else "auto"
    _put(new, "train_batch_size", total)
    if learning_rate is not None:
        _put(_inside(new, "optimizer"), "lr", learning_rate)
        _put(_inside(new, "scheduler"), "warmup_max_lr", learning_rate)
    return json.dumps(new, indent=2) + "\n" if new != old else None


def differing(file: Overlaid, device_batch: Value, accumulation: Value, ranks: int | None) -> tuple[str, ...]:
    """The names whose numbers are not the command's; nothing is said of what is unknown."""
    old: dict[str, Any] = json.loads(file.text)
    now = {"train_micro_batch_size_per_gpu": device_batch, ACCUMULATION: accumulation}
    if isinstance(device_batch, int) and isinstance(accumulation, int) and ranks is not None:
        now["train_batch_size"] = device_batch * accumulation * ranks
    return tuple(name for name, new in now.items() if new is not None and old.get(name, "auto") not in ("auto", new))


def left_out(file: Overlaid) -> bool:
    """Whether the file says nothing of the accumulation."""
    return ACCUMULATION not in json.loads(file.text)


def why_fixed(file: Overlaid | None, accumulation: Value, findings: Iterable[Finding] = ()) -> str | None:
    """Why the batch must stay as it is under this file; None: it need not. `findings`: of the command."""
    if any(one.id == UNREADABLE for one in findings):
        return "the DeepSpeed configuration cannot be read, and may repeat it"
    if file is None or not left_out(file) or accumulation in (None, 1):
        return None
    return f"{file.name} leaves {ACCUMULATION} out, and whether DeepSpeed follows the command differs by version"


def _inside(content: dict[str, Any], part: str) -> dict[str, Any]:
    found = content.get(part)
    params = found.get("params") if isinstance(found, Mapping) else None
    return params if isinstance(params, dict) else {}


def _put(content: dict[str, Any], name: str, new: Value) -> None:
    """Replace a number; what is absent or `auto` follows the command by itself."""
    if name in content and not isinstance(content[name], str) and new is not None:
        content[name] = new
