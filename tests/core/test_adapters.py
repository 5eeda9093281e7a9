"""What a command of the embedded trainer means, and how it is made to go on from a checkpoint."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardian.core import commandline
from guardian.core.adapters import embedded, recognise
from guardian.core.events import Edit
from guardian.core.job import unrecognised
from guardian.errors import UserError
from guardian.host.configs import read_config

CKPT = "/w/out/v0-x/checkpoint-5"


def no_file(path):
    """A reader for commands that name no file."""
    raise UserError(f"{path} was not to be read")


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


def spec(text, env=None, read=no_file):
    """What a command means."""
    adapter = recognise(words(text), env or {}, read)
    return adapter.spec if adapter else unrecognised(words(text))


@pytest.mark.parametrize(
    "command",
    [
        "swift infer --model m",
        "python train.py --model m",
        "python -m other.trainer sft",
        "torchrun --nproc_per_node 2 -m guardian.trainer sft",
        "bash -c sft",
        "-m guardian.trainer",
        "./sft --model m",
        "",
    ],
)
def test_another_command_is_not_recognised(command):
    """It is started as it is: no family, no knob, nothing to edit."""
    assert recognise(words(command), {}, no_file) is None
    assert spec(command).family is None


@pytest.mark.parametrize(
    "command, launched",
    [
        ("sft --model m", "PY -m guardian.trainer sft --model m"),
        ("--model m", "PY -m guardian.trainer sft --model m"),
        ("A=1 NPROC_PER_NODE=2 sft --model m", "env A=1 NPROC_PER_NODE=2 PY -m guardian.trainer sft --model m"),
        ("A=1 python -m guardian.trainer --model m", "env A=1 python -m guardian.trainer --model m"),
        ("sft conf.yaml --seed 1", "PY -m guardian.trainer sft conf.yaml --seed 1"),
        ("python -m guardian.trainer sft --model m", "python -m guardian.trainer sft --model m"),
        (
            "/v/bin/python3.11 -X dev -u -m guardian.trainer --model m",
            "/v/bin/python3.11 -X dev -u -m guardian.trainer --model m",
        ),
    ],
)
def test_the_trainer_is_started_by_the_python_that_the_command_names_or_by_ours(command, launched):
    """The verb may be left out; what follows goes through untouched."""
    adapter = recognise(words(command), {}, lambda _: {})

    assert words(launched) == adapter.launch_argv(words(command), "PY")


def test_the_knobs_are_read_with_what_the_trainer_fills_in():
    """Names that nobody gave are listed, with the values that count all the same."""
    job = spec("sft --model a/tiny --dataset d --per-device-train-batch-size=3 --learning_rate 2e-4 --save_steps 10")

    assert (3, 6, 1, 18) == (
        job.knob("device_batch"),
        job.knob("accumulation"),
        job.knob("world_size"),
        job.effective_batch,
    )
    assert (2e-4, 10, "output/tiny", 0) == tuple(
        map(job.knob, ("learning_rate", "save_steps", "output_dir", "workers"))
    )
    assert {"accumulation", "world_size", "workers", "warmup_ratio", "dtype", "max_length", "eval_batch"} <= set(
        job.implicit
    )
    assert not {"device_batch", "learning_rate", "save_steps"} & set(job.implicit)


@pytest.mark.parametrize(
    "batch, env, accumulation, effective",
    [
        (8, {}, 2, 16),
        (3, {}, 6, 18),
        (32, {}, 1, 32),
        (2, {"NPROC_PER_NODE": "2"}, 4, 16),
        (2, {"NPROC_PER_NODE": "2", "NNODES": "3"}, 2, 24),
        (2, {"NPROC_PER_NODE": "auto"}, None, None),
        (0, {}, None, None),
    ],
)
def test_accumulation_left_out_makes_sixteen_rows_or_more(batch, env, accumulation, effective):
    """The rule of the trainer: ceil(16 / (batch x ranks)), at least 1."""
    job = spec(f"sft --model m --per_device_train_batch_size {batch}", env)

    assert (accumulation, effective) == (job.knob("accumulation"), job.effective_batch)


def test_ranks_in_the_environment_mean_torchrun():
    """One process runs in the interpreter itself, several are started by torchrun."""
    assert ("python", "torchrun") == (spec("sft").launcher, spec("sft", {"NPROC_PER_NODE": "2"}).launcher)
    assert 4 == spec("NPROC_PER_NODE=4 sft --model m", {"NPROC_PER_NODE": "2"}).knob("world_size")


def test_a_configuration_file_gives_what_the_command_line_does_not(tmp_path):
    """Its keys stand for --key value before the rest; ENV adds to the environment."""
    (tmp_path / "c.yaml").write_text(
        "per-device-train-batch-size: 2\nlearning_rate: 1.0e-5\nENV:\n  NPROC_PER_NODE: 4\n"
    )
    job = spec(f"sft {tmp_path}/c.yaml --learning_rate 7", read=read_config)

    assert (2, 7, 4, 2, 16) == (
        *map(job.knob, ("device_batch", "learning_rate", "world_size", "accumulation")),
        job.effective_batch,
    )
    assert 1 == spec(f"sft {tmp_path}/c.yaml", {"NPROC_PER_NODE": "1"}, read_config).knob("world_size")


@pytest.mark.parametrize("content", ["- a\n", "a: [", "x" * (1 << 20) + "y", "[" * 100000])
def test_a_file_that_cannot_be_understood_leaves_its_knobs_unknown(tmp_path, content):
    """Unknown is said, and is not mistaken for the trainer's default."""
    (tmp_path / "c.yaml").write_text(content)
    job = spec(f"sft {tmp_path}/c.yaml --max_length 64", read=read_config)

    assert ["config-unreadable"] == [finding.id for finding in job.findings]
    assert (None, None, 64) == (job.knob("device_batch"), job.effective_batch, job.knob("max_length"))
    assert "device_batch" not in job.implicit


def test_a_value_that_is_no_number_is_an_error_and_unknown():
    """Nothing is computed from it."""
    job = spec("sft --model m --per_device_train_batch_size many")

    assert [("not-a-number", "error")] == [(f.id, f.severity) for f in job.findings]
    assert job.effective_batch is None


def test_a_resume_is_three_edits_and_touches_nothing_else():
    """The checkpoint, the folder that the job really writes to, and no new version of it."""
    argv = ("sft", "--output_dir=out", "--system", "be  brief", "--add-version", "true", "--model", "m")
    after, edits = recognise(argv, {}, no_file).resume(argv, CKPT, "/w/out/v0-x")

    assert (
        "sft",
        "--output_dir=/w/out/v0-x",
        "--system",
        "be  brief",
        "--add-version",
        "false",
        "--model",
        "m",
    ) == after[:8]
    assert ("--resume_from_checkpoint", CKPT) == after[8:]
    assert {
        Edit("resume_from", None, CKPT, "resume"),
        Edit("output_dir", "out", "/w/out/v0-x", "resume"),
        Edit("add_version", "true", "false", "resume"),
    } == set(edits)


def test_a_folder_that_the_job_never_told_is_the_checkpoints_own():
    """The next save goes beside the one that is resumed from."""
    after, _ = recognise(("sft",), {}, no_file).resume(("sft",), CKPT + "/", None)

    assert "/w/out/v0-x" == commandline.value(after, "output_dir")


def test_an_edit_knows_what_the_configuration_file_said():
    """The old value is the one that would have counted."""
    adapter = recognise(("sft", "c.json"), {}, lambda _: {"output_dir": "o", "add_version": False})
    _, edits = adapter.resume(("sft", "c.json"), CKPT, "/n")

    assert [("resume_from", None), ("output_dir", "o")] == [(e.knob, e.old) for e in edits]


@settings(derandomize=True, max_examples=100)
@given(st.lists(st.text(max_size=6), max_size=6))
def test_a_resumed_command_still_holds_every_word_of_the_user(rest):
    """Nothing but the values of the three edited options is replaced, whatever the command line holds."""
    argv = ("sft", *rest)
    adapter = recognise(argv, {}, lambda _: {})
    after, _ = adapter.resume(argv, CKPT, "/o")
    walk = iter(after)

    assert all(token in walk for token in argv)
    assert 1 + len(argv) <= len(after) <= 6 + len(argv)


def test_the_table_of_defaults_is_the_trainers_own():
    """A default that changes over there would make our effective batch wrong in silence."""
    trainer = pytest.importorskip("guardian.trainer.arguments")
    ours = {embedded.NAMES[knob]: default for knob, default in embedded.DEFAULTS.items()}
    demo = {embedded.NAMES[knob]: default for knob, default in embedded.DEMO_DEFAULTS.items()}

    assert ours == {name: trainer.ARGUMENTS[name].default for name in ours}
    assert demo == {name: value for name, value in trainer.DEMO_DEFAULTS.items() if name in embedded.NAMES.values()}
    assert set(embedded.NAMES.values()) <= trainer.ARGUMENTS.keys()


def test_the_trainers_own_parser_reads_a_resumed_command():
    """What we write is what the trainer understands, word for word."""
    parser = pytest.importorskip("guardian.trainer.command_line")
    argv = words("sft --model demo --dataset demo a.jsonl#5 --add-version --output_dir out --max_steps -1")
    after, _ = recognise(argv, {}, no_file).resume(argv, CKPT, "/w/out/v0-x")
    read = parser.given_values(after, {})

    assert (CKPT, "/w/out/v0-x", False) == (read["resume_from_checkpoint"], read["output_dir"], read["add_version"])
    assert (("demo", "a.jsonl#5"), "demo", -1) == (read["dataset"], read["model"], read["max_steps"])
