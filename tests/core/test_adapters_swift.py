"""What a command of ms-swift means: what swift fills in, which ranks there are, what may be changed."""

import pytest

from guardian.core import commandline
from guardian.core.adapters import recognise
from guardian.core.events import Edit
from guardian.errors import UserError

CKPT = "/w/out/v0-x/checkpoint-5"
CARDS_8 = {"NPROC_PER_NODE": "8"}


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


def adapter(text, env=None, files=None):
    """What understands a command."""

    def read(path):
        if files and path in files:
            return files[path]
        raise UserError(f"{path}: no such file")

    return recognise(words(text), env or {}, read)


LORA = (
    "swift sft --model Qwen/Qwen2.5-7B-Instruct --train_type lora --dataset AI-ModelScope/alpaca-gpt4-data-zh#500"
    " --torch_dtype bfloat16 --num_train_epochs 1 --per_device_train_batch_size 1 --per_device_eval_batch_size 1"
    " --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 --target_modules all-linear --eval_steps 50 --save_steps 50"
    " --save_total_limit 2 --logging_steps 5 --max_length 2048 --output_dir output --warmup_ratio 0.05"
    " --model_author swift --model_name swift-robot"
)
FULL = (
    "swift sft --model Qwen/Qwen2.5-32B --tuner_type full --dataset d --torch_dtype bfloat16 --max_steps 2000"
    " --streaming true --per_device_train_batch_size 1 --learning_rate 1e-5 --gradient_accumulation_steps 2"
    " --packing true --dataloader_num_workers 8 --save_only_model true --output_dir output/x --deepspeed zero3"
)


@pytest.mark.parametrize(
    "command, env, accumulation, effective",
    [
        (FULL, CARDS_8, 2, 16),
        (f"{LORA} --gradient_accumulation_steps 32", {}, 32, 32),
        (f"{LORA} --gradient_accumulation_steps 8 --deepspeed zero2 --streaming true", CARDS_8, 8, 64),
        (f"{LORA} --gradient_accumulation_steps 16 --deepspeed zero2", CARDS_8, 16, 128),
        (f"{LORA} --gradient_accumulation_steps 4", {"NPROC_PER_NODE": "4"}, 4, 16),
        (f"{LORA} --per_device_train_batch_size 4 --gradient_accumulation_steps 2", {"NPROC_PER_NODE": "2"}, 2, 16),
        (f"NPROC_PER_NODE=2 CUDA_VISIBLE_DEVICES=0,1 {LORA}", {}, 8, 16),
        (f"env NPROC_PER_NODE=2 {LORA}", {"NPROC_PER_NODE": "8"}, 8, 16),
        (f"{LORA} --per_device_train_batch_size 3", {}, 6, 18),
        (f"{LORA} --per_device_train_batch_size 3", {"NPROC_PER_NODE": "2", "NNODES": "2"}, 2, 24),
        (f"{LORA} --sequence_parallel_size 4", CARDS_8, 2, 4),
        (f"{LORA} --sequence_parallel_size 3", CARDS_8, 2, None),
        (LORA, {"NPROC_PER_NODE": "auto"}, None, None),
        (f"conda run -n llm {LORA}", {}, 16, 16),
        (f"/v/bin/{LORA}", {}, 16, 16),
        (f"/v/bin/python -u /v/lib/swift/cli/sft.py {LORA[10:]}", {}, 16, 16),
        (f"python -m swift.cli.sft {LORA[10:]}", {}, 16, 16),
        (f"torchrun --nproc_per_node 2 /v/lib/swift/cli/sft.py {LORA[10:]}", {}, 8, 16),
    ],
)
def test_the_effective_batch_of_commands_that_people_start_from(command, env, accumulation, effective):
    """Given or filled in by ceil(16 / batch / ranks); ranks that share a row count once."""
    spec = adapter(command, env).spec

    assert ("swift", accumulation, effective) == (spec.family, spec.knob("accumulation"), spec.effective_batch)
    assert ("gradient_accumulation_steps" not in command) is ("accumulation" in spec.implicit)


def test_what_swift_fills_in_is_known():
    """One loader worker that is two batches ahead, recomputed activations, and a rate that the tuner decides."""
    spec = adapter("swift sft --model a/tiny --dataset d").spec

    assert (1, 2, True, True, 1e-4, "output/tiny", 500) == tuple(
        map(
            spec.knob,
            (
                "workers",
                "prefetch",
                "pin_memory",
                "gradient_checkpointing",
                "learning_rate",
                "output_dir",
                "save_steps",
            ),
        )
    )
    assert (1e-5, 1e-4) == tuple(
        adapter(f"swift sft --model m {tuner}").spec.knob("learning_rate")
        for tuner in ("--train_type full", "--tuner_type dora")
    )


@pytest.mark.parametrize(
    "command, families",
    [
        ("swift pt --model m", "swift"),
        ("swift rlhf --rlhf_type dpo --model m", "swift"),
        ("swift infer --model m", None),
        ("swift export --model m", None),
        ("swift", None),
        ("python -m swift.cli.infer --model m", None),
    ],
)
def test_only_trainings_are_recognised(command, families):
    """What swift else does is started as it is."""
    made = adapter(command)

    assert families == (made.family if made else None)


@pytest.mark.parametrize(
    "given, named",
    [
        ("--packing true --streaming true --save_only_model true", {"packing", "streaming", "save_only_model"}),
        ("--ignore_data_skip --group_by_length True", {"ignore_data_skip", "group_by_length"}),
        ("--packing false", set()),
    ],
)
def test_what_weakens_the_proof_is_named(given, named):
    """So that nobody counts on more than there is."""
    findings = adapter(f"swift sft --model m {given}").spec.findings

    assert named == {f.message[2:].partition(":")[0] for f in findings if f.id == "weakens-the-proof"}


def test_a_batch_that_nobody_asked_for_is_told():
    """ceil(16 / 3) x 3 is 18."""
    (finding,) = adapter("swift sft --model m --per_device_train_batch_size 3").spec.findings

    assert ("implicit-accumulation", True) == (finding.id, "18 rows" in finding.message)


def test_a_file_comes_first_and_flags_win():
    """Its ENV adds to the environment; what the command itself sets wins over it."""
    files = {"c.yaml": {"per_device_train_batch_size": 2, "learning_rate": 1e-5, "ENV": {"NPROC_PER_NODE": 4}}}
    spec = adapter("swift sft c.yaml --learning_rate 7", files=files).spec

    assert (2, 7, 4, 2, 16) == (
        *map(spec.knob, ("device_batch", "learning_rate", "world_size", "accumulation")),
        spec.effective_batch,
    )
    assert 2 == adapter("NPROC_PER_NODE=2 swift sft c.yaml", files=files).spec.knob("world_size")


def test_a_file_behind_config_wins_over_flags_and_becomes_flags_once_it_is_edited():
    """Version 3 appends what the file says; behind it an edit would not count."""
    files = {"c.yaml": {"per_device_train_batch_size": 2, "output_dir": "out"}}
    argv = words("swift sft --config c.yaml --per_device_train_batch_size 8 --seed 1")
    made = adapter(" ".join(argv), files=files)

    assert (2, 8) == (made.spec.knob("device_batch"), made.spec.knob("accumulation"))
    assert (
        words(
            "swift sft --per_device_train_batch_size 8 --seed 1 --per_device_train_batch_size 1 --output_dir out"
            " --gradient_accumulation_steps 16"
        )
        == made.write(argv, {"device_batch": 1}).argv
    )
    assert argv == made.write(argv, {"workers": 1}).argv
    assert "c.yaml" not in made.resume(argv, CKPT, "/w/out/v0-x")[0]


def test_a_resume_saves_into_the_version_that_the_job_made():
    """A new version for every start would scatter the run's checkpoints; flags go behind the file."""
    argv = words("NPROC_PER_NODE=2 swift sft c.yaml --output_dir out")
    after, edits = adapter(" ".join(argv), files={"c.yaml": {"model": "m"}}).resume(argv, CKPT, "/w/out/v0-x")

    assert (
        words(
            f"NPROC_PER_NODE=2 swift sft c.yaml --output_dir /w/out/v0-x --resume_from_checkpoint {CKPT} --add_version false"
        )
        == after
    )
    assert {
        Edit("resume_from", None, CKPT, "resume"),
        Edit("output_dir", "out", "/w/out/v0-x", "resume"),
        Edit("add_version", None, "false", "resume"),
    } == set(edits)


def test_a_start_from_the_beginning_names_no_checkpoint():
    """Also where the user's own command went on from one."""
    argv = words("swift sft --model m --resume_from_checkpoint old/checkpoint-9 --seed 1")
    after, edits = adapter(" ".join(argv)).resume(argv, None, "/w/out/again")

    assert words("swift sft --model m --seed 1 --output_dir /w/out/again --add_version false") == after
    assert Edit("resume_from", "old/checkpoint-9", None, "resume") in edits


def test_the_implicit_accumulation_is_written_out():
    """Left to swift, 8 rows in micro batches of 3 would be something else."""
    argv = words("swift sft --model m --per_device_train_batch_size 3")
    new = adapter(" ".join(argv)).write(argv, {"device_batch": 1})

    assert ("1", "18") == tuple(
        commandline.value(new.argv, name) for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    assert (Edit("device_batch", "3", "1", "preserving"), Edit("accumulation", "6", "18", "preserving")) == new.edits


def test_rows_are_held_under_sequence_parallelism():
    """What is shared out between ranks stays shared out: batch and accumulation of a rank are what changes."""
    argv = words("swift sft --model m --per_device_train_batch_size 4 --sequence_parallel_size 2")
    made = adapter(" ".join(argv), CARDS_8)
    after = made.write(argv, {"device_batch": 2}).argv

    assert made.spec.effective_batch == adapter(" ".join(after), CARDS_8).spec.effective_batch == 16


@pytest.mark.parametrize(
    "method, refused",
    [
        ("rlhf --rlhf_type grpo", True),
        ("rlhf --rlhf_type ppo", True),
        ("rlhf --rlhf_type gkd", True),
        ("rlhf --rlhf_type kto", True),
        ("rlhf --rlhf_type dpo", False),
        ("rlhf", False),
        ("sft --task_type embedding", True),
        ("sft --task_type reranker", True),
        ("sft --task_type seq_cls", False),
    ],
)
def test_a_batch_that_means_more_than_its_rows_is_not_changed(method, refused):
    """Generated answers, a KL term and negatives are taken from the micro batch. The other knobs are changed."""
    argv = words(f"swift {method} --model m --per_device_train_batch_size 8")
    new = adapter(" ".join(argv)).write(argv, {"device_batch": 4, "workers": 0})

    assert refused is ("device_batch" in dict(new.refused))
    assert ("8" if refused else "4", "0") == tuple(
        commandline.value(new.argv, name) for name in ("per_device_train_batch_size", "dataloader_num_workers")
    )


def test_float32_turns_mixed_precision_off():
    """Alone it would make swift train in fp16."""
    argv = words("swift sft --model m --torch_dtype bfloat16 --bf16 true")
    new = adapter(" ".join(argv)).write(argv, {"dtype": "float32"})

    assert ("float32", "false", "false") == tuple(
        commandline.value(new.argv, n) for n in ("torch_dtype", "bf16", "fp16")
    )


def test_a_preset_of_deepspeed_is_no_file():
    """It follows the command by itself."""
    argv = words("swift sft --model m --deepspeed zero2 --per_device_train_batch_size 4")
    new = adapter(" ".join(argv)).write(argv, {"device_batch": 2})

    assert ("zero2", ()) == (commandline.value(new.argv, "deepspeed"), new.overlays)


@pytest.mark.parametrize(
    "given, finding",
    [
        ("--torch_dtype float32", "float32-is-fp16"),
        ("--deepspeed zero2 --fsdp fsdp2", "fsdp-and-deepspeed"),
        ("--warmup_ratio 0.1 --warmup_steps 20", "two-warm-ups"),
        ("--per_device_train_batch_size 4 --deepspeed ds.json", "deepspeed-mismatch"),
    ],
)
def test_what_ends_or_surprises_a_training_is_found(given, finding):
    """Before it is started; the harmless neighbours of each are not."""
    files = {
        "ds.json": {
            "train_micro_batch_size_per_gpu": 2, "train_batch_size": "auto", "gradient_accumulation_steps": "auto",
        }
    }  # fmt: skip
    harmless = "--torch_dtype float32 --fp16 false --warmup_ratio 0.1 --warmup_steps 0 --deepspeed ds.json"

    assert [finding] == [f.id for f in adapter(f"swift sft --model m {given}", files=files).spec.findings]
    assert () == adapter(f"swift sft --model m {harmless} --per_device_train_batch_size 2", files=files).spec.findings


@pytest.mark.parametrize(
    "given, accumulation, effective",
    [
        ("", 1, 4),
        ("--gradient_accumulation_steps 2", 2, 8),
        ("--gradient_accumulation_steps 2 --sequence_parallel_size 2", 2, 8),
    ],
)
def test_grpo_has_rules_of_its_own(given, accumulation, effective):
    """Accumulation left out is 1 (rlhf_args.py), and is multiplied by the ranks that share a row (grpo_trainer.py)."""
    spec = adapter(f"swift rlhf --rlhf_type grpo --model m --per_device_train_batch_size 4 {given}", CARDS_8).spec

    assert (accumulation, 8 * effective, ()) == (spec.knob("accumulation"), spec.effective_batch, spec.findings)


def test_the_ranks_that_an_unreadable_file_may_set_are_unknown():
    """Its ENV may say them; what stands outside wins over it."""
    said = "--per_device_train_batch_size 4 --gradient_accumulation_steps 2"

    assert None is adapter(f"swift sft c.yaml {said}").spec.effective_batch
    assert 64 == adapter(f"swift sft c.yaml {said}", CARDS_8).spec.effective_batch
