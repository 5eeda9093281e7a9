"""Commands that say nothing of what they train: read, changed and resumed from inside, and proved."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from tests.faults.harness import JOBS
from tests.frameworks.test_runs import (
    FACTORY,
    GLOO,
    SWIFT,
    finished_again,
    harm,
    hellos,
    smaller_batch,
    supervised,
    tiny,
)

__all__ = ["supervised"]

SCRIPT = str(JOBS / "fixed_script.py")
RANKS = "-m torch.distributed.run --standalone --nproc_per_node 2"
MEMORY = {"do": "memory", "step": 5, "rank": 0, "rows": 2}
AUTO = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
ZERO = {"zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True, **dict.fromkeys(AUTO, "auto")}


def train_sh(folder, *lines):
    """`bash train.sh`, as people keep it: variables, then what starts the training."""
    (folder / "train.sh").write_text("\n".join(["#!/bin/bash", "export OMP_NUM_THREADS=1", *lines, ""]))
    return "bash", "train.sh"


def done_to(python, what, **script):
    """The environment of a job that is harmed so, and whose script is otherwise so."""
    return harm(python, **what) | {"WHAT": json.dumps(script)}


def test_a_script_in_train_sh_that_runs_out_of_memory_goes_on_with_a_smaller_batch(supervised, tmp_path):
    """Nothing that starts it is changed: its arguments are, inside, and the accumulation with them."""
    guarded = supervised(*train_sh(tmp_path, f"python {SCRIPT}"), env=done_to(sys.executable, MEMORY))

    smaller_batch(guarded, rows=4, before=(4, 1), after=(2, 2))
    first, second = guarded.events(ev.Planned)
    assert first.argv == second.argv
    assert ("inside", SCRIPT) == (guarded.report()["family"], guarded.report()["program"][0])


@pytest.mark.long
def test_a_folder_that_is_new_at_each_start_is_gone_on_from_all_the_same(supervised, tmp_path):
    """What the script saved the first time is found, and what it saves the second time counts too."""
    command = train_sh(tmp_path, f"python {SCRIPT}")
    guarded = supervised(*command, env=done_to(sys.executable, {"do": "kill", "step": 5, "rank": 0}, folders=True))

    finished_again(guarded, from_step=3, steps=8, rows=4)
    assert 2 == len({hello.output_dir for hello in hellos(guarded)})


@pytest.mark.long
@pytest.mark.parametrize("harmed", [{"do": "kill", "step": 5, "rank": 0}, MEMORY], ids=["killed", "memory"])
def test_a_script_with_a_parser_of_its_own_is_given_no_flag_that_it_does_not_know(supervised, harmed):
    """By its flags it looks like one with TrainingArguments; a flag that it does not know would end it."""
    flags = ("--output_dir", "out", "--per_device_train_batch_size", "4", "--num_train_epochs", "1")
    guarded = supervised(sys.executable, SCRIPT, *flags, env=done_to(sys.executable, harmed, parser=True))

    if harmed is MEMORY:
        smaller_batch(guarded, rows=4, before=(4, 1), after=(2, 2))
    else:
        finished_again(guarded, from_step=3, steps=8, rows=4)
    first, second = guarded.events(ev.Planned)
    assert first.argv == second.argv
    assert "transformers" == guarded.report()["family"]


@pytest.mark.long
def test_what_deepspeed_took_from_the_arguments_follows_them(supervised, tmp_path):
    """`auto` was filled in before the trainer was made: it is filled in again."""
    command = train_sh(tmp_path, f"python {RANKS} {SCRIPT}")
    env = done_to(sys.executable, MEMORY | {"rank": 1}, deepspeed=ZERO) | {"DS_ACCELERATOR": "cpu"}

    smaller_batch(supervised(*command, env=env), rows=8, before=(4, 1), after=(2, 2))


NUMBERS = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1, "train_batch_size": 8}


@pytest.mark.long
@pytest.mark.parametrize(
    "script, why",
    [({"deepspeed": ZERO | NUMBERS}, "DeepSpeed configuration gives its own"), ({"loader": True}, "OwnLoader")],
    ids=["numbers in DeepSpeed", "a loader of its own"],
)
def test_a_batch_that_the_arguments_do_not_make_is_left_alone(supervised, tmp_path, script, why):
    """It would change the accumulation alone, and the rows per step with it: refused in words, and nothing is tried."""
    command = train_sh(tmp_path, f"python {RANKS} {SCRIPT}")
    env = done_to(sys.executable, MEMORY | {"rank": 1}, **script) | {"DS_ACCELERATOR": "cpu"}
    guarded = supervised(*command, env=env)

    assert 1 == guarded.run(), guarded.shown()[-5000:]
    assert {(4, 1)} == {(hello.device_batch, hello.accumulation) for hello in hellos(guarded)}
    assert any(
        "device_batch cannot be set" in one and why in one for one in guarded.report()["attempts"][1]["not_tried"]
    )


@pytest.mark.long
@pytest.mark.parametrize("family", ["swift", "swift3"])
@pytest.mark.parametrize("harmed", ["kill", "memory"])
def test_swift_in_train_sh(supervised, tmp_path, family, harmed):
    """Its version of the folder is a new one at each start; the accumulation that it filled in is doubled inside."""
    python = tiny(family, tmp_path)
    words = shlex.join([*SWIFT, "--model", "tiny/model", "--dataset", "tiny/messages.jsonl", *GLOO])
    command = train_sh(tmp_path, "export NPROC_PER_NODE=2", f"{python.parent / 'swift'} {words}")
    done = {"do": "kill", "step": 6, "rank": 1} if harmed == "kill" else MEMORY | {"rank": 1, "rows": 1}
    guarded = supervised(*command, env=harm(python, **done))

    if harmed == "kill":
        finished_again(guarded, from_step=3, steps=8, rows=16)
    else:
        smaller_batch(guarded, rows=16, before=(2, 4), after=(1, 8))
    assert ["v0", "v1"] == [Path(hello.output_dir).name.partition("-")[0] for hello in hellos(guarded)]


@pytest.mark.long
def test_llama_factory_in_train_sh_that_runs_out_of_memory_goes_on_with_a_smaller_batch(supervised, tmp_path):
    """Its own search for a checkpoint is overruled, and its file is not touched."""
    python = tiny("llamafactory", tmp_path)
    (tmp_path / "x.yaml").write_text(json.dumps(FACTORY | {"model_name_or_path": "tiny/model", "dataset_dir": "tiny"}))
    command = train_sh(tmp_path, f"{python.parent / 'llamafactory-cli'} train x.yaml")
    guarded = supervised(*command, env=harm(python, **MEMORY | {"rows": 1}))

    smaller_batch(guarded, rows=4, before=(2, 2), after=(1, 4))
