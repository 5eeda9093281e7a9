"""Commands that users start trainings with, tiny and offline: one per framework, launcher and way of training.

Each trains on the same 128 rows with a learning rate that is given, and without dropout, so that two runs of it are
comparable to the last digit.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.faults.harness import JOBS
from tests.frameworks.reading import python_of

RATE = "0.001"
GLOO = ("--ddp_backend", "gloo")
TWO = "--standalone --nproc_per_node 2"
SWIFT = (
    "sft", "--model_type", "qwen2", "--template", "chatml", "--torch_dtype", "float32", "--fp16", "false",
    "--lora_dropout", "0", "--logging_steps", "1", "--max_length", "128", "--use_hf", "true", "--report_to", "none",
    "--use_cpu", "true", "--output_dir", "out", "--learning_rate", RATE, "--save_steps", "2",
    "--model", "tiny/model", "--dataset", "tiny/messages.jsonl",
)  # fmt: skip
HUB_LEFT_ALONE = ("--check_model", "false")
"""Otherwise swift asks the hub first, and retries: half a minute of lines about a network that fails."""
FACTORY = {
    "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_dropout": 0, "dataset": "tiny",
    "template": "default", "cutoff_len": 128, "output_dir": "out", "logging_steps": 1, "save_steps": 2,
    "gradient_accumulation_steps": 2, "learning_rate": float(RATE), "report_to": "none", "bf16": False, "fp16": False,
    "overwrite_cache": True, "use_cpu": True, "model_name_or_path": "tiny/model", "dataset_dir": "tiny",
}  # fmt: skip
TRL = (
    "--model_name_or_path", "tiny/model", "--dataset_name", "tiny/rows", "--output_dir", "out", "--use_cpu", "true",
    "--save_steps", "2", "--logging_steps", "1", "--bf16", "false", "--report_to", "none",
    "--gradient_checkpointing", "false", "--max_length", "64", "--learning_rate", RATE,
)  # fmt: skip
SCRIPT = (
    str(JOBS / "hf_script.py"), "--output_dir", "out", "--save_steps", "2", "--logging_steps", "1", "--use_cpu",
    "--learning_rate", RATE, "--report_to", "none",
)  # fmt: skip
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HF": "1", "DS_ACCELERATOR": "cpu"}


@dataclass(frozen=True)
class Start:
    """A way to start a training, and what its steps are made of."""

    family: str
    """The environment that it runs in."""
    words: tuple[str, ...]
    """`{bin}` is that environment's folder of programs."""
    batch: int
    accumulation: int
    """As given, or as the framework fills it in."""
    ranks: int = 1
    steps: int = 8
    files: tuple[tuple[str, str], ...] = ()
    zero: int | None = None

    @property
    def effective(self):
        return self.batch * self.accumulation * self.ranks

    def command(self, folder, tiny):
        """The words of the command; its files are put beside it, and the model of its family with rows."""
        python = Path(python_of(self.family))
        if tiny is not None:
            (folder / "tiny").symlink_to(tiny)
        for name, text in self.files:
            (folder / name).write_text(text)
        places = {"bin": python.parent, "python": python, "trl": _scripts(python), "port": free_port()}
        return tuple(word.format(**places) for word in self.words)

    def environment(self, *deeds):
        """What the job finds around it, and what is done to it from inside."""
        return around(python_of(self.family), *deeds)


def around(python, *deeds):
    """The environment of a job of that Python, offline, whose programs are found by name; these deeds are done to it."""
    programs = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent / "harm"), os.environ.get("PYTHONPATH"))))
    harmed = {"PYTHONPATH": path, "HARM": json.dumps(deeds)}  # also of none: transformers 4 needs it on two CPU ranks
    return OFFLINE | {"PATH": programs} | harmed


def make_model(family, out):
    """A folder with a model and rows for it, made by the family's own transformers."""
    subprocess.run([python_of(family), str(JOBS / "tiny_model.py"), str(out)], check=True, capture_output=True)
    (out / "rows").mkdir()
    (out / "rows/train.jsonl").write_text((out / "messages.jsonl").read_text())
    return out


def free_port():
    """For a launcher that finds none by itself; outside of those that the kernel hands out."""
    for port in random.sample(range(15000, 30000), 100):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@cache
def _scripts(python):
    return next(iter(sorted(python.parent.parent.glob("lib/python3*/site-packages/trl/scripts"))), "no-trl")


def split(batch, accumulation=None):
    """The flags of a step's rows; without an accumulation it is left to the framework."""
    words = ("--per_device_train_batch_size", str(batch))
    return words if accumulation is None else (*words, "--gradient_accumulation_steps", str(accumulation))


def zero(stage, **numbers):
    """A DeepSpeed file that follows the command, or repeats its numbers; its buffers are not for billions of weights."""
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    content = {
        "zero_optimization": {"stage": stage, "reduce_bucket_size": 10**6, "allgather_bucket_size": 10**6},
        "zero_allow_untested_optimizer": True,
        **dict.fromkeys(auto, "auto"),
        **numbers,
    }
    return (("zero.json", json.dumps(content)),)


NUMBERS = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "train_batch_size": 8}


def swift_file(tuner):
    """What the command would say, as a file; the rows twice, for eight steps of eighteen are more than there are."""
    names, values = SWIFT[1::2], SWIFT[2::2]
    said = {name[2:]: value for name, value in zip(names, values, strict=True)}
    more = {tuner: "full", "per_device_train_batch_size": 3, "max_steps": 8, "check_model": False}
    return (("c.yaml", json.dumps({**said, **more, "dataset": ["tiny/messages.jsonl"] * 2})),)


def factory_file(**more):
    """Its configuration, which it asks for."""
    return (("x.yaml", json.dumps(FACTORY | more)),)


def train_sh(*lines):
    """`bash train.sh`, as people keep it: variables, then what starts the training; the shell's exit code is its own."""
    return (("train.sh", "\n".join(["#!/bin/bash", *lines, "echo over", ""])),)


EIGHT = ("--max_steps", "8")
SWIFT_TWO = ("NPROC_PER_NODE=2", "{bin}/swift", *SWIFT)
ACCELERATE = ("{bin}/accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
"""Without --multi_gpu it starts one process; the program's own words keep it on the CPU."""
WRITTEN = json.dumps({"arguments": {"save_steps": 2, "learning_rate": float(RATE)}})
INSIDE = train_sh(f"export WHAT='{WRITTEN}'", f"python -m torch.distributed.run {TWO} {JOBS / 'fixed_script.py'}")
DEEPSPEED = ("{bin}/deepspeed", "--num_accelerators", "2", "--master_port", "{port}")
STARTS = {
    "swift 4, LoRA, two ranks": Start("swift", (*SWIFT_TWO, *GLOO, *EIGHT, *split(4)), 4, 2, ranks=2),
    "swift 4, LoRA, ZeRO-2": Start(
        "swift", (*SWIFT_TWO, *HUB_LEFT_ALONE, *GLOO, *EIGHT, *split(4), "--deepspeed", "zero2"), 4, 2, ranks=2, zero=2,
    ),
    "swift 4, full, a file": Start("swift", ("{bin}/swift", "sft", "c.yaml"), 3, 6, files=swift_file("tuner_type")),
    "swift 3, LoRA, two ranks": Start(
        "swift3", (*SWIFT_TWO, *HUB_LEFT_ALONE, *GLOO, *EIGHT, *split(4)), 4, 2, ranks=2,
    ),
    "swift 3, full, ZeRO-1": Start(
        "swift3",
        (*SWIFT_TWO, *HUB_LEFT_ALONE, *GLOO, *EIGHT, *split(4), "--train_type", "full", "--deepspeed", "zero.json"),
        4, 2, ranks=2, files=zero(1), zero=1,
    ),
    "swift 3, full, a file": Start(
        "swift3", ("{bin}/swift", "sft", "--config", "c.yaml"), 3, 6, files=swift_file("train_type"),
    ),
    "LLaMA-Factory": Start(
        "llamafactory", ("{bin}/llamafactory-cli", "train", "x.yaml", "max_steps=8"), 4, 2,
        files=factory_file(per_device_train_batch_size=4),
    ),
    "LLaMA-Factory, two ranks": Start(
        "llamafactory",
        ("FORCE_TORCHRUN=1", "NPROC_PER_NODE=2", "{bin}/llamafactory-cli", "train", "x.yaml", "max_steps=8"), 2, 2,
        ranks=2, files=factory_file(per_device_train_batch_size=2, ddp_backend="gloo"),
    ),
    "TRL, torchrun": Start(
        "trl", ("{bin}/torchrun", *TWO.split(), "{trl}/sft.py", *TRL, *GLOO, *EIGHT, *split(4)), 4, 1, ranks=2,
    ),
    "TRL, accelerate": Start("trl", (*ACCELERATE, "{trl}/sft.py", *TRL, *GLOO, *EIGHT, *split(4)), 4, 1, ranks=2),
    "trl sft": Start("trl", ("{bin}/trl", "sft", "--num_processes", "1", *TRL, *EIGHT, *split(2)), 2, 1),
    "script, torchrun": Start(
        "transformers", ("{bin}/torchrun", *TWO.split(), *SCRIPT, *GLOO, *EIGHT, *split(4)), 4, 1, ranks=2,
    ),
    "script, accelerate": Start("transformers", (*ACCELERATE, *SCRIPT, *GLOO, *EIGHT, *split(4)), 4, 1, ranks=2),
    "script, ZeRO-1, torchrun": Start(
        "transformers",
        ("{bin}/torchrun", *TWO.split(), *SCRIPT, *GLOO, *EIGHT, *split(2, 2), "--deepspeed", "zero.json"), 2, 2,
        ranks=2, files=zero(1, **NUMBERS), zero=1,
    ),
    "script, ZeRO-2, deepspeed": Start(
        "transformers",
        (*DEEPSPEED, *SCRIPT, *GLOO, *EIGHT, *split(4), "--deepspeed", "zero.json"),
        4, 1, ranks=2, files=zero(2), zero=2,
    ),
    "train.sh": Start("transformers", ("bash", "train.sh"), 4, 1, ranks=2, files=INSIDE),
    "train.sh, transformers 4": Start("transformers4", ("bash", "train.sh"), 4, 1, ranks=2, files=INSIDE),
}  # fmt: skip
