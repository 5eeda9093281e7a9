"""Users' own frameworks, killed and resumed: finished, the batch counted, the certificate proved, nothing left over."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from tests.faults.harness import JOBS, Guarded, marked
from tests.frameworks.reading import python_of

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
FACTORY = {
    "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_dropout": 0, "dataset": "tiny",
    "template": "default", "cutoff_len": 128, "output_dir": "out", "logging_steps": 1, "save_steps": 3,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.001, "report_to": "none",
    "bf16": False, "fp16": False, "overwrite_cache": True, "use_cpu": True, "max_steps": 8,
}  # fmt: skip
TRL = (
    "--model_name_or_path", "tiny/model", "--dataset_name", "rows", "--output_dir", "out", "--use_cpu", "true",
    "--max_steps", "8", "--save_steps", "3", "--per_device_train_batch_size", "2", "--logging_steps", "1",
    "--bf16", "false", "--report_to", "none", "--gradient_checkpointing", "false", "--max_length", "64",
    "--learning_rate", "1e-3",
)  # fmt: skip
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HF": "1"}


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


def harm(python, **what):
    """The environment in which this is done to the job from inside; its programs are found beside its Python."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent / "harm"), os.environ.get("PYTHONPATH"))))
    programs = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    return OFFLINE | {"PATH": programs, "PYTHONPATH": path, "HARM": json.dumps(what)}


def tiny(family, folder):
    """A model and rows for it, made by the framework's own transformers; the interpreter."""
    python = python_of(family)
    subprocess.run([python, str(JOBS / "tiny_model.py"), str(folder / "tiny")], check=True, capture_output=True)
    return Path(python)


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


@pytest.mark.long
@pytest.mark.parametrize("start", ["trl sft --num_processes 1", "torchrun --standalone --nproc_per_node 2 {sft}"])
def test_trl_is_killed_and_goes_on(supervised, tmp_path, start):
    """Its own command, and its script under torchrun."""
    python = tiny("trl", tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "tiny/messages.jsonl").rename(tmp_path / "rows/train.jsonl")
    (sft,) = python.parent.parent.glob("lib/python3*/site-packages/trl/scripts/sft.py")
    own = start.startswith("trl")
    guarded = supervised(
        *start.format(sft=sft).split(), *TRL, *(() if own else GLOO),
        env=harm(python, do="kill", step=6, rank=0 if own else 1),
    )  # fmt: skip

    finished_again(guarded, from_step=3, steps=8, rows=2 if own else 4)
    assert ("trl" if own else "transformers") == guarded.events(ev.RunCreated)[0].family


@pytest.mark.long
@pytest.mark.parametrize("family", ["swift", "swift3"])
def test_swift_is_killed_and_goes_on(supervised, tmp_path, family):
    """LoRA, two ranks: its versioned folder is gone on in, the accumulation that it filled in counts."""
    python = tiny(family, tmp_path)
    data = ("--model", "tiny/model", "--dataset", "tiny/messages.jsonl", *GLOO)
    guarded = supervised(
        "NPROC_PER_NODE=2", str(python.parent / "swift"), *SWIFT, *data, env=harm(python, do="kill", step=6, rank=1)
    )

    finished_again(guarded, from_step=3, steps=8, rows=16)
    assert ["resume_from", "output_dir", "add_version"] == [e.knob for e in guarded.events(ev.Planned)[1].edits]


@pytest.mark.long
@pytest.mark.parametrize(
    "family, tuner, where", [("swift", "--tuner_type", ()), ("swift3", "--train_type", ("--config",))]
)
def test_swift_with_a_file_is_killed_and_goes_on(supervised, tmp_path, family, tuner, where):
    """All weights, one process, everything in a file: first in version 4, behind --config in 3, where the file wins."""
    python = tiny(family, tmp_path)
    names, values = SWIFT[1::2], SWIFT[2::2]
    given = {name[2:]: value for name, value in zip(names, values, strict=True)}
    config = {**given, "model": "tiny/model", "dataset": ["tiny/messages.jsonl"], tuner[2:]: "full"}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    guarded = supervised(
        str(python.parent / "swift"), "sft", *where, "c.yaml", env=harm(python, do="kill", step=6, rank=0)
    )

    finished_again(guarded, from_step=3, steps=8, rows=16)
    assert ["resume_from", "output_dir", "add_version"] == [e.knob for e in guarded.events(ev.Planned)[1].edits]


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_llama_factory_is_killed_and_goes_on(supervised, tmp_path, ranks):
    """From the checkpoint that guardian names, which overrules its own search."""
    python = tiny("llamafactory", tmp_path)
    config = FACTORY | {"model_name_or_path": "tiny/model", "dataset_dir": "tiny"}
    (tmp_path / "x.yaml").write_text(json.dumps(config | ({"ddp_backend": "gloo"} if ranks > 1 else {})))
    start = ("FORCE_TORCHRUN=1", f"NPROC_PER_NODE={ranks}") if ranks > 1 else ()
    guarded = supervised(
        *start, str(python.parent / "llamafactory-cli"), "train", "x.yaml",
        env=harm(python, do="kill", step=6, rank=ranks - 1),
    )  # fmt: skip

    finished_again(guarded, from_step=3, steps=8, rows=4 * ranks)
    assert ["resume_from"] == [edit.knob for edit in guarded.events(ev.Planned)[1].edits]


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
        env=harm(sys.executable, do="memory", step=5, rank=0, rows=2),
    )  # fmt: skip

    smaller_batch(guarded, rows=4, before=(4, 1), after=(2, 2))


@pytest.mark.long
@pytest.mark.parametrize("family", ["swift", "swift3"])
def test_swift_that_runs_out_of_memory_goes_on_with_a_smaller_batch(supervised, tmp_path, family):
    """Also where transformers 4 would take the old batch out of the checkpoint."""
    python = tiny(family, tmp_path)
    data = ("--model", "tiny/model", "--dataset", "tiny/messages.jsonl", *GLOO)
    guarded = supervised(
        "NPROC_PER_NODE=2", str(python.parent / "swift"), *SWIFT, *data,
        env=harm(python, do="memory", step=5, rank=1, rows=1),
    )  # fmt: skip

    smaller_batch(guarded, rows=16, before=(2, 4), after=(1, 8))


@pytest.mark.long
def test_llama_factory_that_runs_out_of_memory_goes_on_with_a_smaller_batch(supervised, tmp_path):
    """Pairs behind its file."""
    python = tiny("llamafactory", tmp_path)
    config = FACTORY | {"model_name_or_path": "tiny/model", "dataset_dir": "tiny"}
    (tmp_path / "x.yaml").write_text(json.dumps(config))
    guarded = supervised(
        str(python.parent / "llamafactory-cli"), "train", "x.yaml",
        env=harm(python, do="memory", step=5, rank=0, rows=1),
    )  # fmt: skip

    smaller_batch(guarded, rows=4, before=(2, 2), after=(1, 4))
