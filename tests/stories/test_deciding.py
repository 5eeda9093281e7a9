"""Decisions by scripted histories: every state, what is asked for from outside, budgets and back-off."""

from dataclasses import dataclass, replace

import pytest

from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core.adapters import Written
from guardian.core.job import unrecognised
from guardian.core.planning import Terms
from guardian.core.policy import DEFAULT, Budget
from tests.core import stories as tell
from tests.core.stories import story


@dataclass(frozen=True)
class Family:
    """An adapter for a command of one option."""

    family: str = "sft"
    spec = unrecognised(tell.ARGV)

    def launch_argv(self, argv, python):
        return (python, "-m", "trainer", *argv)

    def resume(self, argv, checkpoint, output_dir):
        edit = ev.Edit("resume_from", None, checkpoint, "resume")
        return (*argv, "--resume_from_checkpoint", checkpoint, "--output_dir", output_dir), (edit,)

    def output_dir(self, argv):
        return "out"

    def write(self, argv, settings):
        return Written(argv, refused=tuple((knob, "there is no option for it") for knob in settings))


TERMS = Terms(
    run="7d2f4c1e",
    argv=tell.ARGV,
    adapter=Family(),
    policy=DEFAULT,
    folder="/runs/r1",
    python="/env/bin/python",
    companion="/companion",
    pythonpath="/mine",
)
UNKNOWN = ev.Cause("unknown", None, None, "nothing known", (), 1)
HOPELESS = ev.Cause("config_conflict", None, "r", "an unknown argument", (), 0)


def decided(run, *, after=0.0, terms=TERMS):
    """What is decided `after` seconds from the run's last record."""
    return do.decide(run, terms, run.heard_wall + after)


def ended_with(checkpoints, *, cause=tell.KILLED_BY_NOBODY, signal=9):
    """An attempt's end at which these checkpoints were found."""
    return (
        ev.LauncherExited(0, None, signal),
        ev.TreeEnded(0),
        ev.Ended(0, None, signal, None, (), 0, tuple(checkpoints), inspected=True),
        ev.Diagnosed(0, cause),
    )


def found(step, *, complete=True):
    """A checkpoint on the disk."""
    return ev.Checkpoint(f"/home/me/out/checkpoint-{step}", step, complete, None if complete else "cut off")


# --- before and after an attempt -----------------------------------------------------------------------------


def test_a_new_run_plans_the_users_own_command_with_what_guardian_adds():
    """Nothing is changed silently: the plan holds every name that is set."""
    decision = decided(story(tell.created()))

    assert (TERMS.python, "-m", "trainer", *tell.ARGV) == decision.planned.argv
    assert {"GUARDIAN_MARK", "PYTHONUNBUFFERED", "GUARDIAN_DIR", "GUARDIAN_SPEC", "PYTHONPATH"} == set(
        dict(decision.planned.env)
    )
    assert "/companion:/mine" == dict(decision.planned.env)["PYTHONPATH"]


def test_without_a_companion_the_job_gets_the_mark_and_unbuffered_output_only():
    """`--no-companion` puts nothing into the job."""
    terms = replace(TERMS, companion=None)

    planned = decided(story(tell.created()), terms=terms).planned

    assert {"GUARDIAN_MARK": "7d2f4c1e/1", "PYTHONUNBUFFERED": "1"} == dict(planned.env)


def test_a_killed_attempt_is_resumed_from_the_newest_complete_checkpoint():
    """The incomplete newer one is passed over with its reason; the path is explicit."""
    run = story(
        tell.launched(), tell.hello(), tell.steps(1, 25), ended_with([found(10), found(20), found(25, complete=False)])
    )

    planned = decided(run).planned

    assert (2, 20, "/home/me/out/checkpoint-20") == (planned.attempt, planned.resume_step, planned.resume_from)
    assert (("/home/me/out/checkpoint-25", "cut off"),) == planned.passed_over
    assert "--resume_from_checkpoint" in planned.argv


def test_an_unrecognised_command_is_restarted_as_it_is():
    """What guardian does not understand it does not edit."""
    run = story(tell.created(family=None), tell.launched(), ended_with([found(20)]))
    terms = replace(TERMS, adapter=None)

    planned = decided(run, terms=terms).planned

    assert tell.ARGV == planned.argv
    assert planned.resume_from is None


def test_the_checkpoint_is_pinned_before_the_launch_and_the_back_off_waited_for():
    """Plan, pin, wait, launch: each a state, none a sleep."""
    planned = ev.Planned(0, tell.ARGV, (), "/out/checkpoint-20", 20, (), tell.NOW + 100, "again")
    run = story(tell.launched(), ended_with([found(20)]), planned)
    assert do.Pin(2, "/out/checkpoint-20") == decided(run)

    run = story(tell.launched(), ended_with([found(20)]), planned, ev.Pinned(0, "x", "y", "copy"))
    assert do.Wait(tell.NOW + 100) == decided(run)
    assert do.Launch(run.attempts[1].plan) == decided(run, after=200)


def test_an_attempt_that_ended_as_it_should_finishes_the_run():
    """No cause, no retry."""
    finish = decided(story(tell.launched(), tell.hello(), tell.steps(1, 60), tell.ended(0)))

    assert (ev.Outcome.FINISHED, 0) == (finish.finished.outcome, finish.finished.exit_code)


def test_a_finish_with_another_effective_batch_is_exit_1():
    """The outcome stays `finished`, the certificate is violated."""
    run = story(
        tell.launched(), tell.hello(), tell.steps(1, 30), tell.ended(signal=9, cause=tell.KILLED_BY_NOBODY),
        tell.launched(resume=30), tell.hello(step=30), tell.steps(31, 60, rows=32), tell.ended(0),
    )  # fmt: skip

    finish = decided(run)

    assert (ev.Outcome.FINISHED, 1) == (finish.finished.outcome, finish.finished.exit_code)


# --- budgets -------------------------------------------------------------------------------------------------


def attempt(number, *, cause=tell.KILLED_BY_NOBODY, upto=0):
    """An attempt that fails, leaving a checkpoint of step `upto` (0: none)."""
    seen = [found(upto)] if upto else []
    return (tell.launched(), ended_with(seen, cause=cause)) if number else ()


def test_a_failure_that_cannot_heal_gets_no_retry():
    """Exit 4 at once."""
    finish = decided(story(attempt(1, cause=HOPELESS)))

    assert (ev.Outcome.NOT_RETRYABLE, 4) == (finish.finished.outcome, finish.finished.exit_code)


def test_an_unknown_failure_gets_one_plain_restart():
    """The second time in a row without progress it gives up, exit 1."""
    assert isinstance(decided(story(attempt(1, cause=UNKNOWN))), do.Plan)
    finish = decided(story(attempt(1, cause=UNKNOWN), attempt(2, cause=UNKNOWN)))
    assert (ev.Outcome.GAVE_UP, 1) == (finish.finished.outcome, finish.finished.exit_code)


def test_a_new_checkpoint_forgives():
    """Progress is a checkpoint beyond the last, however often the job dies."""
    run = story(*(attempt(n, cause=UNKNOWN, upto=10 * n) for n in range(1, 9)))

    assert isinstance(decided(run), do.Plan)


def test_a_higher_step_alone_does_not_forgive():
    """Dying every 90 steps with saves every 100 would go on for ever."""
    part = (tell.launched(), tell.hello(max_steps=600), tell.steps(1, 90, every_s=0.1), ended_with([]))

    assert isinstance(decided(story(part, part, part, part)), do.Finish)


def test_the_budget_of_restarts_ends_even_a_run_that_advances():
    """30 by default; here 3."""
    terms = replace(TERMS, policy=replace(DEFAULT, budget=Budget(restarts=3)))

    assert isinstance(decided(story(*(attempt(n, upto=n) for n in (1, 2, 3))), terms=terms), do.Plan)
    assert isinstance(decided(story(*(attempt(n, upto=n) for n in (1, 2, 3, 4))), terms=terms), do.Finish)


@pytest.mark.parametrize(("failures", "wait"), [(1, 0), (2, 10), (3, 60)])
def test_each_fruitless_attempt_waits_longer(failures, wait):
    """Back-off by attempts without a new checkpoint, whatever their cause."""
    run = story(*(attempt(n) for n in range(1, failures + 1)))

    assert run.heard_wall + wait == decided(run).planned.not_before


def test_going_on_by_hand_starts_the_budgets_again():
    """A person who asks for one more try gets it."""
    lost = (attempt(1, cause=HOPELESS), tell.gave_up("no", ev.Outcome.NOT_RETRYABLE, 4))

    assert isinstance(decided(story(*lost, tell.resumed(reopened=True))), do.Plan)
    assert isinstance(decided(story(*lost, tell.resumed(reopened=True), attempt(2, cause=HOPELESS))), do.Finish)


# --- asked to stop -------------------------------------------------------------------------------------------

CTRL_C = ev.StopRequested(ev.StopBy.CTRL_C)
TRAINING = (tell.launched(), tell.hello(), tell.steps(1, 20))
BEGUN = ev.StopBegun(0, "ctrl-c", (4002, 4100))


@pytest.mark.parametrize(
    ("by", "code", "outcome"),
    [
        (ev.StopBy.CTRL_C, 130, ev.Outcome.STOPPED),
        (ev.StopBy.SIGTERM, 75, ev.Outcome.PREEMPTED),
        (ev.StopBy.COMMAND, 75, ev.Outcome.STOPPED),
    ],
)
@pytest.mark.parametrize(
    "parts",
    [
        (tell.created(),),
        (attempt(1), ev.Planned(0, (), (), "/out/checkpoint-20", 20, (), 0.0, "")),
        (attempt(1), ev.Planned(0, (), (), None, None, (), tell.NOW + 1e6, "")),
        (attempt(1),),
    ],
    ids=["idle", "checking", "paused", "over"],
)
def test_a_stop_without_a_living_job_ends_the_run_at_once(parts, by, code, outcome):
    """In every state that waits for something else."""
    finish = decided(story(*parts, ev.StopRequested(by)))

    assert (outcome, code) == (finish.finished.outcome, finish.finished.exit_code)


@pytest.mark.parametrize("parts", [(tell.launched(),), TRAINING], ids=["starting", "running"])
def test_a_stop_of_a_living_job_begins_with_a_commitment(parts):
    """First it is journalled, then it is done."""
    assert isinstance(decided(story(*parts, CTRL_C)), do.BeginStop)


def test_a_job_that_has_finished_steps_is_asked_to_save_far_enough_ahead():
    """Two steps and two seconds beyond the furthest rank: step 20 at 1 s a step gives 24."""
    assert do.AskSave(1, 24) == decided(story(*TRAINING, CTRL_C, BEGUN))


def test_a_job_without_a_finished_step_has_nothing_to_save():
    """TERM, after a moment in which a first step may still be heard of; a second request does not wait for it."""
    starting = (tell.launched(), tell.hello(), CTRL_C, BEGUN)

    assert isinstance(decided(story(*starting)), do.Wait)
    assert isinstance(decided(story(*starting, tell.steps(1, 3, every_s=0.1))), do.AskSave)
    assert do.SendSignal(1, 15) == decided(story(*starting), after=2)
    assert do.SendSignal(1, 15) == decided(story(*starting, CTRL_C))
    assert do.SendSignal(1, 15) == decided(story(tell.created(companion=False), *starting))


def test_a_rank_without_a_companion_makes_a_common_save_impossible():
    """All ranks or none: with one rank obeying, the others hang in the save's barrier."""
    run = story(tell.launched(), tell.hello(ranks=2)[:1], tell.steps(1, 5, ranks=2), CTRL_C, BEGUN)

    assert do.SendSignal(1, 15) == decided(run, after=2)


def test_dead_ranks_are_not_asked_to_save():
    """The trainer was killed and only its loader workers live on."""
    run = story(*TRAINING, CTRL_C, ev.StopBegun(0, "ctrl-c", (4002,)))

    assert do.SendSignal(1, 15) == decided(run)


SAVING = (*TRAINING, CTRL_C, BEGUN, ev.SaveAsked(0, 24))


def test_while_saving_the_tree_is_looked_at_until_the_deadline():
    """A save is waited for, but not for ever."""
    assert do.Look(1) == decided(story(*SAVING))
    assert do.SendSignal(1, 15) == decided(story(*SAVING), after=121)


def test_ranks_that_die_while_saving_end_the_wait():
    """Nobody is left to save."""
    assert do.SendSignal(1, 15) == decided(story(*SAVING, ev.TreeSeen(0, (4002,))))


def test_a_job_that_has_saved_is_left_to_close_by_itself():
    """After the training loop a script may write its last model; only when nobody is left to do so it is ended."""
    left_loop = ev.TrainingEnded(0, 0, 24, 60, "guardian")

    assert do.Look(1) == decided(story(*SAVING, left_loop))
    assert do.Look(1) == decided(story(*SAVING, left_loop, ev.TreeSeen(0, (4002,))))
    gone = (ev.TreeSeen(0, (4200,)), ev.LauncherExited(0, 0, None))
    assert do.SendSignal(1, 15) == decided(story(*SAVING, left_loop, *gone))
    assert do.SendSignal(1, 15) == decided(story(*SAVING, left_loop), after=121)


def test_the_second_request_skips_the_save_and_the_third_the_patience():
    """Ctrl-C three times is SIGKILL."""
    term = ev.Signalled(0, 15, 3)

    assert do.SendSignal(1, 15) == decided(story(*SAVING, CTRL_C))
    assert isinstance(decided(story(*SAVING, CTRL_C, term)), do.Wait)
    assert do.SendSignal(1, 9) == decided(story(*SAVING, CTRL_C, term, CTRL_C))


def test_term_is_followed_by_kill_and_kill_is_repeated():
    """What ignores TERM for 45 s is killed; what is born meanwhile too."""
    term, kill = ev.Signalled(0, 15, 3), ev.Signalled(0, 9, 3)

    assert do.SendSignal(1, 9) == decided(story(*TRAINING, CTRL_C, BEGUN, term), after=46)
    assert do.SendSignal(1, 9) == decided(story(*TRAINING, CTRL_C, BEGUN, term, kill), after=2)


def test_what_survives_kill_ends_the_run_and_says_so():
    """Never relaunch onto a process that cannot be ended."""
    killed = (*TRAINING, CTRL_C, BEGUN, ev.Signalled(0, 9, 1))
    assert do.LeaveAlone(1, unkillable=True) == decided(story(*killed), after=31)

    left = ev.TreeEnded(0, ("4100 python train.py",), unkillable=True)
    cause = ev.Cause("unkillable", None, None, "it survives", (), 0)
    run = story(*killed, left, ev.Ended(0, None, None, None, (), None, ()), ev.Diagnosed(0, cause))
    finish = decided(run).finished

    assert (ev.Outcome.GAVE_UP, 1, True) == (finish.outcome, finish.exit_code, "reboot" in finish.reason)


def test_a_stop_whose_tree_is_gone_is_read_to_its_end_and_then_stopped():
    """Saved or not, the end is judged whole."""
    assert do.Drain(1) == decided(story(*SAVING, ev.LauncherExited(0, 0, None), ev.TreeEnded(0)))
    finish = decided(story(*SAVING, ended_with([found(24)])))
    assert (ev.Outcome.STOPPED, 130) == (finish.finished.outcome, finish.finished.exit_code)


# --- launchers and what outlives them ------------------------------------------------------------------------


def test_the_tree_of_a_failed_launcher_is_ended_after_a_moment():
    """torchrun's ranks train on when their agent is killed: they must be gone before the next attempt."""
    run = story(*TRAINING, ev.LauncherExited(0, None, 9))

    assert isinstance(decided(run), do.Wait)
    assert isinstance(decided(run, after=3), do.BeginStop)


def test_what_still_trains_after_a_good_exit_is_waited_for():
    """A script may start its trainer in the background and leave."""
    assert do.Wait() == decided(story(*TRAINING, ev.LauncherExited(0, 0, None)), after=1e6)


def test_what_outlives_a_finished_job_is_left_alone_after_a_while():
    """A tracker's sync may take its time; guardian ends nothing that a finished job left."""
    run = story(*TRAINING, ev.TrainingEnded(0, 0, 60, 60, "max_steps"), ev.LauncherExited(0, 0, None))

    assert isinstance(decided(run, after=5), do.Wait)
    assert do.LeaveAlone(1) == decided(run, after=31)
