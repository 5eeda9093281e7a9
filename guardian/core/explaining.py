"""Say what a log tells that nobody watched: the diagnosis that a living run would have got, and where it stood.

Without an exit code the end is judged by the text alone: a failure that nothing follows ended the job; a log that
goes on, or ends without a complaint, is of a job that works; and one that only complains is unknown.
"""

from __future__ import annotations

from dataclasses import replace

from guardian.core import diagnosing, signs, tracebacks
from guardian.core import events as ev
from guardian.core.masking import mask
from guardian.core.rules import PROGRESS, Rule
from guardian.core.run import Attempt, Run
from guardian.core.rungs import UNTIL_FLOOR, Operation, Rung
from guardian.core.trail import Trail
from guardian.core.units import shown
from guardian.core.values import dataclass

HEALTHY = "healthy"
NUMBERS = ("nan_loss", "loss_spike")
LAST_LINES = 3
RANKS_MOST = 64
TAIL_JUDGED = 40
"""As many last lines as are kept of a living job's end."""
OF_PHASE = {"evaluation": "eval", "saving": "save", "training": "train", "first_steps": "train"}
"""What the companion calls them."""


@dataclass(frozen=True, slots=True)
class Log:
    """What was read of a log."""

    hits: tuple[ev.Hit, ...]
    logged: tuple[ev.Logged, ...]
    tail: tuple[ev.Line, ...]
    code: int | None
    """The job's exit code; None: nobody tells."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Public keys of `explain --json`, but for the file's name."""

    failure: str
    variant: str | None
    rule: str | None
    title: str
    retries: int | None
    phase: str
    last_step: int | None
    confidence: float
    evidence: tuple[ev.Line, ...]
    symptoms: tuple[str, ...]
    survived: int
    """Lines that looked like failures and after which the job went on."""
    blind: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def retryable(self) -> bool:
        """Whether another attempt makes sense."""
        return self.failure != HEALTHY and self.retries != 0


def judge(rules: tuple[Rule, ...], log: Log, before: tuple[str, ...] | None = None) -> ev.Cause | None:
    """What ended the job, None: it works. `before`: the lines up to the deciding one, once that is known."""
    went_on = log.code is None and _went_on(rules, log)
    if went_on:
        log = replace(log, hits=())
    step = _last_step(log, before or ())
    # Who logs a loss has made a step, also where nobody tells which.
    made = step if step is not None or not log.logged else 1
    attempt = _attempt(log, made, _phase(log, before, made) if before else None)
    cause = diagnosing.diagnose(rules, attempt, _run(attempt)).cause
    if cause is None and log.code == 0:
        return _went_bad(rules, log, before)
    if cause is not None and cause.id == "unknown" and log.code is None and cause.rule is None:
        texts = _texts(log)
        last = tracebacks.without_asides(texts)[-signs.LAST_LINES :]
        works = went_on or (signs.alive(texts) and not signs.trouble(last))
        return None if works else _told_nothing(log, cause)
    return cause


def explain(rules: tuple[Rule, ...], log: Log, cause: ev.Cause | None, before: tuple[str, ...]) -> Explanation:
    """The whole answer; `before`: the lines up to the deciding one."""
    step = _last_step(log, before)
    rule = next((r for r in rules if cause and r.id == cause.rule), None)
    survived = _survived(log, cause)
    phase = _phase(log, before, step if step is not None or not log.logged else 1)
    if cause is None:
        evidence = tuple(line for line in log.tail if line.text.strip())[-1:]
        sure = 0.9 if log.code == 0 or phase == "end" else 0.7
        return Explanation(
            HEALTHY, None, None, "It works", 0, phase, step, sure, _shown(evidence), (), survived, (), ()
        )
    return Explanation(
        failure=cause.id,
        variant=cause.variant,
        rule=cause.rule,
        title=mask(cause.title),
        retries=cause.retries,
        phase=phase,
        last_step=step,
        confidence=_confidence(cause, rule, log),
        evidence=_shown((*_line_of(rules, log, cause), *cause.evidence)),
        symptoms=cause.symptoms,
        survived=survived,
        blind=cause.blind,
        actions=_actions(cause, rule),
    )


def _went_bad(rules: tuple[Rule, ...], log: Log, before: tuple[str, ...] | None) -> ev.Cause | None:
    """What exit code 0 hides: numbers that are none. Of a job that nobody watched the text is all there is."""
    told = judge(rules, replace(log, code=None), before)
    return told if told is not None and told.id in NUMBERS else None


def _told_nothing(log: Log, cause: ev.Cause) -> ev.Cause:
    """Unknown, said of a log and not of a run."""
    said = [line for line in log.tail if line.text.strip()]
    title = "It names no failure that is known, and shows no work" if said else "It is empty"
    return replace(cause, variant=None, title=title, evidence=tuple(reversed(said[-LAST_LINES:])), retries=1)


def _line_of(rules: tuple[Rule, ...], log: Log, cause: ev.Cause) -> tuple[ev.Line, ...]:
    """For a cause that shows in logged numbers, the first line that says the same in words."""
    if any(line.number is not None for line in cause.evidence):
        return ()
    same = {rule.id for rule in rules if rule.failure == cause.id}
    return tuple(hit.line for hit in log.hits if hit.rule in same)[:1]


def _attempt(log: Log, step: int | None, phase: str | None) -> Attempt:
    """The attempt that would have printed it."""
    trail: Trail[ev.Logged] = Trail()
    for one in log.logged:
        trail = trail.append(one)
    ended = ev.Ended(1, log.code, None, step, log.tail[-TAIL_JUDGED:], None, ())
    plan = ev.Planned(1, (), (), None, None, (), 0.0, "explained")
    return Attempt(plan, 0.0, logged=trail, phase=OF_PHASE.get(phase or ""), hits=log.hits, ended=ended)


def _run(attempt: Attempt) -> Run:
    created = ev.RunCreated("", "", (), "", None, companion=False, policy="{}", version="", uid=0)
    return Run(created, 0.0, attempts=(attempt,))


def _texts(log: Log) -> list[str]:
    return [part for line in log.tail for part in line.text.split("\r") if part.strip()]


def _went_on(rules: tuple[Rule, ...], log: Log) -> bool:
    """Whether work is shown after the last line that looked like a failure; for what is a symptom less is enough."""
    hits = [hit for hit in log.hits if hit.rule != PROGRESS]
    last = max((hit.line.number or 0 for hit in hits), default=0)
    if not last or not log.tail or log.tail[-1].number is None:
        return False
    symptoms = {rule.id for rule in rules if rule.role == "symptom"}
    least = signs.GOES_ON - 1 if {hit.rule for hit in hits} <= symptoms else signs.GOES_ON
    after = [line.text for line in log.tail if (line.number or 0) > last]
    parts = [part for text in after for part in text.split("\r")]
    return signs.goes_on(parts, least) and not signs.trouble(parts)


def _last_step(log: Log, before: tuple[str, ...]) -> int | None:
    """The trainer's own count where it gives one, else what the lines before the place speak of."""
    known = [one.step for one in log.logged if one.step is not None]
    if known:
        return max(known[-RANKS_MOST:])  # the ranks of one log may be some steps apart
    return signs.last_step(before or _texts(log))


def _phase(log: Log, before: tuple[str, ...], step: int | None) -> str:
    return signs.phase(list(before) or _texts(log), step)


def _survived(log: Log, cause: ev.Cause | None) -> int:
    """Lines of hits that nothing came of."""
    hits = [hit for hit in log.hits if hit.rule != PROGRESS]
    if cause is None:
        return len({hit.line.number for hit in hits})
    mark = max((hit.offset for hit in log.hits if hit.rule == PROGRESS), default=-1)
    return len({hit.line.number for hit in hits if hit.offset < mark})


def _confidence(cause: ev.Cause, rule: Rule | None, log: Log) -> float:
    """A rough share of right answers of this kind; without an exit code nobody knows that the job ended at all."""
    if cause.id == "unknown":
        return 0.0
    role = rule.role if rule else "cause"
    sure = {"cause": 0.95, "fallback": 0.7, "symptom": 0.5}[role]
    return sure if log.code is not None else round(sure * 0.95, 2)


def _shown(lines: tuple[ev.Line, ...]) -> tuple[ev.Line, ...]:
    # Carriage returns overwrite what was before.
    last = [(line.number, line.text.strip().rpartition("\r")[2].strip()) for line in lines]
    return tuple(ev.Line(number, mask(text)) for number, text in last)


# --- what would be done, in words ----------------------------------------------------------------------------------


def _actions(cause: ev.Cause, rule: Rule | None) -> tuple[str, ...]:
    """The ladder in words; a failure that has no rule says how often it is tried again, and what to do."""
    if rule is None:
        return (_again(cause.retries), *([cause.advice] if cause.advice else []))
    facts = dict(cause.facts)
    rungs = rule.rungs(facts, cause.variant)
    return tuple(_in_words(rung) for rung in rungs)


def _again(retries: int | None) -> str:
    if retries is None:
        return "start it again, as often as the policy allows"
    often = "once" if retries == 1 else f"at most {retries} times"
    return f"start it again, {often}" if retries else "no other attempt"


def _in_words(rung: Rung) -> str:
    if rung.give_up is not None:
        return f"give up: {rung.give_up}"
    parts = [
        *(["gather " + ", ".join(rung.collect)] if rung.collect else []),
        *(["save first"] if rung.save_first else []),
        *([f"wait up to {shown(rung.wait.at_most_s)} s"] if rung.wait else []),
        *(_changed(knob, operation) for knob, operation in rung.set),
        *(f"set {name}={value.lstrip('+')}" for name, value in rung.env),
        *(f"raise the limit {name}" for name, _ in rung.limits),
        "start again "
        + ("from scratch" if rung.resume == "scratch" else f"from the {_source(rung.resume)} checkpoint"),
    ]
    often = {UNTIL_FLOOR: ", until nothing is left to lower", None: ", as often as the policy allows", 1: ""}
    return ", ".join(parts) + often.get(rung.repeat, f", at most {rung.repeat} times")


def _source(resume: str) -> str:
    return f"last sound (before {resume.partition(':')[2].replace('_', ' ')})" if ":" in resume else resume


def _changed(knob: str, operation: Operation) -> str:
    name = knob.replace("_", " ")
    value = (
        ""
        if operation.value is None
        else shown(operation.value)
        if not isinstance(operation.value, bool)
        else str(operation.value).lower()
    )
    words = {
        "halve": f"halve the {name}",
        "keep-effective-batch": f"raise {name} so that the effective batch stays",
        "fit-shm": f"as many {name} as /dev/shm holds",
        "lower-or-safe": f"lower the {name}",
        "ten-starts": f"{name} as ten starts take, half an hour at least",
        "times": f"{name} times {value}",
        "at-least": f"{name} at least {value}",
    }
    return words.get(operation.kind, f"{name} = {value}")
