"""What stands on stdout: the job's own output as it is, guardian's lines beside it, the report; for people or programs."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.cli.calling import guardian
from tests.faults.harness import JOBS, Guarded

WORDED = (sys.executable, str(JOBS / "worded.py"))
PREFIX = b"guardian: "
LONG = 300_000
"""Bytes: longer than a pipe holds, and than a block is read."""


@pytest.fixture
def started(tmp_path):
    """Starts a run that is left alone; nothing of it outlives the test."""
    made = []

    def start(*words, job=WORDED):
        guarded = Guarded(tmp_path, *job, *words)
        made.append(guarded)
        return guarded.start()

    yield start
    for guarded in made:
        guarded.clean_up()


def without_guardian(out):
    """The job's output: what is left without guardian's lines and the report after the last of them."""
    lines = out.split(b"\n")
    last = max(at for at, line in enumerate(lines) if line.startswith(PREFIX))
    return b"\n".join(line for line in lines[:last] if not line.startswith(PREFIX))


SCRIPT = "import sys; sys.stdout.buffer.write(open('said', 'rb').read())"


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["cut off", "whole"])
def test_the_jobs_output_is_shown_byte_for_byte(end, tmp_path):
    """Bars, escapes, bytes that are no text, lines longer than a screen: nothing is added but guardian's own lines."""
    said = (
        b"\r 10%|# |\r 20%|## |\n\n\x1b[31mred\x1b[0m \xff\xfe\x00 \xe2\x96"
        + b"x" * LONG
        + b"\n"
        + bytes(range(11, 256))
        + end
    )
    (tmp_path / "said").write_bytes(said)

    done = guardian("run", "--name", "r1", "--", sys.executable, "-c", SCRIPT, cwd=tmp_path, text=False)

    assert 0 == done.returncode, done.stderr
    shown = without_guardian(done.stdout)
    assert said.removesuffix(b"\n") == shown
    assert said == (tmp_path / "guardian_runs/r1/attempts/0001/job.log").read_bytes()


def test_nothing_is_redrawn_or_coloured_where_no_terminal_is(tmp_path):
    """A log of guardian's own can be read and searched; stderr stays empty."""
    done = guardian("run", "--name", "r1", "--", *WORDED, "say:hello", "exit:3", cwd=tmp_path, text=False)

    assert (1, b"") == (done.returncode, done.stderr)
    assert not {b"\x1b", b"\r", b"\b"} & {bytes([one]) for one in done.stdout}
    for word in (b"report", b"status"):
        assert b"\x1b" not in guardian(word, cwd=tmp_path, text=False).stdout


def test_a_program_that_guardian_does_not_know_is_explained_and_restarted_as_it_is(tmp_path):
    """One plain restart, the very same command, and what is known of its end."""
    command = ("sh", "-c", "echo nothing works; exit 3")
    done = guardian("run", "--name", "r1", "--", *command, cwd=tmp_path)
    told = json.loads(guardian("report", "--json", "r1", cwd=tmp_path).stdout)

    assert 1 == done.returncode
    assert "does not know this command: what trains in it is learnt from inside" in done.stdout
    launches = [
        json.loads(file.read_text()) for file in sorted(tmp_path.glob("guardian_runs/r1/attempts/*/launch.json"))
    ]
    assert [list(command)] * 2 == [launch["argv"] for launch in launches]
    assert ("gave_up", 1, 2) == (told["outcome"], told["exit_code"], len(told["attempts"]))
    assert "exit code 3" in told["attempts"][0]["cause"]["title"]
    assert {"line": 1, "text": "nothing works"} in told["attempts"][0]["cause"]["evidence"]


def test_what_is_odd_about_a_command_is_told_as_it_starts(tmp_path):
    """File, line and what to do; it is started all the same."""
    (tmp_path / "ds.json").write_text('{"zero_optimization": {},\n}\n')
    (tmp_path / "train.py").write_text("print('trained')\n")
    words = "python train.py --output_dir out --per_device_train_batch_size 4 --num_train_epochs 1 --deepspeed ds.json"
    done = guardian("run", "--name", "r1", "--", *words.split(), cwd=tmp_path)

    assert 0 == done.returncode
    assert "guardian: warning: ds.json:" in done.stderr
    assert "a comma stands before the closing bracket" in done.stderr
    assert "(mend the file or its path" in done.stderr


def test_a_reader_that_leaves_gets_no_complaint(tmp_path):
    """`guardian report | head -1`, as everybody types it."""
    assert 0 == guardian("run", "--name", "r1", "--", "true", cwd=tmp_path).returncode
    reading, writing = os.pipe()
    os.close(reading)

    done = guardian("report", "r1", cwd=tmp_path, capture_output=False, stdout=writing, stderr=subprocess.PIPE)

    os.close(writing)
    assert (3, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("words", [("status",), ("run", "--help"), ("--help",)])
def test_output_that_cannot_be_written_is_one_line(words, tmp_path):
    """A full disk behind `>`; exit 3."""
    with open("/dev/full", "w") as full:
        done = guardian(*words, cwd=tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE)

    said = "guardian: error: the output cannot be written: No space left on device\n"
    assert (3, said) == (done.returncode, done.stderr)


# --- for programs ------------------------------------------------------------------------------------------------

STATUS = {"run", "state", "pid", "step", "max_steps", "attempt", "last_cause", "silence_budget_s", "folder"}
REPORT = {
    "run", "outcome", "exit_code", "steps_done", "max_steps", "wall_s", "goodput", "attempts", "effective_batch",
    "certificate", "skipped_checkpoints", "next_argv",
}  # fmt: skip
ATTEMPT = {"number", "first_step", "last_step", "resumed_from", "cause", "edits", "lost_steps", "seconds"}
CERTIFICATE = {"verdict", "reasons", "steps_counted", "replayed_steps", "largest_loss_difference"}


def told(guarded, *command):
    """What a command tells programs."""
    done = guarded.call(*command, "--json")
    assert (0, "") == (done.returncode, done.stderr), done.stderr
    return json.loads(done.stdout)


def ready(guarded):
    """Wait until the job is."""
    guarded.until("ready", lambda run: run.attempts[0].job and (guarded.folder / "ready").exists())


def test_a_living_run_has_the_keys_of_its_contract(started):
    """In status, in the report, and when it is asked to stop."""
    guarded = started("touch:ready", "wait:never")
    ready(guarded)

    (row,) = told(guarded, "status")["runs"]
    report = told(guarded, "report")

    assert STATUS <= set(row)
    assert ("r1", "starting", 1, guarded.story().attempts[0].job.pid) == tuple(
        row[k] for k in ("run", "state", "attempt", "pid")
    )
    assert str(guarded.run_folder.path) == row["folder"]
    assert REPORT <= set(report)
    assert ("running", None, None) == tuple(report[key] for key in ("outcome", "exit_code", "next_argv"))
    assert (ATTEMPT, CERTIFICATE) == (ATTEMPT & set(report["attempts"][0]), CERTIFICATE & set(report["certificate"]))
    assert {"run": "r1", "now": "asked", "outcome": None, "exit_code": None} == told(guarded, "stop", "r1")
    assert 75 == guarded.wait()


def test_the_countdown_of_a_silence_shows_in_status(started):
    """One of two ranks stands still at a step: how long nothing has happened, how long that may last, and where."""
    guarded = started("spin", "out", job=(sys.executable, str(JOBS / "standing.py")))
    guarded.until_step(15, attempt=1)
    lines, rows = [], []

    def silent(_):
        rows[:] = told(guarded, "status")["runs"]
        lines[:] = guarded.call("status").stdout.splitlines()
        return rows[0]["silence_left_s"] < 58

    guarded.until("two silent seconds", silent)

    assert ("running", "training", 60) == tuple(rows[0][key] for key in ("state", "silence_phase", "silence_budget_s"))
    assert re.search(r"^r1: running, attempt 1, step 1[56] of 20, silent for \d+ of 60 s \(training\)", lines[0])


def test_a_run_that_is_over_has_the_keys_of_its_contract(started):
    """A second stop changes nothing; the report tells how to go on."""
    guarded = started("touch:ready", "wait:never")
    ready(guarded)
    assert 0 == guarded.call("stop").returncode
    assert 75 == guarded.wait()

    (row,) = told(guarded, "status")["runs"]
    report = told(guarded, "report", "r1")

    assert guarded.call("status").stdout.startswith("r1: stopped, attempt 1, ")
    assert ("finished:stopped", None, "preempted_or_interrupted") == tuple(
        row[k] for k in ("state", "pid", "last_cause")
    )
    assert ("stopped", 75) == (report["outcome"], report["exit_code"])
    assert ["guardian", "resume", "r1"] == report["next_argv"]
    assert {"run": "r1", "now": "over", "outcome": "stopped", "exit_code": 75} == told(guarded, "stop")


def test_a_job_without_its_guardian_is_shown_as_such_and_can_be_stopped_by_a_program(started):
    """The command that ends it itself writes one object to stdout, and what happens meanwhile to stderr."""
    guarded = started("touch:ready", "wait:never")
    ready(guarded)
    guarded.process.kill()
    guarded.process.wait()

    (row,) = told(guarded, "status")["runs"]
    done = guarded.call("stop", "--json")

    assert row["state"].startswith("unattended: the job lives")
    assert {"run": "r1", "now": "over", "outcome": "stopped", "exit_code": 75} == json.loads(done.stdout)
    assert "guardian: " in done.stderr


def test_without_runs_there_is_an_empty_list(tmp_path):
    """And no folder is made by looking."""
    done = guardian("status", "--json", cwd=tmp_path)

    assert {"runs": []} == json.loads(done.stdout)
    assert [] == list(tmp_path.iterdir())
