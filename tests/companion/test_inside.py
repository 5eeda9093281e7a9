"""What the companion reads off a trainer, and how it changes the arguments that one is made of; without a training."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from types import SimpleNamespace

import pytest

from tests.companion.launching import COMPANION, companion_module


def module():
    """The companion's file as a module of its own, with nothing noticed yet."""
    spec = importlib.util.spec_from_file_location("guardian_inside", COMPANION / "guardian_inside.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def watching(monkeypatch):
    """The module while it watches parsers; they are as they were afterwards."""
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", argparse.ArgumentParser.parse_known_args)
    made = module()
    made.watch_parsers()
    return made


def arguments(**more):
    """Of a plain training on one process."""
    given = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "auto_find_batch_size": False,
        "deepspeed": None, "deepspeed_plugin": None, "save_total_limit": None, "dataloader_num_workers": 2,
    }  # fmt: skip
    return SimpleNamespace(**(given | more))


def trainer(place="transformers.trainer", kind="Trainer"):
    """One of that name, whose data loader is made by code of that module."""

    def get_train_dataloader():
        raise NotImplementedError

    get_train_dataloader.__module__ = place
    return type("Mine", (type(kind, (SimpleNamespace,), {}),), {})(get_train_dataloader=get_train_dataloader)


@pytest.mark.parametrize(
    "options, taken",
    [
        ({"type": str}, True),
        ({"action": "store_true"}, False),
        (None, False),
    ],
)
def test_a_parser_that_takes_a_checkpoint_is_noticed(watching, monkeypatch, options, taken):
    """A switch of that name takes none; and what is parsed is the same as without us."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--batch", "4"])
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int)
    if options is not None:
        parser.add_argument("--resume_from_checkpoint", **options)

    assert 4 == parser.parse_args().batch
    assert taken is watching.seen["takes_resume"]


def test_a_parser_that_reads_other_words_tells_nothing_of_the_command_line(watching, monkeypatch):
    """A script may ask for TrainingArguments' defaults by parsing a list of its own."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--batch", "4"])
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume_from_checkpoint")
    parser.parse_args([])
    parser.parse_args(["--resume_from_checkpoint", "here"])

    assert not watching.seen["takes_resume"]


@pytest.mark.parametrize(
    "args, made, loader_batch, why",
    [
        (arguments(), trainer(), 4, None),
        (arguments(), trainer("swift.trainers.mixin"), None, None),
        (arguments(), trainer("__main__"), 4, "makes its own data loader"),
        (arguments(), trainer(), 8, "the data loader makes batches of 8 rows, and the arguments say 4"),
        (arguments(auto_find_batch_size=True), trainer(), 4, "auto_find_batch_size"),
        (arguments(), trainer(kind="CustomKTOTrainer"), 4, "KL term"),
        (arguments(), trainer("swift.trainers.mixin", "EmbeddingTrainer"), 4, "each other's negatives"),
        (arguments(num_generations=8), trainer(), 4, "answers that are generated"),
        (arguments(accelerator_config=SimpleNamespace(split_batches=True)), trainer(), None, "split_batches"),
        (arguments(deepspeed_plugin=1), trainer(), 4, "accelerate's DeepSpeed settings repeat it"),
        (arguments(deepspeed_plugin=1, deepspeed="no such file"), trainer(), 4, "FileNotFoundError"),
        (arguments(deepspeed_plugin=1, deepspeed={"gradient_accumulation_steps": "auto"}), trainer(), 4, None),
        (arguments(deepspeed_plugin=1, deepspeed={"train_batch_size": 8}), trainer(), 4, "its own train_batch_size"),
        (arguments(deepspeed_plugin=1, deepspeed={"zero_optimization": {}}), trainer(), 4, "leaves gradient_accumulation_steps out"),
    ],
)  # fmt: skip
def test_a_batch_that_arguments_do_not_make_is_told_with_the_reason(args, made, loader_batch, why):
    """Changed alone, the accumulation would change the rows per step."""
    fixed = module().fixed(made, args, loader_batch)

    assert (why is None) == ("device_batch" not in fixed)
    assert fixed.get("device_batch") == fixed.get("accumulation")
    assert why is None or why in fixed["device_batch"]


WANTED = {
    "set": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    "where": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
}


def test_arguments_are_given_other_values():
    """Those that were asked for, and no others."""
    args = arguments()
    module().edit(args, WANTED)

    assert (2, 2, 2) == (
        args.per_device_train_batch_size, args.gradient_accumulation_steps, args.dataloader_num_workers
    )  # fmt: skip


@pytest.mark.parametrize("args", [arguments(per_device_train_batch_size=16), None])
def test_arguments_of_another_training_are_left_alone(args):
    """A script may train something else first; why is said."""
    before = vars(args).copy() if args else None
    with pytest.raises(LookupError):
        module().edit(args, WANTED)

    assert before == (vars(args) if args else None)


def test_no_workers_take_what_is_about_workers_along():
    """torch refuses the one without the other."""
    args = arguments(dataloader_prefetch_factor=4, dataloader_persistent_workers=True)
    module().edit(args, {"set": {"dataloader_num_workers": 0}, "where": {}})

    assert (0, None, False) == (
        args.dataloader_num_workers, args.dataloader_prefetch_factor, args.dataloader_persistent_workers
    )  # fmt: skip


@pytest.mark.parametrize(
    "version, expected",
    [("5.19.0", {"warmup_steps": 0.03}), ("4.57.6", {"warmup_ratio": 0.03, "warmup_steps": 0})],
)
def test_a_warm_up_is_named_as_the_version_names_it(monkeypatch, version, expected):
    """transformers 5 has lost a name."""
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__=version))
    args = arguments()
    module().edit(args, {"set": {"warmup_ratio": 0.03}, "where": {}})

    assert expected == {name: getattr(args, name) for name in expected}


def told(folder, *events):
    """A heartbeat with these lines."""
    (folder / "heartbeat.0.jsonl").write_text("".join(f'{{"t": 1, "ev": "{event}"}}\n' for event in events))


@pytest.mark.parametrize(
    "before, home, given, handed",
    [
        ((), "/w/out", None, True),  # the training that made it
        ((), "/w/v1", None, True),  # the same, in a folder that is new at each start
        ((), "/w/v1", "/w/v0/checkpoint-9", True),  # whatever its script says
        (("hello",), "/w/v1", None, True),  # begun again by its launcher
        (("hello", "end"), "/w/other", None, False),  # the one after it
        (("hello", "end"), "/w/out", None, True),  # one before it was left out this time
        (("hello", "end"), "/w/out", "/w/mine", False),
    ],
)
def test_a_checkpoint_is_handed_to_the_training_that_made_it(tmp_path, before, home, given, handed):
    """And to no other that the script, or one after it, does too."""
    companion = companion_module()
    told(tmp_path, *before)
    one = companion.Companion()
    one.heartbeat = companion.Heartbeat(str(tmp_path))
    one.knobs = {"resume": "/w/out/checkpoint-5", "training": 1}
    args = SimpleNamespace(process_index=0, output_dir=home, resume_from_checkpoint=None)
    made = SimpleNamespace(args=args)

    path = "/w/out/checkpoint-5" if handed else given
    assert ((path,), {}) == one.enter_train(made, (given,), {})
    assert path == one.enter_train(made, (), {"resume_from_checkpoint": given})[1]["resume_from_checkpoint"]


@pytest.mark.parametrize(
    "given, left",
    [(True, None), ("/w/out/checkpoint-9", None), ("/elsewhere/checkpoint-9", "/elsewhere/checkpoint-9"), (None, None)],
)
def test_a_training_that_begins_afresh_is_given_nothing_of_what_it_goes_back_behind(tmp_path, given, left):
    """A script may look for the newest checkpoint by itself; one that it began with is no such thing."""
    companion = companion_module()
    one = companion.Companion()
    one.heartbeat = companion.Heartbeat(str(tmp_path))
    one.knobs = {"afresh": ["/w/out"], "training": 1}
    made = SimpleNamespace(args=SimpleNamespace(process_index=0, output_dir="/w/out/again-0003"))

    assert ((left,), {}) == one.enter_train(made, (given,), {})
