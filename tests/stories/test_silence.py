"""Silence by scripted histories: when a job in which nothing happens is looked at, and when it is ended."""

from dataclasses import replace

import pytest

from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core.policy import DEFAULT, Silence
from guardian.core.stacks import Stack
from tests.core import stories as tell
from tests.core.stories import story
from tests.stories.test_deciding import TERMS, decided

BUDGETS = replace(TERMS, policy=replace(DEFAULT, silence=Silence(teardown_s=80)))
ENDS = tuple(ev.TrainingEnded(0, rank, 60, 60, "max_steps", 0.0) for rank in (0, 1))
TRAINED = (tell.launched(), tell.hello(ranks=2), tell.steps(58, 60, ranks=2), tell.saved(60), ENDS)


def look(*, cpu=0.0, moved=0, pids=(4002, 4100, 4101), others=0.0, **changes):
    """What the tree has done up to now: nothing more than at the look before, unless it is said."""
    seen = ev.Activity(0, pids, 50.0 + cpu, 10_000 + moved, 0.0, 5.0 + others)
    return replace(seen, **changes)


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
    assert do.TakeStacks(1) == after(*idle, stop)
    assert do.SendSignal(1, 15) == after(*idle, stop, ev.StacksTaken(0, (), 0.0))


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
    assert isinstance(after(tell.pause(30), looks(*[look()] * 2), slept[1:], looks(look())), do.Wait)


# --- training, by the job's own steps ------------------------------------------------------------------------

HELLO = (tell.launched(), tell.hello(ranks=2))
STEADY = (*HELLO, tell.steps(1, 30, ranks=2, every_s=20.0))
"""A step each 20 seconds: a budget of 100."""


def stood(*, wall=0.0, **places):
    """Where the ranks stand: `r0="a"` is rank 0 at place a."""
    found = tuple(
        Stack(4100 + int(name[1:]), 7, "rank", int(name[1:]), "python", "faulthandler", digest=place, state="R")
        for name, place in places.items()
    )
    return ev.StacksTaken(0, found, wall)


def decision(*parts, seconds=0.0, terms=TERMS):
    """What is decided so long after the last of these."""
    return decided(story(*parts), after=seconds, terms=terms)


def test_steady_training_may_be_silent_for_five_of_its_longest_usual_steps():
    """Two signs: no step for 100 s, and an idle tree; the looks begin at 50."""
    assert isinstance(decision(*STEADY, seconds=49), do.Wait)
    assert do.LookAtWork(1) == decision(*STEADY, seconds=50)

    idle = (*STEADY, tell.pause(60), looks(*[look()] * 4))
    begun = decision(*idle)
    assert isinstance(begun, do.BeginStop)
    assert ("training", 100.0, None) == (begun.silent, begun.silent_s, begun.rule)
    assert "no step has been made for 100 s (at most 100 s)" in begun.why
    assert isinstance(decision(*STEADY, tell.pause(50), looks(*[look()] * 4)), do.Wait)


def test_a_moment_without_work_is_no_idle_tree():
    """A fourth of the budget at least: what had computed up to then may compute again."""
    resting = looks(look(cpu=10), look(cpu=20), look(cpu=20), look(cpu=20), every_s=12)

    assert not isinstance(decision(*STEADY, tell.pause(55), resting), do.BeginStop)
    assert isinstance(decision(*STEADY, tell.pause(55), resting, looks(look(cpu=20))), do.BeginStop)


def test_quick_steps_have_the_shortest_budget_of_the_policy():
    """60 s; one slow step in a hundred and more does not count."""
    quick = (*HELLO, tell.steps(1, 200, ranks=2), tell.pause(300), tell.steps(201, 210, ranks=2))

    assert isinstance(decision(*quick, tell.pause(30), looks(*[look()] * 3)), do.BeginStop)
    assert isinstance(decision(*quick, tell.pause(25), looks(*[look()] * 3)), do.Wait)


def test_a_step_an_evaluation_and_a_save_begin_the_budget_again():
    """Whichever rank tells."""
    for sign in (ev.StepDone(0, 1, 31, 8, None, None, None, 0.0), ev.PhaseChanged(0, 1, "eval", 30, 0.0)):
        assert isinstance(decision(*STEADY, tell.pause(70), sign, looks(*[look()] * 4)), do.Wait)


@pytest.mark.parametrize(("phase", "budget"), [("eval", 3600), ("save", 1800)])
def test_an_evaluation_or_a_save_has_a_budget_of_its_own(phase, budget):
    """A hundred times the steps' one; and it may be as long as it likes while anything moves."""
    begun = (*STEADY, ev.PhaseChanged(0, 0, phase, 30, 0.0))

    assert isinstance(decision(*begun, tell.pause(budget / 2 - 10)), do.Wait)
    idle = (*begun, tell.pause(budget / 2), looks(*[look()] * 10, every_s=budget / 16))
    assert isinstance(decision(*idle), do.BeginStop)
    working = looks(*(look(moved=n << 26) for n in range(100)), every_s=budget / 16)
    assert isinstance(decision(*begun, tell.pause(budget / 2), working), do.Wait)


def test_a_start_a_first_step_and_a_skip_of_data_are_waited_for_longer():
    """Half an hour until the training begins, as long until its first steps are done, four hours where a resume skips."""
    skipping = (tell.launched(resume=30), tell.hello(step=30, ranks=2))
    starting = (tell.created(family="embedded"), tell.launched())
    for parts, budget in ((starting, 1800), (HELLO, 1800), (skipping, 14400)):
        assert isinstance(decision(*parts, seconds=budget / 2 - 10), do.Wait)
        assert do.LookAtWork(1) == decision(*parts, seconds=budget / 2)
        idle = (*parts, tell.pause(budget / 2), looks(*[look()] * 10, every_s=budget / 16))
        assert isinstance(decision(*idle), do.BeginStop)


def test_a_rank_that_never_gets_as_far_as_its_training_is_waited_for_as_long_as_a_start():
    """Where all are said to be on this machine: the others wait for it. Steps and prints are signs of life."""
    late = (*tell.launched(), *(replace(one, local_world=2) for one in tell.hello(ranks=2)[:1]))
    idle = (tell.pause(900), looks(*[look()] * 9, every_s=112))

    assert isinstance(decision(*late, seconds=890), do.Wait)
    begun = decision(*late, idle)
    assert isinstance(begun, do.BeginStop)
    assert "start-up" == begun.silent
    for sign in (ev.Positions(0, 900, 12), ev.StepDone(0, 0, 1, 8, None, None, None, 0.0)):
        assert not isinstance(decision(*late, idle[0], sign, idle[1:]), do.BeginStop)


def test_a_print_puts_off_the_end_of_a_start():
    """Loading and tokenising tell how far they are; in training a bar that is drawn again is no step."""
    printed = ev.Positions(0, 900, 12)

    start = (tell.created(family="embedded"), tell.launched(), tell.pause(900))
    assert isinstance(decision(*start, looks(*[look()] * 9, every_s=112)), do.BeginStop)
    assert not isinstance(decision(*start, printed, looks(*[look()] * 9, every_s=112)), do.BeginStop)
    idle = (*STEADY, tell.pause(59), printed, looks(*[look()] * 4))
    assert isinstance(decision(*idle), do.BeginStop)


def test_what_nobody_can_see_is_never_too_long():
    """No companion and no log that is understood; other machines; a program that is not known; a rank unheard of."""
    idle = (tell.pause(20_000), looks(*[look()] * 16, every_s=1000))
    several = replace(tell.created()[0], env=(("NNODES", "2"),))
    unseen = [
        (tell.created(companion=False), tell.launched()),
        (tell.created(family=None), tell.launched()),
        (tell.created(family="megatron"), tell.launched()),
        (several, tell.launched(), tell.hello(ranks=2), tell.steps(1, 30, ranks=2)),
        (tell.launched(), tell.hello(ranks=2)[:1], tell.steps(1, 30)),
    ]

    for parts in unseen:
        assert do.Wait() == decision(*parts, idle)


def test_without_a_companion_the_steps_of_the_log_count():
    """A line in twenty seconds: five of them."""
    logged = (tell.created(companion=False), tell.launched(), tell.logged(1, 400, by=20, max_steps=1000))

    assert isinstance(decision(*logged, tell.pause(60), looks(*[look()] * 4)), do.BeginStop)
    assert isinstance(decision(*logged, tell.pause(50), looks(*[look()] * 4)), do.Wait)


# --- a tree that computes ------------------------------------------------------------------------------------

SPINNING = (*STEADY, tell.pause(40), *(looks(look(cpu=10.0 * n)) for n in range(1, 7)))
"""One core is busy, up to a look at 100 s."""


def test_ranks_that_compute_are_asked_where_they_stand():
    """Not before the middle of the budget, and a fourth of it apart."""
    assert isinstance(decision(*STEADY, tell.pause(40), looks(look(cpu=1.0))), do.Wait)
    early = (*STEADY, tell.pause(40), looks(look(cpu=10.0), look(cpu=20.0)))
    assert do.TakeStacks(1) == decision(*early)
    assert isinstance(decision(*early, stood(r0="a", r1="b")), do.Wait)


def waiting(n, **changes):
    """A look at a tree whose GPUs are busy with kernels that wait, as is a processor."""
    return look(**({"cpu": 10.0 * n, "gpu": False, "gpu_spins": True} | changes))


@pytest.mark.parametrize("logged", [False, True], ids=["with the companion", "by the log alone"])
def test_gpus_that_are_busy_with_waiting_are_a_hang(logged):
    """Once the budget is over, and in steady training only; one that computes, or writes, in the last of it is none."""
    alone = (tell.created(companion=False), tell.launched(), tell.logged(1, 400, by=20, max_steps=1000))
    begin = (*(alone if logged else STEADY), tell.pause(40))
    begun = decision(*begin, *(looks(waiting(n)) for n in range(1, 8)))

    assert isinstance(begun, do.BeginStop)
    assert "its GPUs are busy, at low power and without memory traffic" in begun.why
    for other in ({"gpu": True, "gpu_spins": False}, {"gpu_spins": False}, {"moved": 1 << 30}, {"pids": (4002,)}):
        made = [waiting(n, **(other if n == 6 else {})) for n in range(1, 8)]
        assert not isinstance(decision(*begin, *map(looks, made)), do.BeginStop), other


def samples(*three):
    """A look and a sample at 50, 75 and 100 s, and a last look."""
    return (
        *STEADY, tell.pause(40), looks(look(cpu=10)), looks(look(cpu=20)), three[0],
        tell.pause(25), look(cpu=30), three[1], tell.pause(16), look(cpu=40), tell.pause(9), three[2],
    )  # fmt: skip


def test_the_same_place_in_three_samples_is_a_hang_whatever_it_computes():
    """A rank spins in C, the others wait for it in a collective that polls."""
    begun = decision(*samples(*[stood(r0="a", r1="b")] * 3))

    assert isinstance(begun, do.BeginStop)
    assert "every rank stood at the same place" in begun.why


def test_two_samples_are_not_enough():
    """However far apart."""
    early = (*STEADY, tell.pause(40), looks(look(cpu=10)), looks(look(cpu=20)), stood(r0="a", r1="b"))
    late = (tell.pause(39), look(cpu=30), tell.pause(5), look(cpu=40), stood(r0="a", r1="b"))

    assert not isinstance(decision(*early, late), do.BeginStop)


@pytest.mark.parametrize(
    "last",
    [stood(r0="a", r1="c"), stood(r0="a"), stood(r0="a", r1=None), ev.StacksTaken(0, (), 0.0)],
    ids=["one moved", "one was not seen", "one gave no stack", "nothing was seen"],
)
def test_any_rank_that_moves_or_is_not_seen_is_no_hang(last):
    """All of them must stand still."""
    assert not isinstance(decision(*samples(stood(r0="a", r1="b"), stood(r0="a", r1="b"), last)), do.BeginStop)


def test_ranks_that_may_wait_for_a_process_of_theirs_are_not_judged_by_their_stacks():
    """An inference engine or a compiler computes for them."""
    early = (*STEADY, tell.pause(40), looks(look(cpu=10.0, others=9.0), look(cpu=20.0, others=18.0)))

    assert isinstance(decision(*early), do.Wait)
    assert isinstance(decision(*STEADY, tell.pause(40), looks(look(cpu=9, others_cpu_s=None), look(cpu=20))), do.Wait)


def stand_still(*begun, budget, io=0, counts=(), places=("a",) * 5):
    """Busy ranks, looked at and asked where they stand as often as it takes, in the later half of a budget."""
    looks_at = (tell.pause(budget / 2 - 20), look(cpu=200), tell.pause(10), look(cpu=300), tell.pause(10))
    asked = tuple(
        (tell.pause(budget / 8 if n else 0), *counts, look(cpu=400 + 300 * n, moved=io * n), stood(r0=place, r1="b"))
        for n, place in enumerate(places)
    )
    return decision(*begun, *looks_at, *asked)


EVALUATING = (*STEADY, ev.PhaseChanged(0, 0, "eval", 30, 0.0))
TOLD = ev.BatchDone(0, 0, 0, 0.0)


def test_an_evaluation_that_tells_of_its_batches_and_stands_still_is_a_hang_whatever_it_computes():
    """A rank spins in C, or the others poll for it, in an evaluation: five samples in half its budget."""
    begun = stand_still(*EVALUATING, TOLD, budget=3600)

    assert isinstance(begun, do.BeginStop)
    assert ("evaluation", "in 5 looks every rank stood at the same place") == (begun.silent, begun.why[-45:])


def test_a_job_that_computes_and_makes_no_first_step_is_found_too():
    """Before it is known how long its steps take the budget of the start runs."""
    begun = stand_still(*HELLO, budget=1800)

    assert isinstance(begun, do.BeginStop)
    assert "first steps" == begun.silent


def test_an_evaluation_whose_batches_nobody_tells_of_is_not_judged_by_its_stacks():
    """It waits for the device at the same line all the time; that an earlier one told says nothing of this one."""
    again = (*EVALUATING, TOLD, ev.PhaseChanged(0, 0, "train", 30, 0.0), ev.PhaseChanged(0, 0, "eval", 30, 0.0))

    for begun in (EVALUATING, again):
        assert not isinstance(stand_still(*begun, budget=3600), do.BeginStop)


def test_a_batch_begins_the_budget_again():
    """Of an evaluation, or of a step of many micro-steps: however many there are, and wherever the ranks are met."""
    batches = (ev.BatchDone(0, 0, 9, 0.0),)

    for begun, budget in (((*EVALUATING, TOLD), 3600), (HELLO, 1800), (STEADY, 100)):
        assert not isinstance(stand_still(*begun, budget=budget, counts=batches), do.BeginStop)


@pytest.mark.parametrize("what", [{"io": 1 << 30}, {"places": ("a", "b", "a", "a", "a")}], ids=["reads", "moves"])
def test_who_reads_or_moves_in_an_evaluation_or_at_the_start_is_left_alone(what):
    """Rows are loaded, or one of five looks met it elsewhere."""
    for begun, budget in (((*EVALUATING, TOLD), 3600), (HELLO, 1800)):
        assert not isinstance(stand_still(*begun, budget=budget, **what), do.BeginStop)


@pytest.mark.parametrize(
    ("begun", "budget"),
    [
        ((*STEADY, ev.PhaseChanged(0, 0, "save", 30, 0.0)), 1800),
        ((tell.launched(resume=30), tell.hello(step=30, ranks=2)), 14400),
    ],
    ids=["save", "skip"],
)
def test_a_busy_save_or_a_skip_of_data_is_not_judged_by_its_stacks(begun, budget):
    """One long call writes, or uploads, all of it; rows are skipped in a loop of few lines."""
    assert not isinstance(stand_still(*begun, budget=budget), do.BeginStop)


@pytest.mark.parametrize(
    "changes",
    [{"held": True}, {"gpu": True}, {"io_bytes": None}, {"running": True}],
    ids=["stopped", "gpu", "not to be looked into", "starved"],
)
def test_a_job_that_somebody_stopped_or_that_nobody_may_look_into_is_left_alone(changes):
    """A whole job is suspended by a person or a scheduler; what a GPU does is work; unknown is not idle."""
    assert not isinstance(decision(*STEADY, tell.pause(60), looks(*[look(**changes)] * 4)), do.BeginStop)
    assert isinstance(decision(*STEADY, tell.pause(60), looks(*[look()] * 4)), do.BeginStop)


# --- where it stands, before it is ended -----------------------------------------------------------------------

STOP = ev.StopBegun(0, "no step", (4002, 4100, 4101), silent="training", silent_s=100.0)


def test_the_stacks_are_taken_before_the_job_is_ended_and_not_waited_for_long():
    """TERM comes when they are there, after twenty seconds, or when somebody asks to stop."""
    hung = (*STEADY, tell.pause(100), STOP)

    assert do.TakeStacks(1) == decision(*hung)
    assert do.SendSignal(1, 15) == decision(*hung, stood(r0="a", r1="b"))
    assert do.SendSignal(1, 15) == decision(*hung, seconds=20)
    assert do.SendSignal(1, 15) == decision(*hung, ev.StopRequested(ev.StopBy.CTRL_C))


def test_a_stop_that_was_asked_for_takes_no_stacks():
    """And so does one for a rule that need not wait for the job to stand still."""
    nan = ev.Suspected(0, "nan", "NaN", "line", None, ev.Line(1, "nan"))

    assert isinstance(
        decision(*STEADY, ev.StopRequested(ev.StopBy.CTRL_C), ev.StopBegun(0, "x", (4100, 4101))),
        do.Wait | do.AskSave | do.SendSignal,
    )
    assert do.SendSignal(1, 15) == decision(*STEADY, nan, ev.StopBegun(0, "NaN", (4100,), "nan"))
