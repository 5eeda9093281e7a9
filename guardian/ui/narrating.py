"""The story as it happens: a line per decision and per rare fact. Pure: a run and its newest record in, text out."""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core.masking import mask
from guardian.core.run import LIVING

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.core.run import Attempt, Run

TEXT_MAX = 200
STACK_LINES = 16
UNKNOWN_PROGRAM = "  guardian does not know this program: it is watched, explained and restarted as it is, never edited"
UNKNOWN_YET = (
    "  guardian does not know this command: what trains in it is learnt from inside, once it does; until then it is\n"
    "  watched, explained and restarted as it is"
)


def narrate(run: Run, record: ev.Record) -> str | None:
    """The line to show for a record, or None where it is not worth one."""
    line = _LINES.get(type(record.event))
    return line(run, record.event, record.stamp.wall) if line else None


def _supervisor_started(run: Run, event: ev.SupervisorStarted, _: float) -> str | None:
    return None if event.how == "run" else f"run {run.created.name} goes on: {event.found}"


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
    changed = "".join(f"\n  {e.knob}: {_value(e.old)} -> {_value(e.new)}" for e in event.edits)
    over = "".join(f"\n  passed over {path}: {why}" for path, why in event.passed_over)
    by = "".join(f"\n  not tried: {one}" for one in event.skipped)
    return f"attempt {event.attempt} {origin} {when}{changed}{by}{over}"


def _value(value: str | None) -> str:
    return "(not set)" if value is None else value


def _pinned(_: Run, event: ev.Pinned, __: float) -> str:
    if event.pin is None:
        return f"that checkpoint is not pinned ({event.why}): until the next one the job itself could delete it"
    how = "as before" if event.how == "kept" else f"as {event.how}"
    return f"that checkpoint is pinned in the run folder, {how}: it stays until there is a newer one"


def _rated(_: Run, event: ev.Rated, __: float) -> str:
    if event.why is not None:
        return f"the learning rate of {event.source} cannot be changed: {event.why}"
    if event.copy is None:
        return f"the learning rate of {event.source} is {event.target:g} already"
    was = "" if event.before is None else f" instead of {event.before:g}"
    return f"a copy of {event.source} has the learning rate {event.target:g}{was}; the checkpoint itself is as it was"


def _launched(run: Run, event: ev.Launched, _: float) -> str:
    plan = run.attempts[event.attempt - 1].plan
    if event.attempt > 1:
        same = plan.argv == run.attempts[0].plan.argv and _is_changed_inside(run)
        changed = "the same command, the training changed inside as said" if same else "the command changed as said"
        command = changed if plan.edits else "the same command"
        return f"attempt {event.attempt} starts: {command}, in the same environment"
    added = " ".join(f"{name}={shlex.quote(value)}" for name, value in plan.env)
    unknown = UNKNOWN_YET if run.created.companion else UNKNOWN_PROGRAM
    known = "" if run.created.family else f"\n{unknown}"
    shown = mask(shlex.join(plan.argv))
    return f"attempt {event.attempt} starts: {shown}\n  added to its environment: {added}; stdin: /dev/null{known}"


def _start_failed(_: Run, event: ev.StartFailed, __: float) -> str:
    return f"attempt {event.attempt} could not be started: {event.error}"


def _hello(run: Run, event: ev.Hello, _: float) -> str | None:
    attempt = run.attempts[event.attempt - 1]
    if len(attempt.hellos) < event.world:
        return None
    split = f"{event.device_batch} x {event.accumulation} x {event.data_parallel}"
    rest = f" from step {event.step}" if event.step else ""
    batch = f"effective batch {event.effective_batch} = {split} (device batch x accumulation x data-parallel ranks)"
    inside = _inside(run, attempt)
    return f"attempt {event.attempt} trains{rest} to step {event.max_steps}, {batch}{inside}"


def _is_changed_inside(run: Run) -> bool:
    """Whether the trainer's arguments are changed, and not words of the command (core/adapters/inside.py)."""
    hello = next((a.hello for a in run.attempts if a.hello), None)
    own_parser = run.family == "transformers" and hello is not None and hello.takes_resume is False
    return run.family == "inside" or own_parser


def _inside(run: Run, attempt: Attempt) -> str:
    """What was found in a command that does not say what it trains, at the first time."""
    hello = attempt.hello
    if hello is None or not _is_changed_inside(run) or any(a.hello for a in run.attempts[: attempt.number - 1]):
        return ""
    script = next((mask(word).rpartition("/")[2] for word in hello.argv[:1] if word), "it")
    version = dict(hello.versions).get("transformers")
    with_ = f" with transformers {version}" if version else ""
    fixed = "".join(f"\n  {knob} cannot be changed there: {mask(why)[:TEXT_MAX]}" for knob, why in hello.fixed)
    return f"\n  {hello.trainer} of {script}{with_}: its arguments and its resume are changed from inside{fixed}"


def _suspected(_: Run, event: ev.Suspected, __: float) -> str:
    proof = f"{_where(event.line)}{mask(event.line.text)[:TEXT_MAX]}"
    waits = "" if event.confirm == "line" else "; the job lives on, guardian waits whether it goes on"
    return f"attempt {event.attempt}: {event.title}{waits}\n  {proof}"


def _launcher(_: Run, event: ev.LauncherExited, __: float) -> str | None:
    return (
        None if event.code == 0 else f"attempt {event.attempt}: its first process {ended_how(event.code, event.signal)}"
    )


def _stop_requested(run: Run, event: ev.StopRequested, _: float) -> str:
    if not isinstance(run.state, LIVING):
        return f"{event.by.spelt}: the run stops here"
    hurry = {
        1: "the job is being stopped (once more: without a save; a third time: it is killed)",
        2: "no save is waited for any more",
    }
    return f"{event.by.spelt}: {hurry.get(len(run.stop_requests), 'the job is killed')}"


def _terminal_lost(_: Run, __: ev.TerminalLost, ___: float) -> str:
    return "the terminal is gone (SIGHUP): the run goes on without one"


def _stop_begun(run: Run, event: ev.StopBegun, _: float) -> str | None:
    """Who asked for it has been told."""
    if run.stop_requests:
        return None
    if event.facts:
        return f"attempt {event.attempt} is ended before it must, and goes on from there: {event.why}"
    what = f"attempt {event.attempt}" if event.silent else f"what is left of attempt {event.attempt}"
    return f"{what} is being ended: {event.why}"


def _stacks_taken(run: Run, event: ev.StacksTaken, _: float) -> str | None:
    """Those of a job that is being ended; others are looks at one that is only silent."""
    if run.attempts[event.attempt - 1].stop is None or not event.stacks:
        return None
    from guardian.core import stacks  # noqa: PLC0415 - only a job that hangs has any

    told = stacks.words(stacks.group(event.stacks), most=STACK_LINES, frames=4)
    return "\n  ".join(("where its processes stand:", *map(mask, told)))


def _save_asked(_: Run, event: ev.SaveAsked, __: float) -> str:
    return f"the job is asked to save at step {event.save_at} and to end there"


def _signalled(run: Run, event: ev.Signalled, _: float) -> str | None:
    sent = run.attempts[event.attempt - 1].signalled
    if len(sent) > 1 and sent[-2][1].signal == event.signal:
        return None
    name = signal.Signals(event.signal).name
    whom = "process" if event.processes == 1 else "processes"
    return f"{name} is sent to {event.processes} {whom} of attempt {event.attempt}"


def _keeper_lost(_: Run, event: ev.KeeperLost, __: float) -> str:
    number = event.attempt
    return f"attempt {number} has lost its keeper, guardian's own helper: the job lives on, its exit code stays unknown"


def _source_lost(_: Run, event: ev.SourceLost, __: float) -> str:
    return f"cannot see {event.source}: {event.why}"


def _gpu_fault(_: Run, event: ev.GpuFault, __: float) -> str:
    from guardian.core.gpus import said  # noqa: PLC0415 - the first launch does not wait for it

    return said(event)


def _drain_begun(_: Run, event: ev.DrainBegun, wall: float) -> str:
    held = "".join(f"\n  {one}" for one in event.held)
    wait = max(0.0, event.until - wall)
    return f"attempt {event.attempt} waits for memory of the GPUs, {wait:.0f} s at most{held}"


def _reaped(_: Run, event: ev.Reaped, __: float) -> str | None:
    left = "".join(f"\n  {mask(one)[:TEXT_MAX]}" for one in event.processes)
    name = signal.Signals(event.signal).name
    return f"{name} is sent to what an earlier attempt of this run left behind{left}" if left else None


def _drained(_: Run, event: ev.Drained, __: float) -> str:
    if not event.held:
        return "the GPUs are free again"
    return f"the GPUs' memory is held still, and is waited for no longer: {'; '.join(event.held)}"


def _noted(_: Run, event: ev.Noted, __: float) -> str:
    return event.text


def _clock_set(_: Run, event: ev.ClockSet, __: float) -> str:
    return f"the machine's clock was set {'forward' if event.by_s > 0 else 'back'} by {abs(event.by_s):.0f} s"


def _diagnosed(run: Run, event: ev.Diagnosed, _: float) -> str | None:
    cause = event.cause
    if cause is None:
        return None
    attempt = run.attempts[event.attempt - 1]
    proof = "".join(f"\n  {_where(e)}{mask(e.text)[:TEXT_MAX]}" for e in cause.evidence[:3])
    advice = f"\n  {cause.advice}" if cause.advice else ""
    return f"attempt {event.attempt} ended {_at(attempt)}: {cause.title} [{_name(cause)}]{proof}{advice}"


def _run_finished(run: Run, event: ev.RunFinished, wall: float) -> str:
    # Not needed before the end: nothing more than must be stands between the command and the job.
    from guardian.core.reporting import OUTCOMES  # noqa: PLC0415 - see above
    from guardian.ui.text import duration  # noqa: PLC0415 - see above

    took = duration(max(0.0, wall - run.created_wall))
    return f"run {run.created.name} {OUTCOMES[event.outcome]} after {took}: {event.reason}"


def _checkpoint(_: Run, event: ev.CheckpointSeen, __: float) -> str:
    return f"checkpoint of step {event.checkpoint.step} is complete"


_LINES: dict[type, Callable[..., str | None]] = {
    ev.SupervisorStarted: _supervisor_started,
    ev.Planned: _planned,
    ev.Pinned: _pinned,
    ev.Rated: _rated,
    ev.Launched: _launched,
    ev.StartFailed: _start_failed,
    ev.Hello: _hello,
    ev.Suspected: _suspected,
    ev.LauncherExited: _launcher,
    ev.StopRequested: _stop_requested,
    ev.TerminalLost: _terminal_lost,
    ev.StopBegun: _stop_begun,
    ev.StacksTaken: _stacks_taken,
    ev.SaveAsked: _save_asked,
    ev.Signalled: _signalled,
    ev.KeeperLost: _keeper_lost,
    ev.SourceLost: _source_lost,
    ev.GpuFault: _gpu_fault,
    ev.DrainBegun: _drain_begun,
    ev.Reaped: _reaped,
    ev.Drained: _drained,
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
            return f"was ended by {signal.Signals(number).name}"
        except ValueError:
            return f"was ended by signal {number}"
    return "ended, nobody saw how" if code is None else f"ended with exit code {code}"


def _where(line: ev.Line) -> str:
    return f"job.log:{line.number}: " if line.number is not None else ""


def _at(attempt: Attempt) -> str:
    return f"at step {attempt.last_step}" if attempt.last_step is not None else "before its first step"


def _name(cause: ev.Cause) -> str:
    return f"{cause.id}/{cause.variant}" if cause.variant else cause.id
