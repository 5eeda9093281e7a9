"""Take the numbers out of a job's log: the dicts of the HF trainers and ms-swift, their bars, and the lines of loops.

A loop's line gives a step and a loss, as Megatron's, DeepSpeed's pipelines' and many a script's own do. Two more give a
step without one: Megatron's of an iteration that its loss scaler skipped, and DeepSpeed's own of every so many steps.

transformers 5 prints the values as text, 4 as numbers. A bar and a dict may share a line, parted by carriage
returns. Nothing is evaluated, and almost every line is passed over after a search for three short words.

A bar without a name is not read on its own: evaluation draws one too, with another total, and nothing tells them
apart. Before a training dict on the same line it is the training's, because the trainer draws it before it logs; it
is drawn at most ten times a second, so its step may lie behind, never ahead.
"""

from __future__ import annotations

import math
import re

from guardian.core import events as ev
from guardian.core.values import dataclass

LINE_MOST = 4096
"""Bytes of a loop's line that are looked at."""
_DICT = re.compile(rb"\{[^{}]{1,4000}\}")
_TRAINING = re.compile(rb"['\"]loss['\"]\s*:")
_SUMMARY = re.compile(rb"['\"]train_runtime['\"]\s*:")
# ms-swift 3 and 4 say `global_step/max_steps`, 2 `global_step`, its Megatron trainer `iteration` (swift/trainers).
_PAIR = re.compile(
    rb"['\"](loss|grad_norm|learning_rate|global_step/max_steps|global_step|iteration|memory\(GiB\)|"
    rb"train_speed\((?:iter/s|s/it)\)|num_input_tokens_seen|num_tokens)['\"]\s*:\s*['\"]?([^'\",}]{1,40})"
)
_STEPS = re.compile(rb"\s*(\d{1,12})(?:\s*/\s*(\d{1,12}))?\s*$")
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
# `elapsed time per iteration (ms): 573125.8` (Megatron), `iter time (s): 0.936` (DeepSpeed's pipeline engine).
_LOOP_TIME = re.compile(rb"(?i)\b(?:elapsed time per iteration|iter time) \((m?s)\): ?" + _NUMBER)
_LOOP_TOKENS = re.compile(rb"\bconsumed tokens: {0,20}(\d{1,18})\b")
# An iteration whose step was skipped has no loss to tell (megatron/training.py, training_log).
_SKIPPED = re.compile(rb"\biteration {1,9}(\d{1,9})/ {0,9}(\d{1,9}) \|[^\n]{0,200}\belapsed time per iteration")
# `[Rank 0] step=48, skipped=2, lr=[1e-05], mom=...` and `.../global_step=48, ..., MaxMemAllocated=27.45GB`
# (deepspeed/runtime/engine.py and utils/timer.py; its GB are 2^30 bytes).
_DEEPSPEED = re.compile(rb"\[Rank 0\] step=(\d{1,9}), skipped=\d{1,9}, lr=\[" + _NUMBER)
_DEEPSPEED_TIMER = re.compile(rb"/global_step=(\d{1,9}), [^\n]{0,200}\bMaxMemAllocated=(\d{1,6}\.\d{1,3})GB")
_OTHERS = (b"iteration ", b"[Rank 0] step=", b"/global_step=")


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one log of the trainer says; None: it does not say."""

    step: int | None = None
    max_steps: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    step_s: float | None = None
    """Seconds a step: since the log before (Megatron, DeepSpeed), or over all steps so far (ms-swift)."""
    tokens_seen: int | None = None
    """In the whole training so far."""
    memory_gib: float | None = None
    """The peak on a device so far, allocated (DeepSpeed) or reserved (ms-swift)."""


def logged(seen: Numbers, attempt: int, wall: float | None = None) -> ev.Logged:
    """The event that these numbers are."""
    return ev.Logged(
        attempt=attempt,
        step=seen.step,
        max_steps=seen.max_steps,
        loss=seen.loss,
        grad_norm=seen.grad_norm,
        lr=seen.lr,
        wall=wall,
        step_s=seen.step_s,
        tokens_seen=seen.tokens_seen,
        memory_gib=seen.memory_gib,
    )


def read(block: bytes) -> tuple[Numbers, ...]:
    """What whole lines of a log say, in order; of a row of bars without a dict only the last."""
    if not _may_tell(block):
        return ()
    found: list[Numbers] = []
    for line in block.split(b"\n"):
        if not _may_tell(line):
            continue
        for numbers in _line(line):
            if found and _only_steps(found[-1]):
                found.pop()
            found.append(numbers)
    return tuple(found)


def _may_tell(text: bytes) -> bool:
    if b"loss" in text or b"Loss" in text or _NAMED_BAR in text or b"train_runtime" in text:
        return True
    return any(words in text for words in _OTHERS)


def progress(line: bytes) -> bool:
    """Whether the trainer logs a step here. A bar does not count: it is drawn once more when the process dies."""
    if b"loss" not in line and b"Loss" not in line:
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
    loop = None if found else _loop(line) or _without_loss(line[:LINE_MOST])
    return [numbers for numbers in (*found, *([loop] if loop else [])) if numbers != Numbers()]


def _loop(line: bytes) -> Numbers | None:
    """A line of a training loop that tells its step and its loss; a tracker's summary tells of what is over."""
    match = None if line.startswith(b"wandb:") or b"loss" not in line.lower() else _LOOP.search(line[:LINE_MOST])
    if match is None:
        return None
    return _of_loop(line[:LINE_MOST], match[1], match[2], match[3])


def _of_loop(line: bytes, step: bytes, total: bytes | None, loss: bytes | None) -> Numbers:
    norm, rate, tokens = _LOOP_NORM.search(line), _LOOP_RATE.search(line), _LOOP_TOKENS.search(line)
    return Numbers(
        int(step),
        int(total) if total else None,
        _float(loss),
        _float(norm and norm[1]),
        _float(rate and rate[1]),
        _step_s(line),
        int(tokens[1]) if tokens else None,
    )


def _step_s(line: bytes) -> float | None:
    time = _LOOP_TIME.search(line)
    told = _float(time and time[2])
    return None if time is None or told is None else told / 1000 if time[1].lower() == b"ms" else told


def _without_loss(line: bytes) -> Numbers | None:
    """A step that was made, from a framework's own line."""
    if match := _SKIPPED.search(line):
        return _of_loop(line, match[1], match[2], None)
    if match := _DEEPSPEED.search(line):
        return Numbers(int(match[1]), lr=_float(match[2]))
    if match := _DEEPSPEED_TIMER.search(line):
        return Numbers(int(match[1]), memory_gib=_float(match[2]))
    return None


def _numbers(text: bytes, bar: tuple[int | None, int | None]) -> Numbers:
    values = dict(_PAIR.findall(text))
    told = (values.get(name) for name in (b"global_step/max_steps", b"global_step", b"iteration"))
    match = next((found for one in told if one is not None and (found := _STEPS.match(one))), None)
    step, total = (int(match[1]), int(match[2]) if match[2] else None) if match else bar
    number = {name: _float(value) for name, value in values.items()}
    speed = number.get(b"train_speed(iter/s)")
    tokens = number.get(b"num_input_tokens_seen", number.get(b"num_tokens"))
    return Numbers(
        step,
        total,
        number.get(b"loss"),
        number.get(b"grad_norm"),
        number.get(b"learning_rate"),
        1 / speed if speed else number.get(b"train_speed(s/it)"),
        int(tokens) if tokens is not None and math.isfinite(tokens) else None,
        number.get(b"memory(GiB)"),
    )


def _bar(text: bytes) -> tuple[int | None, int | None]:
    bars = _BAR.findall(text)
    return (int(bars[-1][0]), int(bars[-1][1])) if bars else (None, None)


def _float(text: bytes | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _only_steps(numbers: Numbers) -> bool:
    return numbers == Numbers(numbers.step, numbers.max_steps)
