"""The story as it happens: a line per decision and per rare fact. Pure: a run and its newest record in, text out."""

from __future__ import annotations

import shlex
import signal
import time
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core.masking import mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.core.run import Attempt, Run

TEXT_MAX = 200
UNKNOWN_PROGRAM = "  guardian does not know this program: it is watched, explained and restarted as it is, never edited"


def narrate(run: Run, record: ev.Record) -> str | None:
    """The line to show for a record, or None where it is not worth one."""
    line = _LINES.get(type(record.event))
    return line(run, record.event, record.stamp.wall) if line else None


def _supervisor_started(run: Run, event: ev.SupervisorStarted, _: float) -> str | None:
    return None if event.how == "run" else f"goes on with run {run.created.name}: {event.found}"


def _planned(_: Run, event: ev.Planned, wall: float) -> str | None:
    if event.attempt == 1:
        return None
    wait = event.not_before - wall
    when = f"in {wait:.0f} s" if wait >= 1 else "now"
    origin = (
        f"resumes from step {event.resume_step} ({event.resume_from})"
        if event.resume_from
        else "starts from the beginning"
    )
    changed = "".join(f"\n  {e.knob}: {e.old if e.old is not None else '(not set)'} -> {e.new}" for e in event.edits)
    over = "".join(f"\n  passed over {path}: {why}" for path, why in event.passed_over)
    return f"attempt {event.attempt} {origin} {when}{changed}{over}"


def _pinned(_: Run, event: ev.Pinned, __: float) -> str:
    if event.pin is None:
        return f"{event.source} is not pinned ({event.why}): the job's own rotation could take it away"
    return f"{event.source} is pinned ({event.how})"


def _launched(run: Run, event: ev.Launched, _: float) -> str:
    plan = run.attempts[event.attempt - 1].plan
    if event.attempt > 1:
        return f"attempt {event.attempt} is started with these changes, in the same environment"
    added = " ".join(f"{name}={shlex.quote(value)}" for name, value in plan.env)
    known = "" if run.created.family else f"\n{UNKNOWN_PROGRAM}"
    return f"attempt {event.attempt}: {mask(shlex.join(plan.argv))}\n  with {added}, stdin from /dev/null{known}"


def _start_failed(_: Run, event: ev.StartFailed, __: float) -> str:
    return f"attempt {event.attempt} could not be started: {event.error}"


def _hello(run: Run, event: ev.Hello, _: float) -> str | None:
    attempt = run.attempts[event.attempt - 1]
    if len(attempt.hellos) < event.world:
        return None
    split = f"{event.device_batch} x {event.accumulation} x {event.data_parallel}"
    rest = f" from step {event.step}" if event.step else ""
    batch = f"effective batch {event.effective_batch} = {split} (device batch x accumulation x data-parallel ranks)"
    return f"attempt {event.attempt} trains{rest} to step {event.max_steps}, {batch}"


def _launcher(_: Run, event: ev.LauncherExited, __: float) -> str | None:
    return None if event.code == 0 else f"attempt {event.attempt}: {ended_how(event.code, event.signal)}"


def _stop_requested(run: Run, event: ev.StopRequested, _: float) -> str:
    hurry = {1: "stopping", 2: "stopping without a save"}.get(len(run.stop_requests), "stopping at once")
    return f"{event.by.value}: {hurry}"


def _stop_begun(_: Run, event: ev.StopBegun, __: float) -> str:
    return f"attempt {event.attempt} is being ended: {event.why}"


def _save_asked(_: Run, event: ev.SaveAsked, __: float) -> str:
    return f"asked the job to save at step {event.save_at} and stop"


def _signalled(run: Run, event: ev.Signalled, _: float) -> str | None:
    sent = run.attempts[event.attempt - 1].signalled
    if len(sent) > 1 and sent[-2][1].signal == event.signal:
        return None
    return f"{signal.Signals(event.signal).name} to {event.processes} processes of attempt {event.attempt}"


def _keeper_lost(_: Run, event: ev.KeeperLost, __: float) -> str:
    return (
        f"the keeper of attempt {event.attempt} was killed: the job is watched without it, its exit code stays unknown"
    )


def _source_lost(_: Run, event: ev.SourceLost, __: float) -> str:
    return f"cannot see {event.source}: {event.why}"


def _noted(_: Run, event: ev.Noted, __: float) -> str:
    return event.text


def _clock_set(_: Run, event: ev.ClockSet, __: float) -> str:
    return f"the machine's clock was set {'forward' if event.by_s > 0 else 'back'} by {abs(event.by_s):.0f} s"


def _diagnosed(run: Run, event: ev.Diagnosed, _: float) -> str | None:
    cause = event.cause
    if cause is None:
        return None
    attempt = run.attempts[event.attempt - 1]
    proof = "".join(f"\n  {_where(e)}{e.text[:TEXT_MAX]}" for e in cause.evidence[:3])
    advice = f"\n  {cause.advice}" if cause.advice else ""
    return f"attempt {event.attempt} ended {_at(attempt)}: {cause.title} [{_name(cause)}]{proof}{advice}"


def _run_finished(run: Run, event: ev.RunFinished, wall: float) -> str:
    return f"run {run.created.name}: {event.outcome.value} after {_span(wall - run.created_wall)} ({event.reason})"


def _checkpoint(_: Run, event: ev.CheckpointSeen, __: float) -> str:
    return f"checkpoint of step {event.checkpoint.step} is complete"


_LINES: dict[type, Callable[..., str | None]] = {
    ev.SupervisorStarted: _supervisor_started,
    ev.Planned: _planned,
    ev.Pinned: _pinned,
    ev.Launched: _launched,
    ev.StartFailed: _start_failed,
    ev.Hello: _hello,
    ev.LauncherExited: _launcher,
    ev.StopRequested: _stop_requested,
    ev.StopBegun: _stop_begun,
    ev.SaveAsked: _save_asked,
    ev.Signalled: _signalled,
    ev.KeeperLost: _keeper_lost,
    ev.SourceLost: _source_lost,
    ev.Noted: _noted,
    ev.ClockSet: _clock_set,
    ev.Diagnosed: _diagnosed,
    ev.CheckpointSeen: _checkpoint,
    ev.RunFinished: _run_finished,
}


def ended_how(code: int | None, number: int | None) -> str:
    """How a process ended, in words."""
    if number is not None:
        try:
            return f"ended by {signal.Signals(number).name}"
        except ValueError:
            return f"ended by signal {number}"
    return "ended, nobody saw how" if code is None else f"exit code {code}"


def _where(line: ev.Line) -> str:
    return f"job.log:{line.number}: " if line.number is not None else ""


def _at(attempt: Attempt) -> str:
    return f"at step {attempt.last_step}" if attempt.last_step is not None else "before its first step"


def _name(cause: ev.Cause) -> str:
    return f"{cause.id}/{cause.variant}" if cause.variant else cause.id


def _span(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(max(0, seconds)))
