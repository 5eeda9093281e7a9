"""Real runs, each a process of its own: what a newcomer sees, and what a killed run does when it goes on."""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal

import pytest
from guardian.trainer import checkpoints

from tests.interpreters import PYTHONS_4_LONG
from tests.trainer.jobs import DEMO, PATIENCE_S, logged, losses, run, run_until_killed, start, wait_for

pytest.importorskip("torch")

TWELVE = (*DEMO, "--output_dir", "out", "--max_steps", "12", "--save_steps", "5")  # two epochs of six steps


@pytest.fixture(scope="module", params=PYTHONS_4_LONG)
def python(request):
    """The interpreter that the trainer runs in, with the one transformers or the other."""
    return request.param


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory):
    """The first command of the README, with a line for each step."""
    folder = tmp_path_factory.mktemp("newcomer")
    printed = run("--model", "demo", "--dataset", "demo", "--output_dir", "out", "--logging_steps", "1", cwd=folder)
    (made,) = (folder / "out").iterdir()
    return made, printed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, python):
    """Loss by step of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(*TWELVE, cwd=folder, python=python)
    return losses(folder / "out")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, python):
    """A folder whose run was SIGKILLed in its seventh step or soon after, beyond checkpoint-5."""
    folder = tmp_path_factory.mktemp("killed")
    run_until_killed(*TWELVE, cwd=folder, step=7, python=python)
    return folder


def same(expected, found):
    """Equal losses at each step: to a millionth, or in all four digits behind the point where there are no more.

    transformers 4 rounds before it logs, so that a millionth may turn the last digit.
    """
    within = 1e-6 if any(round(loss, 4) != loss for loss in expected.values()) else 1.01e-4
    return {step: pytest.approx(loss, rel=1e-6, abs=within) for step, loss in expected.items()} == found


def arguments(output_dir, *names):
    """What the record of a run says of these."""
    recorded = json.loads((output_dir / "args.json").read_text())
    return [recorded[name] for name in names]


def test_the_loss_of_the_demo_falls(newcomer):
    """Over its 200 steps, by much more than the noise of a step."""
    values = [loss for _, loss in sorted(losses(newcomer[0]).items())]

    assert 200 == len(values)
    assert sum(values[-20:]) / 20 < 0.8 * sum(values[:20]) / 20


def test_a_run_leaves_what_ms_swift_leaves(newcomer):
    """A version folder with whole checkpoints, their arguments, and a log that ends with a summary."""
    folder, _ = newcomer
    steps = sorted(checkpoints.step_of(each) for each in folder.glob("checkpoint-*"))

    assert re.fullmatch(r"v0-\d{8}-\d{6}", folder.name)
    assert (list(range(20, 201, 20)), set()) == (
        steps,
        {checkpoints.fault(each) for each in folder.glob("checkpoint-*")} - {None},
    )
    assert {"checkpoint-20", "args.json", "logging.jsonl"} <= {each.name for each in folder.iterdir()}
    assert [4, 4, 16] == arguments(
        folder, "per_device_train_batch_size", "gradient_accumulation_steps", "effective_batch"
    )
    assert ("checkpoint-200", 200, None) == (
        logged(folder)[-1]["last_model_checkpoint"].rpartition("/")[2],
        *(logged(folder)[-1][name] for name in ("global_step", "stop_reason")),
    )


def test_the_printed_lines_are_the_logged_numbers(newcomer):
    """As transformers 5 prints them: a dict of texts with four digits, each on a line of its own."""
    folder, printed = newcomer
    lines = [ast.literal_eval(line) for line in printed.splitlines() if line.startswith("{")]

    assert [f"{entry['loss']:.4g}" for entry in logged(folder) if "loss" in entry] == [
        line["loss"] for line in lines if "loss" in line
    ]
    assert ("1/200", "200/200") == (lines[0]["global_step/max_steps"], lines[-1]["global_step/max_steps"])
    assert "where nothing was given: tuner_type full" in printed
    assert "rows per optimizer step: 16 = 4 per rank x 4 accumulated x 1 rank" in printed


def test_a_checkpoint_is_a_model(newcomer, tmp_path):
    """--model <checkpoint> begins with the loss that the run had reached."""
    folder, _ = newcomer
    begin = (
        "--dataset",
        "demo#16",
        "--tuner_type",
        "full",
        "--max_steps",
        "1",
        "--output_dir",
        "out",
        "--add_version",
        "no",
    )
    run("--model", str(folder / "checkpoint-200"), *begin, cwd=tmp_path)

    assert losses(tmp_path / "out")[1] < 0.8 * losses(folder)[1]


def test_a_run_killed_and_resumed_repeats_the_undisturbed_one(undisturbed, killed, python, tmp_path):
    """The same losses at every step, those that ran twice among them, over the end of an epoch."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    before = len(logged(tmp_path / "out"))
    printed = run(*TWELVE, "--resume_from_checkpoint", "true", cwd=tmp_path, python=python)

    assert "resuming from out/checkpoint-5" in printed
    assert {*range(6, 13)} == {
        int(each["global_step/max_steps"].split("/")[0]) for each in logged(tmp_path / "out")[before:-1]
    }
    assert same(undisturbed, losses(tmp_path / "out"))


def test_another_split_of_the_same_batch_repeats_it_too(undisturbed, killed, python, tmp_path):
    """2 x 8 in place of 4 x 4: what a supervisor does when memory runs out."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    split = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "8", "--save_steps", "3")
    resumed = ("--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-5"), *split)
    run(*TWELVE, *resumed, cwd=tmp_path, python=python)

    assert same(undisturbed, losses(tmp_path / "out"))
    assert {5, 6, 9, 12} == {checkpoints.step_of(each) for each in (tmp_path / "out").glob("checkpoint-*")}


def test_workers_checkpointed_activations_and_evaluations_change_no_loss(undisturbed, python, tmp_path):
    """How memory is spent is no part of the experiment; every evaluation and the rotation happen beside it."""
    loading = ("--dataloader_num_workers", "2", "--dataloader_prefetch_factor", "1", "--dataloader_pin_memory", "no")
    saving = ("--val_dataset", "demo#10", "--eval_steps", "3", "--save_total_limit", "2")
    sparing = ("--gradient_checkpointing", "true", "--per_device_eval_batch_size", "4")
    run(*TWELVE, *loading, *saving, *sparing, cwd=tmp_path, python=python)
    evaluated = [entry for entry in logged(tmp_path / "out") if "eval_loss" in entry]
    asked = ("dataloader_num_workers", "dataloader_prefetch_factor", "gradient_checkpointing", "eval_steps")

    assert same(undisturbed, losses(tmp_path / "out"))
    assert ["3/12", "6/12", "9/12", "12/12"] == [entry["global_step/max_steps"] for entry in evaluated]
    assert [2, 1, True, 3] == arguments(tmp_path / "out", *asked)
    assert {10, 12} == {checkpoints.step_of(each) for each in (tmp_path / "out").glob("checkpoint-*")}


def test_two_ranks_are_one_group(undisturbed, python, tmp_path):
    """They train the rows that one process trains; each checkpoint holds the random state of both."""
    patience = ("--ddp_timeout", "900", "--ddp_find_unused_parameters", "true")
    printed = run(*TWELVE, *patience, cwd=tmp_path, ranks=2, python=python)

    assert "rows per optimizer step: 16 = 4 per rank x 2 accumulated x 2 ranks" in printed
    assert same(undisturbed, losses(tmp_path / "out"))
    assert [900, True] == arguments(tmp_path / "out", "ddp_timeout", "ddp_find_unused_parameters")
    assert 2 == len({*(tmp_path / "out" / "checkpoint-5").glob("rng_state_[01].pth")})
    assert 1 == printed.count("'12/12', 'elapsed_time'") - printed.count("'train_runtime'")


def test_adapters_are_saved_and_trained_on(python, tmp_path):
    """An adapter checkpoint can be resumed, and be the model of another run."""
    lora = (
        "--tuner_type",
        "lora",
        "--lora_dropout",
        "0",
        "--learning_rate",
        "1e-2",
        "--gradient_checkpointing",
        "true",
    )
    run(*DEMO, *lora, "--output_dir", "out", "--max_steps", "8", cwd=tmp_path, python=python)
    adapter = tmp_path / "out" / "checkpoint-8"
    more = ("--dataset", "demo#96", "--max_steps", "1", "--output_dir", "more", "--add_version", "false")
    run("--model", str(adapter), *more, cwd=tmp_path, python=python)
    values = losses(tmp_path / "out")

    assert (None, True) == (checkpoints.fault(adapter), (adapter / "adapter_model.safetensors").exists())
    assert losses(tmp_path / "more")[1] < (values[1] + values[8]) / 2


def test_early_stopping_is_said_and_ends_well(tmp_path):
    """A learning rate of nothing improves nothing."""
    stop = ("--split_dataset_ratio", "0.1", "--early_stop_interval", "2", "--learning_rate", "0", "--eval_steps", "1")
    printed = run(*DEMO, *stop, "--output_dir", "out", "--max_steps", "9", cwd=tmp_path)

    assert "Stopped early at step 3 of 9" in printed
    assert "Stopped early at step 3 of 9" in logged(tmp_path / "out")[-1]["stop_reason"]


def test_a_finished_run_trains_no_step_more(killed, python, tmp_path):
    """The frameworks would train one beyond the end."""
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    done = ("--resume_from_checkpoint", "true", "--max_steps", "5")

    printed = run(*TWELVE, *done, cwd=tmp_path, python=python)

    assert "nothing left to train: out/checkpoint-5 is at step 5 of 5" in printed


def test_what_only_the_framework_can_refuse_is_one_line_too(tmp_path):
    """Before the model is loaded, without a traceback."""
    process = start(*DEMO, "--optim", "adamx", "--output_dir", "out", cwd=tmp_path)
    printed, _ = process.communicate(timeout=PATIENCE_S)

    assert (2, False) == (process.returncode, "Traceback" in printed)
    assert "guardian.trainer: error: transformers refuses the arguments: adamx is not" in printed.splitlines()[-1]


@pytest.mark.long
def test_deepspeed_shards_are_saved_and_resumed_from(tmp_path):
    """ZeRO-2 over two ranks, killed by nobody: the second half repeats after a resume from the middle."""
    pytest.importorskip("deepspeed")
    zero = (*DEMO, "--output_dir", "out", "--max_steps", "6", "--save_steps", "3", "--deepspeed", "zero2")
    run(*zero, cwd=tmp_path, ranks=2)
    whole = losses(tmp_path / "out")
    middle = tmp_path / "out" / "checkpoint-3"
    assert checkpoints.fault(middle) is None
    run(*zero, "--resume_from_checkpoint", str(middle), cwd=tmp_path, ranks=2)

    assert 9 == sum("loss" in entry for entry in logged(tmp_path / "out"))
    assert same(whole, losses(tmp_path / "out"))


@pytest.mark.long
def test_an_interrupt_ends_the_run_in_one_line(tmp_path):
    """Ctrl-C ends the run with a line and the shell's code for it."""
    process = start(*DEMO, "--output_dir", "out", "--max_steps", "500", cwd=tmp_path)
    wait_for(lambda: losses(tmp_path / "out") or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_S)

    assert (130, False) == (process.returncode, "Traceback" in printed)
