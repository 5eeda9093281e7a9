"""Looks at the job and its host when a decision asks for one: who lives, what they do, where they stand.

A look changes nothing. A process counts by its pid and start time, by the attempt's mark, or as a descendant of
either; a pid that was written down before the machine was started anew means nothing.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from guardian import finding
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core import wire
from guardian.host import logs, machine, processes

if TYPE_CHECKING:
    from guardian.core import stacks as standing
    from guardian.core.run import Attempt, Run
    from guardian.host.sampling import View
    from guardian.recording import Book
    from guardian.slowwork import SlowWork

STACKS_S = 10.0
STACKS_MOST = 64
"""Processes whose places are kept in the journal; ranks come first, and the attempt's folder has all of them."""


def tree(run: Run) -> tuple[processes.Process, ...]:
    """The living processes of the latest attempt."""
    attempt = run.attempt
    if attempt is None:
        return ()
    keeper, known = identities(attempt)
    return processes.tree(keeper, wire.mark(run.created.run, attempt.number), known)


def pids(run: Run) -> tuple[int, ...]:
    return tuple(p.pid for p in tree(run))


def identities(attempt: Attempt) -> tuple[processes.Identity | None, frozenset[processes.Identity]]:
    """The keeper and the recorded processes of an attempt; numbers count only with their start time."""
    launched, job = attempt.launched, attempt.job
    if rebooted(launched):
        return None, frozenset()
    keeper = processes.Identity(launched.keeper_pid, launched.keeper_ticks) if launched else None
    known = {processes.Identity(rank.pid, rank.ticks) for rank in attempt.ranks}
    if job and job.ticks:
        known.add(processes.Identity(job.pid, job.ticks))
    return keeper, frozenset(known)


def rebooted(launched: ev.Launched | None) -> bool:
    """Whether the machine was started anew since: then no recorded pid means anything."""
    return launched is not None and bool(launched.boot) and launched.boot != machine.boot_id()


def view(run: Run, number: int) -> View:
    """What whoever samples an attempt must know of it."""
    from guardian.core.forecasting import next_save_s  # noqa: PLC0415 - the first launch does not wait for it
    from guardian.host.sampling import View  # noqa: PLC0415 - as above

    attempt = run.attempts[number - 1]
    keeper, known = identities(attempt)
    save_steps = attempt.hello.save_steps if attempt.hello else None
    walls = [step.wall for step in itertools.islice(reversed(attempt.steps), do.RATE_OVER)][::-1]
    whole = max(attempt.checkpoints, key=lambda one: one.step, default=None)
    return View(
        mark=wire.mark(run.created.run, number),
        keeper=keeper,
        known=known,
        ranks=tuple(rank.pid for rank in attempt.ranks),
        step_wall=attempt.step_wall,
        next_save_s=next_save_s(save_steps, attempt.last_step, walls),
        saved=whole.path if whole is not None and attempt.phase != "save" else None,
    )


def work(book: Book, number: int) -> ev.Activity:
    """What the job's processes have used up to now: two such looks tell whether it stands still."""
    from guardian.core.gpus import computes, spins  # noqa: PLC0415 - the first launch does not wait for it

    attempt = book.run.attempts[number - 1]
    living = tree(book.run)
    who = tuple(p.pid for p in living)
    used = processes.work(who)
    own = logs.own_bytes(book.attempt_folder(number))
    moved = None if used.io_bytes is None else used.io_bytes - own
    ranks = {rank.pid for rank in attempt.ranks}
    others = processes.work(set(who) - ranks).cpu_s if ranks else None
    now, held, running = book.outlook.clock.wall(), processes.held(living), processes.running(who)
    gpu, spinning = computes(book.run, attempt, now), spins(book.run, attempt, now)
    return ev.Activity(number, who, used.cpu_s, moved, now, others, held, gpu, spinning, running)


def measured(book: Book, name: str) -> float | None:
    """A fact of the host, or of its GPUs, as it is now; None: unknown."""
    if name.startswith("gpu_"):
        from guardian.core.gpus import now  # noqa: PLC0415 - few runs wait for one

        return now(book.run, name, book.outlook.clock.wall())
    return dict(machine.facts(finding.places(book))).get(name)


def stacks(book: Book, slow: SlowWork, number: int) -> bool:
    """Where the processes stand; once for each answer that was heard: they take seconds."""
    attempt = book.run.attempts[number - 1]
    folder, clock = book.attempt_folder(number), book.outlook.clock

    def ask() -> None:
        from guardian.core.stacks import ranks_of  # noqa: PLC0415 - the first launch does not wait for it
        from guardian.host.stacks import collect  # noqa: PLC0415 - as above

        seen: tuple[standing.Stack, ...] = ()
        try:
            seen = collect(tree(book.run), ranks_of(attempt), folder, STACKS_S)
        except Exception as error:  # noqa: BLE001 - what breaks here costs the stacks, and nothing else
            book.post(ev.SourceLost("stacks", repr(error), number))
        book.post(ev.StacksTaken(number, seen[:STACKS_MOST], clock.wall()))

    told = attempt.stacks[-1].wall if attempt.stacks else 0.0
    return slow.start((f"stacks after {told}", number), ask)
