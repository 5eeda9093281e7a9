"""Say from a trainer's own log whether a training had stopped being one of numbers when it was saved.

Pure. One skipped step is no such thing: fp16's loss scaler overflows now and then, logs a norm that is none, skips the
step and goes on. Weights that are NaN never heal, so only a log that *ends* bad counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from guardian.core.values import dataclass

IN_A_ROW = 3
"""So many log entries without a number make a poison; a loss that is NaN is one at once."""


@dataclass(frozen=True, slots=True)
class FirstBad:
    """Where the numbers ended."""

    step: int
    """Of the first bad log entry: what went wrong lies at it or, where not each step is logged, shortly before."""
    what: str


def first_bad(history: Sequence[object]) -> FirstBad | None:
    """From the entries of `log_history`; None where it ends in numbers."""
    tail: list[tuple[int, Mapping[object, object]]] = []
    for entry in reversed(history):
        if not isinstance(entry, dict) or not {"loss", "grad_norm"} & entry.keys():
            continue
        step = entry.get("step")
        if not isinstance(step, int) or not _is_bad(entry):
            break
        tail.append((step, entry))
    if not tail:
        return None
    if len(tail) < IN_A_ROW and not any(_is_nan(entry.get("loss")) for _, entry in tail):
        return None
    step, entry = tail[-1]
    return FirstBad(step, _what(entry))


def _is_bad(entry: Mapping[object, object]) -> bool:
    loss, norm = _number(entry.get("loss")), _number(entry.get("grad_norm"))
    # With max_grad_norm 0 no norm is logged, and transformers logs 0 in place of a loss that is NaN
    # (logging_nan_inf_filter).
    return any(x is not None and not math.isfinite(x) for x in (loss, norm)) or (loss == 0.0 and norm is None)


def _what(entry: Mapping[object, object]) -> str:
    for name, said in (("loss", "loss"), ("grad_norm", "gradient norm")):
        value = _number(entry.get(name))
        if value is not None and not math.isfinite(value):
            return f"{said} {'nan' if math.isnan(value) else 'inf'}"
    return "loss exactly 0 without a gradient norm"


def _is_nan(value: object) -> bool:
    number = _number(value)
    return number is not None and math.isnan(number)


def _number(value: object) -> float | None:
    """Some trainers log their numbers as texts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
