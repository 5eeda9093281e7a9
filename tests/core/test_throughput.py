"""The pace of a training: a decline is told with its figures, and so is the rank that the others wait for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.core.remarking import Remarks
from guardian.core.run import Attempt
from guardian.core.throughput import lateness, latest_stragglers, paces, remarks, speed
from tests.core.stories import finished, hello, killed, launched, logged, pause, saved, steps, story

FASTER = ev.Edit("gradient_checkpointing", "true", "false", "preserving")


def own(first, last, *seconds):
    """Steps of as many ranks as there are seconds of own work; all end each of them together."""
    for part in steps(first, last, ranks=len(seconds), every_s=1.0):
        yield part
        if isinstance(part, ev.StepDone):
            yield ev.OwnWork(0, part.rank, part.step, seconds[part.rank])


def two_ranks(*told):
    """A run of two ranks that has just ended."""
    return story(launched(), hello(ranks=2, split=(4, 2)), *told, finished())


def test_a_training_that_becomes_slower_is_told_with_both_paces():
    """Sixty steps of a second, then forty of two."""
    run = story(launched(), hello(max_steps=100), steps(1, 60, every_s=1.0), steps(61, 100, every_s=2.0))
    told = speed(run)

    assert (1.0, 2.0, 0.5) == (told.begun.seconds, told.now.seconds, told.share)
    assert (2, 21, 81, 100) == (told.begun.first, told.begun.last, told.now.first, told.now.last)
    assert ["throughput is down to 50% of tokens a second: 2 s a step at steps 81-100, 1 s at steps 2-21"] == [
        remark.text for remark in remarks(run)
    ]


def test_rows_that_grow_longer_are_no_decline():
    """Twice the tokens in twice the time."""
    long = [replace(part, tokens=part.tokens * 2) if isinstance(part, ev.StepDone) else part
            for part in steps(61, 100, every_s=2.0)]  # fmt: skip
    run = story(launched(), hello(max_steps=100), steps(1, 60), long)

    assert 1.0 == speed(run).share
    assert () == remarks(run)


def test_evaluations_and_saves_between_the_steps_are_no_decline():
    """Every fourth step comes a minute late."""
    parts = [[*steps(step, step), *([pause(60)] if step % 4 == 0 else [])] for step in range(41, 81)]
    run = story(launched(), hello(max_steps=80), steps(1, 40), parts)

    assert not speed(run).declined


def test_the_slow_first_steps_are_not_what_it_is_measured_by():
    """Thirty steps in which kernels are compiled: the run is not told to have become faster."""
    warming = [steps(step, step, every_s=1.0 + 10.0 / step) for step in range(1, 31)]
    run = story(launched(), hello(max_steps=100), warming, steps(31, 100))

    assert 1.0 <= speed(run).share < 1.4
    assert speed(run).begun.first > 10


@pytest.mark.parametrize("last", [19, 40])
def test_a_short_run_says_nothing(last):
    """Two windows that share a step are none."""
    assert speed(story(launched(), hello(), steps(1, last))) is None


def test_an_attempt_is_compared_with_the_first_one_and_the_changed_settings_are_named():
    """What guardian changed may be why."""
    timeout = replace(FASTER, knob="ddp_timeout")
    run = story(
        launched(), hello(max_steps=90), steps(1, 45), saved(40), killed(),
        launched(resume=40, edits=[timeout, FASTER]), hello(step=40, max_steps=90), steps(41, 90, every_s=1.5),
    )  # fmt: skip

    assert (1, 2) == (speed(run).begun.attempt, speed(run).now.attempt)
    assert remarks(run)[0].text.endswith("; gradient_checkpointing changed in between")


def test_without_a_companion_the_log_gives_the_pace():
    """By the time at which its lines came, a log of ten steps counting as ten."""
    found = paces(story(launched(), logged(10, 60, by=10)).attempts[0])

    assert [(20, 1.0), (30, 1.0)] == [(p.step, p.seconds) for p in found[:2]]


def test_without_a_clock_the_pace_is_what_the_job_says():
    """As when a log is read afterwards."""
    told = [ev.Logged(0, step, 60, 1.0, None, None, step_s=0.5) for step in (1, 2)]
    attempt = story(launched(), told).attempts[0]

    assert [(1, 0.5), (2, 0.5)] == [(p.step, p.seconds) for p in paces(attempt)]


def test_the_rank_that_all_wait_for_is_named_though_all_end_their_steps_together():
    """Its own work takes half a second more; the steps of both last a second."""
    run = two_ranks(*own(1, 40, 0.2, 0.7))
    (told,) = latest_stragglers(run)

    assert (1, 40, 40) == (told.rank, told.late, told.steps)
    assert (0.5, 1.0) == (pytest.approx(told.behind_s), told.step_s)
    (remark,) = remarks(run)
    assert "the others wait for rank 1: at 40 of 40 steps its own work took longest, " in remark.text
    assert remark.text.endswith("0.5 s more than the middle rank's, 50% of a step")


def test_ranks_that_are_late_in_turn_are_not_named():
    """Rows of unequal length, or noise."""
    turns = [part for step in range(1, 41) for part in own(step, step, *((0.2, 0.7) if step % 2 else (0.7, 0.2)))]

    assert () == latest_stragglers(two_ranks(*turns))


def test_a_rank_that_costs_the_others_next_to_nothing_is_not_named():
    """Half as long again, of a hundredth of a step."""
    assert () == latest_stragglers(two_ranks(*own(1, 40, 0.010, 0.015)))


def test_without_the_ranks_own_times_nobody_is_named():
    """A companion that is older, a framework whose model cannot be watched."""
    assert () == latest_stragglers(two_ranks(*steps(1, 40, ranks=2)))


def test_all_late_ranks_of_a_step_are_found_and_the_middle_one_is_what_is_usual():
    """A whole slow node is late together."""
    assert ((2, 3), 0.5) == lateness([(0, 1.0), (1, 1.0), (2, 1.5), (3, 1.5)], 4)
    assert ((1,), 0.5) == lateness([(0, 1.0), (1, 1.5)], 2)
    assert ((), None) == lateness([(0, 1.0)], 2)
    assert ((), None) == lateness([(0, 1.0)], 1)


def test_each_remark_is_made_once_while_the_job_runs():
    """Its figures go on changing; another attempt is another matter."""
    said = Remarks()
    slow = (launched(), hello(ranks=2, split=(4, 2)), *own(1, 40, 0.2, 0.7))
    again = (*slow, *own(41, 80, 0.2, 0.9))

    assert () == said.new(story(launched(), hello(ranks=2, split=(4, 2)), *own(1, 15, 0.2, 0.7)))
    assert 1 == len(said.new(story(*slow)))
    assert () == said.new(story(*again))
    assert 1 == len(said.new(story(*again, killed(), *slow)))


def test_own_work_that_is_told_twice_or_too_late_changes_nothing():
    """Heartbeats are read again when a guardian takes over."""
    run = two_ranks(*own(1, 5, 0.2, 0.7))
    again = two_ranks(*own(1, 5, 0.2, 0.7), *(ev.OwnWork(0, 1, step, 9.0) for step in range(1, 6)))

    assert isinstance(run.attempts[0], Attempt)
    assert list(run.attempts[0].steps) == list(again.attempts[0].steps)
