"""What a command of Megatron-SWIFT means: a micro batch under a fixed global batch, in two versions' names."""

import pytest

from guardian.core.adapters import recognise
from guardian.errors import UserError

CKPT = "/w/out/v0-x/checkpoint-50"
V3 = "megatron sft --train_type lora --save out --save_interval 50 --micro_batch_size 2 --global_batch_size 32"
V4 = "megatron sft --tuner_type full --output_dir out --micro_batch_size 4 --global_batch_size 32"


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


def no_file(path):
    """A reader for commands that name no file."""
    raise UserError(f"{path} was not to be read")


def adapter(text, ranks=8):
    """What understands a command."""
    return recognise(words(text), {"NPROC_PER_NODE": str(ranks)}, no_file)


@pytest.mark.parametrize(
    "command, accumulation, effective",
    [
        (V3, 2, 32),
        (f"{V3} --tensor_model_parallel_size 2 --pipeline_model_parallel_size 2", 8, 32),
        (f"{V4} --context_parallel_size 8", 8, 32),
        ("megatron pt --model m", 2, 16),
        ("megatron rlhf --rlhf_type dpo --micro_batch_size 3", None, None),
    ],
)
def test_the_accumulation_follows_from_the_global_batch(command, accumulation, effective):
    """Ranks that share rows count once."""
    spec = adapter(command).spec

    assert ("megatron", accumulation, effective) == (spec.family, spec.knob("accumulation"), spec.effective_batch)


def test_a_smaller_micro_batch_is_written_alone():
    """The rows per step stay as they are given."""
    new = adapter(V3).write(words(V3), {"device_batch": 1, "accumulation": 4, "workers": 1})

    assert words(f"{V3.replace('micro_batch_size 2', 'micro_batch_size 1')} --num_workers 1") == new.argv
    assert () == new.refused
    assert ["device_batch"] == [
        k for k, _ in adapter(V3).write(words(V3), {"device_batch": 1, "accumulation": 3}).refused
    ]


@pytest.mark.parametrize(
    "command, flags",
    [
        (V3, f"--adapter_load {CKPT} --finetune false --add_version false"),
        (V4, f"--mcore_model {CKPT} --finetune false --add_version false"),
        (V4.replace("full", "lora"), f"--mcore_adapter {CKPT} --finetune false --add_version false"),
    ],
)
def test_a_resume_speaks_the_version_of_the_command(command, flags):
    """Version 4 would load the weights alone unless it is told otherwise."""
    after, _ = adapter(command).resume(words(command), CKPT, "/w/out/v0-x")

    assert words(f"{command.replace(' out', ' /w/out/v0-x')} {flags}") == after


def test_a_command_that_shows_no_version_is_not_resumed_by_flags():
    """The other version's names end the job before it begins."""
    argv = words("megatron sft --model m")

    assert (argv, ()) == adapter(" ".join(argv)).resume(argv, CKPT, None)


def test_other_frameworks_names_are_told():
    """As in an article that people start from."""
    spec = adapter("megatron sft --model m --train_type lora --per_device_train_batch_size 1", ranks=2).spec

    assert ["foreign-option"] == [finding.id for finding in spec.findings]
