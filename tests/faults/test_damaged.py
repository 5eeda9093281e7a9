"""Damaged checkpoints in the loop: passed over with the reason, and the sound one cannot vanish."""

import os
import signal
from pathlib import Path

import pytest

from tests.faults.harness import TINY, Guarded, harm
from tests.interpreters import PYTHONS_4_LONG

JOB = (*TINY, "--output_dir", "out", "--max_steps", "12", "--save_steps", "2", "--save_total_limit", "2")


@pytest.fixture(params=PYTHONS_4_LONG)
def command(request):
    """The job on each transformers."""
    return (request.param, "-m", "guardian.trainer", *JOB)


@pytest.fixture
def guarded(tmp_path, command):
    """A run that is ended whatever becomes of the test."""
    started = []

    def make(*things):
        started.append(Guarded(tmp_path, *command, env=harm(*things)))
        return started[-1]

    yield make
    for one in started:
        one.clean_up()


def cut(path):
    """As a full disk or a killed save leaves it."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """As a bad cable leaves it: the size is right, and every header."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


@pytest.mark.long
def test_two_damaged_newer_checkpoints_do_not_cost_the_sound_one(guarded):
    """Two are kept, both are damaged, and the job dies again soon: it goes on from the pinned step, or beyond it."""
    one = guarded(
        {"attempt": 1, "step": 5, "do": "kill"},
        {"attempt": 2, "step": 9, "do": "hold"},
        {"attempt": 3, "step": 7, "do": "kill"},
    ).start()
    pid = one.until_held(2)
    out = Path(one.folder, "out")
    assert {"checkpoint-6", "checkpoint-8"} == {path.name for path in out.glob("checkpoint-*")}
    cut(out / "checkpoint-6" / "model.safetensors")
    flip(out / "checkpoint-8" / "optimizer.pt")
    os.kill(pid, signal.SIGKILL)
    code = one.wait()
    report = one.report()

    assert (0, "finished", 12) == (code, report["outcome"], report["steps_done"]), one.shown()
    assert [0, 4, 4] == [a["resume_step"] or 0 for a in report["attempts"]][:3]
    assert report["attempts"][3]["resume_step"] >= 4
    reasons = {Path(skipped["path"]).name: skipped["reason"] for skipped in report["skipped_checkpoints"]}
    assert "model.safetensors" in reasons["checkpoint-6"]
    assert "optimizer.pt" in reasons["checkpoint-8"]
    limits = [(e["old"], e["new"]) for e in report["attempts"][2]["edits"] if e["knob"] == "save_total_limit"]
    assert [("2", "4")] == limits
    assert "proved" == report["certificate"]["verdict"]
