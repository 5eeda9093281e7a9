"""In each framework's own environment its real parser takes every flag that an adapter writes, as it was meant."""

import json
import subprocess

import pytest

from guardian.core.adapters import llamafactory, recognise, swift
from guardian.core.adapters.writing import WRITTEN
from guardian.host.configs import read_config
from tests.faults.harness import JOBS
from tests.frameworks.reading import python_of, read_by

pytestmark = pytest.mark.long

SETTINGS = {
    "device_batch": 2, "accumulation": 8, "workers": 1, "prefetch": 3, "pin_memory": False, "eval_batch": 2, "gradient_checkpointing": False,
    "learning_rate": 1e-05, "save_total_limit": 3, "ddp_find_unused_parameters": True, "ddp_timeout": 60,
}  # fmt: skip
FLAGS = "--per_device_train_batch_size=4 --output_dir out --use_cpu true"


@pytest.fixture(scope="module", params=["swift", "swift3", "llamafactory", "trl"])
def framework(request, tmp_path_factory):
    """A family and a folder with a tiny model in it."""
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run(
        [python_of(request.param), str(JOBS / "tiny_model.py"), str(folder / "tiny")], check=True, capture_output=True
    )
    return request.param, folder


def of(*families):
    """For a test of these families alone: the others have no such thing."""
    return pytest.mark.parametrize("framework", families, indirect=True)


SWIFTS = of("swift", "swift3")


def command(family, folder):
    """A command of the family, and the words of its program."""
    own = {
        "swift": f"swift sft --model {folder}/tiny/model --model_type qwen2 --template chatml --use_hf true"
        f" --dataset {folder}/tiny/messages.jsonl --check_model false --torch_dtype float32",
        "llamafactory": f"llamafactory-cli train --stage sft --do_train true --model_name_or_path {folder}/tiny/model"
        f" --dataset tiny --dataset_dir {folder}/tiny --template default",
        "trl": f"trl sft --model_name_or_path {folder}/tiny/model --dataset_name tiny",
    }[family.removesuffix("3")]
    return tuple(f"{own} {FLAGS}".split())


def test_every_setting_is_read_back_by_the_real_parser(framework):
    """Every flag that is written exists over there and means what was meant."""
    family, folder = framework
    argv = command(family, folder)
    made = recognise(argv, {}, read_config)
    (folder / "out/checkpoint-5").mkdir(parents=True, exist_ok=True)
    # A precision of 16 bits is refused by some on a machine without GPU; what swift makes of it stands below.
    new = made.write(argv, SETTINGS | {"max_length": 64} | ({"dtype": "bfloat16"} if family == "trl" else {}))
    after, _ = made.resume(new.argv, str(folder / "out/checkpoint-5"), str(folder / "out"))
    read = read_by(family, after[2:], folder)

    assert () == new.refused
    meant = {WRITTEN[knob]: value for knob, value in SETTINGS.items()}
    if family == "llamafactory":
        assert read["disable_gradient_checkpointing"] is True
        del meant["gradient_checkpointing"]
    assert meant == {name: read[name] for name in meant}
    assert family != "trl" or (True, False) == (read["bf16"], read["fp16"])
    assert str(folder / "out/checkpoint-5") == read["resume_from_checkpoint"]


@SWIFTS
@pytest.mark.parametrize(
    "method, settings",
    [("dpo", SETTINGS), ("grpo", {k: v for k, v in SETTINGS.items() if k not in ("device_batch", "accumulation")})],
)
def test_every_setting_of_swifts_rlhf_is_read_back_by_its_parser(framework, method, settings):
    """Its batch too, where it may be changed; GRPO's accumulation, which is left out, is what the adapter fills in."""
    family, folder = framework
    own = ("--rlhf_type", method, *(("--num_generations", "4") if method == "grpo" else ()))
    words = command(family, folder)
    argv = (words[0], "rlhf", *words[2:], *own)
    made = recognise(argv, {}, read_config)
    new = made.write(argv, settings)
    read = read_by(family, new.argv[2:], folder, verb="rlhf")

    assert () == new.refused
    meant = {WRITTEN[knob]: value for knob, value in settings.items()}
    assert meant == {name: read[name] for name in meant}
    if method == "grpo":
        assert (4, 1) == (read["per_device_train_batch_size"], read["gradient_accumulation_steps"])
        assert 1 == made.spec.knob("accumulation")


@of("swift", "swift3", "llamafactory")
def test_the_defaults_are_the_frameworks_own(framework):
    """What nobody gives is filled in with these; TRL's differ by version and verb, and the adapter holds none."""
    family, folder = framework
    argv = tuple(word for word in command(family, folder) if "batch" not in word)
    spec = recognise(argv, {}, read_config).spec
    read = read_by(family, argv[2:], folder)
    names = (swift if family != "llamafactory" else llamafactory).NAMES
    ours = {
        names[knob]: spec.knob(knob)
        for knob in spec.implicit
        if knob in names and knob not in ("output_dir", "pin_memory", "gradient_checkpointing", "warmup_ratio")
        and spec.knob(knob) is not None
    }  # fmt: skip

    assert ours.keys() >= {"per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_num_workers"}
    assert ours == {name: read[name] for name in ours}


@of("llamafactory")
def test_pairs_behind_a_file_are_read_by_the_real_parser(framework):
    """LLaMA-Factory's other way of writing, and its word for nothing."""
    family, folder = framework
    config = {"stage": "sft", "do_train": True, "model_name_or_path": f"{folder}/tiny/model", "dataset": "tiny"}
    config |= {"dataset_dir": f"{folder}/tiny", "template": "default", "output_dir": "out", "use_cpu": True}
    config |= {"dataloader_num_workers": 4, "dataloader_prefetch_factor": 2, "per_device_train_batch_size": 4}
    (folder / "x.yaml").write_text(json.dumps(config))
    argv = ("llamafactory-cli", "train", str(folder / "x.yaml"))
    new = recognise(argv, {}, read_config).write(argv, {"workers": 0, "device_batch": 2, "dtype": "float32"})
    read = read_by(family, new.argv[2:], folder)

    assert (0, None, 2, 2, False) == tuple(
        read[name]
        for name in (
            "dataloader_num_workers", "dataloader_prefetch_factor", "per_device_train_batch_size",
            "gradient_accumulation_steps", "fp16",
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def warm(framework):
    """A command that warms up by steps, or by a share of them where the family's adapter writes shares."""
    family, folder = framework
    return family, folder, (*command(family, folder), "--warmup_steps", "7")


@SWIFTS
def test_a_warm_up_share_is_read_where_steps_were_given(warm):
    """They exclude each other: the steps are taken away."""
    family, folder, argv = warm
    new = recognise(argv, {}, read_config).write(argv, {"warmup_ratio": 0.25})
    read = read_by(family, new.argv[2:], folder)

    assert () == new.refused
    assert 0.25 in (read["warmup_ratio"], read["warmup_steps"])  # version 4 makes one of the other
    assert 7 != read["warmup_steps"]


@SWIFTS
def test_float32_alone_is_mixed_precision_and_not_once_it_is_written(warm):
    """What the finding warns of is what the parser does; what is written for float32 is float32."""
    family, folder, argv = warm
    alone = read_by(family, argv[2:], folder)
    new = recognise(argv, {}, read_config).write(argv, {"dtype": "bfloat16"})
    other = recognise(new.argv, {}, read_config).write(new.argv, {"dtype": "float32"})
    read = read_by(family, other.argv[2:], folder)

    assert (True, False) == (alone["fp16"], alone["bf16"])
    assert ["float32-is-fp16"] == [one.id for one in recognise(argv, {}, read_config).spec.findings if "fp16" in one.id]
    assert (False, False) == (read["fp16"], read["bf16"])
