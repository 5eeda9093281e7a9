"""The end of an attempt and of a run: read out, diagnose, inspect what was saved, finish.

Every source is read to its end before `Ended` is said: the exit must not overtake the failure line. None of this may
take for ever; what was not read in time is named, and the run goes on without it.
"""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from guardian import finding, looking
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core import wire
from guardian.errors import GuardianError
from guardian.host import logs, machine
from guardian.watching import PATIENCE_S

if TYPE_CHECKING:
    from guardian.core.run import Attempt, Run
    from guardian.host.sampling import Sampler
    from guardian.recording import Book
    from guardian.slowwork import SlowWork
    from guardian.watching import Watching

DRAIN_S = 60.0
"""For job.log and the heartbeats to be read to their end."""
LOOK_S = 3.0
"""For the GPUs to be read once more at an attempt's end."""
ENDING_MAX_S = 300.0
"""For all that is read at an attempt's end: a file system may not answer."""
ENDING_HURRIED_S = 5.0
"""The same for whoever has asked three times to stop."""
TAIL_LINES = 40
PYTHON = re.compile(r"python[\d.]*")


def read_out(book: Book, slow: SlowWork, watching: Watching, number: int) -> bool:
    """Have every source read to its end, as long as that may take; what comes later is not heard any more."""
    work = ("drain", number)
    limit = ENDING_HURRIED_S if len(book.run.stop_requests) > 2 else ENDING_MAX_S
    if slow.seconds(work) <= limit:
        return slow.start(work, lambda: _drain(book, watching))
    attempt = book.run.attempts[number - 1]
    why = f"what attempt {number} left was not read to its end within {limit:.0f} s"
    ended = _ended(attempt, tail=(), found=finding.known(book.run), blind=(why,))
    return book.take(replace(ended, last_step=attempt.last_step))


def told(run: Run, event: ev.Ended) -> ev.Ended | None:
    """An attempt's end with what only the whole story tells; None: it is known, this one was not waited for."""
    attempt = run.attempts[event.attempt - 1]
    if not event.inspected and attempt.ended is not None:
        return None
    return replace(event, last_step=attempt.last_step, unmet=_unmet(run, attempt))


def diagnose(book: Book) -> bool:
    from guardian.core import diagnosing  # noqa: PLC0415 - the first launch does not wait for it

    return book.take(diagnosing.diagnose(book.outlook.rules(), book.run.attempts[-1], book.run))


def inspect(book: Book, slow: SlowWork, number: int) -> bool:
    """Have the checkpoints read, within the policy's time and a little more; then they count as they are known."""
    attempt = book.run.attempts[number - 1]
    assert attempt.ended is not None
    ended, work = replace(attempt.ended, inspected=True), ("inspect", number)
    allowed_s = book.terms.policy.checkpoints.read_s
    if slow.seconds(work) > allowed_s + PATIENCE_S:
        return book.take(ended)
    python = attempt.plan.argv[0] if PYTHON.fullmatch(Path(attempt.plan.argv[0]).name) else None

    def read() -> None:
        from guardian.host import inspecting  # noqa: PLC0415 - the first launch does not wait for it

        judged = inspecting.inspect(
            [c.path for c in ended.checkpoints],
            world=finding.world(book.run),
            interpreter=python,
            deadline_s=allowed_s,
            stop=lambda: bool(book.run.stop_requests),
            until_sound=True,
        )
        book.post(replace(ended, checkpoints=judged))

    return slow.start(work, read)


def rate(book: Book, slow: SlowWork, asked: ev.Rated) -> bool:
    """Have a copy of a checkpoint made with another learning rate; it may be as large as the checkpoint."""
    work = (f"rate {asked.source} {asked.target}", asked.attempt)
    if slow.seconds(work) > do.CHECKING_MAX_S + PATIENCE_S:
        return book.take(replace(asked, copy=None, why=f"took over {do.CHECKING_MAX_S} s"))
    plan = book.run.attempts[asked.attempt - 1].plan

    def stop() -> bool:
        return bool(book.run.stop_requests)

    def copy() -> None:
        from guardian.host import jobpython, rating  # noqa: PLC0415 - the first launch does not wait for it

        rating.release(str(book.folder / "attempts"))
        python = jobpython.interpreter(plan.argv, book.outlook.environment, book.run.created.cwd)
        done = rating.rate(asked, interpreter=python, deadline_s=do.CHECKING_MAX_S, stop=stop)
        if done.why is None or not stop():  # what a stop interrupted is begun again when the run goes on
            book.post(done)

    return slow.start(work, copy)


def finish(book: Book, finished: ev.RunFinished) -> bool:
    """Say how the run ended; one that is done needs its pins and copies no more."""
    if not book.take(finished):
        return False
    if finished.outcome is ev.Outcome.FINISHED:
        from guardian.host import pins, rating  # noqa: PLC0415 - the first launch does not wait for it

        pins.release(str(book.folder / pins.FOLDER))
        rating.release(str(book.folder / "attempts"))
    return True


def _drain(book: Book, watching: Watching) -> None:
    """Read every source to its end, then say `Ended`.

    The followers' last words lie in the queue before `Ended`, so they are folded before it.
    """
    attempt = book.run.attempts[-1]
    folder = book.attempt_folder(attempt.number)
    blind = []
    probe = watching.probe
    if probe is not None and not probe.over and not probe.look(LOOK_S):
        blind.append("the GPUs were not read after the end")
    try:
        if watching.files is not None and not watching.files.finish(DRAIN_S):
            blind.append("job.log was not read to its end")
    except GuardianError as error:  # a rule file that was broken while the job ran
        blind.append(f"job.log was not judged: {error}")
    found, why = finding.found(book)
    if why:
        blind.append(why)
    tail = logs.tail_lines(folder / wire.JOB_LOG, TAIL_LINES, attempt.positions)
    facts = machine.facts(finding.places(book))
    ended = _ended(attempt, tail=tail, found=found, blind=tuple(blind), facts=facts)
    from guardian.host import stacks  # noqa: PLC0415 - the first launch does not wait for it

    ended = replace(ended, dumps=stacks.dumps(folder))
    book.post(_with_samples(ended, watching.sampler))


def _with_samples(ended: ev.Ended, sampler: Sampler | None) -> ev.Ended:
    """With what was sampled last, while the job lived."""
    from guardian.core.exits import normal  # noqa: PLC0415 - the first launch does not wait for it
    from guardian.core.hostfacts import together  # noqa: PLC0415 - as above

    if sampler is None:
        return ended
    if not sampler.finish(PATIENCE_S):
        return replace(ended, blind=(*ended.blind, "the last figures of the host"))
    measured = {name: value for name, value in ended.facts if not isinstance(value, str)}
    facts: dict[str, float | str] = {**together(sampler.facts(), measured)}
    who = sampler.victim(by_sigkill=normal(ended.code, ended.signal).signal == signal.SIGKILL)
    if who is not None:
        facts["oom_victim"] = who
    kills = ended.oom_kills if sampler.same_cgroup else None
    return replace(ended, facts=tuple(sorted(facts.items())), oom_kills=kills)


def _unmet(run: Run, attempt: Attempt) -> tuple[str, ...]:
    """Where the job trained at another learning rate than was set, as far as its log or its companion told."""
    if not attempt.plan.settings:
        return ()
    from guardian.core.effects import rates  # noqa: PLC0415 - the first launch does not wait for it

    return tuple(rates(run, attempt))


def _ended(
    attempt: Attempt,
    *,
    tail: tuple[ev.Line, ...],
    found: tuple[ev.Checkpoint, ...],
    blind: tuple[str, ...],
    facts: tuple[tuple[str, float | str], ...] = (),
) -> ev.Ended:
    """The attempt's end; its last step is filled in when everything before it is folded."""
    return ev.Ended(
        attempt=attempt.number,
        code=attempt.launcher.code if attempt.launcher else None,
        signal=attempt.launcher.signal if attempt.launcher else None,
        last_step=None,
        tail=tail,
        oom_kills=_since_launch(attempt.launched),
        rebooted=looking.rebooted(attempt.launched),
        checkpoints=found,
        blind=blind,
        facts=facts,
    )


def _since_launch(launched: ev.Launched | None) -> int | None:
    """OOM kills counted since the launch; None where the counter could not be read at both ends."""
    now = machine.oom_kills()
    if launched is None or launched.oom_kills is None or now is None or looking.rebooted(launched):
        return None
    return max(0, now - launched.oom_kills)
