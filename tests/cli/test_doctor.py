"""`guardian doctor`: what it says of a folder, to people and to programs, and its exit code."""

import json
import os

import pytest

from tests.cli.calling import complaint, guardian
from tests.host.folders import checkpoint


@pytest.fixture
def out(tmp_path):
    """Three checkpoints, of which the newest was cut off."""
    for step in (10, 20, 30):
        checkpoint(tmp_path / "out", step)
    os.truncate(tmp_path / "out" / "checkpoint-30" / "optimizer.pt", 40)
    return tmp_path / "out"


def test_it_tells_each_checkpoint_and_the_one_to_resume_from(out):
    """A line each, the reason beside it."""
    done = guardian("doctor", "out", cwd=out.parent)

    assert (0, "") == (done.returncode, done.stderr)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert [
        "step verdict why",
        "10 sound",
        "20 sound",
        "30 damaged optimizer.pt: is cut off (no zip directory at its end)",
        "guardian would resume from out/checkpoint-20",
    ] == lines


def test_programs_get_the_same_as_json(out):
    """Public keys."""
    told = json.loads(guardian("doctor", str(out), "--json", cwd=out.parent).stdout)

    assert {"checkpoints", "read", "resume_from"} == set(told)
    assert ("all", str(out / "checkpoint-20")) == (told["read"], told["resume_from"])
    assert {
        "path": str(out / "checkpoint-30"),
        "step": 30,
        "verdict": "damaged",
        "reason": "optimizer.pt: is cut off (no zip directory at its end)",
        "remark": None,
        "first_bad_step": None,
    } == told["checkpoints"][2]


def test_quick_says_that_only_headers_were_looked_at(out):
    """Nobody shall take it for more."""
    done = guardian("doctor", "out", "--quick", cwd=out.parent)

    assert 0 == done.returncode
    assert "Only headers were looked at; without --quick every byte is read." in done.stdout


def test_other_ranks_find_nothing_to_go_on_from(out):
    """Exit code 1, and why."""
    done = guardian("doctor", "out", "--world", "2", cwd=out.parent)

    assert 1 == done.returncode
    assert "saved by 1 rank, the run has 2" in done.stdout
    assert done.stdout.endswith("None of them can be resumed from.\n")


@pytest.mark.parametrize("name", ["checkpoint-20", "mine"])
def test_one_checkpoint_may_be_named_whatever_it_is_called(out, name):
    """A copy that somebody keeps has the step of its state."""
    (out / "checkpoint-20").rename(out.parent / name)

    done = guardian("doctor", name, cwd=out.parent)
    assert (0, f"guardian would resume from {name}") == (done.returncode, done.stdout.splitlines()[-1])
    assert ["20", "sound"] == done.stdout.splitlines()[1].split()


def test_an_output_folder_with_versions_is_looked_through(out):
    """As swift and our trainer make them."""
    (out.parent / "runs").mkdir()
    out.rename(out.parent / "runs" / "v0-20261121-010227")

    done = guardian("doctor", "runs", cwd=out.parent)
    assert "guardian would resume from runs/v0-20261121-010227/checkpoint-20" in done.stdout


def test_a_folder_without_checkpoints_has_none_to_resume_from(tmp_path):
    """It is said."""
    done = guardian("doctor", ".", cwd=tmp_path)

    assert (1, "guardian: no checkpoint-<step> in .\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["nowhere"], "nowhere is no folder"),
        ([], "the following arguments are required: DIR; see guardian doctor --help"),
        ([".", "--world", "0"], "argument --world: '0' is no number above 0; see guardian doctor --help"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, why):
    """Exit code 2."""
    assert why == complaint(guardian("doctor", *arguments, cwd=tmp_path), 2)
