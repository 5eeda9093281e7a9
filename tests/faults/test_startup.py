"""A job that cannot start is not started again: exit 4, one attempt, the line that says why, and what to do.

Each of these is a mistake of the user's that no retry heals; before the model is loaded where the trainer can know.
"""

import json

import pytest

from tests.faults.harness import TINY, Guarded

SFT = (*TINY, "--output_dir", "out", "--max_steps", "4")


@pytest.fixture
def refused(tmp_path):
    """Runs a command that must be refused; the cause in its report."""
    made = []

    def run(*command, env=None):
        guarded = Guarded(tmp_path, *command, env=env)
        made.append(guarded)
        assert 4 == guarded.run(), guarded.shown()[-4000:]
        report = guarded.report()
        assert ("not_retryable", 4, None) == tuple(report[key] for key in ("outcome", "exit_code", "steps_done"))
        (attempt,) = report["attempts"]
        assert all(text in guarded.shown() for text in (attempt["cause"]["advice"], evidence(attempt["cause"])))
        return attempt["cause"]

    yield run
    for one in made:
        one.clean_up()


def evidence(cause):
    """The text of the deciding line."""
    return cause["evidence"][0]["text"]


def test_a_row_without_the_columns_that_are_read_is_named_with_its_line(refused, tmp_path):
    """The second row of the file has a column of another name."""
    rows = [{"query": "q", "response": "r"}, {"query": "q", "anwser": "r"}]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    cause = refused("sft", "--model", "demo", "--dataset", "bad.jsonl")

    assert "dataset_error" == cause["class"]
    assert "bad.jsonl line 2: " in evidence(cause)
    assert "Correct the file" in cause["advice"]


def test_a_model_that_is_not_there_is_named(refused):
    """Given as a path: nothing is looked for on a hub."""
    cause = refused("sft", "--model", "./no/such/model", "--dataset", "demo")

    assert "model_load_error" == cause["class"]
    assert "./no/such/model" in evidence(cause)
    assert "Check the model's folder" in cause["advice"]


def test_an_argument_that_does_not_exist_is_named(refused):
    """A misspelt argument must not be ignored for a whole night."""
    cause = refused(*SFT, "--learning_rat", "1e-3")

    assert "config_conflict" == cause["class"]
    assert "--learning_rat" in evidence(cause)
    assert "Correct the command" in cause["advice"]


def test_a_library_that_cannot_be_imported_is_named(refused, tmp_path):
    """A library of the trainer's lacks one of its own; the last line of the traceback decides."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "huggingface_hub.py").write_text("import a_library_that_nobody_has\n")

    cause = refused(*SFT, env={"PYTHONPATH": str(tmp_path / "broken")})

    assert "dependency_error" == cause["class"]
    assert "ModuleNotFoundError: No module named 'a_library_that_nobody_has'" == evidence(cause)
    assert "Install what that line names" in cause["advice"]


def test_a_library_that_no_rank_can_import_is_named_under_torchrun_too(refused, tmp_path):
    """Not the table that torchrun prints at the end: what the first rank said before."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "huggingface_hub.py").write_text("import a_library_that_nobody_has\n")

    cause = refused(*SFT, env={"PYTHONPATH": str(tmp_path / "broken"), "NPROC_PER_NODE": "2"})

    assert "dependency_error" == cause["class"]
    assert "a_library_that_nobody_has" in evidence(cause)


def test_a_command_that_is_not_there_is_named(refused):
    """No first process at all."""
    cause = refused("no-such-trainer", "--config", "a.yaml")

    assert ("config_conflict", "not_started") == (cause["class"], cause["variant"])
    assert evidence(cause).startswith("no-such-trainer: command not found")
    assert "on PATH" in cause["advice"]
