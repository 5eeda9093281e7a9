"""The machine's clock is set, back or forward, while something is waited for: nothing waits for ever, nothing is lost."""

import pytest

from guardian.core import deciding as do
from guardian.core import events as ev
from tests.core import stories as tell
from tests.core.stories import NOW, story
from tests.stories.test_deciding import TERMS, decided

BACK_OFF = (tell.created(), ev.Planned(0, tell.ARGV, (), None, None, (), NOW + 102, "again"))
STOPPED = (tell.launched(), ev.StopRequested(ev.StopBy.COMMAND), ev.StopBegun(0, "asked", (1,)))
WAITS = {
    "a back-off": (BACK_OFF, 100),
    "the time after TERM": ((*STOPPED, ev.Signalled(0, 15, 1)), TERMS.policy.stop.term_wait_s),
    "the time between two KILLs": ((*STOPPED, ev.Signalled(0, 9, 1)), do.LOOK_EVERY_S),
    "the time for a save": ((*STOPPED, ev.SaveAsked(0, 9)), None),
    "the tree of a launcher that failed": (
        (tell.launched(), ev.LauncherExited(0, 1, None)),
        TERMS.policy.stop.orphan_s,
    ),
}


def over_after(run, seconds):
    """Whether what is decided then is something else than to wait."""
    return not isinstance(do.decide(run, TERMS, seconds), do.Wait)


@pytest.mark.parametrize("by_s", [-3600.0, -1e8, 3600.0, 1e8])
@pytest.mark.parametrize("what", [name for name, (_, wait) in WAITS.items() if wait])
def test_a_wait_takes_as_long_as_it_would_have_taken(what, by_s):
    """In the time of the clock as it is now."""
    parts, wait = WAITS[what]
    untouched = story(*parts)
    begun = untouched.heard_wall
    # The builders stamp a second after each other: the clock is seen to be set at that second.
    moved = story(*parts, ev.ClockSet(by_s))

    for at in (wait - 1.5, wait + 1.5):
        assert over_after(untouched, begun + at) == over_after(moved, begun + by_s + at), (what, at)
    assert over_after(moved, begun + by_s + wait + 1.5)


def test_what_is_past_keeps_its_time():
    """An attempt that has ended is history."""
    parts = (tell.launched(), tell.hello(), tell.steps(1, 5), tell.killed())

    assert story(*parts).attempts == story(*parts, ev.ClockSet(-3600.0)).attempts


def test_no_budget_is_used_or_lost():
    """The next attempt is planned as it would have been."""
    parts = (tell.launched(), tell.hello(), tell.steps(1, 5), tell.saved(3), tell.killed())
    plain, moved = decided(story(*parts)), decided(story(*parts, ev.ClockSet(-3600.0)))

    assert plain.planned.resume_from == moved.planned.resume_from
    assert (plain.planned.attempt, plain.planned.argv) == (moved.planned.attempt, moved.planned.argv)


def test_a_clock_that_is_set_between_two_steps_makes_no_step_long():
    """A save is asked for a few steps ahead by what a step takes: a day more would be a save that never comes."""
    run = story(tell.launched(), tell.hello(), tell.steps(1, 10), tell.pause(86400), tell.steps(11, 20))

    assert 1.0 == do.step_seconds(run.attempt)


def test_after_the_clock_was_set_back_no_news_is_from_the_future():
    """Who takes over later compares the time with the last news."""
    run = story(*BACK_OFF, ev.ClockSet(-3600.0))

    assert run.heard_wall == NOW + 3
