"""A user's own script with TrainingArguments: known by its arguments, whatever starts it."""

import json

import pytest

from guardian.core import commandline
from guardian.core.adapters import recognise
from guardian.core.events import Edit
from guardian.errors import MissingFileError, UserError

ARGS = "--model m --output_dir out --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --num_train_epochs 1"
CKPT = "/w/out/checkpoint-5"


def no_file(path):
    """A reader for commands that name no file."""
    raise UserError(f"{path} was not to be read")


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


def adapter(text, env=None, files=None):
    """What understands a command."""

    def read(path):
        if files and path in files:
            return files[path]
        raise MissingFileError(f"{path}: no such file")

    return recognise(words(text), env or {}, read)


@pytest.mark.parametrize(
    "start, launcher, world, effective",
    [
        ("python train.py", "python", 1, 8),
        ("/v/bin/python3.11 -u -X dev train.py", "python", 1, 8),
        ("python -m my.train", "python", 1, 8),
        ("HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=0 python train.py", "python", 1, 8),
        ("env A=1 nohup python train.py", "python", 1, 8),
        ("conda run --no-capture-output -n llm python train.py", "python", 1, 8),
        ("uv run --with peft train.py", "python", 1, 8),
        ("uv run -m my.train", "python", 1, 8),
        ("uv run -- torchrun --nproc_per_node 2 train.py", "torchrun", 2, 16),
        ("torchrun --standalone --nproc-per-node=4 train.py", "torchrun", 4, 32),
        ("torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --tee 3 -m my.train", "torchrun", 8, 64),
        ("torchrun -r 3 -t 3 train.py", "torchrun", 1, 8),
        ("python -m torch.distributed.run --nproc_per_node 2 --master_port 1 train.py", "torchrun", 2, 16),
        ("torchrun --nproc_per_node gpu train.py", "torchrun", None, None),
        ("accelerate launch --num_processes 2 --mixed_precision no train.py", "accelerate", 2, 16),
        ("accelerate launch --multi_gpu --num-processes=2 -m my.train", "accelerate", 2, 16),
        ("accelerate launch train.py", "accelerate", None, None),
        ("accelerate launch --cpu --num_processes 2 train.py", "accelerate", 1, 8),
        ("accelerate launch --cpu --mpirun_hostfile h --num_processes 2 train.py", "accelerate", 2, 16),
        ("deepspeed --num_gpus 2 --master_port 29501 train.py", "deepspeed", 2, 16),
        ("deepspeed --num_gpus=2 --num_nodes 2 train.py --deepspeed zero2", "deepspeed", 4, 32),
        ("deepspeed --num_accelerators 2 train.py", "deepspeed", 2, 16),
        ("deepspeed --include localhost:0,1 train.py", "deepspeed", None, None),
        ("deepspeed train.py", "deepspeed", None, None),
    ],
)
def test_a_script_is_known_whatever_starts_it(start, launcher, world, effective):
    """The launcher's options are skipped, and say how many ranks there are."""
    spec = adapter(f"{start} {ARGS}").spec

    assert ("transformers", launcher, world, effective) == (
        spec.family,
        spec.launcher,
        spec.knob("world_size"),
        spec.effective_batch,
    )
    assert (4, 2, "out", 5e-5, 0) == tuple(
        map(spec.knob, ("device_batch", "accumulation", "output_dir", "learning_rate", "workers"))
    )
    assert "device_batch" not in spec.implicit


@pytest.mark.parametrize(
    "command",
    [
        "python train.py --lr 1 --output_dir out",
        "python train.py --output_dir out",
        "python -c print(1) --per_device_train_batch_size 4 --num_train_epochs 1",
        "bash train.sh --per_device_train_batch_size 4 --num_train_epochs 1",
        "python",
        "torchrun --nproc_per_node 2",
        "swift infer --per_device_train_batch_size 4 --num_train_epochs 1",
        "conda run -n x",
        "A=1",
    ],
)
def test_what_does_not_tell_of_training_arguments_is_left_alone(command):
    """A script is edited only where its language is known."""
    assert adapter(command) is None


@pytest.mark.parametrize(
    "env, path",
    [
        ({"HOME": "/me"}, "/me/.cache/huggingface/accelerate/default_config.yaml"),
        ({"HOME": "/me", "XDG_CACHE_HOME": "/c"}, "/c/huggingface/accelerate/default_config.yaml"),
        ({"HOME": "/me", "HF_HOME": "~/hf"}, "/me/hf/accelerate/default_config.yaml"),
    ],
)
def test_what_accelerate_config_wrote_counts_where_no_file_is_named(env, path):
    """Its ranks and its DeepSpeed numbers; a file that is named, and --cpu, leave it aside."""
    wrote = {"num_processes": 8, "deepspeed_config": {"gradient_accumulation_steps": 4}}
    files = {path: wrote, "a.yaml": {"num_processes": 2}}

    def found(start):
        return adapter(f"accelerate launch {start} train.py {ARGS}", env, files)

    assert [8, 2, 1] == [found(one).spec.knob("world_size") for one in ("", "--config_file a.yaml", "--cpu")]
    refused = [bool(found(one).write(words(f"accelerate launch {one} train.py {ARGS}"), {"device_batch": 1}).refused)
               for one in ("", "--config_file a.yaml")]  # fmt: skip
    assert [True, False] == refused


def test_what_stands_before_the_script_is_never_touched():
    """An option of the launcher may have the name of one of the script's."""
    start = "accelerate launch --num_processes 2 --gradient_accumulation_steps 7 train.py"
    new = adapter(f"{start} {ARGS}").write(words(f"{start} {ARGS}"), {"device_batch": 1})

    assert words(start) == new.argv[: len(words(start))]
    assert ("1", "8") == tuple(
        commandline.value(new.argv[len(words(start)) :], name)
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )


def test_accelerates_file_says_how_many_ranks():
    """Unreadable is unknown."""
    files = {"a.yaml": {"num_processes": 8, "num_machines": 2}}

    assert 8 == adapter(f"accelerate launch --config_file a.yaml train.py {ARGS}", files=files).spec.knob("world_size")
    assert ["config-unreadable"] == [
        f.id for f in adapter(f"accelerate launch --config_file b.yaml train.py {ARGS}").spec.findings
    ]


def test_accelerate_starts_one_process_on_the_cpu_whatever_is_asked_for():
    """Said before the job starts; without it the ranks that are missing would look like ranks that form no group."""
    (found,) = adapter(f"accelerate launch --cpu --num_processes 2 train.py {ARGS}").spec.findings

    assert ("world-size", "accelerate launch --cpu starts one process, not 2") == (found.id, found.message)


@pytest.mark.parametrize(
    "options, files, refused",
    [
        ("--config_file a.yaml", {"a.yaml": {"deepspeed_config": {"gradient_accumulation_steps": 2}}}, True),
        ("--config_file a.yaml", {"a.yaml": {"deepspeed_config": {"gradient_accumulation_steps": "auto"}}}, False),
        ("--use_deepspeed --gradient_accumulation_steps 2", {}, True),
        ("--gradient_accumulation_steps 2", {}, False),
        ("--deepspeed_config_file ds.json", {"ds.json": {"gradient_accumulation_steps": 2}}, True),
        ("--deepspeed_config_file missing.json", {}, True),
        ("--deepspeed_config_file ds.json", {"ds.json": {"zero_optimization": {"stage": 2}}}, True),
        (
            "--deepspeed_config_file ds.json",
            {"ds.json": {"gradient_accumulation_steps": "auto", "train_micro_batch_size_per_gpu": 4}},
            True,
        ),
        (
            "--deepspeed_config_file ds.json",
            {"ds.json": {"gradient_accumulation_steps": "auto", "train_batch_size": "auto"}},
            False,
        ),
    ],
)
def test_an_accumulation_that_accelerate_repeats_is_not_changed_alone(options, files, refused):
    """transformers compares the two and refuses to start where they differ."""
    text = f"accelerate launch {options} train.py {ARGS}"

    assert refused is (
        "device_batch" in dict(adapter(text, files=files).write(words(text), {"device_batch": 2}).refused)
    )


def test_variables_in_front_are_set_by_env():
    """`NAME=value command` is a shell's way of writing; the system knows no such command."""
    command = words(f"HF_HUB_OFFLINE=1 python train.py {ARGS}")

    assert ("env", *command) == recognise(command, {}, no_file).launch_argv(command, "PY")
    assert command[1:] == recognise(command[1:], {}, no_file).launch_argv(command[1:], "PY")


def test_a_resume_names_the_checkpoint_and_leaves_the_folder():
    """Such a script saves beside the checkpoint by itself."""
    argv = words(f"torchrun --nproc_per_node 2 train.py {ARGS}")
    after, edits = recognise(argv, {}, no_file).resume(argv, CKPT, "/w/out")

    assert (*argv, "--resume_from_checkpoint", CKPT) == after
    assert (Edit("resume_from", None, CKPT, "resume"),) == edits


def test_a_script_that_makes_its_own_folder_is_led_to_the_one_of_the_run():
    """What the job said of itself counts."""
    argv = words(f"python train.py {ARGS}")
    after, _ = recognise(argv, {}, no_file).resume(argv, "/w/out/monday/checkpoint-5", "/w/out/monday")

    assert "/w/out/monday" == commandline.value(after, "output_dir")


LONE = {"output_dir": "out", "per_device_train_batch_size": 4, "bf16": True, "num_train_epochs": 1, "seed": None}


def test_a_lone_json_file_becomes_flags_once_it_is_edited():
    """HfArgumentParser reads such a file only where nothing stands beside it."""
    argv = words("torchrun --nproc_per_node 2 train.py args.json")
    made = adapter(" ".join(argv), files={"args.json": LONE})
    after, _ = made.resume(argv, CKPT, "/w/out")

    assert (8, "bfloat16") == (made.spec.effective_batch, made.spec.knob("dtype"))
    flags = "--output_dir out --per_device_train_batch_size 4 --bf16 true --num_train_epochs 1"
    assert (*argv[:-1], *words(flags), "--resume_from_checkpoint", CKPT) == after
    both = made.resume(made.write(argv, {"workers": 1}).argv, CKPT, "/w/out")[0]
    assert (*argv[:-1], *words(flags), "--dataloader_num_workers", "1", "--resume_from_checkpoint", CKPT) == both
    assert argv == made.write(argv, {"workers": 0}).argv


def test_a_file_behind_config_gives_what_the_command_does_not():
    """TrlParser's way; the command wins, and the file stays."""
    files = {"c.yaml": {"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-4}}
    command = "accelerate launch --num_processes 2 sft.py --config c.yaml --learning_rate 2e-5"
    made = adapter(command, files=files)
    new = made.write(words(command), {"device_batch": 2})

    assert (4, 2e-5, 8) == (made.spec.knob("device_batch"), made.spec.knob("learning_rate"), made.spec.effective_batch)
    assert words(f"{command} --per_device_train_batch_size 2 --gradient_accumulation_steps 2") == new.argv


def test_trls_own_command_is_read_too():
    """Its ranks are accelerate's, and its defaults differ by version: unknown until the job tells them."""
    files = {"c.yaml": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}}
    spec = adapter("trl sft --config c.yaml --num_processes 2", files=files).spec

    assert ("trl", 2, 32, None) == (
        spec.family,
        spec.knob("world_size"),
        spec.effective_batch,
        spec.knob("learning_rate"),
    )
    assert None is adapter("trl env")


def test_precision_is_two_switches():
    """One goes on, the other off."""
    argv = words(f"python train.py {ARGS} --fp16")
    made = recognise(argv, {}, no_file)
    new = made.write(argv, {"dtype": "bfloat16"})

    assert "float16" == made.spec.knob("dtype")
    assert ("true", "false") == tuple(commandline.value(new.argv, name) for name in ("bf16", "fp16"))
    assert (Edit("dtype", "float16", "bfloat16", "changing"),) == new.edits


@pytest.mark.parametrize(
    "settings, given",
    [({"warmup_ratio": 0.1}, ""), ({"max_length": 64}, ""), ({"device_batch": 2}, "--auto_find_batch_size true")],
)
def test_what_a_script_may_not_have_is_refused(settings, given):
    """An option that the script does not know ends it before its first step."""
    argv = words(f"python train.py {ARGS} {given}")
    new = recognise(argv, {}, no_file).write(argv, settings)

    assert (argv, set(settings)) == (new.argv, {knob for knob, _ in new.refused})


def test_a_length_is_written_under_the_name_that_stands_there():
    """Scripts differ in what they call it."""
    argv = words(f"python train.py {ARGS} --max_seq_length 512")

    assert "256" == commandline.value(
        recognise(argv, {}, no_file).write(argv, {"max_length": 256}).argv, "max_seq_length"
    )


@pytest.mark.parametrize("name", ["save_only_model", "ignore_data_skip", "group_by_length", "auto_find_batch_size"])
def test_what_weakens_the_proof_is_named(name):
    """Each by its own name, and only where it is on."""
    on, off = (adapter(f"python train.py {ARGS} --{name} {value}").spec.findings for value in ("True", "false"))

    assert [f"--{name}"] == [finding.message.partition(":")[0] for finding in on]
    assert () == off


def test_one_process_with_several_devices_is_warned_of():
    """The trainer would split each batch over them and multiply it."""
    spec = adapter(f"python train.py {ARGS}", {"CUDA_VISIBLE_DEVICES": "0,1"}).spec

    assert ["data-parallel"] == [finding.id for finding in spec.findings]
    assert (None, None) == (spec.effective_batch, spec.knob("world_size"))


@pytest.mark.parametrize(
    "given", ["--split_batches true", '--accelerator_config {"split_batches":true}', "--accelerator_config a.json"]
)
def test_batches_that_are_split_over_the_ranks_are_not_multiplied_by_them(given):
    """The device batch is then that of all ranks; it is left alone."""
    text = f"torchrun --nproc_per_node 2 train.py {ARGS} {given}"
    made = adapter(text, files={"a.json": {"split_batches": True}})

    assert None is made.spec.effective_batch
    assert "device_batch" in dict(made.write(words(text), {"device_batch": 2}).refused)
    harmless = text.replace("true", "false").replace("a.json", "b.json")
    assert 16 == adapter(harmless, files={"b.json": {"split_batches": False}}).spec.effective_batch


@pytest.mark.parametrize(
    "start", ["trl grpo", "trl rloo", "trl kto", "python train.py --num_generations 8", "python x.py --rlhf_type kto"]
)
def test_a_batch_that_means_more_than_its_rows_is_not_changed(start):
    """Answers are generated for a prompt together, and KTO takes its KL term from the micro batch."""
    argv = words(f"{start} {ARGS}")

    assert ["device_batch"] == [knob for knob, _ in adapter(" ".join(argv)).write(argv, {"device_batch": 2}).refused]


DS = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}


def test_a_deepspeed_file_without_an_accumulation_is_given_the_one_that_is_written():
    """DeepSpeed takes 1 where it is left out, whatever the command says."""
    argv = words("python train.py --output_dir out --per_device_train_batch_size 4 --deepspeed ds.json")
    new = adapter(" ".join(argv), files={"ds.json": DS}).write(argv, {"device_batch": 2})

    assert 2 == json.loads(dict(new.overlays)["ds.json"])["gradient_accumulation_steps"]


def test_a_deepspeed_file_without_an_accumulation_beside_one_in_the_command_is_told_and_left_alone():
    """Which of the two counts differs by version."""
    argv = words(f"python train.py {ARGS} --deepspeed ds.json")
    made = adapter(" ".join(argv), files={"ds.json": DS})

    assert ["deepspeed-mismatch"] == [one.id for one in made.spec.findings]
    assert "device_batch" in dict(made.write(argv, {"device_batch": 2}).refused)


@pytest.mark.parametrize("way, named", [("group_by_length", True), ("batch_rebalance", True), ("random", False)])
def test_rows_in_the_order_of_their_length_weaken_the_proof_by_either_name(way, named):
    """transformers 5 has lost the switch and has a choice."""
    findings = adapter(f"python train.py {ARGS} --train_sampling_strategy {way}").spec.weakened()

    assert named is any(one.startswith("--group_by_length: ") for one in findings)


@pytest.mark.parametrize("many", ["0", "-4", "4.5", "four"])
def test_a_batch_that_is_no_number_of_rows_is_an_error(many):
    """Nothing is computed of it."""
    spec = adapter(f"python train.py --output_dir out --per_device_train_batch_size={many} --num_train_epochs 1").spec

    assert ("error", None) == (spec.findings[0].severity, spec.effective_batch)
    assert f"--per_device_train_batch_size {many}: is not a whole number" in spec.findings[0].message


def test_an_option_that_is_given_twice_is_told():
    """The last counts, and is what is changed; the same value twice is nobody's trouble."""
    argv = words(f"python train.py {ARGS} --per_device_train_batch_size 6 --gradient_accumulation_steps 2")
    made = adapter(" ".join(argv))

    assert ["--per_device_train_batch_size is given 2 times (4, 6): the last counts"] == [
        one.message for one in made.spec.findings
    ]
    assert (6, 12) == (made.spec.knob("device_batch"), made.spec.effective_batch)
    assert 12 == adapter(" ".join(made.write(argv, {"device_batch": 3}).argv)).spec.effective_batch


@pytest.mark.parametrize("given", ["missing.json", "{", "zero9"])
def test_a_batch_that_an_unreadable_deepspeed_file_may_repeat_is_left_alone(given):
    """One of its numbers would no longer be the command's; what to do is told."""
    argv = words(f"python train.py {ARGS} --deepspeed {given}")
    made = adapter(" ".join(argv))

    assert [("deepspeed-unreadable", True)] == [(one.id, "mend" in (one.fix or "")) for one in made.spec.findings]
    assert "device_batch" in dict(made.write(argv, {"device_batch": 2}).refused)
