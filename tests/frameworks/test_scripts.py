"""What is written for scripts is what transformers' own parser reads, and the launchers' tables are theirs."""

import argparse

import pytest

from guardian.core.adapters import hf, launchers, recognise
from guardian.core.adapters.writing import WRITTEN
from guardian.errors import UserError
from tests.frameworks.reading import read_by

SETTINGS = {
    "device_batch": 2, "accumulation": 8, "workers": 1, "prefetch": 3, "pin_memory": False, "eval_batch": 2,
    "gradient_checkpointing": True, "learning_rate": 1e-05, "save_total_limit": 3, "ddp_find_unused_parameters": True,
    "ddp_timeout": 60,
}  # fmt: skip
CKPT = "/w/out/checkpoint-5"


def no_file(path):
    """A reader for commands that name no file."""
    raise UserError(f"{path} was not to be read")


@pytest.fixture(scope="module")
def defaults(tmp_path_factory):
    """TrainingArguments where nothing is given."""
    return read_by("transformers", (), tmp_path_factory.mktemp("defaults"))


def test_the_defaults_are_the_frameworks_own(defaults):
    """What nobody gives is filled in with these."""
    ours = {hf.NAMES[knob]: value for knob, value in hf.DEFAULTS.items()}

    assert ours == {name: defaults[name] for name in ours}


def test_every_setting_is_read_back_by_the_frameworks_parser(tmp_path):
    """Every flag that is written exists over there and means what was meant, also over a twin that says no."""
    argv = ("python", "train.py", "--output_dir", "out", "--per_device_train_batch_size=16", "--fp16", "--use_cpu")
    made = recognise((*argv, "--no_dataloader_pin_memory"), {}, no_file)
    new = made.write((*argv, "--no_dataloader_pin_memory"), SETTINGS | {"dtype": "float32", "pin_memory": True})
    new, _ = made.resume(new.argv, CKPT, "/w/out")
    read = read_by("transformers", new[2:], tmp_path)

    meant = {WRITTEN[knob]: value for knob, value in SETTINGS.items()} | {"pinned": True}
    del meant["dataloader_pin_memory"]
    assert meant == {name: read[name] for name in meant}
    assert (False, False, CKPT, "out") == tuple(
        read[name] for name in ("fp16", "bf16", "resume_from_checkpoint", "output_dir")
    )


def switches(parser):
    """The options that take no value, with underscores."""
    return {
        option if option[:2] != "--" else "--" + option[2:].replace("-", "_")
        for action in parser._actions
        if action.nargs == 0
        for option in action.option_strings
    }


def test_torchruns_switches_are_its_own():
    """An option in the wrong table would make its value the script."""
    run = pytest.importorskip("torch.distributed.run")

    assert set(launchers.TORCHRUN_SWITCHES) == switches(run.get_args_parser())


def test_accelerates_switches_are_its_own():
    """As torchrun's."""
    launch = pytest.importorskip("accelerate.commands.launch")

    assert set(launchers.ACCELERATE_SWITCHES) == switches(launch.launch_command_parser())


def test_deepspeeds_switches_are_its_own(monkeypatch):
    """As torchrun's; its parser is made inside a function."""
    runner = pytest.importorskip("deepspeed.launcher.runner")
    seen = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, *_, **__: seen.append(self))
    runner.parse_args([])

    assert set(launchers.DEEPSPEED_SWITCHES) == switches(seen[0])
