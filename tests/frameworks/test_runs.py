"""Users' own frameworks, killed and resumed: finished, the batch counted, the certificate proved, nothing left over."""

import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from tests.faults.harness import JOBS, Guarded, marked
from tests.frameworks.reading import python_of
from tests.frameworks.starts import around, make_model

SCRIPT = (
    str(JOBS / "hf_script.py"), "--output_dir", "out", "--per_device_train_batch_size", "2",
    "--gradient_accumulation_steps", "2", "--max_steps", "10", "--save_steps", "3", "--logging_steps", "1",
    "--learning_rate", "0.01", "--use_cpu", "--report_to", "none", "--kill_at", "5",
)  # fmt: skip
TORCHRUN = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2")
GLOO = ("--ddp_backend", "gloo")
SWIFT = (
    "sft", "--model_type", "qwen2", "--template", "chatml", "--torch_dtype", "float32", "--fp16", "false",
    "--lora_dropout", "0", "--logging_steps", "1", "--max_length", "128", "--use_hf", "true", "--report_to", "none",
    "--use_cpu", "true", "--check_model", "false", "--max_steps", "8", "--save_steps", "3", "--output_dir", "out",
    "--per_device_train_batch_size", "2",
)  # fmt: skip
"""Its own words behind `swift`, for those who start it from elsewhere; model and rows are still to be named."""
FACTORY = {
    "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_dropout": 0, "dataset": "tiny",
    "template": "default", "cutoff_len": 128, "output_dir": "out", "logging_steps": 1, "save_steps": 3,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.001, "report_to": "none",
    "bf16": False, "fp16": False, "overwrite_cache": True, "use_cpu": True, "max_steps": 8,
}  # fmt: skip
"""LLaMA-Factory's, likewise."""


@pytest.fixture
def supervised(tmp_path):
    """Starts a command under guardian; nothing of it outlives the test."""
    started = []

    def start(*command, env=None):
        guarded = Guarded(tmp_path, *command, env=env)
        started.append(guarded)
        return guarded

    yield start
    for guarded in started:
        guarded.clean_up()


def harm(python, **deed):
    """The environment in which one thing is done to a job of that Python."""
    return around(python, deed)


def tiny(family, folder):
    """A model and rows for it, made by the framework's own transformers; the interpreter."""
    make_model(family, folder / "tiny")
    return Path(python_of(family))


def finished_again(guarded, *, from_step, steps, rows):
    """The run was killed once, went on from a checkpoint, and proves that it trained the same."""
    code = guarded.run()
    report = guarded.report()
    assert (0, "finished", "proved") == (code, report["outcome"], report["certificate"]["verdict"]), guarded.shown()[
        -5000:
    ]
    assert [None, from_step] == [a["resume_step"] or None for a in report["attempts"]]
    assert (steps, rows) == (report["steps_done"], report["effective_batch"])
    assert {} == marked(guarded.story().created.run)


@pytest.mark.parametrize("launcher", [(sys.executable,), TORCHRUN], ids=["python", "torchrun"])
def test_a_plain_script_is_killed_and_goes_on(supervised, launcher):
    """It is told where from on its own command line, and the folder is its own."""
    guarded = supervised(*launcher, *SCRIPT, *(GLOO if len(launcher) > 1 else ()))

    finished_again(guarded, from_step=3, steps=10, rows=8 if len(launcher) > 1 else 4)
    assert "transformers" == guarded.events(ev.RunCreated)[0].family
    assert ["resume_from"] == [edit.knob for edit in guarded.events(ev.Planned)[1].edits]


def test_a_script_that_hands_no_checkpoint_to_train_goes_on_all_the_same(supervised):
    """Otherwise it would begin again, in silence and over its own checkpoints: the companion hands it on."""
    guarded = supervised(sys.executable, *SCRIPT, "--forgetful", "true")

    finished_again(guarded, from_step=3, steps=10, rows=4)


@pytest.mark.long
def test_a_script_under_accelerate_is_killed_and_goes_on(supervised):
    """Its launcher's options are not the script's."""
    accelerate = str(Path(sys.executable).parent / "accelerate")
    guarded = supervised(accelerate, "launch", "--num_processes", "1", "--cpu", *SCRIPT)

    finished_again(guarded, from_step=3, steps=10, rows=4)


def test_swift_is_killed_and_goes_on(supervised, tmp_path):
    """As people start it: LoRA, its own command, flags, and the accumulation that it fills in."""
    python = tiny("swift", tmp_path)
    command = (str(python.parent / "swift"), *SWIFT, "--model", "tiny/model", "--dataset", "tiny/messages.jsonl")
    guarded = supervised(*command, env=harm(python, do="kill", step=6, rank=0))

    finished_again(guarded, from_step=3, steps=8, rows=16)
    assert ["resume_from", "output_dir", "add_version"] == [e.knob for e in guarded.events(ev.Planned)[1].edits]


def smaller_batch(guarded, *, rows, before, after):
    """The run ran out of memory once, went on with a smaller device batch, and every step had the same rows."""
    code = guarded.run()
    report = guarded.report()
    assert (0, "finished", "proved") == (code, report["outcome"], report["certificate"]["verdict"]), guarded.shown()[
        -5000:
    ]
    assert [before, after] == [(h.device_batch, h.accumulation) for h in hellos(guarded)]
    assert (8, rows) == (report["steps_done"], report["effective_batch"])


def hellos(guarded):
    """What rank 0 of each attempt said of itself."""
    return [hello for hello in guarded.events(ev.Hello) if hello.rank == 0]


def test_a_script_that_runs_out_of_memory_goes_on_with_a_smaller_batch(supervised):
    """Its flags are edited, and the accumulation that nobody gave is written out."""
    guarded = supervised(
        sys.executable, str(JOBS / "hf_script.py"), "--output_dir", "out", "--per_device_train_batch_size", "4",
        "--max_steps", "8", "--save_steps", "3", "--logging_steps", "1", "--use_cpu", "--report_to", "none",
        env=around(sys.executable, {"do": "memory", "step": 5, "rank": 0, "mib_per_row": 300, "room_mib": 1000}),
    )  # fmt: skip

    smaller_batch(guarded, rows=4, before=(4, 1), after=(2, 2))
