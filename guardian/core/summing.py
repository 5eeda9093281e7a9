"""What the ranks report of an optimizer step, put together: a step counts once every rank has finished it.

Sums do not depend on the order in which the ranks are heard: a replay hears them in another one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING

from guardian.core import throughput
from guardian.core.run import Partial, Step

if TYPE_CHECKING:
    from guardian.core import events as ev
    from guardian.core.run import Attempt

LOSS_MAY_LAG = 2
"""Steps after which a loss that has not come is taken as unknown (companions read it one step late)."""
PARTIAL_MOST = 4096
"""Steps that wait for a rank's report; beyond it that rank is silent for good (its companion broke)."""


def step_done(attempt: Attempt, event: ev.StepDone, _: float) -> Attempt:
    """A rank has finished a step; what it has told before changes nothing."""
    rank_steps = _raised(attempt.rank_steps, event.rank, event.step)
    gaps = attempt.gaps if event.rank else attempt.gaps.step(event.step, event.wall)
    step_wall = max(attempt.step_wall or 0.0, event.wall)
    if gaps is not attempt.gaps or step_wall != attempt.step_wall:
        attempt = replace(attempt, step_wall=step_wall, gaps=gaps)
    part = _partial(attempt, event.step)
    if part is None or any(d.rank == event.rank for d in part.done):
        return attempt if rank_steps == attempt.rank_steps else replace(attempt, rank_steps=rank_steps)
    done = tuple(sorted((*part.done, event), key=lambda d: d.rank))
    return _settle(attempt, rank_steps, replace(part, done=done))


def loss_seen(attempt: Attempt, event: ev.LossSeen, _: float) -> Attempt:
    """A rank's loss of a step."""
    part = _partial(attempt, event.step)
    if part is None or any(x.rank == event.rank for x in part.losses):
        return attempt
    # By rank, not as they came: a sum of floats depends on its order, and a replay hears the ranks in another one.
    losses = tuple(sorted((*part.losses, event), key=lambda x: x.rank))
    return _settle(attempt, attempt.rank_steps, replace(part, losses=losses))


def own_work(attempt: Attempt, event: ev.OwnWork, _: float) -> Attempt:
    """A rank's own work in a step."""
    part = _partial(attempt, event.step)
    if part is None or any(x.rank == event.rank for x in part.own):
        return attempt
    return _settle(
        attempt, attempt.rank_steps, replace(part, own=tuple(sorted((*part.own, event), key=lambda x: x.rank)))
    )


def settle_all(attempt: Attempt) -> Attempt:
    """At the end nothing more will come: what every rank finished counts, with or without its loss."""
    whole = [p for p in attempt.partial if len(p.done) >= attempt.world]
    steps = attempt.steps
    for part in whole:
        steps = steps.append(_summed(part, attempt.world))
    return replace(attempt, steps=steps, partial=())


def _raised(known: tuple[tuple[int, int], ...], rank: int, step: int) -> tuple[tuple[int, int], ...]:
    at = dict(known)
    if step <= at.get(rank, -1):
        return known
    at[rank] = step
    return tuple(sorted(at.items()))


def _partial(attempt: Attempt, step: int) -> Partial | None:
    """What is known of a step that may still be made whole; None: it is settled already."""
    if attempt.steps and step <= attempt.steps[-1].step:
        return None
    at = bisect_left(attempt.partial, step, key=lambda p: p.step)
    found = attempt.partial[at : at + 1]
    return found[0] if found and found[0].step == step else Partial(step)


def _settle(attempt: Attempt, rank_steps: tuple[tuple[int, int], ...], news: Partial) -> Attempt:
    """Put the news in its place, and move the steps that are whole, oldest first, from `partial` to `steps`."""
    at = bisect_left(attempt.partial, news.step, key=lambda p: p.step)
    after = bisect_right(attempt.partial, news.step, key=lambda p: p.step)
    partial = (*attempt.partial[:at], news, *attempt.partial[after:])[-PARTIAL_MOST:]
    world, steps, settled = attempt.world, attempt.steps, 0
    # The slowest rank counts: the file of another may have been read far ahead of it.
    heard = min((step for _, step in rank_steps), default=0)
    for part in partial:
        if len(part.done) >= world:
            if len(part.losses) < world and heard - part.step < LOSS_MAY_LAG:
                break
            steps = steps.append(_summed(part, world))
        elif len(rank_steps) < world or heard <= part.step:
            break
        # Else every rank is past it: a line was lost, and the step can never be counted whole.
        settled += 1
    return replace(attempt, rank_steps=rank_steps, steps=steps, partial=partial[settled:])


def _summed(part: Partial, world: int) -> Step:
    rows = [d.rows for d in part.done]
    tokens = [d.tokens for d in part.done]
    prints = [d.fingerprint for d in part.done]
    losses = [x.loss for x in part.losses]
    late, behind_s = throughput.lateness([(x.rank, x.seconds) for x in part.own], world)
    return Step(
        step=part.step,
        rows=_total(rows),
        tokens=_total(tokens),
        fingerprint=None if None in prints else sum(p for p in prints if p is not None) % 2**64,
        loss=sum(losses) / world if len(losses) == world else None,
        lr=part.done[0].lr,
        wall=max(d.wall for d in part.done),
        late=late,
        behind_s=behind_s,
    )


def _total(parts: list[int | None]) -> int | None:
    known = [p for p in parts if p is not None]
    return sum(known) if len(known) == len(parts) else None
