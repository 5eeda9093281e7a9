"""The report's words, the same on the screen and in Markdown: headline, facts, a few words for each attempt."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

from guardian.core import figures
from guardian.core.certificate import Verdict
from guardian.core.events import Outcome
from guardian.core.spelling import count, spell
from guardian.core.values import dataclass
from guardian.ui.text import clean, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardian.core.reporting import AttemptReport, Report

SAID_MAX = 3
"""Reasons, blind spots and the like that fit on a screen."""
SHOWN_MAX = 12
"""Attempts that are all shown; of more, the first and the last."""
FIRST, LAST = 3, 5
DAY_S = 80_000
"""A run longer than this needs the date beside the time."""

ASKED = ("preempted_or_interrupted", "asked")
"""What ended an attempt that was stopped because somebody asked for it (core/diagnosing.py)."""

_VERDICTS = {
    Verdict.PROVED: ("proved: same effective batch and same samples, by counting", "green"),
    Verdict.CONSISTENT: ("consistent, not proved:", "yellow"),
    Verdict.NOT_PROVABLE: ("not provable:", "yellow"),
    Verdict.VIOLATED: ("VIOLATED:", "bold red"),
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The outcome in words."""

    badge: str
    color: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A thing to know, with its label."""

    label: str
    lines: tuple[str, ...]
    style: str = ""


def headline(told: Report) -> Headline:
    """What a person wants to know first."""
    reason = clean(told.reason)
    match told.outcome:
        case Outcome.FINISHED if told.certificate.verdict is Verdict.VIOLATED:
            return Headline("VIOLATED", "red", "Finished, but this is not the training that was asked for.")
        case Outcome.FINISHED:
            return Headline("FINISHED", "green", f"{_finish(told)}{_healed(told)}.")
        case Outcome.RUNNING:
            return Headline(
                "RUNNING", "cyan", f"{_progress(told)}, attempt {max(len(told.attempts), 1)}{_healed(told)}."
            )
        case Outcome.STOPPED | Outcome.PREEMPTED:
            return Headline("STOPPED", "yellow", f"{_capital(reason)}; it can go on from here.")
        case Outcome.GAVE_UP:
            return Headline("GAVE UP", "red", f"{_capital(reason)}.")
        case Outcome.NOT_RETRYABLE:
            return Headline("FAILED", "red", f"{_capital(reason)}; trying again cannot heal this.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")


def _progress(told: Report) -> str:
    if told.steps_done is None:
        return "No step seen yet"
    return f"Step {told.steps_done} of {told.max_steps}" if told.max_steps else f"Step {told.steps_done}"


def _finish(told: Report) -> str:
    if told.steps_done is None:
        return "The job ended as it should"
    if told.remark:
        return _capital(told.remark)
    if told.max_steps is not None and told.steps_done < told.max_steps:
        return f"The trainer ended its training at step {told.steps_done} of {told.max_steps}"
    return f"All {told.steps_done} steps are done"


def _healed(told: Report) -> str:
    """Attempts that failed and were gone on from; one that somebody stopped has not failed."""
    ends = [] if told.remark else [(a.cause.id, a.cause.variant) if a.cause else None for a in told.attempts[:-1]]
    failures = len(ends) - ends.count(ASKED)
    return f", {count(failures, 'failure')} on the way healed" if failures > 0 else ""


# --- facts -------------------------------------------------------------------------------------------------------


def facts(told: Report, most: int = SAID_MAX) -> tuple[Fact, ...]:
    """What is known of the whole run; lists are cut after `most`."""
    every = (*_trouble(told, most), *_measures(told), *_proof(told, most), *_remarks(told, most))
    return tuple(fact for fact in every if fact.lines)


def _trouble(told: Report, most: int) -> Iterator[Fact]:
    """The cause, its lines and the fix, where the run ended in failure."""
    if told.outcome not in {Outcome.GAVE_UP, Outcome.NOT_RETRYABLE} or not told.attempts:
        return
    last = told.attempts[-1]
    yield Fact("cause", (clean(last.end),), "bold")
    if last.cause is not None:
        for line in last.cause.evidence[:most]:
            yield Fact(
                "evidence" if line.number is None else f"log line {line.number}", (clean(line.text, 300),), "red"
            )
        yield Fact("to do", (clean(last.cause.advice, 400),) if last.cause.advice else (), "bold")


def _measures(told: Report) -> Iterator[Fact]:
    if told.steps_done is None:
        yield Fact("steps", ("none was seen",))
    else:
        yield Fact("steps", (f"{told.steps_done} of {told.max_steps}" if told.max_steps else str(told.steps_done),))
    useful = "" if told.goodput is None else f", {told.goodput:.0%} of it on steps that count (goodput)"
    holes = [step for losses in told.losses for step, loss in losses if not math.isfinite(loss)]
    yield Fact("loss", (f"not a number at {spell(holes)}",) if holes else (), "red")
    yield Fact("time", (f"{duration(told.wall_s)}{useful}",))
    yield from _host(told)


def _host(told: Report) -> Iterator[Fact]:
    """The most memory that an attempt held, against its limit; the disk only where it is short."""
    ends = [dict(one.host) for one in told.attempts]
    largest = max(ends, key=lambda host: host.get("tree_peak_mib", 0.0), default={})
    held = figures.memory({name: value for name, value in largest.items() if name != "memory_full_in_s"})
    room = figures.disk(ends[-1]) if ends else None
    yield Fact("memory", (f"at most {held}",) if held else ())
    yield Fact("disk", (room,) if room else (), "yellow")


def _proof(told: Report, most: int) -> Iterator[Fact]:
    certificate = told.certificate
    if certificate.steps_counted:
        rows = "not one number" if certificate.effective_batch is None else f"{certificate.effective_batch} rows"
        short = f", fewer at {count(certificate.short_steps, 'epoch end')}" if certificate.short_steps else ""
        where = f"counted at each of {count(certificate.steps_counted, 'step')}{short}"
        yield Fact("effective batch", (f"{rows}, {where}",))
    if certificate.replayed_steps:
        gap = certificate.largest_loss_difference
        most_gap = "no loss was read" if gap is None else f"largest loss difference {gap:.2g}"
        if certificate.loss_band is not None:
            most_gap += f", the run's own step-to-step band is {certificate.loss_band:.2g}"
        yield Fact("replayed steps", (f"{certificate.replayed_steps} compared, {most_gap}",))
    verdict, style = _VERDICTS[certificate.verdict]
    reasons = () if certificate.verdict is Verdict.PROVED else _few(certificate.reasons, most)
    lines = (f"{verdict} {reasons[0]}",) if len(reasons) == 1 else (verdict, *reasons)
    yield Fact("certificate", lines, style)


def _remarks(told: Report, most: int) -> Iterator[Fact]:
    yield Fact("pace", _few(told.pace, most), "yellow")
    yield Fact("not in force", _few(told.failed_edits, most), "red")
    yield Fact("smaller batch", _few(told.smaller, most))
    yield Fact("passed over", _few([f"{path}: {why}" for path, why in told.skipped_checkpoints], most))
    risky = [f"{path} was not pinned: {why}" for path, why in told.unpinned_checkpoints]
    yield Fact("at risk", _few(risky, most), "yellow")
    yield Fact("could not see", _few(told.blind, most), "yellow")
    again = told.guardian_restarts
    yield Fact("guardian", (f"was itself started again {count(again, 'time')}",) if again else ())


def _few(texts: list[str] | tuple[str, ...], most: int) -> tuple[str, ...]:
    more = (f"and {len(texts) - most} more",) if len(texts) > most else ()
    return (*(clean(text, 300) for text in texts[:most]), *more)


# --- an attempt ----------------------------------------------------------------------------------------------------


def grouped(
    attempts: tuple[AttemptReport, ...],
) -> tuple[tuple[AttemptReport, ...], tuple[AttemptReport, ...], tuple[AttemptReport, ...]]:
    """(shown, only counted, shown): a night of five hundred attempts is no table of five hundred rows."""
    if len(attempts) <= SHOWN_MAX:
        return attempts, (), ()
    return attempts[:FIRST], attempts[FIRST:-LAST], attempts[-LAST:]


def counted(hidden: tuple[AttemptReport, ...]) -> str:
    """The attempts that are not shown, by how they ended."""
    ends = Counter(clean(a.end, 60) for a in hidden).most_common()
    parts = [f"{number} × {end}" for end, number in ends[:SAID_MAX]]  # noqa: RUF001 - a product
    if len(ends) > SAID_MAX:
        parts.append(f"{sum(number for _, number in ends[SAID_MAX:])} others")
    again = sum(a.lost_steps for a in hidden)
    return f"{count(len(hidden), 'attempt')} not shown: {', '.join(parts)}; {count(again, 'step')} run again"


def began(one: AttemptReport, wall_s: float) -> str:
    """Local time of the launch."""
    if one.began is None:
        return "-"
    local = datetime.fromtimestamp(one.began).astimezone()
    return local.strftime("%m-%d %H:%M" if wall_s > DAY_S else "%H:%M:%S")


def span(one: AttemptReport) -> str:
    """From step to step."""
    if one.first_step is None or one.last_step is None:
        return "none"
    return str(one.last_step) if one.first_step == one.last_step else f"{one.first_step}-{one.last_step}"


def origin(one: AttemptReport) -> str:
    """Where it went on from; empty: it began at the beginning."""
    if one.resumed_from is not None:
        return f"went on from {clean(one.resumed_from.rstrip('/').rpartition('/')[2], 60)}"
    return f"went on from step {one.resume_step}" if one.resume_step else ""


def changes(one: AttemptReport) -> tuple[str, ...]:
    """What guardian changed for it, besides where it resumes from."""
    edits = [edit for edit in one.edits if edit.kind != "resume"]
    return tuple(clean(f"{e.knob} {_value(e.old)} → {_value(e.new)}", 120) for e in edits)


def _value(value: str | None) -> str:
    return "(not set)" if value is None else value


def evidence(one: AttemptReport) -> str:
    """The first line of the log that tells why it ended; where there is none, what else was seen."""
    seen = one.cause.evidence if one.cause else ()
    line = next((x for x in seen if x.number is not None), seen[0] if seen else None)
    if line is None:
        return ""
    return clean(line.text, 240) if line.number is None else f"line {line.number}: {clean(line.text, 160)}"


def cost(one: AttemptReport) -> str:
    """Steps that had to run again, and the time until the first of them had."""
    parts = [count(one.lost_steps, "step")] if one.lost_steps else []
    if one.cost_s is not None:
        parts.append(duration(one.cost_s))
    return ", ".join(parts)
