"""Say which rules are already true of a living job, among those that need not wait for its end. Pure.

A rule with `confirm = "line"` may act at once; one with `confirm = "stall"` when no optimizer step completes any more.
What the job survived (it logged steps after it) is no suspicion, and none is told twice.
"""

from __future__ import annotations

from guardian.core import events as ev
from guardian.core.facts import facts_of
from guardian.core.judging import Held, held
from guardian.core.rules import PROGRESS, Rule, filled
from guardian.core.run import Attempt, Run


def suspect(rules: tuple[Rule, ...], attempt: Attempt, run: Run) -> tuple[ev.Suspected, ...]:
    """What has become true of a living attempt and was not told yet, the earliest first."""
    eager = [rule for rule in rules if rule.confirm != "exit"]
    if not eager or attempt.ended is not None or attempt.stop is not None:
        return ()
    hits = [hit for hit in attempt.hits if hit.offset > _survived(attempt)]
    if not hits and not attempt.logged and not attempt.gpu_faults:
        return ()
    facts = facts_of(run, attempt)
    found = (_suspected(attempt, one, facts) for one in held(rules, hits, (), facts, attempt.logged))
    told = {(known.rule, known.line) for _, known in attempt.suspected}
    return tuple(one for one in found if one is not None and (one.rule, one.line) not in told)


def _suspected(attempt: Attempt, one: Held, facts: dict[str, float | str]) -> ev.Suspected | None:
    rule = one.rule
    if rule.confirm == "exit" or one.line is None:
        return None
    known = facts | dict(one.captures)
    variant = rule.variant(known)
    title = filled((variant.title if variant else None) or rule.title, known)
    return ev.Suspected(attempt.number, rule.id, title, rule.confirm, rule.settle_s, one.line)


def _survived(attempt: Attempt) -> int:
    """Where in the log the training was last seen to go on."""
    return max((hit.offset for hit in attempt.hits if hit.rule == PROGRESS), default=-1)
