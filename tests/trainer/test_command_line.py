"""What was given is read before anything slow, and what is wrong is one line that names it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from guardian.trainer import cli
from guardian.trainer.command_line import given_values

from guardian.errors import UserError
from tests.trainer.jobs import environment


def test_every_way_of_writing_an_argument_gives_the_same_value():
    """Verb or none, dash or underscore, blank or equals sign, either of two names."""
    ways = (
        ["sft", "--train_type", "full"],
        ["--tuner_type", "full"],
        ["--tuner-type=full"],
        ["--tuner_type", "lora", "--tuner_type", "full"],
    )

    assert [{"tuner_type": "full"}] * 4 == [given_values(argv, {}) for argv in ways]


def test_values_have_the_kind_of_their_argument():
    """Numbers, truth, several words, objects; a minus sign begins a value, not an argument."""
    argv = [
        *["--max_steps", "-1", "--learning_rate", "1e-4", "--bf16", "--fp16", "no", "--dataset", "a.jsonl#5", "demo"],
        *["--columns", '{"q": "query"}', "--save_steps", "10", "--logging_steps", "0.1"],
    ]
    expected = {
        "max_steps": -1,
        "learning_rate": 1e-4,
        "bf16": True,
        "fp16": False,
        "dataset": ("a.jsonl#5", "demo"),
        "columns": {"q": "query"},
        "save_steps": 10,
        "logging_steps": 0.1,
    }

    assert expected == given_values(argv, {})


@pytest.mark.parametrize(
    "argv,message",
    [
        (["--learning_rat", "1"], "--learning_rat: there is no such argument; did you mean --learning_rate"),
        (["--zzzz", "1"], "--zzzz: there is no such argument; --help lists them all"),
        (["--max_steps", "ten"], "--max_steps ten: is not a whole number"),
        (["--max_steps"], "--max_steps: needs a value"),
        (["--max_steps", "1", "2"], "--max_steps 1: takes one value; what is 2 for?"),
        (["--tuner_type", "qlora"], "--tuner_type qlora: choose one of lora, full"),
        (["--lora_rank", "0"], "--lora_rank 0: must be at least 1"),
        (["--push_to_hub"], "--push_to_hub: not offered: this trainer writes to the disk only"),
        (["train.jsonl"], "train.jsonl: an argument begins with --"),
    ],
)
def test_a_slip_is_named_with_its_remedy(argv, message):
    """The line begins with the argument as it was written."""
    with pytest.raises(UserError) as caught:
        given_values(argv, {})

    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_configuration_file_stands_for_arguments_and_the_command_line_wins(tmp_path, suffix):
    """JSON is YAML too, so one text serves both; ENV does not override what is set."""
    config = tmp_path / f"run{suffix}"
    config.write_text(
        json.dumps({"max_steps": 3, "bf16": True, "dataset": ["a.jsonl", "b.jsonl"], "ENV": {"A": 1, "B": 2}})
    )
    environ = {"A": "mine"}

    assert {"bf16": True, "dataset": ("a.jsonl", "b.jsonl"), "max_steps": 9} == given_values(
        [str(config), "--max_steps", "9"], environ
    )
    assert {"A": "mine", "B": "2"} == environ


@pytest.mark.parametrize(
    "name,text,message",
    [
        ("a.yaml", "max_steps: [1\nseed: 2", "line 2: is not YAML"),
        ("a.json", '{"max_steps":\n}', "line 2: is not JSON"),
        ("a.json", "[1]", "must hold a mapping"),
    ],
)
def test_a_damaged_configuration_file_is_named_with_its_line(tmp_path, name, text, message):
    """The whole line is checked by its beginning: path, then line."""
    (tmp_path / name).write_text(text)

    with pytest.raises(UserError, match=message):
        given_values([str(tmp_path / name)], {})


def torch_free(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `code`, then fail if a framework was imported."""
    check = "; bad = {'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules); sys.exit(9 if bad else status)"
    return subprocess.run(
        [sys.executable, "-c", code + check, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


RUN = "import sys; from guardian.trainer.cli import main; status = main(sys.argv[1:])"


def test_help_imports_no_framework_and_its_example_is_a_command():
    """--help answers at once, wherever it stands."""
    done = torch_free(RUN, "sft", "--help")

    assert (0, "") == (done.returncode, done.stderr)
    assert "python -m guardian.trainer --model demo --dataset demo --output_dir out" in done.stdout
    assert all(f"--{name}" in done.stdout for name in ("lora_rank", "warmup_ratio", "save_total_limit", "deepspeed"))


@pytest.mark.parametrize(
    "rows,line",
    [
        ('{"query": "a", "respons": "b"}', "rows.jsonl line 1: column response is missing"),
        ("", "rows.jsonl: holds no rows"),
    ],
)
def test_bad_data_is_said_before_torch_is_imported(tmp_path, rows, line):
    """One line on stderr, exit 2, no traceback."""
    (tmp_path / "rows.jsonl").write_text(rows)
    done = torch_free(RUN, "--model", "demo", "--dataset", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path))

    assert (2, 1) == (done.returncode, done.stderr.count("\n"))
    assert line in done.stderr


def test_the_run_has_a_rank_before_a_launcher_is_asked_for_one(tmp_path, capsys, monkeypatch):
    """With NPROC_PER_NODE the data are checked before torchrun is started."""
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    assert 2 == cli.main(["--model", "demo", "--dataset", str(tmp_path / "no.jsonl"), "--output_dir", str(tmp_path)])
    assert "no.jsonl: no such data file" in capsys.readouterr().err
