"""Silence by scripted histories: when a job in which nothing happens is looked at, and when it is ended."""

from dataclasses import replace

from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core.policy import DEFAULT, Silence
from tests.core import stories as tell
from tests.core.stories import story
from tests.stories.test_deciding import TERMS, decided

BUDGETS = replace(TERMS, policy=replace(DEFAULT, silence=Silence(teardown_s=80)))
ENDS = tuple(ev.TrainingEnded(0, rank, 60, 60, "max_steps", 0.0) for rank in (0, 1))
TRAINED = (tell.launched(), tell.hello(ranks=2), tell.steps(58, 60, ranks=2), tell.saved(60), ENDS)


def look(*, cpu=0.0, moved=0, pids=(4002, 4100, 4101)):
    """What the tree has done up to now: nothing more than at the look before, unless it is said."""
    return ev.Activity(0, pids, 50.0 + cpu, 10_000 + moved, 0.0)


def looks(*made, every_s=10):
    """Looks so far apart."""
    return tuple(part for one in made for part in (tell.pause(every_s), one))


def after(*parts, seconds=0.0):
    """What is decided so long after the last of it."""
    return decided(story(*TRAINED, *parts), after=seconds, terms=BUDGETS)


def test_processes_that_neither_work_nor_leave_after_the_training_are_ended_without_a_save():
    """The budget runs out, and over the last part of it the tree did nothing: TERM, and KILL after it."""
    idle = (tell.pause(30), looks(*[look()] * 5))
    begun = after(*idle)

    assert isinstance(begun, do.BeginStop)
    assert ("teardown", None) == (begun.silent, begun.rule)
    stop = ev.StopBegun(0, begun.why, (4002, 4100), silent="teardown")
    assert do.SendSignal(1, 15) == after(*idle, stop)


def test_the_looks_begin_in_the_middle_of_the_budget():
    """What leaves soon is never looked at; then every ten seconds."""
    assert isinstance(after(seconds=30), do.Wait)
    assert do.LookAtWork(1) == after(seconds=40)
    assert isinstance(after(tell.pause(40), look(), seconds=9), do.Wait)
    assert do.LookAtWork(1) == after(tell.pause(40), look(), seconds=10)
    assert isinstance(after(tell.pause(40), look(), looks(*[look()] * 3)), do.Wait)


def test_who_works_or_writes_after_the_training_is_left_alone():
    """A last model is written, an upload runs: however long it takes, until it stands still."""
    computing = looks(*(look(cpu=n) for n in range(30)))
    writing = looks(*(look(moved=n << 21) for n in range(30)))

    assert isinstance(after(computing), do.Wait)
    assert isinstance(after(writing), do.Wait)
    assert isinstance(after(writing, looks(*[look(moved=29 << 21)] * 2)), do.BeginStop)


def test_processes_that_come_and_go_are_a_sign_of_life():
    """Somebody starts them."""
    assert isinstance(after(looks(*(look(pids=(4002, 5000 + n)) for n in range(30)))), do.Wait)


def test_a_print_begins_the_budget_again():
    """An upload that tells how far it is."""
    printed = (tell.pause(70), ev.Positions(0, 5000, 40))

    assert isinstance(after(*printed, seconds=30), do.Wait)
    assert isinstance(after(*printed, tell.pause(30), looks(*[look()] * 5)), do.BeginStop)


def test_a_rank_that_still_trains_has_not_ended():
    """And a rank that was never heard of may train."""
    one = (tell.launched(), tell.hello(ranks=2), tell.steps(58, 60, ranks=2), ENDS[:1])
    unheard = (tell.launched(), tell.hello(ranks=2)[:1], tell.steps(58, 60), ENDS)

    for parts in (one, unheard):
        run = story(*parts, tell.pause(70), looks(*[look()] * 5))
        assert isinstance(decided(run, terms=BUDGETS), do.Wait)


def test_a_job_that_trains_a_second_time_has_not_ended():
    """The end of an earlier loop counts no more."""
    assert isinstance(after(tell.hello(ranks=2), tell.pause(70), looks(*[look()] * 5)), do.Wait)


def test_a_clock_that_is_set_ends_nobodys_patience():
    """A night in sleep is no silence."""
    slept = (tell.pause(20), tell.pause(30_000), ev.ClockSet(30_000.0))

    assert isinstance(after(*slept, seconds=15), do.Wait)
    assert isinstance(after(tell.pause(30), looks(*[look()] * 2), slept[1:], seconds=10), do.LookAtWork)
