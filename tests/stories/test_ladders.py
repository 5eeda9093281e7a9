"""Ladders by scripted histories: which rung comes, what it changes, when it is forgotten, when nothing is left."""

from dataclasses import replace

import pytest

from guardian.core import adapters
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core.planning import Terms
from guardian.core.policy import DEFAULT, Silence
from tests.core import rule_texts as rules
from tests.core import stories as tell
from tests.core.stories import story

ARGV = (
    "sft", "--model", "demo", "--dataset", "demo", "--output_dir", "/home/me/out", "--max_steps", "60",
    "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2", "--save_steps", "10",
    "--dataloader_num_workers", "8", "--dataloader_prefetch_factor", "4",
)  # fmt: skip
RULES = {one.id: one for one in (rules.MEMORY, rules.SHM, rules.FILES, rules.NETWORK, rules.FULL, rules.LOCK)}
PATIENT = replace(DEFAULT, silence=Silence(minimum_s=1e9, startup_s=1e9, evaluation_s=1e9))
"""It hears of suspicions only: silence alone ends nothing."""
TERMS = Terms(
    run="7d2f4c1e",
    argv=ARGV,
    adapter=adapters.recognise(ARGV, {}, dict),
    policy=PATIENT,
    folder="/runs/r1",
    python="/env/bin/python",
    companion="/companion",
    pythonpath=None,
    rule=RULES.get,
)


def fails(rule="memory", *, variant=None, facts=(), found=(), code=1):
    """The job failed as this rule says, with these checkpoints on the disk."""
    one = RULES[rule]
    cause = ev.Cause(
        one.failure, variant, rule, one.title, (ev.Line(9, "x"),), one.retries(dict(facts), variant), facts=facts
    )
    checkpoints = tuple(ev.Checkpoint(f"/home/me/out/checkpoint-{s}", s, complete=True) for s in found)
    return (
        ev.LauncherExited(0, code, None),
        ev.TreeEnded(0),
        ev.Ended(0, code, None, None, (), 0, checkpoints, inspected=True),
        ev.Diagnosed(0, cause),
    )


def planned(*parts, terms=TERMS):
    """What is planned after these parts."""
    run = story(tell.created(argv=ARGV), *parts)
    decision = do.decide(run, terms, run.heard_wall)
    assert isinstance(decision, do.Plan), decision
    return decision.planned


def told(*parts, terms=TERMS):
    """How the run ends after these parts."""
    run = story(tell.created(argv=ARGV), *parts)
    decision = do.decide(run, terms, run.heard_wall)
    assert isinstance(decision, do.Finish), decision
    return decision.finished


def value(plan, name):
    """The value of an option in the planned command."""
    return plan.argv[plan.argv.index(f"--{name}") + 1]


def first(*, split=(8, 2), upto=25, **more):
    """Attempt 1, as far as it came."""
    return (tell.launched(), tell.hello(split=split, **more), tell.steps(1, upto))


def test_memory_halves_the_batch_and_keeps_the_product():
    """8 x 2 becomes 4 x 4, from the newest checkpoint, at once."""
    plan = planned(first(), fails(found=[10, 20]))

    assert ("4", "4") == (value(plan, "per_device_train_batch_size"), value(plan, "gradient_accumulation_steps"))
    assert "/home/me/out/checkpoint-20" == plan.resume_from
    assert {("device_batch", "8", "4"), ("accumulation", "2", "4")} <= {(e.knob, e.old, e.new) for e in plan.edits}
    assert {"preserving"} == {e.kind for e in plan.edits if e.kind != "resume"}
    assert ("memory", 1) == (plan.rule, plan.rung)


def test_the_halving_goes_on_until_one_and_then_the_next_rung_comes():
    """Each further fall takes the next step; what was changed before stays changed."""
    parts = [first(), fails()]
    sizes = []
    for _ in range(4):
        plan = planned(*parts)
        sizes.append((value(plan, "per_device_train_batch_size"), value(plan, "gradient_accumulation_steps")))
        split = (int(sizes[-1][0]), int(sizes[-1][1]))
        parts += [plan, ev.Launched(0, 1, 1), tell.hello(split=split), fails()]

    assert [("4", "4"), ("2", "8"), ("1", "16"), ("1", "16")] == sizes
    assert "true" == value(plan, "gradient_checkpointing")
    assert ("device_batch halved: device_batch is at its floor of 1",) == plan.skipped


def test_a_folder_of_its_own_lies_in_the_run_and_is_tried_once():
    """Nothing that other jobs use is touched."""
    plan = planned(first(), fails("lock"))

    assert ("TORCH_EXTENSIONS_DIR", "/runs/r1/torch_extensions_dir") in plan.env
    assert ("TORCH_EXTENSIONS_DIR", None, "/runs/r1/torch_extensions_dir") in {
        (e.knob, e.old, e.new) for e in plan.edits
    }
    assert "It still waits." in told(first(), fails("lock"), plan, ev.Launched(0, 1, 1), fails("lock")).reason


def test_a_batch_that_the_job_brought_back_is_not_the_one_to_keep():
    """Eight rows ran where four were set: the split is made anew from the sixteen rows that were asked for."""
    plan = planned(first(), fails())
    again = planned(first(), fails(), plan, ev.Launched(0, 1, 1), tell.hello(split=(8, 4)), tell.steps(26, 30), fails())

    assert ("4", "4") == (value(again, "per_device_train_batch_size"), value(again, "gradient_accumulation_steps"))


def test_at_the_floor_it_gives_up_with_what_is_missing():
    """Exit 1, with need and size."""
    facts = (("asked_mib", 512.0), ("device_batch", 1.0))
    parts = [first(split=(1, 16)), fails(facts=facts)]
    plan = planned(*parts)
    parts += [plan, ev.Launched(0, 1, 1), tell.hello(split=(1, 16)), fails(facts=facts)]

    finished = told(*parts)

    assert (ev.Outcome.GAVE_UP, 1) == (finished.outcome, finished.exit_code)
    assert finished.reason.startswith("At device batch 1 it still needs 512 MiB more.")


def test_a_variant_has_its_own_rung_first():
    """Where as much lies idle as was asked for, the allocator is told before the batch is touched."""
    parts = [first(), fails(variant="fragmentation")]
    plan = planned(*parts)
    assert "expandable_segments:True" == dict(plan.env)["PYTORCH_CUDA_ALLOC_CONF"]
    assert "8" == value(plan, "per_device_train_batch_size")

    again = planned(*parts, plan, ev.Launched(0, 1, 1), tell.hello(split=(8, 2)), fails(variant="fragmentation"))

    assert "4" == value(again, "per_device_train_batch_size")
    assert "expandable_segments:True" == dict(again.env)["PYTORCH_CUDA_ALLOC_CONF"]


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("PYTORCH_ALLOC_CONF", "max_split_size_mb:128", "max_split_size_mb:128,expandable_segments:True"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:False", "expandable_segments:True"),
    ],
)
def test_a_variable_of_the_user_is_merged_under_the_name_that_he_uses(name, old, new):
    """Two names of one setting: the one that is there counts, and the rest of it stays."""
    made, started = tell.created(argv=ARGV)
    run = story(replace(made, env=((name, old),)), started, first(), fails(variant="fragmentation"))

    plan = do.decide(run, TERMS, run.heard_wall).planned

    assert new == dict(plan.env)[name]
    assert [ev.Edit(name, old, new, "preserving")] == [e for e in plan.edits if e.knob == name]


def test_two_new_checkpoints_put_the_ladder_back_to_its_top_but_not_the_batch():
    """A micro-batch never goes back up by itself; gradient checkpointing is reached only in a row."""
    parts = [first(split=(2, 8)), fails()]
    plan = planned(*parts)
    parts += [plan, ev.Launched(0, 1, 1), tell.hello(split=(1, 16)), tell.steps(1, 30), tell.saved(10, 20)]

    again = planned(*parts, fails(found=[10, 20]))

    assert ("1", "16") == (value(again, "per_device_train_batch_size"), value(again, "gradient_accumulation_steps"))
    assert 2 == again.rung


def test_what_the_job_says_of_itself_wins_over_its_command():
    """A launcher script may give another batch than the command shows."""
    plan = planned(first(split=(6, 5)), fails())

    assert ("3", "10") == (value(plan, "per_device_train_batch_size"), value(plan, "gradient_accumulation_steps"))


def test_a_full_shared_memory_takes_one_restart():
    """The workers go to what fits, not down by halves."""
    plan = planned(first(), fails("shm"))

    assert "0" == value(plan, "dataloader_num_workers")
    assert "--dataloader_prefetch_factor" not in plan.argv


def test_limits_come_before_the_variable():
    """Too many open files: the soft limit first, then the sharing strategy; then there is nothing more."""
    parts = [first(), fails("files")]
    plan = planned(*parts)
    assert (("nofile", "hard"),) == plan.limits
    parts += [plan, ev.Launched(0, 1, 1), tell.hello(split=(8, 2)), fails("files")]
    plan = planned(*parts)
    assert "file_system" == dict(plan.env)["GUARDIAN_SHARING_STRATEGY"]
    assert (("nofile", "hard"),) == plan.limits

    parts += [plan, ev.Launched(0, 1, 1), tell.hello(split=(8, 2)), fails("files")]

    assert ev.Outcome.GAVE_UP == told(*parts).outcome


def test_another_failure_in_between_leaves_the_changes_in_force():
    """What was lowered for memory stays lowered when the network falls."""
    parts = [first(), fails()]
    plan = planned(*parts)
    parts += [plan, ev.Launched(0, 1, 1), tell.hello(split=(4, 4)), tell.steps(1, 5), fails("network")]

    again = planned(*parts)

    assert "4" == value(again, "per_device_train_batch_size")
    assert () == tuple(e for e in again.edits if e.kind != "resume")
    assert plan.settings == again.settings


def refuses():
    """The command fell over its arguments."""
    cause = ev.Cause("config_conflict", None, "arguments-refused", "refused", (ev.Line(1, "error: unrecognized"),), 0)
    return (
        ev.LauncherExited(0, 2, None),
        ev.TreeEnded(0),
        ev.Ended(0, 2, None, None, (), 0, (), inspected=True),
        ev.Diagnosed(0, cause),
    )


def test_an_edit_that_the_command_does_not_accept_is_taken_back():
    """A script may not know the option that its framework has: the next rung is tried without that edit."""
    parts = [first(split=(1, 16)), fails()]
    plan = planned(*parts)
    assert "true" == value(plan, "gradient_checkpointing")
    parts += [plan, ev.Launched(0, 1, 1), refuses()]

    finished = told(*parts)

    assert (ev.Outcome.GAVE_UP, 1) == (finished.outcome, finished.exit_code)
    assert "the command did not accept it" in finished.reason


def test_after_a_refused_edit_the_next_rung_starts_from_what_worked():
    """The batch is halved, and what was refused is gone from the launch."""
    parts = [first(), fails(variant="fragmentation")]
    plan = planned(*parts)
    parts += [plan, ev.Launched(0, 1, 1), refuses()]

    again = planned(*parts)

    assert (3, "4") == (again.attempt, value(again, "per_device_train_batch_size"))
    assert "PYTORCH_CUDA_ALLOC_CONF" not in dict(again.env)


def test_arguments_that_the_user_got_wrong_are_not_tried_again():
    """Only what guardian changed is taken back."""
    finished = told(tell.launched(), refuses())

    assert (ev.Outcome.NOT_RETRYABLE, 4) == (finished.outcome, finished.exit_code)


def test_a_command_of_no_known_framework_is_not_edited():
    """The rung is passed by with the reason, and it gives up instead of falling for ever."""
    finished = told(first(), fails(), terms=replace(TERMS, adapter=None))

    assert ev.Outcome.GAVE_UP == finished.outcome
    assert "the command is of no framework that guardian can edit" in finished.reason


def test_the_plan_is_the_same_when_the_journal_is_read_again():
    """The position on the ladder is read off the plans: whoever takes over stands on the same rung."""
    parts = [first(), fails()]
    parts += [planned(*parts), ev.Launched(0, 1, 1), tell.hello(split=(4, 4)), tell.resumed(), fails()]

    assert "2" == value(planned(*parts), "per_device_train_batch_size")


# --- waiting for the host --------------------------------------------------------------------------------------


def waiting(*measured, after=0.0):
    """What is decided about a launch that waits for room, so many seconds after it was last looked at."""
    parts = [first(), fails("full")]
    run = story(tell.created(argv=ARGV), *parts, planned(*parts), *measured)
    return do.decide(run, TERMS, run.heard_wall + after)


def room(mib):
    """The disk was looked at."""
    return ev.Measured(0, "disk_free_mib", mib)


def test_a_full_disk_is_looked_at_until_there_is_room():
    """Every few seconds; nothing is deleted and nothing is launched meanwhile."""
    assert do.Measure(2, "disk_free_mib") == waiting()
    assert isinstance(waiting(room(12.0)), do.Wait)
    assert do.Measure(2, "disk_free_mib") == waiting(room(12.0), after=6)
    assert isinstance(waiting(room(2000.0)), do.Launch)


def test_a_disk_that_stays_full_ends_the_run_with_what_was_waited_for():
    """Nothing runs for ever, and nothing waits for ever."""
    decision = waiting(room(12.0), after=3601)

    assert (do.Finish, 1) == (type(decision), decision.finished.exit_code)
    assert "waited for disk_free_mib > 1024, and it is still 12" in decision.finished.reason


# --- fatal lines of a living job -------------------------------------------------------------------------------


def suspected(confirm="stall"):
    """A fatal line was seen."""
    return ev.Suspected(0, "shm", "Shared memory is full", confirm, None, ev.Line(40, "Bus error"))


def living(*parts, after):
    """What is decided about a living job, so many seconds after its last record."""
    run = story(tell.created(argv=ARGV), tell.launched(), tell.hello(), tell.steps(1, 10), *parts)
    return do.decide(run, TERMS, run.heard_wall + after)


def test_a_job_that_printed_a_fatal_line_and_stands_still_is_ended():
    """The line and thirty seconds without a step: two signs."""
    assert isinstance(living(suspected(), after=20), do.Wait)
    decision = living(suspected(), after=31)

    assert (do.BeginStop, "shm") == (type(decision), decision.rule)


@pytest.mark.parametrize(
    "sign", [tell.steps(11, 11), (tell.pause(1), ev.PhaseChanged(0, 0, "eval", 10, tell.NOW + 1e6))]
)
def test_a_job_that_goes_on_has_survived(sign):
    """A step or an evaluation after the line: it was caught."""
    assert isinstance(living(suspected(), *sign, after=600), do.Wait)


@pytest.mark.parametrize("upto, survived", [(13, False), (20, False), (21, True)])
def test_steps_from_batches_that_lay_ready_do_not_prove_that_it_survived(upto, survived):
    """A loader that lost a batch stops the job only when its turn comes: 4 x 8 batches of 4 a step, and 2 steps ahead."""
    loading = replace(tell.hello()[0], workers=4, prefetch=8)
    parts = (tell.created(argv=ARGV), tell.launched(), loading, tell.steps(1, 10), suspected(), tell.steps(11, upto))
    run = story(*parts)

    assert (do.Wait if survived else do.BeginStop) is type(do.decide(run, TERMS, run.heard_wall + 31))
    assert isinstance(do.decide(run, TERMS, run.heard_wall + 29), do.Wait)


def test_slow_steps_are_given_three_of_their_own():
    """Steps of a minute: the line is waited for three of them."""
    slow = tell.steps(11, 20, every_s=60)

    assert isinstance(living(slow, suspected(), after=170), do.Wait)
    assert isinstance(living(slow, suspected(), after=190), do.BeginStop)


def work(after, *, cpu_s=0.0, pids=(1, 2), moved=0):
    """The tree was looked at, so many seconds after the beginning of the story's line."""
    return ev.Activity(0, pids, cpu_s, moved, tell.NOW + after)


def looked(*sights, phase="eval"):
    """What is decided about a job that printed a fatal line in an evaluation, after these looks at its tree."""
    told = (ev.PhaseChanged(0, 0, phase, 10, tell.NOW), suspected(), *sights)
    return living(*told, after=100)


def test_in_an_evaluation_silence_alone_is_no_sign():
    """It may print what it likes and take its time: only a tree that does nothing stands still."""
    assert do.LookAtWork(1) == looked()
    assert isinstance(looked(work(90), work(101, cpu_s=0.1)), do.BeginStop)


@pytest.mark.parametrize(
    "later",
    [work(101, cpu_s=8.0), work(101, moved=5 << 20), work(101, pids=(1, 2, 3)), work(92)],
    ids=["computes", "writes", "has another process", "looked at too soon"],
)
@pytest.mark.parametrize("phase", ["eval", "save"])
def test_an_evaluation_or_a_save_that_does_something_is_left_alone(later, phase):
    """A long evaluation of rows that hold scary words, a save of many gigabytes."""
    assert isinstance(looked(work(90), later, phase=phase), do.LookAtWork | do.Wait)


def test_before_the_first_step_a_compiler_may_be_at_work():
    """Autotuning prints that memory ran out, and goes on for minutes."""
    run = story(tell.created(argv=ARGV), tell.launched(), tell.hello(), suspected())

    assert do.LookAtWork(1) == do.decide(run, TERMS, run.heard_wall + 60)


def test_some_lines_need_no_waiting():
    """`confirm = "line"`."""
    assert isinstance(living(suspected("line"), after=0), do.BeginStop)


def test_what_hangs_is_not_asked_to_save():
    """Nobody is there to obey: it is asked where it stands, and then comes TERM."""
    begun = (suspected(), ev.StopBegun(0, "it hangs", (1,), "shm"))

    assert do.TakeStacks(1) == living(*begun, after=0)
    assert do.SendSignal(1, 15) == living(*begun, ev.StacksTaken(0, (), tell.NOW + 1e6), after=0)
