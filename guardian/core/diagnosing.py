"""Say what ended an attempt, from everything that was seen of it. Pure, and asked once the attempt is whole.

The order of judgement: an end that is as it should be; a stop that was asked for (what is printed after it means
nothing); causes that the log names, the earliest first; how the process died; an exception of any kind; symptoms;
and at last what is unknown, said as such. The first line of evidence is always the deciding one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from guardian.core import case as cases
from guardian.core import judging, tracebacks
from guardian.core.case import Case, Death
from guardian.core.events import Cause, Diagnosed, Hit, Line, Logged, StopBegun
from guardian.core.exits import SIGNALS, signal_name
from guardian.core.rules import Rule, Seen, filled
from guardian.core.run import Attempt, Run
from guardian.core.silence import TEARDOWN

EXIT_0_EARLY = "exit_0_early"
LAST_LINES = 3
STACK_LINES = 30
FINITE_OVER = 3
"""So many last logs with a gradient that is no number are a training that has gone bad; one is a skipped step."""
FROM_OUTSIDE = frozenset(SIGNALS[name] for name in ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM"))
"""What others send. What a process does wrong ends it otherwise."""
DONE_WITH_THE_LOOP = frozenset({"embedded", "swift"})
"""Families whose result is the checkpoint of the last step: their programs write no model after their training loop."""
UNSEEN = "nobody saw how it ended"
KERNEL_COUNTER = "the kernel's counter of OOM kills"


def diagnose(rules: tuple[Rule, ...], attempt: Attempt, run: Run) -> Diagnosed:
    """The diagnosis of an attempt that has ended; `cause` None: it ended as it should."""
    case = cases.make(rules, attempt, run)
    if attempt.start_failed is not None:
        cause: Cause | None = _not_started(attempt.start_failed)
    elif attempt.tree_end is not None and attempt.tree_end.unkillable:
        cause = _unkillable(attempt.tree_end.left_alone)
    elif _finished(case) or _trained_unseen(case) or _would_not_leave(case) or _aborted_leaving(case):
        cause = _went_bad(case)
    elif attempt.stop is not None and case.ended_by_us:
        cause = _confirmed(case, attempt.stop) or _hung(case, attempt.stop) or _stopped(attempt.stop.why)
    elif case.own.code == 0:
        cause = _ended_early(case)
    else:
        cause = _failed(case)
    dumps = attempt.ended.dumps if attempt.ended is not None else ()
    return Diagnosed(attempt.number, replace(cause, evidence=(*cause.evidence, *_recorded(dumps))) if cause else None)


def _recorded(dumps: tuple[str, ...]) -> tuple[Line, ...]:
    """Where the ranks' last collectives are written down."""
    if not dumps:
        return ()
    folder, _, first = dumps[0].rpartition("/")
    more = f" and {len(dumps) - 1} more" if len(dumps) > 1 else ""
    said = f"the ranks' last collectives, as torch recorded them: {first}{more} in {folder} (torchfrtrace reads them)"
    return (Line(None, said),)


def remark(run: Run, attempt: Attempt) -> str | None:
    """What should be said of an attempt that was accepted as finished although it stopped short; None: nothing."""
    if attempt.diagnosed is None or attempt.diagnosed.cause is not None or attempt.ended is None:
        return None
    case = cases.make((), attempt, run)
    if _trained_unseen(case):
        return "nobody saw its exit code; every rank's training ended at its last step, whose checkpoint is whole"
    if _would_not_leave(case) and attempt.stop is not None:
        count = len(attempt.stop.pids)
        many = "1 process that would not leave was" if count == 1 else f"{count} processes that would not leave were"
        return f"it had trained to its last step, whose checkpoint is whole; {many} ended"
    if _aborted_leaving(case):
        return "it had trained to its last step, whose checkpoint is whole; a process was aborted while it left"
    if case.own.code != 0 or run.family is None or _finished(case):
        return None
    step, total = cases.last_step(attempt), cases.max_steps(attempt, run)
    return f"it ended at step {_count(step)} of {_count(total)} twice, without a reason that can be seen: accepted"


# --- ends that are as they should be ---------------------------------------------------------------------------


def _finished(case: Case) -> bool:
    """Exit 0, and all steps done or the trainer's own decision; of a command that nobody knows, exit 0 is enough."""
    attempt, run = case.attempt, case.run
    if case.own.code != 0:
        return False
    step, total = cases.last_step(attempt), cases.max_steps(attempt, run)
    if step is not None and total is not None and step >= total:
        return True
    if case.ended_by_us:
        return False
    if run.family is None or {"-h", "--help"} & set(run.created.argv):
        return True
    ends = {end.by for end in attempt.training_ends}
    return bool(ends) and ends <= {"trainer", "epochs", "max_steps"}


def _trained_unseen(case: Case) -> bool:
    """Nobody saw the exit, but every rank said that its training was over, and the last step's checkpoint is whole."""
    return not case.own.seen and _trained_whole(case)


def _trained_whole(case: Case) -> bool:
    """Every rank said that its training was over, and the last step's checkpoint is whole."""
    attempt = case.attempt
    ends = {end.rank: end for end in attempt.training_ends if end.by in ("max_steps", "epochs")}
    step = cases.last_step(attempt)
    return len(ends) == attempt.world and any(c.step == step for c in attempt.checkpoints)


def _has_its_model(case: Case) -> bool:
    """The training is whole, and this program makes nothing of it after its training loop."""
    return case.run.created.family in DONE_WITH_THE_LOOP and not case.attempt.exceptions and _trained_whole(case)


def _would_not_leave(case: Case) -> bool:
    """Guardian ended what was left of a training that had all it was for, and it was not asked to."""
    stop = case.attempt.stop
    return stop is not None and stop.silent == TEARDOWN and not case.run.stop_requests and _has_its_model(case)


def _aborted_leaving(case: Case) -> bool:
    """A rank that still talks to one that has left is aborted by the C++ runtime: gloo and NCCL throw in a thread."""
    by = case.deaths[0].exit.signal if case.deaths else None
    return by == SIGNALS["SIGABRT"] and not case.ended_by_us and _has_its_model(case)


def _went_bad(case: Case) -> Cause | None:
    """A run that reached its end with numbers that are none is no finished run."""
    logs = [log for log in case.attempt.logged if log.loss is not None or log.grad_norm is not None][-FINITE_OVER:]
    bad = [log for log in logs if _nan(log.loss) or _nan(log.grad_norm)]
    if not bad or not (_spoilt(logs[-1]) or len(bad) == FINITE_OVER):
        return None
    last = bad[-1]
    line = Line(None, f"step {_count(last.step)}: loss {last.loss}, gradient norm {last.grad_norm}")
    rule = next((one for one in case.rules if one.failure == "nan_loss" and one.role == "cause"), None)
    if rule is not None:
        return _of_rule(case, rule, line, {})
    return Cause(
        id="nan_loss",
        variant=None,
        rule=None,
        title="It reached its last step with a loss or a gradient that is not a number",
        evidence=(line,),
        retries=0,
        advice="Lower the learning rate, lengthen the warm-up, or train in bf16; the last checkpoints may be spoilt.",
    )


def _spoilt(log: Logged) -> bool:
    """The loss is no number, or is hidden: transformers logs it as 0 then (logging_nan_inf_filter)."""
    return _nan(log.loss) or (log.loss == 0.0 and _nan(log.grad_norm))


def _nan(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def _confirmed(case: Case, stop: StopBegun) -> Cause | None:
    """Guardian ended a job that did not end by itself after what this rule had seen."""
    if stop.rule is None or case.run.stop_requests:
        return None
    if stop.facts:
        planned = next((rule for rule in case.rules if rule.id == stop.rule), None)
        return _of_rule(case, planned, Line(None, stop.why), dict(stop.facts)) if planned else None
    facts = case.facts
    held = judging.held(case.rules, case.hits, case.exits, facts, case.attempt.logged)
    one = next((one for one in held if one.rule.id == stop.rule and one.line is not None), None)
    if one is None or one.line is None:
        return None
    return _of_rule(case, one.rule, one.line, dict(one.captures), (Line(None, f"ended by guardian: {stop.why}"),))


def _hung(case: Case, stop: StopBegun) -> Cause | None:
    """Guardian ended a job in which nothing happened any more: for how long, and where its processes stood."""
    if stop.silent is None or case.run.stop_requests:
        return None
    ended = Line(None, stop.why)
    places = _places(case, stop)
    if stop.silent == TEARDOWN:
        return _did_not_leave(case, stop, (ended, *places))
    lines = (*places[:1], ended, *places[1:])
    rule = next((one for one in case.rules if one.failure == "hang_no_output" and one.variant(case.facts)), None)
    if rule is not None:
        return _of_rule(case, rule, lines[0], {}, lines[1:])
    title = "It hung: nothing happened any more, and guardian ended it"
    return Cause("hang_no_output", None, None, title, lines, 3)


def _places(case: Case, stop: StopBegun) -> tuple[Line, ...]:
    """Where the ranks stood when it was ended, in one line, and their innermost calls."""
    from guardian.core import stacks  # noqa: PLC0415 - only a job that hung has any

    since = case.attempt.stop_wall or 0.0
    taken = next((one.stacks for one in reversed(case.attempt.stacks) if one.wall >= since and one.stacks), ())
    groups = [one for one in stacks.group(taken) if one.kind in ("rank", "worker") or not case.attempt.hellos]
    ranks = stacks.summary(groups)
    told = stacks.words(groups, most=STACK_LINES)
    return tuple(Line(None, text) for text in ((ranks,) if ranks else ()) + told) if stop.silent else ()


def _did_not_leave(case: Case, stop: StopBegun, told: tuple[Line, ...]) -> Cause:
    step, total = cases.last_step(case.attempt), cases.max_steps(case.attempt, case.run)
    said = f"its training was over at step {_count(step)} of {_count(total)}; {len(stop.pids)} processes were ended"
    return Cause(
        id="hang_no_output",
        variant=TEARDOWN,
        rule=None,
        title="It had trained, and its processes neither worked nor left",
        evidence=(*told[:1], Line(None, said), *told[1:]),
        retries=1,
        advice="Whether it did what it does after its training is not known: see whether its last model is there.",
    )


def _unkillable(left: tuple[str, ...]) -> Cause:
    return Cause(
        id="unkillable",
        variant=None,
        rule=None,
        title="Processes of it survive SIGKILL: they hang in the kernel",
        evidence=tuple(Line(None, f"still there: {one}") for one in left) or (Line(None, "what is left is not known"),),
        retries=0,
        advice="Only the machine's restart (or the GPU's reset) ends them; nothing is started beside them.",
    )


def _stopped(why: str) -> Cause:
    return Cause(
        id="preempted_or_interrupted",
        variant="asked",
        rule=None,
        title=f"It was stopped: {why}",
        evidence=(),  # the title says it all
        retries=None,
    )


def _ended_early(case: Case) -> Cause | None:
    """Exit 0 before the last step: for what the log names, a signal, an exception, a fallen rank, or nothing known."""
    named = _named(case, "cause")
    if named is not None:
        return named
    step, total = cases.last_step(case.attempt), cases.max_steps(case.attempt, case.run)
    where = f"step {_count(step)} of {_count(total)}"
    if any(end.by == "signal" for end in case.attempt.training_ends):
        text = f"the training loop was told to stop by a signal at {where}; the job ended with exit code 0"
        title = "It was told to stop by a signal from outside, and stopped in good order"
        return Cause("preempted_or_interrupted", "graceful", None, title, (Line(None, text),), None)
    # Its launcher names a rank that fell, or what left the loop was printed: the 0 is that of a script around it. What
    # left the loop in silence may be the job's own way to end.
    if len(case.deaths) > 1 or (case.attempt.exceptions and _exception(case)):
        return _failed(case)
    if _same_early_end(case):
        return None
    evidence = (Line(None, f"exit code 0 at {where}"), *_last_lines(case.tail))
    title = f"It ended with exit code 0 at {where}, and nothing says why"
    return Cause("unknown", EXIT_0_EARLY, None, title, evidence, 1)


def _same_early_end(case: Case) -> bool:
    """The attempt before ended at the same step in the same way."""
    number = case.attempt.number
    if number < 2:
        return False
    before = case.run.attempts[number - 2]
    cause = before.diagnosed.cause if before.diagnosed else None
    return (
        cause is not None and cause.variant == EXIT_0_EARLY and cases.last_step(before) == cases.last_step(case.attempt)
    )


# --- failures ----------------------------------------------------------------------------------------------------


def _failed(case: Case) -> Cause:
    # After a launcher that fell, guardian ended the ranks: what they said of that is no cause.
    log_counts = case.attempt.stop is None or case.own.signal is None
    return (
        (_named(case, "cause") if log_counts else None)
        or _died(case)
        or _exception(case)
        or _named(case, "symptom")
        or _unknown(case)
    )


def _named(case: Case, role: str) -> Cause | None:
    """The earliest of the rules of a role that the log makes true, without those that another one explains."""
    hits = [hit for hit in case.hits if _counts(case, hit)]
    held = judging.held(case.rules, hits, case.exits, case.facts, case.attempt.logged)
    true = [one for one in held if one.rule.role == role and one.line is not None]
    explained = {failure for one in true for failure in one.rule.explains if failure != one.rule.failure}
    left = [one for one in true if one.rule.failure not in explained] or true
    if not left:
        return None
    first = left[0]
    assert first.line is not None
    symptoms = dict.fromkeys(one.rule.failure for one in held if one.rule.failure in first.rule.explains)
    return replace(_of_rule(case, first.rule, first.line, dict(first.captures)), symptoms=tuple(symptoms))


def _counts(case: Case, hit: Hit) -> bool:
    """Of a process that was ended from outside while it trained, only the last lines can have to do with its end."""
    ended_from_outside = case.deaths and case.deaths[0].exit.signal in FROM_OUTSIDE and case.facts["steps_done"]
    first = next((line.number for line in case.tail if line.number is not None), None)
    return not ended_from_outside or first is None or (hit.line.number or 0) >= first


def _died(case: Case) -> Cause | None:
    """By the way the process ended: the kernel's kill, or a rule about exits."""
    killed = next((death for death in case.deaths if death.exit.signal == SIGNALS["SIGKILL"]), None)
    ended = case.attempt.ended
    unseen = (Death(case.own, Line(None, UNSEEN)),) if not case.own.seen and not (ended and ended.rebooted) else ()
    for rule in (r for r in case.rules if r.role == "cause"):
        for death in (*case.deaths, *unseen) if killed is None else (killed,):
            if rule.holds(Seen(exits=(death.exit,), facts=case.facts)):
                return _of_rule(case, rule, death.line, {}, judging.evidence(rule, case.facts))
    return _killed(case, killed) if killed is not None else None


def _killed(case: Case, death: Death) -> Cause:
    """SIGKILL leaves no word: the kernel's counter alone can tell its OOM killer from somebody's kill -9."""
    counted = case.facts.get("oom_kills")
    seen = "; the kernel counted no OOM kill" if counted == 0 else ""
    return Cause(
        id="preempted_or_interrupted",
        variant="killed",
        rule=None,
        title=f"Ended from outside by SIGKILL{seen}",
        evidence=(death.line, *_last_lines(case.tail)),
        retries=None,
        blind=() if counted is not None else (KERNEL_COUNTER,),
    )


def _exception(case: Case) -> Cause | None:
    """The exception that ended the process: that of the rank that fell first, else the last one.

    Of the many that a log may hold, those that a symptom explains and those after which Python goes on do not count.
    """
    by_id = {rule.id: rule for rule in case.rules}
    symptoms = {hit.line.number for hit in case.hits if by_id.get(hit.rule) and by_id[hit.rule].role == "symptom"}
    in_tail = {one.line.number: one for one in tracebacks.raised(case.tail)}
    no_cause = symptoms | {number for number, one in in_tail.items() if one.aside}
    known = [(hit, by_id[hit.rule]) for hit in case.hits if by_id.get(hit.rule) and by_id[hit.rule].role == "fallback"]
    lines = {number: one.line for number, one in in_tail.items()} | {hit.line.number: hit.line for hit, _ in known}
    candidates = [lines[number] for number in sorted(lines, key=lambda n: n or 0) if number not in no_cause]
    chosen = _deciding(case, candidates)
    if chosen is None:
        return None
    hit, rule = next(((h, r) for h, r in known if h.line.number == chosen.number), (None, None))
    if rule is None:
        rule = next((r for r in case.rules if r.role == "fallback" and r.failure == "code_bug"), None)
    if rule is None:
        return Cause(
            "code_bug", None, None, "An exception ended the job", (chosen,), 1 if case.facts["steps_done"] else 0
        )
    return _of_rule(case, rule, chosen, dict(judging.captures(hit, case.hits_of(rule))) if hit else {})


def _deciding(case: Case, lines: list[Line]) -> Line | None:
    """Which exception line decides: the one that left the training loop, the first of the failed rank, the last."""
    left = [(one.type.rpartition(".")[2], _first_line(one.text)) for one in case.attempt.exceptions]
    of_loop = [line for line in lines if any(kind in line.text and text in line.text for kind, text in left)]
    of_rank = [line for line in lines if tracebacks.rank_of(line.text) is not None]
    of_first = [line for line in of_rank if tracebacks.rank_of(line.text) == case.first_rank]
    first = (of_loop or of_first or of_rank)[:1]
    return first[0] if first else (lines[-1] if lines else None)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _unknown(case: Case) -> Cause:
    own, ended = case.own, case.attempt.ended
    blind = ended.blind if ended else ()
    if not own.seen:
        if ended is not None and ended.rebooted:
            return _restarted_host()
        why = "its keeper was killed" if case.attempt.keeper_lost else "guardian was not there, and no record was left"
        title = "Nobody saw how it ended"
        evidence = (Line(None, why), *_last_lines(case.tail))
        return Cause("unknown", "unseen", None, title, evidence, None, blind=(*blind, "the exit code"))
    how = cases.how(ended.code if ended else None, own)
    last = _last_lines(case.tail)
    evidence = (*last, case.deaths[0].line) if last else (case.deaths[0].line,)
    title = f"It ended {how}, and its log names no cause that is known"
    return Cause("unknown", None, None, title, evidence, 1, blind=blind)


def _restarted_host() -> Cause:
    title = "The machine was started anew while it ran"
    return Cause("preempted_or_interrupted", "host_restart", None, title, (Line(None, title),), None)


def _not_started(error: str) -> Cause:
    return Cause(
        id="config_conflict",
        variant="not_started",
        rule=None,
        title="The command cannot be started",
        evidence=(Line(None, error),),
        retries=0,
        advice="Check the command's first word: is the program installed, on PATH and executable?",
    )


# --- words -------------------------------------------------------------------------------------------------------


def _of_rule(
    case: Case, rule: Rule, line: Line, captures: Mapping[str, float | str], more: tuple[Line, ...] = ()
) -> Cause:
    facts = {**case.facts, **captures}
    fields = {**_exit_fields(case), **facts}
    variant = rule.variant(facts)
    name = variant.name if variant else None
    advice = rule.advice(facts, name)
    return Cause(
        id=rule.failure,
        variant=name,
        rule=rule.id,
        title=filled((variant.title if variant else None) or rule.title, fields),
        evidence=(Line(line.number, line.text.strip()), *more),
        retries=rule.retries(facts, name),
        advice=filled(advice, fields) if advice else None,
        facts=tuple(sorted(facts.items())),
    )


def _exit_fields(case: Case) -> dict[str, float | str]:
    """What a rule's text can name without capturing it."""
    if not case.deaths:
        return {}
    one = case.deaths[0].exit
    return {"exit": signal_name(one.signal) if one.signal is not None else f"exit code {one.code}"}


def _last_lines(tail: Iterable[Line]) -> tuple[Line, ...]:
    """The last lines that say something, the very last one first."""
    said = [Line(line.number, text) for line in tail if (text := _shown(line.text))]
    return tuple(reversed(said[-LAST_LINES:]))


def _shown(text: str) -> str:
    """What a line shows in the end: carriage returns overwrite what was before."""
    return next((part.strip() for part in reversed(text.split("\r")) if part.strip()), "")


def _count(number: int | None) -> str:
    return "an unknown number" if number is None else str(number)
