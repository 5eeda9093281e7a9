"""Whether what guardian set is what the job then ran with. Pure.

Arguments are claims: a checkpoint brings its own learning rate, transformers 4 its own batch, a plugin anything. What
the companion saw inside the job is held against what was set; where nothing was seen, nothing is said.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardian.core.events import Logged
    from guardian.core.job import Value
    from guardian.core.run import Attempt, Run, Step

SEEN_AT_HELLO = ("device_batch", "accumulation", "workers", "eval_batch", "gradient_checkpointing")
"""Knobs that the training loop's hello tells as they really are."""
RATE_TOLERANCE = 1e-3
"""Relative. Schedules and warm-ups lower a rate; nothing may raise it above what was set."""
LOGGED_TOLERANCE = 1e-2
"""Relative: a log is rounded, and may be one step ahead."""


def failed(run: Run) -> tuple[str, ...]:
    """A sentence for each setting that did not take effect."""
    return tuple(text for attempt in run.attempts for text in (*_settings(attempt), *rates(run, attempt)))


def _settings(attempt: Attempt) -> list[str]:
    hello = attempt.hello
    if hello is None:
        return []
    seen = {knob: getattr(hello, knob) for knob in SEEN_AT_HELLO}
    return [
        f"{knob} was set to {_shown(wanted)} in attempt {attempt.number}, and the job ran with {_shown(seen[knob])}"
        for knob, wanted in attempt.plan.settings
        if seen.get(knob) is not None and seen[knob] != wanted
    ]


def rates(run: Run, attempt: Attempt) -> list[str]:
    """Where the optimizer used a higher learning rate than was set."""
    target = dict(attempt.plan.settings).get("learning_rate")
    if not isinstance(target, int | float):
        return []
    if attempt.ended is not None and attempt.ended.unmet:
        return list(attempt.ended.unmet)
    refused = next((one.error for one in attempt.rates_set if one.error), None)
    if refused is not None:
        return [f"the learning rate could not be set to {target:g} in attempt {attempt.number}: {refused}"]
    high = next(
        (s for s in _used(attempt) if s.lr is not None and s.lr > target * (1 + _tolerance(attempt))), None
    ) or _on_the_old_curve(run, attempt, target)
    if high is None:
        return []
    text = (
        f"the learning rate was set to {target:g} in attempt {attempt.number}, and the job used a learning rate "
        f"{high.lr:g} at step {'?' if high.step is None else high.step}"
    )
    return [text]


def _used(attempt: Attempt) -> Sequence[Step | Logged]:
    """What the companion saw the optimizer use; without it what the job logged."""
    return attempt.steps if any(s.lr is not None for s in attempt.steps) else attempt.logged


def _tolerance(attempt: Attempt) -> float:
    return RATE_TOLERANCE if attempt.steps else LOGGED_TOLERANCE


def _on_the_old_curve(run: Run, attempt: Attempt, target: float) -> Step | Logged | None:
    """The first step, if it ran at more than its share of the rate that the same step had before.

    Late in a schedule the old rate lies below the new target: only the curve tells that nothing was lowered.
    """
    earlier = run.attempts[: attempt.number - 1]
    done = [rated for one in earlier for rated in one.rated if rated.target == target and rated.before is not None]
    before = done[-1].before if done else None
    first = next((s for s in _used(attempt) if s.lr is not None and s.step is not None), None)
    if not before or first is None or first.lr is None:
        return None
    old = [s.lr for one in earlier for s in _used(one) if s.step == first.step and s.lr is not None]
    limit = max(old, default=math.inf) * min(1.0, target / before) * (1 + LOGGED_TOLERANCE)
    return first if first.lr > limit else None


def _shown(value: Value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
