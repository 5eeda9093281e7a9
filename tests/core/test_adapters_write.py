"""Other settings in a command: only what was asked for changes, and the rows per step never by accident."""

import json

import pytest

from guardian.core import commandline
from guardian.core.adapters import recognise
from guardian.core.events import Edit
from guardian.core.job import SETTABLE
from guardian.errors import UserError


def no_file(path):
    """A reader for commands that name no file."""
    raise UserError(f"{path} was not to be read")


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


def write(text, settings, env=None, files=None):
    """What becomes of a command."""
    read = (files or {}).__getitem__
    return recognise(words(text), env or {}, read if files else no_file).write(words(text), settings)


def test_a_smaller_device_batch_writes_out_the_accumulation_that_nobody_gave():
    """Left implicit it would be ceil(16 / 4) and happen to fit here; the rule is not relied on."""
    new = write("sft --model m --per_device_train_batch_size=8", {"device_batch": 4, "accumulation": 4})

    assert words("sft --model m --per_device_train_batch_size=4 --gradient_accumulation_steps 4") == new.argv
    assert (Edit("device_batch", "8", "4", "preserving"), Edit("accumulation", "2", "4", "preserving")) == new.edits
    assert () == new.refused


def test_the_rows_per_step_are_held_where_only_the_device_batch_is_asked_for():
    """3 x 6 rows stay 18; swift's own rule would make 16 of them."""
    new = write("sft --model m --per_device_train_batch_size 3", {"device_batch": 1})

    assert "18" == commandline.value(new.argv, "gradient_accumulation_steps")


@pytest.mark.parametrize(
    "given, settings, why",
    [
        ("--per_device_train_batch_size 3 --gradient_accumulation_steps 5", {"device_batch": 2}, "divide the 15 rows"),
        ("--per_device_train_batch_size many", {"device_batch": 2}, "accumulation is unknown"),
        ("", {"device_batch": 0, "accumulation": 4}, "at least 1"),
    ],
)
def test_a_device_batch_that_cannot_hold_the_rows_is_refused(given, settings, why):
    """Nothing is approximated; the command stays as it is."""
    new = write(f"sft --model m {given}", settings)

    assert words(f"sft --model m {given}") == new.argv
    assert why in new.refused[0][1]
    assert "device_batch" in dict(new.refused)


def test_other_rows_per_step_are_called_a_change_of_the_experiment():
    """Where both factors are asked for they are written, and named for what they are."""
    new = write("sft --model m --per_device_train_batch_size 8", {"device_batch": 4, "accumulation": 2})

    assert {("device_batch", "changing")} == {(e.knob, e.kind) for e in new.edits if e.knob == "device_batch"}


def test_what_counts_already_is_left_as_it_stands():
    """Also where the framework fills it in."""
    given = "sft --model m --dataloader_num_workers 2 --dataloader-prefetch-factor 4"
    new = write(given, {"workers": 2, "prefetch": 4, "pin_memory": True, "eval_batch": 1, "learning_rate": 1e-4})

    assert (words(given), ()) == (new.argv, new.edits)


def test_no_workers_take_the_prefetch_with_them():
    """Torch and transformers refuse a prefetch factor without workers."""
    new = write("sft --model m --dataloader_num_workers 4 --dataloader_prefetch_factor 8 --seed 1", {"workers": 0})

    assert words("sft --model m --dataloader_num_workers 0 --seed 1") == new.argv
    assert Edit("prefetch", "8", None, "preserving") in new.edits


def test_a_prefetch_without_workers_is_refused():
    """It would end the job before its first step."""
    new = write("sft --model m", {"prefetch": 1})

    assert (words("sft --model m"), ["prefetch"]) == (new.argv, [knob for knob, _ in new.refused])


def test_a_prefetch_that_was_meant_for_workers_goes_with_them():
    """A rung asks for both: half the workers, which may be none, and little loaded ahead."""
    new = write("sft --model m --dataloader_num_workers 1", {"workers": 0, "prefetch": 1})

    assert (words("sft --model m --dataloader_num_workers 0"), ()) == (new.argv, new.refused)


def test_no_workers_are_refused_where_a_file_sets_the_prefetch():
    """The command line cannot take back what the file says, and the file is the user's."""
    new = write(
        "sft c.json", {"workers": 0}, files={"c.json": {"dataloader_prefetch_factor": 2, "dataloader_num_workers": 2}}
    )

    assert (words("sft c.json"), ["workers"]) == (new.argv, [knob for knob, _ in new.refused])


def test_what_a_file_says_is_overruled_behind_it():
    """The file itself is never edited."""
    new = write(
        "sft c.json --seed 1", {"gradient_checkpointing": True}, files={"c.json": {"gradient_checkpointing": False}}
    )

    assert words("sft c.json --seed 1 --gradient_checkpointing true") == new.argv
    assert (Edit("gradient_checkpointing", "false", "true", "preserving"),) == new.edits


def test_a_file_that_cannot_be_read_leaves_everything_unwritten():
    """Its values are unknown, and so is what would be held."""

    def unreadable(path):
        raise UserError(f"{path}: no such file")

    argv = words("sft c.yaml --per_device_train_batch_size 8")
    new = recognise(argv, {}, unreadable).write(argv, {"device_batch": 4, "workers": 1})

    assert argv == new.argv
    assert {"device_batch", "workers"} == {knob for knob, _ in new.refused}


def test_a_switch_is_read_and_written_in_its_own_spelling():
    """A flag alone means true, and the twin that HfArgumentParser makes means false."""
    job = recognise(words("sft --gradient-checkpointing --no_dataloader_pin_memory"), {}, no_file)

    assert (True, False) == (job.spec.knob("gradient_checkpointing"), job.spec.knob("pin_memory"))
    assert (
        words("sft --gradient-checkpointing false")
        == write("sft --gradient-checkpointing", {"gradient_checkpointing": False}).argv
    )


def test_a_twin_that_stands_behind_goes():
    """It would win over the edited switch."""
    given = "sft --model m --dataloader_pin_memory true --no_dataloader_pin_memory --seed 1"

    assert words("sft --model m --dataloader_pin_memory true --seed 1") == write(given, {"pin_memory": True}).argv


DS = {
    "train_micro_batch_size_per_gpu": 8,
    "gradient_accumulation_steps": "auto",
    "train_batch_size": 32,
    "optimizer": {"params": {"lr": 1e-4}},
    "zero_optimization": {"stage": 2},
}


def test_a_deepspeed_file_with_numbers_of_its_own_is_followed_by_a_copy():
    """Its numbers must equal the command's (transformers refuses otherwise); `auto` and the rest stay."""
    given = "sft --model m --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --deepspeed conf/ds.json"
    new = write(given, {"device_batch": 2, "accumulation": 8}, {"NPROC_PER_NODE": "2"}, {"conf/ds.json": DS})

    ((name, text),) = new.overlays
    assert ("ds.json", "{overlays}/ds.json") == (name, commandline.value(new.argv, "deepspeed"))
    assert {**DS, "train_micro_batch_size_per_gpu": 2} == json.loads(text)
    assert Edit("deepspeed", "conf/ds.json", "{overlays}/ds.json", "preserving") in new.edits


def test_a_deepspeed_file_that_leaves_the_numbers_to_the_command_is_used_as_it_is():
    """No copy where nothing in it would change."""
    numbers = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")
    auto = {**dict.fromkeys(numbers, "auto"), "zero_optimization": {"stage": 1}}
    given = "sft --per_device_train_batch_size 8 --deepspeed ds.json"

    assert () == write(given, {"device_batch": 4}, files={"ds.json": auto}).overlays
    assert () == write(given, {"workers": 2}, files={"ds.json": DS}).overlays


def test_a_lower_learning_rate_reaches_the_deepspeed_files_optimizer():
    """Its own lr would be refused as a mismatch."""
    given = "sft --per_device_train_batch_size 8 --gradient_accumulation_steps 4 --deepspeed ds.json"
    new = write(given, {"learning_rate": 5e-5}, files={"ds.json": DS})

    assert 5e-5 == json.loads(dict(new.overlays)["ds.json"])["optimizer"]["params"]["lr"]
    assert ("learning_rate", "changing") in {(e.knob, e.kind) for e in new.edits}


def test_a_warm_up_in_steps_yields_to_one_as_a_share():
    """They exclude each other."""
    new = write("sft --model m --warmup_steps 20", {"warmup_ratio": 0.1})

    assert ("0", "0.1") == tuple(commandline.value(new.argv, name) for name in ("warmup_steps", "warmup_ratio"))


EVERY = {
    "device_batch": 4, "accumulation": 4, "workers": 1, "prefetch": 1, "pin_memory": False, "eval_batch": 2,
    "gradient_checkpointing": False, "learning_rate": 1e-05, "warmup_ratio": 0.2, "max_length": 64, "dtype": "float32",
    "save_total_limit": 3, "ddp_find_unused_parameters": True, "ddp_timeout": 60,
}  # fmt: skip


def test_the_trainers_own_parser_reads_every_setting():
    """Each flag that is written exists over there, and reads back as the value that was meant."""
    parser = pytest.importorskip("guardian.trainer.command_line")
    assert EVERY.keys() == SETTABLE
    new = write("sft --model m --dataset demo --per_device_train_batch_size 16 --warmup_steps 5", EVERY)
    read = parser.given_values(new.argv, {})

    assert () == new.refused
    names = {edit.knob for edit in new.edits} - {"warmup_steps"}
    assert EVERY.keys() == names
    assert (4, 4, 1, 1, False, 2) == tuple(
        read[name]
        for name in (
            "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_num_workers",
            "dataloader_prefetch_factor", "dataloader_pin_memory", "per_device_eval_batch_size",
        )
    )  # fmt: skip
    assert (1e-05, 0.2, 64, "float32", 3, True, 60) == tuple(
        read[name]
        for name in (
            "learning_rate", "warmup_ratio", "max_length", "torch_dtype", "save_total_limit",
            "ddp_find_unused_parameters", "ddp_timeout",
        )
    )  # fmt: skip
