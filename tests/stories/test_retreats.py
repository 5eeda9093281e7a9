"""Going back behind checkpoints that exist, by scripted histories: which are chosen, where is saved, at what rate."""

import json
from dataclasses import replace

import pytest

from guardian.core import adapters
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core.certificate import Verdict, certify
from tests.core import rule_texts as rules
from tests.core import stories as tell
from tests.core.stories import story
from tests.stories.test_ladders import ARGV, TERMS

RATED = (*ARGV, "--learning_rate", "0.01", "--torch_dtype", "float32", "--warmup_ratio", "0.0")
NAN_TERMS = replace(TERMS, argv=RATED, adapter=adapters.recognise(RATED, {}, dict), rule={"nan": rules.NAN}.get)


def found(*steps):
    """Whole checkpoints on the disk."""
    return tuple(ev.Checkpoint(f"/home/me/out/checkpoint-{s}", s, complete=True) for s in steps)


def went_bad(at, checkpoints, *, attempt=0):
    """Guardian ended an attempt whose loss was no number from a step on."""
    cause = ev.Cause("nan_loss", None, "nan", "x", (ev.Line(9, "x"),), None, facts=(("first_bad_step", float(at)),))
    return (
        ev.StopBegun(attempt, "x", (1,), "nan"),
        ev.LauncherExited(0, None, 15),
        ev.TreeEnded(0),
        ev.Ended(0, None, 15, None, (), 0, tuple(checkpoints), inspected=True),
        ev.Diagnosed(0, cause),
    )


def decided(*parts, terms=NAN_TERMS):
    """What is decided after these parts."""
    run = story(tell.created(argv=RATED), *parts)
    return do.decide(run, terms, run.heard_wall)


def planned(*parts, terms=NAN_TERMS):
    """What is planned after these parts."""
    decision = decided(*parts, terms=terms)
    assert isinstance(decision, do.Plan), decision
    return decision.planned


def value(plan, name):
    """The value of an option in the planned command."""
    return plan.argv[plan.argv.index(f"--{name}") + 1]


BAD_AT_25 = (tell.launched(), tell.hello(split=(8, 2)), tell.steps(1, 34), went_bad(25, found(10, 20, 30)))


def test_it_goes_on_from_before_the_first_bad_step_and_saves_elsewhere():
    """What was saved after it stays where it is, and nothing is written over it."""
    plan = planned(*BAD_AT_25)

    assert (20, "/home/me/out/checkpoint-20") == (plan.resume_step, plan.resume_from)
    assert "/home/me/out/again-0002" == value(plan, "output_dir")
    assert ["/home/me/out/checkpoint-30"] == [path for path, _ in plan.passed_over]


def test_the_rate_is_set_inside_the_job_because_the_checkpoint_overrides_the_argument():
    """Absolute, with a warm-up that begins where the run goes on; the schedule that was saved is not bent."""
    plan = planned(*BAD_AT_25)
    spec = json.loads(dict(plan.env)["GUARDIAN_SPEC"])

    assert (1e-5, {"from": 20, "steps": 3}) == (spec["learning_rate"], spec["rewarm"])
    assert "1e-05" == value(plan, "learning_rate")
    assert "0.0" == value(plan, "warmup_ratio")
    assert {"changing"} == {e.kind for e in plan.edits if e.knob in {"learning_rate", "warmup_ratio"}}


def test_a_later_resume_goes_on_with_the_same_rate_and_the_same_ramp():
    """Killed in the new folder: the rate stays, the ramp is not begun again."""
    plan = planned(*BAD_AT_25)
    fresh = ev.Checkpoint("/home/me/out/again-0002/checkpoint-21", 21, complete=True)
    own = [replace(one, output_dir="/home/me/out/again-0002") for one in tell.hello(step=20, split=(8, 2))]
    again = planned(
        *BAD_AT_25, plan, ev.Pinned(0, "a", "b", "copy"), ev.Launched(0, 1, 1), own, tell.steps(21, 22),
        ev.LauncherExited(0, None, 9), ev.TreeEnded(0),
        ev.Ended(0, None, 9, None, (), 0, (*found(10, 20, 30), fresh), inspected=True), ev.Diagnosed(0, tell.KILLED_BY_NOBODY),
    )  # fmt: skip
    spec = json.loads(dict(again.env)["GUARDIAN_SPEC"])

    assert (21, fresh.path) == (again.resume_step, again.resume_from)
    assert "/home/me/out/again-0002" == value(again, "output_dir")
    assert {"from": 20, "steps": 3} == spec["rewarm"]
    assert 1e-5 == spec["learning_rate"]


def test_without_a_checkpoint_before_it_the_training_begins_again_in_a_folder_of_its_own():
    """The old folders are left alone, and the arguments alone say the rate: no checkpoint overrides them."""
    plan = planned(tell.launched(), tell.hello(split=(8, 2)), tell.steps(1, 14), went_bad(5, found(10)))
    spec = json.loads(dict(plan.env)["GUARDIAN_SPEC"])

    assert (None, "/home/me/out/again-0002") == (plan.resume_from, value(plan, "output_dir"))
    assert "learning_rate" not in spec
    assert ("1e-05", "0.05") == (value(plan, "learning_rate"), value(plan, "warmup_ratio"))
    assert ["/home/me/out/checkpoint-10"] == [path for path, _ in plan.passed_over]


def healed(rate):
    """The run after the retreat, at this rate."""
    plan = planned(*BAD_AT_25)
    steps = [replace(one, lr=rate) if isinstance(one, ev.StepDone) else one for one in tell.steps(21, 60, loss=2.0)]
    return story(
        tell.created(argv=RATED), *BAD_AT_25, plan, ev.Pinned(0, "a", "b", "copy"), ev.Launched(0, 1, 1),
        tell.hello(step=20, split=(8, 2)), *steps, tell.finished(),
    )  # fmt: skip


def test_a_rate_that_did_not_take_effect_violates_the_certificate():
    """A checkpoint, or a plugin, that sets the old rate again: what was promised is not what ran."""
    certificate = certify(healed(1e-2))

    assert Verdict.VIOLATED == certificate.verdict
    assert "learning rate 0.01 at step 21" in certificate.reasons[0]


def test_a_rate_that_took_effect_is_no_violation():
    """At or below what was set: schedules and warm-ups lower it."""
    assert Verdict.CONSISTENT == certify(healed(8e-6)).verdict


def test_what_would_be_resumed_from_is_read_first_and_passed_over_where_it_is_damaged():
    """Headers tell nothing of a flipped byte: read once, and then the newest that proved sound."""
    parts = (tell.launched(), tell.hello(split=(8, 2)), tell.steps(1, 34))
    ended = ev.Ended(0, None, 9, None, (), 0, found(10, 20, 30))
    fallen = (ev.LauncherExited(0, None, 9), ev.TreeEnded(0), ended, ev.Diagnosed(0, tell.KILLED_BY_NOBODY))
    run = story(tell.created(argv=RATED), *parts, *fallen)
    assert do.Inspect(1) == do.decide(run, NAN_TERMS, run.heard_wall)

    damaged = replace(found(30)[0], complete=False, why="optimizer.pt: a checksum is wrong", verdict="damaged")
    judged = replace(ended, checkpoints=(*found(10, 20), damaged), inspected=True)
    run = story(tell.created(argv=RATED), *parts, *fallen, judged)
    plan = do.decide(run, NAN_TERMS, run.heard_wall).planned

    assert 20 == plan.resume_step
    assert (("/home/me/out/checkpoint-30", "optimizer.pt: a checksum is wrong"),) == plan.passed_over
    assert 20 == run.best_step


LIMITED = (*RATED, "--save_total_limit", "2")


@pytest.mark.parametrize(
    "argv, limit",
    [(LIMITED, "4"), (RATED, None), ((*RATED, "--save_total_limit", "0"), None)],
)
def test_a_limit_on_saves_is_raised_by_the_folders_that_are_passed_over(argv, limit):
    """The job counts folders, sound or not: it would delete the sound one to keep two that are damaged."""
    damaged = tuple(replace(one, complete=False, why="cut off", verdict="damaged") for one in found(20, 30))
    parts = (
        tell.launched(), tell.hello(split=(8, 2)), tell.steps(1, 34), ev.LauncherExited(0, None, 9), ev.TreeEnded(0),
        ev.Ended(0, None, 9, None, (), 0, (*found(10), *damaged), inspected=True),
        ev.Diagnosed(0, tell.KILLED_BY_NOBODY),
    )  # fmt: skip
    plan = planned(*parts, terms=replace(NAN_TERMS, argv=argv, adapter=adapters.recognise(argv, {}, dict)))

    assert 10 == plan.resume_step
    changes = [(edit.old, edit.new, edit.kind) for edit in plan.edits if edit.knob == "save_total_limit"]
    assert ([] if limit is None else [("2", limit, "preserving")]) == changes
    assert limit is None or limit == value(plan, "save_total_limit")


# --- without the companion ---------------------------------------------------------------------------------------

ALONE = replace(NAN_TERMS, companion=None)
BAD_ALONE = (tell.launched(), tell.logged(1, 34), went_bad(25, found(10, 20, 30)))
COPY = "/runs/r1/attempts/0002/patched/checkpoint-20"


def rated(**more):
    """What became of the copy of checkpoint 20 that the first remedy asks for."""
    return replace(ev.Rated(1, "/home/me/out/checkpoint-20", 1e-5, COPY, before=0.01), **more)


def test_without_the_companion_a_copy_of_the_checkpoint_gets_the_rate_before_anything_is_planned():
    """The checkpoint's own rate would win over the argument."""
    assert do.Rate(ev.Rated(1, "/home/me/out/checkpoint-20", 1e-5, COPY)) == decided(*BAD_ALONE, terms=ALONE)

    plan = planned(*BAD_ALONE, rated(), terms=ALONE)
    assert COPY == value(plan, "resume_from_checkpoint")
    assert ("/home/me/out/checkpoint-20", 20) == (plan.resume_from, plan.resume_step)
    assert "/home/me/out/again-0002" == value(plan, "output_dir")
    assert "GUARDIAN_SPEC" not in dict(plan.env)


def test_without_the_companion_no_warm_up_is_promised_to_a_run_that_goes_on():
    """Nobody could add it to the schedule that was saved."""
    plan = planned(*BAD_ALONE, rated(), terms=ALONE)

    assert {"learning_rate": 1e-5} == dict(plan.settings)
    assert "0.0" == value(plan, "warmup_ratio")
    assert ["warm-up" in one for one in plan.skipped] == [True]


def test_without_the_companion_a_run_that_begins_again_needs_no_copy():
    """The arguments alone say the rate and the warm-up, and later resumes keep both."""
    plan = planned(tell.launched(), tell.logged(1, 14), went_bad(5, found(10)), terms=ALONE)
    assert (None, "1e-05", "0.05") == (plan.resume_from, value(plan, "learning_rate"), value(plan, "warmup_ratio"))

    fresh = ev.Checkpoint("/home/me/out/again-0002/checkpoint-10", 10, complete=True)
    killed = (ev.Ended(0, None, 9, None, (), 0, (fresh,), inspected=True), ev.Diagnosed(0, tell.KILLED_BY_NOBODY))
    parts = (
        tell.launched(), tell.logged(1, 14), went_bad(5, found(10)), plan, ev.Launched(0, 1, 1), tell.logged(1, 14),
        ev.LauncherExited(0, None, 9), ev.TreeEnded(0), *killed,
    )  # fmt: skip
    already = ev.Rated(2, fresh.path, 1e-5, None, before=1e-5)
    again = planned(*parts, already, terms=ALONE)

    assert fresh.path == value(again, "resume_from_checkpoint")
    assert ("1e-05", "0.05") == (value(again, "learning_rate"), value(again, "warmup_ratio"))


def test_a_rate_that_cannot_be_changed_is_refused_aloud_and_nothing_is_launched():
    """Every rung that lowers it is passed by with the reason; none runs without effect."""
    decision = decided(*BAD_ALONE, rated(copy=None, why="its optimizer lies in DeepSpeed's shards"), terms=ALONE)

    assert isinstance(decision, do.Finish)
    assert ev.Outcome.GAVE_UP == decision.finished.outcome
    assert "no lower learning rate can be set" in decision.finished.reason
    assert 2 == decision.finished.reason.count("DeepSpeed's shards")


def test_a_later_failure_asks_for_the_rate_again_and_does_not_go_on_without_it():
    """From the same checkpoint before a new one was saved: the rate is set anew; where that fails the run ends."""
    killed = (
        ev.LauncherExited(0, None, 9), ev.TreeEnded(0),
        ev.Ended(0, None, 9, None, (), 0, found(10, 20, 30), inspected=True), ev.Diagnosed(0, tell.KILLED_BY_NOBODY),
    )  # fmt: skip
    plan = planned(*BAD_ALONE, rated(), terms=ALONE)
    parts = (*BAD_ALONE, rated(), plan, ev.Pinned(0, "a", "b", "copy"), ev.Launched(0, 1, 1), *killed)
    asked = decided(*parts, terms=ALONE).asked
    assert (20, 1e-5, COPY.replace("0002", "0003")) == (int(asked.source[-2:]), asked.target, asked.copy)

    failed = replace(asked, copy=None, why="no room")
    finished = decided(*parts, failed, terms=ALONE).finished
    assert "cannot be set to 1e-05" in finished.reason
    assert "no room" in finished.reason

    # A person has made room, and goes on.
    assert asked == decided(*parts, failed, finished, tell.resumed(reopened=True), terms=ALONE).asked


def test_a_second_retreat_to_the_same_checkpoint_saves_over_nothing_that_was_given_up():
    """Without a companion the last folder is not told: what lies in the first one stays as it is."""
    plan = planned(*BAD_ALONE, rated(), terms=ALONE)
    parts = (
        *BAD_ALONE, rated(), plan, ev.Pinned(0, "a", "b", "copy"), ev.Launched(0, 1, 1), tell.logged(21, 34),
        went_bad(25, found(10, 20, 30)),
    )  # fmt: skip
    asked = decided(*parts, terms=ALONE).asked
    again = planned(*parts, asked, terms=ALONE)

    assert (20, 1e-6) == (again.resume_step, pytest.approx(asked.target))
    assert "/home/me/out/again-0003" == value(again, "output_dir")


def healed_alone(rate, *, first=21):
    """The run after the retreat without a companion, which logged this rate from a step on."""
    plan = planned(*BAD_ALONE, rated(), terms=ALONE)
    logs = [replace(one, lr=rate) if isinstance(one, ev.Logged) else one for one in tell.logged(first, 60)]
    return story(
        tell.created(argv=RATED, companion=False), *BAD_ALONE, rated(), plan, ev.Pinned(0, "a", "b", "copy"),
        ev.Launched(0, 1, 1), *logs, tell.finished(),
    )  # fmt: skip


def test_without_the_companion_the_logged_rate_is_held_against_the_one_that_was_set():
    """Higher than what was set, or than its share of the old curve: it did not take effect."""
    assert Verdict.VIOLATED == certify(healed_alone(1e-2)).verdict
    assert Verdict.VIOLATED == certify(healed_alone(9e-6)).verdict
    assert Verdict.VIOLATED != certify(healed_alone(1e-8)).verdict
