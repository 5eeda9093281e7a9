"""The hungry job of the fault tests (tests/jobs/hungry) is what it says: its memory is real and depends on the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interpreters import PYTHON_4, PYTHONS_4_LONG, needs_transformers_4
from tests.jobs.hunger import hungry
from tests.trainer.jobs import PATIENCE_S, environment, logged, losses

pytest.importorskip("torch")

ROOT = Path(__file__).parent.parent.parent
ROWS = ("--dataset", str(ROOT / "tests/jobs/rows.jsonl"), "--split_dataset_ratio", "0.1", "--eval_strategy", "no")
SHORT = ("--model", "demo", *ROWS, "--output_dir", "out", "--add_version", "false", "--logging_steps", "1")
NO_ROOM = "DefaultCPUAllocator: can't allocate memory: you tried to allocate"
CGROUPS = Path("/sys/fs/cgroup/memory")


def batch(rows, accumulated):
    """As arguments."""
    return ("--per_device_train_batch_size", str(rows), "--gradient_accumulation_steps", str(accumulated))


def job(folder, *arguments, python=sys.executable, steps=2, **how):
    """The ended process; what it printed is one text. `how` is for subprocess."""
    argv = [python, "-m", "guardian.trainer", *SHORT, "--max_steps", str(steps), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(argv, cwd=folder, timeout=PATIENCE_S, check=False, **pipes, **how)


@pytest.mark.parametrize("python", PYTHONS_4_LONG)
def test_memory_that_depends_on_the_batch_runs_out_in_the_step(tmp_path, python):
    """8 rows of 40 MiB do not go into 250: the allocator says so, and the companion what the job was at."""
    told = {"PYTHONPATH": str(ROOT / "trainer/companion"), "GUARDIAN_DIR": str(tmp_path)}
    env = environment(**hungry(told, mib_per_row=40, room_mib=250))
    env["PYTHONPATH"] = os.pathsep.join(reversed(env["PYTHONPATH"].split(os.pathsep)))  # as guardian puts it: first
    done = job(tmp_path, *batch(8, 2), python=python, env=env)
    lines = [json.loads(line) for line in (tmp_path / "heartbeat.0.jsonl").read_text().splitlines()]
    left = next(line for line in lines if line["ev"] == "exc")

    assert (1, True) == (done.returncode, NO_ROOM in done.stdout.splitlines()[-1])
    assert ("RuntimeError", "train", 0, 8) == tuple(left[name] for name in ("type", "phase", "step", "rows"))


@pytest.mark.long
@pytest.mark.parametrize("python", PYTHONS_4_LONG)
def test_half_the_batch_fits_and_trains_as_if_nothing_were_eaten(tmp_path, python):
    """The values that pass through the layers stay what they are, and so does the loss."""
    (tmp_path / "plain").mkdir()
    job(tmp_path / "plain", *batch(8, 2), python=python, env=environment())
    env = environment(**hungry(mib_per_row=40, room_mib=250))
    done = job(tmp_path, *batch(4, 4), python=python, env=env)
    expected = {step: pytest.approx(loss, abs=1.01e-4) for step, loss in losses(tmp_path / "plain" / "out").items()}

    assert 0 == done.returncode, done.stdout
    assert (2, expected) == (len(expected), losses(tmp_path / "out"))


@pytest.mark.long
def test_activations_that_are_recomputed_take_less(tmp_path):
    """One layer's share at a time."""
    env = environment(**hungry(mib_per_row=40, room_mib=250))

    assert 0 == job(tmp_path, *batch(8, 2), "--gradient_checkpointing", "true", env=env).returncode


def test_only_an_evaluation_may_be_hungry(tmp_path):
    """The steps before it are trained with the same batch."""
    env = environment(**hungry(mib_per_row=40, room_mib=250, only="eval"))
    evaluating = ("--eval_strategy", "steps", "--eval_steps", "2", "--per_device_eval_batch_size", "8")
    done = job(tmp_path, *batch(8, 2), *evaluating, steps=3, env=env)

    assert (1, True) == (done.returncode, NO_ROOM in done.stdout.splitlines()[-1])
    assert [1, 2] == [*losses(tmp_path / "out")]
    assert "evaluation_loop" in done.stdout


@pytest.mark.long
def test_only_a_long_row_may_make_it_hungry(tmp_path):
    """Nothing is taken until a micro-batch has one, whatever the others are."""
    lengths = [40, 40, 900, 40]  # characters; the demo's tokens are bytes
    rows = [{"query": "a" * length, "response": "b"} for length in lengths]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = (*batch(1, 1), "--dataset", "rows.jsonl", "--split_dataset_ratio", "0", "--max_length", "1024")
    env = environment(**hungry(mib_per_row=300, room_mib=200, longer_than=500))
    done = job(tmp_path, *arguments, steps=4, env=env)

    assert (1, True) == (done.returncode, NO_ROOM in done.stdout.splitlines()[-1])
    assert 0 == job(tmp_path, *arguments, "--max_length", "500", steps=3, env=env).returncode


@pytest.mark.skipif(not os.access(CGROUPS / "cgroup.procs", os.W_OK), reason="no cgroup v1 to make a limit in")
def test_without_a_limit_of_its_own_the_kernel_ends_it_without_a_word(tmp_path):
    """8 rows of 80 MiB in a cgroup of 700 MiB: killed, and the log just ends."""
    group = CGROUPS / f"guardian-test-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(700 * 2**20))
    try:
        done = job(
            tmp_path,
            *batch(8, 2),
            env=environment(**hungry(mib_per_row=80)),
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )
        killed = [line for line in (group / "memory.oom_control").read_text().splitlines() if "oom_kill " in line]
    finally:
        group.rmdir()

    assert (-9, ["oom_kill 1"]) == (done.returncode, killed)
    assert done.stdout.splitlines()[-1].startswith("[INFO:guardian.trainer] train rows:")


@pytest.mark.long
@needs_transformers_4
def test_a_batch_that_comes_back_out_of_the_checkpoint_is_as_hungry_as_before(tmp_path):
    """What transformers 4 does where nobody keeps it from it: 4 x 4 was asked for, 8 rows enter forward."""
    job(tmp_path, *batch(8, 2), "--save_steps", "1", python=PYTHON_4, env=environment())
    back = {"PYTHONPATH": str(ROOT / "tests/jobs/harm"), "HARM": '[{"do": "let the old batch come back"}]'}
    env = environment(**hungry(back, mib_per_row=40, room_mib=250), GUARDIAN_MARK="run/1")
    resumed = ("--resume_from_checkpoint", "out/checkpoint-1")
    done = job(tmp_path, *batch(4, 4), *resumed, python=PYTHON_4, env=env)
    kept = job(tmp_path, *batch(4, 4), *resumed, python=PYTHON_4, env=env | {"HARM": "[]"})

    assert ((1, True), 0) == ((done.returncode, NO_ROOM in done.stdout.splitlines()[-1]), kept.returncode)
    assert 2 == logged(tmp_path / "out")[-1]["global_step"]
