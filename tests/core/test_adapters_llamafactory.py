"""What a command of LLaMA-Factory means: pairs behind a file, or flags; its own search for a checkpoint overruled."""

import pytest

from guardian.core.adapters import recognise
from guardian.core.events import Edit
from guardian.errors import UserError

CKPT = "/w/saves/sft/checkpoint-5"
YAML = {
    "stage": "sft", "do_train": True, "output_dir": "saves/sft", "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8, "learning_rate": "1.0e-4", "bf16": True, "cutoff_len": 1024,
    "dataloader_num_workers": 4, "dataloader_prefetch_factor": 2,
}  # fmt: skip
FLAGS = (
    "llamafactory-cli train --stage sft --do_train --model_name_or_path m --dataset alpaca_gpt4_zh,identity"
    " --template llama3 --finetuning_type lora --output_dir ./saves/lora/sft --overwrite_output_dir --cutoff_len 1024"
    " --per_device_train_batch_size 2 --per_device_eval_batch_size 1 --gradient_accumulation_steps 8 --fp16"
)


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


def adapter(text, env=None, config=YAML):
    """What understands a command."""

    def read(path):
        if path != "x.yaml":
            raise UserError(f"{path}: no such file")
        return config

    return recognise(words(text), env or {}, read)


@pytest.mark.parametrize(
    "command, env, world, effective",
    [
        ("llamafactory-cli train x.yaml", {}, 1, 16),
        ("llamafactory-cli train x.yaml per_device_train_batch_size=1", {}, 1, 8),
        ("lmf train x.yaml", {}, 1, 16),
        ("python -m llamafactory.cli train x.yaml", {}, 1, 16),
        ("FORCE_TORCHRUN=1 NPROC_PER_NODE=2 llamafactory-cli train x.yaml", {}, 2, 32),
        ("llamafactory-cli train x.yaml", {"FORCE_TORCHRUN": "1"}, None, None),
        ("llamafactory-cli train x.yaml", {"CUDA_VISIBLE_DEVICES": "0,1"}, 2, 32),
        (FLAGS, {}, 1, 16),
        (FLAGS, {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "NNODES": "2"}, 4, 64),
    ],
)
def test_the_effective_batch_is_read_from_pairs_flags_and_file(command, env, world, effective):
    """Its accumulation is 1 where nothing is said, not swift's rule."""
    spec = adapter(command, env).spec

    assert ("llamafactory", world, effective) == (spec.family, spec.knob("world_size"), spec.effective_batch)
    assert 1 == adapter("llamafactory-cli train x.yaml", config={"stage": "sft"}).spec.knob("accumulation")


@pytest.mark.parametrize("command", ["llamafactory-cli chat x.yaml", "llamafactory-cli", "lmf webui"])
def test_only_trainings_are_recognised(command):
    """What it else does is started as it is."""
    assert adapter(command) is None


def test_other_settings_behind_a_file_are_pairs():
    """Flags there would be read as nothing; a pair that stands is changed in its place."""
    argv = words("llamafactory-cli train x.yaml per_device_train_batch_size=4 seed=1")
    new = adapter(" ".join(argv)).write(argv, {"device_batch": 2, "eval_batch": 1})

    assert (
        words(
            "llamafactory-cli train x.yaml per_device_train_batch_size=2 seed=1"
            " gradient_accumulation_steps=16 per_device_eval_batch_size=1"
        )
        == new.argv
    )
    assert Edit("accumulation", "8", "16", "preserving") in new.edits


def test_the_last_of_two_pairs_counts_and_is_edited():
    """As OmegaConf merges them."""
    argv = words("llamafactory-cli train x.yaml per_device_train_batch_size=1 per_device_train_batch_size=4")
    made = adapter(" ".join(argv))

    assert 4 == made.spec.knob("device_batch")
    assert "per_device_train_batch_size=2" == made.write(argv, {"device_batch": 2}).argv[4]


def test_two_pairs_of_one_name_are_told():
    """With their values."""
    spec = adapter("llamafactory-cli train x.yaml learning_rate=1e-4 learning_rate=1e-5").spec

    assert "--learning_rate is given 2 times (1e-4, 1e-5): the last counts" in {one.message for one in spec.findings}


def test_other_settings_without_a_file_are_flags():
    """As LLaMA-Factory reads them there."""
    new = adapter(FLAGS).write(words(FLAGS), {"max_length": 512})

    assert words(FLAGS.replace("--cutoff_len 1024", "--cutoff_len 512")) == new.argv
    assert "changing" == new.edits[0].kind


def test_a_prefetch_that_the_file_sets_is_unset_with_the_workers():
    """OmegaConf has a word for nothing."""
    argv = words("llamafactory-cli train x.yaml")
    new = adapter(" ".join(argv)).write(argv, {"workers": 0})

    assert (*argv, "dataloader_num_workers=0", "dataloader_prefetch_factor=null") == new.argv


def test_recomputed_activations_are_the_opposite_of_its_switch():
    """It has its own name for them, the other way round."""
    argv = words("llamafactory-cli train x.yaml disable_gradient_checkpointing=true")
    made = adapter(" ".join(argv))

    assert made.spec.knob("gradient_checkpointing") is False
    assert (
        words("llamafactory-cli train x.yaml disable_gradient_checkpointing=false")
        == made.write(argv, {"gradient_checkpointing": True}).argv
    )


@pytest.mark.parametrize("said, moved", [("/w/saves/sft", False), ("/w/saves/elsewhere", True), (None, False)])
def test_a_resume_names_the_checkpoint_against_its_own_search(said, moved):
    """By itself it takes the highest number in the folder, half-written or not."""
    argv = words("llamafactory-cli train x.yaml")
    after, edits = adapter(" ".join(argv)).resume(argv, CKPT, said)

    assert (*argv, f"resume_from_checkpoint={CKPT}", *([f"output_dir={said}"] if moved else [])) == after
    assert Edit("resume_from", None, CKPT, "resume") == edits[0]


@pytest.mark.parametrize(
    "stage, refused", [("ppo", True), ("rm", True), ("kto", True), ("sft", False), ("dpo", False), ("pt", False)]
)
def test_stages_whose_batch_means_more_are_not_changed(stage, refused):
    """The reason is told."""
    argv = words(f"llamafactory-cli train x.yaml stage={stage}")

    assert refused is ("device_batch" in dict(adapter(" ".join(argv)).write(argv, {"device_batch": 1}).refused))


def test_a_flag_behind_a_file_is_warned_of():
    """It would be read as nothing, in silence."""
    assert "not-a-pair" in {f.id for f in adapter("llamafactory-cli train x.yaml --seed 1").spec.findings}
