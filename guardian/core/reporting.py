"""Tell a run: what came out, what each attempt did and cost, what was proved, what to do next.

Pure: a Run comes in, a Report goes out; core/contract.py has it for other programs. Whatever came from outside (command
lines, lines of a log) is masked here, before anyone shows or stores it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from guardian.core import curves, effects, figures, lineage, shrinking, throughput
from guardian.core import events as ev
from guardian.core.certificate import Verdict, certify
from guardian.core.diagnosing import remark
from guardian.core.faults import faults
from guardian.core.masking import mask, mask_argv, mask_value
from guardian.core.run import Finished
from guardian.core.spelling import count
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from guardian.core.certificate import Certificate
    from guardian.core.curves import Curve
    from guardian.core.faults import Fault
    from guardian.core.lineage import Stretch
    from guardian.core.run import Attempt, Run

TEXT_MAX = 400
"""Characters of a log line that a report keeps."""
EXIT_VIOLATED = 1


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One launch of the job."""

    number: int
    began: float | None
    """Wall seconds; None: planned, not launched."""
    first_step: int | None
    last_step: int | None
    resumed_from: str | None
    resume_step: int | None
    cause: ev.Cause | None
    """What ended it; None: it lives, ended as it should, or nobody knows (`end` tells which)."""
    end: str
    """How it ended, in words."""
    edits: tuple[ev.Edit, ...]
    """What was changed for it in the command or its environment."""
    not_tried: tuple[str, ...]
    """Remedies that were passed by, each with its reason."""
    lost_steps: int
    """Finished steps that had to be run again."""
    seconds: float | None
    """From the launch until its last process was gone, or until now."""
    cost_s: float | None
    """Seconds between its last step that counts and the first step of the attempt after it."""
    host: tuple[tuple[str, float], ...] = ()
    """Figures of its last seconds (core/figures.py); none while it lives, and where nothing could be measured."""


@dataclass(frozen=True, slots=True)
class Report:
    """The whole story, ready to be shown."""

    run: str
    name: str
    argv: tuple[str, ...]
    """The user's command, masked."""
    outcome: ev.Outcome
    reason: str
    exit_code: int | None
    """What `guardian run` exits with: a finish whose certificate is violated is no success. None: the run goes on."""
    began: float
    wall_s: float
    goodput: float | None
    """See `_goodput`; None: no source told when steps were finished."""
    steps_done: int | None
    max_steps: int | None
    attempts: tuple[AttemptReport, ...]
    certificate: Certificate
    skipped_checkpoints: tuple[tuple[str, str], ...]
    """(path, reason)"""
    unpinned_checkpoints: tuple[tuple[str, str], ...]
    """Resumed from without a pin, so the job's own rotation could have taken them: (path, reason)."""
    guardian_restarts: int
    blind: tuple[str, ...]
    """What could not be seen."""
    next_argv: tuple[str, ...] | None
    """The command to go on with, masked; None: nothing to do."""
    losses: tuple[tuple[tuple[int, float], ...], ...]
    """(step, loss) for each attempt, not a number where it was none."""
    curves: tuple[Curve, ...] = ()
    """What else is known of the steps that survived."""
    faults: tuple[Fault, ...] = ()
    """Where attempts ended although the training was not over."""
    speed: throughput.Speed | None = None
    stragglers: tuple[throughput.Straggler, ...] = ()
    pace: tuple[str, ...] = ()
    """What should be known of how fast it goes, in words."""
    remark: str | None = None
    """What must be said of an end that was accepted although nobody knows its reason."""
    failed_edits: tuple[str, ...] = ()
    """What guardian set and the job did not run with."""
    smaller: tuple[str, ...] = ()
    """Why the device batch is smaller than it was, and whether it could have stayed."""
    family: str | None = None
    """The framework whose command it is; `inside`: the command does not say, the training itself did."""
    program: tuple[str, ...] | None = None
    """The script that trains, with its words, masked; None: it never said."""


def report(run: Run) -> Report:
    """The story so far."""
    line = lineage.stretches(run)
    state = run.state if isinstance(run.state, Finished) else None
    outcome = state.outcome if state else ev.Outcome.RUNNING
    certificate = certify(run)
    wall_s = max(0.0, (run.finished_wall or run.heard_wall) - run.created_wall)
    attempts = tuple(_attempt(run, line, at) for at in range(len(line)))
    return Report(
        run=run.created.run,
        name=run.created.name,
        argv=mask_argv(run.created.argv),
        outcome=outcome,
        reason=_text(state.reason) if state else "",
        exit_code=_exit_code(state, certificate),
        began=run.created_wall,
        wall_s=wall_s,
        goodput=_goodput(line, wall_s),
        steps_done=lineage.steps_done(run),
        max_steps=next((a.max_steps for a in reversed(run.attempts) if a.max_steps is not None), None),
        attempts=attempts,
        certificate=certificate,
        skipped_checkpoints=tuple({path: why for a in run.attempts for path, why in a.plan.passed_over}.items()),
        unpinned_checkpoints=_unpinned(run),
        guardian_restarts=max(0, len(run.supervisors) - 1),
        blind=_blind(run),
        next_argv=_next_argv(run, outcome),
        losses=tuple(curves.losses(a) for a in run.attempts),
        curves=curves.curves(run),
        faults=faults(attempts),
        speed=throughput.speed(run),
        stragglers=throughput.latest_stragglers(run),
        pace=tuple(remark.text for remark in throughput.remarks(run)),
        remark=remark(run, run.attempt) if run.attempt else None,
        failed_edits=tuple(_text(one) for one in effects.failed(run)),
        smaller=tuple(_text(one) for one in shrinking.reasons(run)),
        family=run.family,
        program=next((mask_argv(a.hello.argv) for a in reversed(run.attempts) if a.hello and a.hello.argv), None),
    )


def _exit_code(state: Finished | None, certificate: Certificate) -> int | None:
    if state is None:
        return None
    broken = state.outcome is ev.Outcome.FINISHED and certificate.verdict is Verdict.VIOLATED
    return EXIT_VIOLATED if broken else state.exit_code


# --- an attempt ------------------------------------------------------------------------------------------------


def _attempt(run: Run, line: tuple[Stretch, ...], at: int) -> AttemptReport:
    one = line[at]
    attempt = one.attempt
    cause = attempt.diagnosed.cause if attempt.diagnosed else None
    began = attempt.launched_wall
    over = attempt.end_wall if attempt.end_wall is not None else run.heard_wall
    return AttemptReport(
        number=attempt.number,
        began=began,
        first_step=_first_step(one),
        last_step=one.last,
        resumed_from=attempt.plan.resume_from or (attempt.hello.resumed_from if attempt.hello else None),
        resume_step=attempt.hello.step if attempt.hello else attempt.plan.resume_step,
        cause=_masked(cause) if cause else None,
        end=_end(run, attempt),
        edits=tuple(_masked_edit(edit) for edit in attempt.plan.edits),
        not_tried=tuple(_text(one) for one in attempt.plan.skipped),
        lost_steps=one.lost,
        seconds=None if began is None else max(0.0, over - began),
        cost_s=_cost_s(line, at),
        host=tuple(figures.at_the_end(dict(attempt.ended.facts)).items()) if attempt.ended else (),
    )


def _first_step(one: Stretch) -> int | None:
    """The first step it finished; what came before it is no step of this attempt."""
    if one.attempt.first_step is not None:
        return one.attempt.first_step
    return one.start + 1 if one.start is not None and one.stepped else None


def _end(run: Run, attempt: Attempt) -> str:
    if attempt.diagnosed is not None:
        return _text(attempt.diagnosed.cause.title) if attempt.diagnosed.cause else "finished"
    if attempt.start_failed is not None:
        return _text(f"could not be started: {attempt.start_failed}")
    if attempt.ended is not None:
        return ended_how(attempt.ended.code, attempt.ended.signal)
    if attempt.launched is None:
        return "not started yet"
    if attempt.stop is not None:
        return f"is being ended: {_text(attempt.stop.why)}"
    if attempt.tree_end is not None:
        return "ended, not judged yet"
    return "is running" if not isinstance(run.state, Finished) else "left as it was"


def ended_how(code: int | None, signal: int | None) -> str:
    """An exit in words."""
    if signal is not None:
        return f"killed by signal {signal}"
    return "gone, nobody saw how" if code is None else f"exit code {code}"


def _masked(cause: ev.Cause) -> ev.Cause:
    return replace(
        cause,
        title=_text(cause.title),
        evidence=tuple(replace(line, text=_text(line.text)) for line in cause.evidence),
        advice=_text(cause.advice) if cause.advice else cause.advice,
    )


def _text(text: str) -> str:
    return mask(text)[:TEXT_MAX]


def _masked_edit(edit: ev.Edit) -> ev.Edit:
    old, new = (None if value is None else mask_value(edit.knob, value) for value in (edit.old, edit.new))
    return replace(edit, old=old, new=new)


# --- time --------------------------------------------------------------------------------------------------------


def _goodput(line: tuple[Stretch, ...], wall_s: float) -> float | None:
    """Time spent on steps that count, over the whole time of the run.

    For each attempt that is the time between its first and its last step that was not run again later: start-ups,
    steps that were lost, waits and the job's ends are what is left.
    """
    spans = [kept for one in line if (kept := _kept(one))]
    if not spans or wall_s <= 0:
        return None
    return min(1.0, sum(last - first for first, last in spans) / wall_s)


def _kept(one: Stretch) -> tuple[float, float] | None:
    """When the first and the last step that count were finished."""
    kept_to = one.kept_to
    if kept_to is None:
        return None
    walls = [wall for step, wall in _clock(one.attempt) if step <= kept_to]
    return (walls[0], walls[-1]) if walls else None


def _clock(attempt: Attempt) -> list[tuple[int, float]]:
    """(step, wall seconds), from the companion or else from what the trainer logged."""
    if attempt.steps:
        return [(s.step, s.wall) for s in attempt.steps]
    return [(x.step, x.wall) for x in attempt.logged if x.step is not None and x.wall is not None]


def _cost_s(line: tuple[Stretch, ...], at: int) -> float | None:
    """What the end of this attempt cost: nothing for the last one."""
    if at + 1 >= len(line):
        return None
    kept = _kept(line[at])
    lost_since = kept[1] if kept else line[at].attempt.launched_wall
    following = line[at + 1].attempt
    clock = _clock(following)
    regained = clock[0][1] if clock else following.launched_wall
    return None if lost_since is None or regained is None else max(0.0, regained - lost_since)


# --- the rest ----------------------------------------------------------------------------------------------------


def _unpinned(run: Run) -> tuple[tuple[str, str], ...]:
    pins = [a.pinned for a in run.attempts if a.pinned is not None and a.pinned.pin is None]
    return tuple({pin.source: pin.why or "no reason given" for pin in pins}.items())


def _blind(run: Run) -> tuple[str, ...]:
    lost = [f"{x.source}: {x.why}" for x in run.lost]
    missed = [text for a in run.attempts if a.ended for text in a.ended.blind]
    causes = [a.diagnosed.cause for a in run.attempts if a.diagnosed]
    missed += [text for cause in causes if cause for text in cause.blind]
    return tuple(dict.fromkeys(_text(text) for text in lost + missed))


def _next_argv(run: Run, outcome: ev.Outcome) -> tuple[str, ...] | None:
    """What to type to go on; after a failure that no retry heals, the command itself once it is put right."""
    if outcome in {ev.Outcome.STOPPED, ev.Outcome.PREEMPTED, ev.Outcome.GAVE_UP}:
        return ("guardian", "resume", run.created.name)
    if outcome is ev.Outcome.NOT_RETRYABLE:
        return ("guardian", "run", "--", *mask_argv(run.created.argv))
    return None


# --- one sentence --------------------------------------------------------------------------------------------------


def summary(told: Report) -> str:
    """The whole run in one sentence."""
    begin = f"{OUTCOMES[told.outcome]}, {count(len(told.attempts), 'attempt')}, {progress(told)}"
    if told.steps_done is None:
        return f"{begin}: {told.reason}." if told.reason else f"{begin}."
    reason = told.certificate.reasons[0] if told.certificate.reasons else ""
    match told.certificate.verdict:
        case Verdict.PROVED:
            return f"{begin}, {_batch(told)}, {_replays(told)}."
        case Verdict.CONSISTENT:
            return f"{begin}, {_batch(told)}, {_replays(told)}, not proved: {reason}."
        case Verdict.NOT_PROVABLE:
            return f"{begin}, nothing proved: {reason}."
        case Verdict.VIOLATED:
            return f"{begin}, certificate VIOLATED: {reason}."


OUTCOMES = {
    ev.Outcome.FINISHED: "finished",
    ev.Outcome.GAVE_UP: "gave up",
    ev.Outcome.NOT_RETRYABLE: "failed for good",
    ev.Outcome.STOPPED: "stopped",
    ev.Outcome.PREEMPTED: "stopped from outside",
    ev.Outcome.RUNNING: "running",
}


def progress(told: Report) -> str:
    """`60 of 60 steps`."""
    if told.steps_done is None:
        return "no step seen"
    return f"{told.steps_done} of {told.max_steps} steps" if told.max_steps else count(told.steps_done, "step")


def _batch(told: Report) -> str:
    certificate = told.certificate
    if certificate.effective_batch is None:
        return "no fixed effective batch"
    proved = certificate.verdict is Verdict.PROVED
    where = "every step" if proved else count(certificate.steps_counted, "step")
    short = f" (fewer at {count(certificate.short_steps, 'epoch end')})" if certificate.short_steps else ""
    return f"effective batch {certificate.effective_batch} counted at {where}{short}"


def _replays(told: Report) -> str:
    certificate = told.certificate
    if not certificate.replayed_steps:
        again = any(a.lost_steps for a in told.attempts)
        return "replayed steps not compared" if again else "no step ran twice"
    if certificate.verdict is Verdict.PROVED:
        return "replayed steps equal"
    return f"{count(certificate.replayed_steps, 'replayed step')} compared"
