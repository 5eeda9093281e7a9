"""Take the numbers out of a job's log: the dicts of the HF trainers and ms-swift, their bars, and the lines of loops.

A loop's line gives a step and a loss, as Megatron's and many a script's own do.

transformers 5 prints the values as text, 4 as numbers. A bar and a dict may share a line, parted by carriage
returns. Nothing is evaluated, and almost every line is passed over after a search for three short words.

A bar without a name is not read on its own: evaluation draws one too, with another total, and nothing tells them
apart. Before a training dict on the same line it is the training's, because the trainer draws it before it logs; it
is drawn at most ten times a second, so its step may lie behind, never ahead.
"""

from __future__ import annotations

import math
import re

from guardian.core.values import dataclass

LINE_MOST = 4096
"""Bytes of a loop's line that are looked at."""
_DICT = re.compile(rb"\{[^{}]{1,4000}\}")
_TRAINING = re.compile(rb"['\"]loss['\"]\s*:")
_SUMMARY = re.compile(rb"['\"]train_runtime['\"]\s*:")
_PAIR = re.compile(rb"['\"](loss|grad_norm|learning_rate|global_step/max_steps)['\"]\s*:\s*['\"]?([^'\",}]{1,40})")
_STEPS = re.compile(rb"\s*(\d{1,12})\s*/\s*(\d{1,12})")
# tqdm's own form: `Train:  25%|##5       | 3/12 [00:00<00:01,  5.74it/s]` (tqdm.std, bar_format).
_BAR = re.compile(rb"\|\s*(\d{1,12})/(\d{1,12}) \[[\d:]{4,12}<")
_NAMED_BAR = b"Train:"
_NUMBER = rb"(nan|[-+]?inf|[-+]?\d{1,30}(?:\.\d{1,30})?(?:e[-+]?\d{1,4})?)"
# ` iteration  17060/ 159576 | ... | lm loss: 2.665295E+00 | ...` (Megatron), `iter 590: loss 2.1642, ...` (nanoGPT).
_LOOP = re.compile(
    rb"(?i)\b(?:iter(?:ation)?|(?:global[_ ])?step)s?\b[ :=#\[(]{0,8}(\d{1,9})(?:\s?/\s{0,9}(\d{1,9}))?\b(?!\.\d)"
    rb"[^\n]{0,400}?(?<![\w-])(?:(?:lm|train(?:ing)?)[ _-])?loss\b['\"]?[ :=]{1,4}" + _NUMBER + rb"(?![\w.])"
)
_LOOP_NORM = re.compile(rb"(?i)\bgrad(?:ient)?[ _]norm[ :=]{1,4}" + _NUMBER)
_LOOP_RATE = re.compile(rb"(?i)\b(?:learning[ _]rate|lr)[ :=]{1,4}" + _NUMBER)


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one log of the trainer says; None: it does not say."""

    step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    lr: float | None = None


def read(block: bytes) -> tuple[Numbers, ...]:
    """What whole lines of a log say, in order; of a row of bars without a dict only the last."""
    if b"loss" not in block and _NAMED_BAR not in block and b"train_runtime" not in block:
        return ()
    found: list[Numbers] = []
    for line in block.split(b"\n"):
        if b"loss" not in line and _NAMED_BAR not in line and b"train_runtime" not in line:
            continue
        for numbers in _line(line):
            if found and _only_steps(found[-1]):
                found.pop()
            found.append(numbers)
    return tuple(found)


def progress(line: bytes) -> bool:
    """Whether the trainer logs a step here. A bar does not count: it is drawn once more when the process dies."""
    if b"loss" not in line:
        return False
    if any(_TRAINING.search(found) for found in _DICT.findall(line)):
        return True
    loop = _loop(line)
    return loop is not None and loop.loss is not None and math.isfinite(loop.loss)


def _line(line: bytes) -> list[Numbers]:
    """The dicts of a line, each with the bar before it; after the last one a named bar on its own."""
    found = []
    at = 0
    for match in _DICT.finditer(line):
        if _TRAINING.search(match[0]) or _SUMMARY.search(match[0]):
            found.append(_numbers(match[0], _bar(line[at : match.start()])))
            at = match.end()
    step, total = _bar(line[at:]) if _NAMED_BAR in line[at:] else (None, None)
    if step is not None and (not found or found[-1].step != step):
        found.append(Numbers(step, total))
    loop = None if found else _loop(line)
    return [numbers for numbers in (*found, *([loop] if loop else [])) if numbers != Numbers()]


def _loop(line: bytes) -> Numbers | None:
    """A line of a training loop that tells its step and its loss; a tracker's summary tells of what is over."""
    match = None if line.startswith(b"wandb:") or b"loss" not in line.lower() else _LOOP.search(line[:LINE_MOST])
    if match is None:
        return None
    norm, rate = _LOOP_NORM.search(line[:LINE_MOST]), _LOOP_RATE.search(line[:LINE_MOST])
    total = int(match[2]) if match[2] else None
    return Numbers(int(match[1]), total, _float(match[3]), _float(norm and norm[1]), _float(rate and rate[1]))


def _numbers(text: bytes, bar: tuple[int | None, int | None]) -> Numbers:
    values = dict(_PAIR.findall(text))
    match = _STEPS.match(values.get(b"global_step/max_steps", b""))
    step, total = (int(match[1]), int(match[2])) if match else bar
    number = {name: _float(values.get(name)) for name in (b"loss", b"grad_norm", b"learning_rate")}
    return Numbers(step, total, number[b"loss"], number[b"grad_norm"], number[b"learning_rate"])


def _bar(text: bytes) -> tuple[int | None, int | None]:
    bars = _BAR.findall(text)
    return (int(bars[-1][0]), int(bars[-1][1])) if bars else (None, None)


def _float(text: bytes | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _only_steps(numbers: Numbers) -> bool:
    return numbers.loss is None and numbers.grad_norm is None and numbers.lr is None
