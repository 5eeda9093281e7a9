"""What a rung's operations make of the knobs: from relative words ("halve") to the values of the next attempt.

Pure. An operation that changes nothing, or whose present value is unknown, changes nothing and says why; the batch is
moved by core/batch.py alone, so that the effective batch stays the same integer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guardian.core.batch import Split, halved, with_device_batch
from guardian.core.job import PRESERVING, Value
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardian.core.rungs import Facts, Operation

MIB = 1024 * 1024
TENSORS_OF_A_ROW = 3
"""input_ids, attention_mask and labels, each int64: what a text collator hands through shared memory."""
BYTES_OF_A_TOKEN = 8
SHM_SHARE = 0.8
"""Of /dev/shm; the rest is for what else lies there (gloo, NCCL, a tracker)."""
PREFETCH = 2
"""torch's own prefetch_factor where nobody gives one (torch/utils/data/dataloader.py)."""
SAFE_RATES = {"bfloat16": 1e-4, "bf16": 1e-4, "float16": 5e-5, "fp16": 5e-5, "float32": 1e-5, "fp32": 1e-5}
"""Learning rates at which a LoRA of that dtype does not diverge; the first remedy of a NaN goes at least there."""
MEETING_S = 1800
"""The default of torch.distributed (constants.py, default_pg_timeout) for gloo, and of transformers' ddp_timeout."""
STARTS = 10
KEEP = "keep-effective-batch"


@dataclass(frozen=True, slots=True)
class Changed:
    """The knobs that get another value."""

    settings: tuple[tuple[str, bool | int | float | str], ...]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing would be another than it is; why, in words."""

    why: str


def kind(knob: str) -> str:
    """Whether another value of the knob leaves the experiment what it is."""
    return "preserving" if knob in PRESERVING else "changing"


def changed(
    operations: tuple[tuple[str, Operation], ...], now: Mapping[str, Value], facts: Facts
) -> Changed | Unchanged:
    """The values that the operations ask for. `now` holds each knob's present value, None where it is unknown."""
    wanted: dict[str, bool | int | float | str] = {}
    reasons = []
    for knob, operation in operations:
        if operation.kind == KEEP:
            continue  # it follows from the device batch
        value = _value(knob, operation, now, facts)
        if isinstance(value, Unchanged):
            reasons.append(value.why)
        elif value == now.get(knob):
            reasons.append(f"{knob} is {_shown(value)} already")
        else:
            wanted[knob] = value
    if wanted.get("workers", now.get("workers")) == 0 and "prefetch" in wanted:
        del wanted["prefetch"]  # nobody loads ahead
    if "device_batch" in wanted:
        split = _kept(now, int(wanted["device_batch"]))
        if isinstance(split, Unchanged):
            return split
        wanted["accumulation"] = split.accumulation
    return Changed(tuple(wanted.items())) if wanted else Unchanged("; ".join(reasons) or "it asks for no change")


def _value(
    knob: str, operation: Operation, now: Mapping[str, Value], facts: Facts
) -> bool | int | float | str | Unchanged:
    """What one operation makes of one knob."""
    if operation.kind == "literal":
        return "" if operation.value is None else operation.value
    present = now.get(knob)
    if operation.kind == "ten-starts":
        return meeting_timeout(present, facts)
    if isinstance(present, bool) or not isinstance(present, int | float):
        return Unchanged(f"the present {knob} is unknown")
    if operation.kind == "fit-shm":
        return fitting_workers(int(present), now, facts)
    if operation.kind == "lower-or-safe":
        return min(present / 2, _safe_rate(now, facts) or present / 2)
    if operation.kind == "halve":
        return _half(knob, present, now)
    factor = float(operation.value or 0)
    # 0.1 x 1e-05 is 1.0000000000000002e-06: what stands in a command shall look as people write it.
    value = float(f"{present * factor:.12g}") if operation.kind == "times" else max(present, factor)
    return int(value) if isinstance(present, int) and value == int(value) else value


def _half(knob: str, present: float, now: Mapping[str, Value]) -> int | float | Unchanged:
    if knob == "device_batch":
        accumulation = now.get("accumulation")
        if not isinstance(accumulation, int) or accumulation < 1 or present < 1:
            return Unchanged("the present accumulation is unknown")
        split = halved(Split(int(present), accumulation))
        return split.device_batch if split else Unchanged("device_batch is at its floor of 1")
    if knob == "learning_rate":
        return present / 2
    floor = 1 if knob == "eval_batch" else 0
    if present <= floor:
        return Unchanged(f"{knob} is at its floor of {floor}")
    return max(floor, int(present) // 2)


def _kept(now: Mapping[str, Value], device_batch: int) -> Split | Unchanged:
    """The accumulation that goes with another device batch."""
    before, accumulation = now.get("device_batch"), now.get("accumulation")
    if not isinstance(before, int) or not isinstance(accumulation, int):
        return Unchanged("the effective batch is unknown, so it could not be kept")
    split = with_device_batch(Split(before, accumulation), device_batch)
    if split is None:
        return Unchanged(f"{before} x {accumulation} rows cannot be split into micro-batches of {device_batch}")
    return split


def fitting_workers(present: int, now: Mapping[str, Value], facts: Facts) -> int | Unchanged:
    """As many data loader workers as /dev/shm holds the batches of; always fewer than failed.

    Each worker keeps `prefetch` batches there, on each rank. Where the size of a batch is unknown nothing is known to
    fit, and the loading moves into the rank's own process: one restart instead of one for each halving.
    """
    if present <= 0:
        return Unchanged("workers is at its floor of 0")
    total_mib, tokens = facts.get("shm_total_mib"), facts.get("longest_tokens")
    rows, ranks, prefetch = now.get("device_batch"), now.get("world_size"), now.get("prefetch")
    if not isinstance(total_mib, float | int) or not isinstance(tokens, float | int) or not isinstance(rows, int):
        return 0
    batch = rows * tokens * TENSORS_OF_A_ROW * BYTES_OF_A_TOKEN
    of_a_worker = (
        (ranks if isinstance(ranks, int) else 1) * (prefetch if isinstance(prefetch, int) else PREFETCH) * batch
    )
    fit = int(SHM_SHARE * total_mib * MIB // of_a_worker) if of_a_worker else 0
    # If by this count all of them fit, the count is wrong (images, audio): what failed is never tried again.
    return fit if fit < present else present // 2


def meeting_timeout(present: Value, facts: Facts) -> int | Unchanged:
    """Seconds that a rank waits for the others: ten of the longest starts, half an hour at least; never raised.

    Frameworks set months, because the ranks wait for each other while one of them makes the data set ready: what a
    start takes must pass.
    """
    start_s = facts.get("start_s")
    if not isinstance(start_s, float | int):
        return Unchanged("how long a start takes is unknown")
    seconds = max(MEETING_S, math.ceil(STARTS * start_s))
    if isinstance(present, int | float) and present <= seconds:
        return Unchanged(f"ddp_timeout is {_shown(present)} already")
    return seconds


def _safe_rate(now: Mapping[str, Value], facts: Facts) -> float | None:
    """The dtype's; None where it is unknown, and for an optimizer that is not of Adam's kind: other scales."""
    optimizer = facts.get("optimizer")
    if optimizer is not None and "adam" not in str(optimizer).lower():
        return None
    return SAFE_RATES.get(str(now.get("dtype")))


def _shown(value: Value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
