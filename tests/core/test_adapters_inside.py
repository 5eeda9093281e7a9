"""What is known of a training that its command does not tell, and what is asked of its companion."""

import json
from dataclasses import replace

import pytest

from guardian.core import adapters
from guardian.core import deciding as do
from guardian.core import events as ev
from guardian.core.adapters import inside
from guardian.core.planning import Terms
from guardian.core.policy import DEFAULT
from guardian.core.wire import ENV_SPEC
from tests.core import rule_texts as rules
from tests.core import stories as tell
from tests.core.stories import story

ARGV = ("bash", "train.sh")
FLAGS = (
    "python",
    "train.py",
    "--output_dir",
    "/home/me/out",
    "--per_device_train_batch_size",
    "8",
    "--logging_steps",
    "1",
)
RULES = {one.id: one for one in (rules.MEMORY,)}


def terms(argv=ARGV):
    """As `guardian run` makes them for the command."""
    return Terms(
        run="7d2f4c1e", argv=argv, adapter=adapters.recognise(argv, {}, dict), policy=DEFAULT, folder="/runs/r1",
        python="/env/bin/python", companion="/companion", pythonpath=None, rule=RULES.get,
    )  # fmt: skip


def hello(**more):
    """One rank that tells everything."""
    told = {"argv": ("train.py",), "launcher": "python", "training": 1, "takes_resume": False, "workers": 2}
    return tuple(replace(one, **(told | more)) for one in tell.hello(split=(8, 2)))


def attempt(*, resume=None, folder="/home/me/out", edits=(), **more):
    """A launch and its first steps."""
    start = resume or 0
    return (
        tell.launched(resume=resume, edits=edits),
        tuple(replace(one, step=start, output_dir=folder) for one in hello(**more)),
        tell.steps(start + 1, start + 15),
    )


def ended(rule=None, found=(10,), folder="/home/me/out"):
    """A kill, or what the rule heals."""
    one = RULES.get(rule)
    cause = ev.Cause(one.failure, None, rule, one.title, (ev.Line(9, "x"),), None) if one else tell.KILLED_BY_NOBODY
    checkpoints = tuple(ev.Checkpoint(f"{folder}/checkpoint-{s}", s, complete=True) for s in found)
    return (
        ev.LauncherExited(0, 1, None),
        ev.TreeEnded(0),
        ev.Ended(0, 1, None, None, (), 0, checkpoints, inspected=True),
        ev.Diagnosed(0, cause),
    )


def decided(*parts, argv=ARGV):
    """What follows from these parts."""
    made = terms(argv)
    family = made.adapter.family if made.adapter else None
    run = story(tell.created(argv=argv, family=family), *parts)
    return do.decide(run, made, run.heard_wall)


def asked(plan):
    """What the companion is told."""
    return json.loads(dict(plan.env)[ENV_SPEC])


def test_a_training_that_never_spoke_is_started_again_as_it_is():
    """No hello, no knowledge: neither a checkpoint nor a changed word."""
    plan = decided(tell.launched(), ended()).planned

    assert (ARGV, None, ()) == (plan.argv, plan.resume_from, plan.edits)
    assert not {"resume", "training", "arguments"} & asked(plan).keys()


def test_a_training_that_has_spoken_is_handed_its_checkpoint_and_its_command_is_the_same():
    """The first training of the attempt, whatever its script says."""
    plan = decided(attempt(), ended()).planned

    assert (ARGV, "/home/me/out/checkpoint-10") == (plan.argv, plan.resume_from)
    assert ["resume_from"] == [edit.knob for edit in plan.edits]
    assert ("/home/me/out/checkpoint-10", 1) == (asked(plan)["resume"], asked(plan)["training"])
    assert "arguments" not in asked(plan)


def test_a_smaller_batch_is_asked_of_the_companion_with_the_accumulation_that_holds_the_rows():
    """And only of the trainer whose arguments were told."""
    plan = decided(attempt(), ended("memory")).planned

    assert ARGV == plan.argv
    assert {
        "set": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
        "where": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    } == asked(plan)["arguments"]
    assert [("device_batch", "8", "4"), ("accumulation", "2", "4")] == [
        (edit.knob, edit.old, edit.new) for edit in plan.edits if edit.kind == "preserving"
    ]


def test_what_was_changed_inside_stays_changed():
    """An attempt that is killed later begins with the smaller batch."""
    first = (attempt(), ended("memory"))
    plan = decided(*first).planned
    second = (replace(plan, attempt=0), ev.Launched(0, 4001, 1), ev.JobStarted(0, 4002, 2), hello(), tell.steps(11, 25))
    again = decided(*first, second, ended(found=(10, 20))).planned

    assert asked(plan)["arguments"] == asked(again)["arguments"]
    assert "/home/me/out/checkpoint-20" == asked(again)["resume"]


def test_what_cannot_be_changed_inside_is_refused_with_the_reason_that_the_trainer_told():
    """Its loader need not follow the arguments."""
    fixed = (("accumulation", "it has a loader of its own"), ("device_batch", "it has a loader of its own"))
    plan = decided(attempt(fixed=fixed), ended("memory")).planned

    assert ("device_batch halved: device_batch cannot be set: it has a loader of its own",) == plan.skipped
    assert {"gradient_checkpointing": True} == asked(plan)["arguments"]["set"]


OWN_LOADER = "MyTrainer makes its own data loader (__main__), which need not follow the arguments"


@pytest.mark.parametrize("why, refused", [(OWN_LOADER, True), ("the DeepSpeed configuration gives its own", False)])
def test_a_batch_that_the_arguments_do_not_make_is_not_changed_by_flags_either(why, refused):
    """The accumulation alone would change; a DeepSpeed file is followed by a copy."""
    fixed = (("accumulation", why), ("device_batch", why))
    plan = decided(attempt(takes_resume=True, fixed=fixed), ended("memory"), argv=FLAGS).planned

    assert refused is (f"device_batch halved: device_batch cannot be set: {why}" in plan.skipped)
    assert refused is ("8" == plan.argv[plan.argv.index("--per_device_train_batch_size") + 1])


@pytest.mark.parametrize("knob, new", [("dtype", "bfloat16"), ("max_length", 512), ("ddp_timeout", 60)])
def test_what_is_settled_before_the_trainer_is_made_is_refused(knob, new):
    """Each with its own reason."""
    made = inside.understood(ARGV, None, hello(), ("/home/me/out",))

    assert ((knob, inside.MADE_BEFORE[knob]),) == made.write(ARGV, {knob: new}).refused


def test_every_other_setting_is_an_argument_of_its_own_kind():
    """Numbers are numbers and switches are switches: nobody parses them over there."""
    settings = {"workers": 0, "eval_batch": 2, "pin_memory": False, "learning_rate": 1e-05, "gradient_checkpointing": True,
                "save_total_limit": 4, "ddp_find_unused_parameters": True, "warmup_ratio": 0.03}  # fmt: skip
    made = inside.understood(ARGV, None, hello(eval_batch=8, save_total_limit=2), ())
    new = made.write(ARGV, settings)

    assert (ARGV, ()) == (new.argv, new.refused)
    assert {inside.NAMES[knob]: value for knob, value in settings.items()} == dict(new.inside)
    assert all(type(value) is type(dict(new.inside)[inside.NAMES[knob]]) for knob, value in settings.items())


def test_a_script_whose_parser_takes_a_checkpoint_is_given_the_flag():
    """As before: the script may do more with it than train."""
    plan = decided(attempt(takes_resume=True), ended(), argv=FLAGS).planned

    assert "/home/me/out/checkpoint-10" == plan.argv[plan.argv.index("--resume_from_checkpoint") + 1]
    assert "training" not in asked(plan)


def test_a_script_with_a_parser_of_its_own_is_changed_inside():
    """An argument that its parser does not know would end it."""
    plan = decided(attempt(), ended("memory"), argv=FLAGS).planned

    assert FLAGS == plan.argv
    assert {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4} == asked(plan)["arguments"]["set"]


def test_a_folder_that_the_job_makes_anew_at_each_start_is_its_own_affair():
    """It is not told to save anywhere else; the checkpoint is named with its folder."""
    first = (attempt(folder="/home/me/out/v0"), ended(folder="/home/me/out/v0"))
    second = attempt(resume=10, folder="/home/me/out/v1")
    plan = decided(*first, second, ended(found=(20,), folder="/home/me/out/v1")).planned

    assert "/home/me/out/v1/checkpoint-20" == asked(plan)["resume"]
    assert "arguments" not in asked(plan)


def test_a_run_that_goes_back_saves_beside_what_it_leaves_and_stays_there():
    """The folder is changed inside too."""
    made = inside.understood(ARGV, None, hello(), ("/home/me/out",))
    for folder in ("/home/me/out/again-0002", "/home/me/out/again-0002"):
        _, edits = made.resume(ARGV, None, folder)
        written = made.write(ARGV, {})
        assert {"output_dir": folder} == made.asked(written, edits, None)["arguments"]["set"]
        assert ["/home/me/out"] == made.asked(written, edits, None)["afresh"]


def test_a_trainer_is_known_by_its_arguments_and_not_by_what_its_loader_makes_of_them():
    """Otherwise nothing could be changed where the two differ."""
    made = inside.understood(ARGV, None, hello(batch_argument=4), ())
    asked_for = made.asked(made.write(ARGV, {"workers": 1}), (), None)["arguments"]

    assert {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2} == asked_for["where"]


def test_the_family_of_a_run_is_what_the_training_told():
    """None before it has spoken."""
    assert None is story(tell.created(family=None), tell.launched()).family
    assert "inside" == story(tell.created(family=None), tell.launched(), hello()).family
    assert "sft" == story(tell.created(), tell.launched(), hello()).family
