"""Builders of attempts that have ended, for what judges them."""

from dataclasses import replace

from guardian.core import events as ev
from guardian.core.run import Attempt, Run, Step
from guardian.core.trail import Trail

ADVANCES_S = 1.0


def run(*attempts, family="embedded", argv=("sft",), **changes):
    """A run of these attempts, numbered in their order."""
    created = ev.RunCreated("r", "r", argv, "/w", family, companion=True, policy="{}", version="0", uid=0)
    numbered = tuple(replace(a, plan=replace(a.plan, attempt=n)) for n, a in enumerate(attempts, 1))
    return Run(created, 0.0, attempts=numbered, **changes)


def attempt(code=1, signal=None, *, tail=(), steps=0, total=None, oom_kills=0, **changes):
    """An attempt that ended so, after these steps; tail: texts, numbered from 1, or Lines."""
    lines = tuple(text if isinstance(text, ev.Line) else ev.Line(n, text) for n, text in enumerate(tail, 1))
    done = Trail()
    for step in range(1, steps + 1):
        done = done.append(Step(step, 16, 100, 1, 2.0, 1e-3, step * ADVANCES_S))
    ended = ev.Ended(1, code, signal, steps or None, lines, oom_kills, ())
    plan = ev.Planned(1, ("sft",), (), None, None, (), 0.0, "first start")
    base = Attempt(
        plan,
        0.0,
        steps=done,
        rank_steps=((0, steps),) if steps else (),
        hellos=(hello(total),) if total else (),
        ended=ended,
    )
    return replace(base, **changes)


def hello(total, step=0):
    """The training loop begins."""
    return ev.Hello(1, 0, 9, 1, step, total, 8, 2, 1, 16, None, 5, 1e-3, "/w/out", "Trainer", None, (), 0.0)


def ended_by(by, step, total):
    """The training loop returned, and says why."""
    return {"training_ends": (ev.TrainingEnded(1, 0, step, total, by),)}


def hit(rule, text, line=1, *, pattern=0, captures=()):
    """A rule's pattern matched a line; offsets follow the lines."""
    return ev.Hit(1, rule, pattern, line * 1000, ev.Line(line, text), captures)


def of_log(matcher, log, code=1, signal=None, **changes):
    """An attempt that printed this and ended so, its log read in blocks of whole lines as the supervisor does."""
    data = log if isinstance(log, bytes) else log.encode()
    hits = [*matcher.scan(data, 1, 0), *matcher.rest()]
    told = tuple(ev.Hit(1, h.rule, h.pattern, h.offset, ev.Line(h.line, h.text), h.captures) for h in hits)
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n")
    first = max(0, len(lines) - 40)
    tail = [ev.Line(first + n, text[-4096:]) for n, text in enumerate(lines[first:], 1)]
    return attempt(code, signal, tail=tail, hits=told, **changes)
