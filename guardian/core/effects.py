"""Whether what guardian set is what the job then ran with. Pure.

Arguments are claims: a checkpoint brings its own learning rate, transformers 4 its own batch, a plugin anything. What
the companion saw inside the job is held against what was set; where nothing was seen, nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardian.core.job import Value
    from guardian.core.run import Attempt, Run

SEEN_AT_HELLO = ("device_batch", "accumulation", "workers", "eval_batch", "gradient_checkpointing")
"""Knobs that the training loop's hello tells as they really are."""
RATE_TOLERANCE = 1e-3
"""Relative. Schedules and warm-ups lower a rate; nothing may raise it above what was set."""


def failed(run: Run) -> tuple[str, ...]:
    """A sentence for each setting that did not take effect."""
    return tuple(text for attempt in run.attempts for text in (*_settings(attempt), *rates(attempt)))


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


def rates(attempt: Attempt) -> list[str]:
    """Where the optimizer used a higher learning rate than was set."""
    target = dict(attempt.plan.settings).get("learning_rate")
    if not isinstance(target, int | float):
        return []
    refused = next((one.error for one in attempt.rates_set if one.error), None)
    if refused is not None:
        return [f"the learning rate could not be set to {target:g} in attempt {attempt.number}: {refused}"]
    high = next((s for s in attempt.steps if s.lr is not None and s.lr > target * (1 + RATE_TOLERANCE)), None)
    if high is None:
        return []
    text = (
        f"the learning rate was set to {target:g} in attempt {attempt.number}, and the job used a learning rate "
        f"{high.lr:g} at step {high.step}"
    )
    return [text]


def _shown(value: Value) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
