"""A save that is killed or fails never looks whole, wherever it was: the newest checkpoint always resumes."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from guardian.trainer import checkpoints

from tests.interpreters import PYTHONS_4_LONG
from tests.trainer.jobs import DEMO, PATIENCE_S, environment, run, start, wait_for

pytest.importorskip("torch")

SHORT = (*DEMO, "--output_dir", "out", "--save_steps", "1", "--lr_scheduler_type", "constant")


def content(checkpoint: Path) -> dict[str, bytes]:
    """Every file, by name; of those that name their folder, or hold what Python draws anew in a fork, the name alone."""
    differing = {"args.json", "training_args.bin", "rng_state.pth"}
    return {file.name: b"" if file.name in differing else file.read_bytes() for file in checkpoint.iterdir()}


@pytest.fixture(scope="module", params=PYTHONS_4_LONG)
def python(request):
    """The interpreter that the trainer runs in, with the one transformers or the other."""
    return request.param


@pytest.fixture(scope="module")
def swept(tmp_path_factory, python):
    """One folder for each moment at which the second save was killed, and the one that was not."""
    folder = tmp_path_factory.mktemp("swept")
    program = Path(__file__).parent / "crash_points.py"
    command = [python, str(program), *SHORT, "--max_steps", "2", "--save_total_limit", "1"]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return folder


def killed_folders(swept):
    """In the order of their moments."""
    return sorted(swept.glob("out-killed-*"), key=lambda each: int(each.name.rpartition("-")[2]))


def test_a_save_killed_at_any_moment_leaves_the_old_checkpoint_or_the_new(swept):
    """Dozens of moments, from the first touch of the disk to the last of the rotation; never half of one."""
    finished = content(swept / "out" / "checkpoint-2")
    steps = []
    for folder in killed_folders(swept):
        newest = checkpoints.newest(folder)
        assert newest is not None, folder
        assert {None} == {checkpoints.fault(each) for each in folder.glob("checkpoint-*")}, folder
        steps.append(checkpoints.step_of(newest))
        assert steps[-1] == 1 or content(newest) == finished, folder

    assert (sorted(steps), {1, 2}) == (steps, set(steps))
    assert len(steps) > 40


@pytest.mark.parametrize("step", [1, pytest.param(2, marks=pytest.mark.long)])
def test_what_a_killed_save_leaves_is_resumed_from(swept, python, tmp_path, step):
    """After the last moment that left the old checkpoint alone, and the first that left the new one."""
    folders = killed_folders(swept)
    first_new = next(place for place, each in enumerate(folders) if (each / "checkpoint-2").exists())
    shutil.copytree(folders[first_new - 2 + step], tmp_path / "out")
    assert [*(tmp_path / "out").glob("guardian-tmp-*")]
    printed = run(*SHORT, "--max_steps", "3", "--resume_from_checkpoint", "true", cwd=tmp_path, python=python)

    assert f"resuming from out/checkpoint-{step}" in printed
    assert (None, []) == (
        checkpoints.fault(tmp_path / "out" / "checkpoint-3"),
        [*(tmp_path / "out").glob("guardian-tmp-*")],
    )


def test_a_save_that_fails_leaves_nothing_behind(tmp_path):
    """A limit of a megabyte a file stands for a full disk: the weights fit, the optimizer does not."""
    command = [sys.executable, "-m", "guardian.trainer", *SHORT, "--max_steps", "2"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))  # noqa: E731
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=limit,
    )

    assert 1 == done.returncode, done.stderr
    assert ["args.json", "logging.jsonl"] == sorted(each.name for each in (tmp_path / "out").iterdir())


def wait_for_another(output_dir, known, process):
    """Until there is another newest checkpoint, or the run has ended."""
    wait_for(lambda: checkpoints.newest(output_dir) != known or process.poll() is not None)


@pytest.mark.long
def test_kills_from_outside_never_cost_the_newest_checkpoint(tmp_path):
    """SIGKILL at random moments of a run that saves at every step; each resume goes on from the newest."""
    rng = random.Random(1)
    reached = []
    for _ in range(6):
        known = checkpoints.newest(tmp_path / "out")
        more = ("--resume_from_checkpoint", "true") if known else ()
        process = start(*SHORT, "--max_steps", "500", "--save_total_limit", "2", *more, cwd=tmp_path)
        wait_for_another(tmp_path / "out", known, process)
        time.sleep(rng.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        printed, _ = process.communicate()
        assert -signal.SIGKILL == process.returncode, printed
        newest = checkpoints.newest(tmp_path / "out")
        assert {None} == {checkpoints.fault(each) for each in (tmp_path / "out").glob("checkpoint-*")}
        reached.append(checkpoints.step_of(newest))

    assert sorted(set(reached)) == reached


@pytest.mark.long
def test_a_rank_killed_between_its_files_costs_no_checkpoint(tmp_path):
    """Two ranks that save at every step; one is SIGKILLed at a random moment. The other's save is not published."""
    rng = random.Random(2)
    for attempt in range(4):
        known = checkpoints.newest(tmp_path / "out")
        more = ("--resume_from_checkpoint", "true") if known else ()
        process = start(*SHORT, "--max_steps", "500", "--save_total_limit", "2", *more, cwd=tmp_path, ranks=2)
        wait_for_another(tmp_path / "out", known, process)
        time.sleep(rng.uniform(0, 1))
        ranks = [
            each for each in psutil.Process(process.pid).children(recursive=True) if "LOCAL_RANK" in each.environ()
        ]
        ranks[attempt % 2].send_signal(signal.SIGKILL)
        printed, _ = process.communicate(timeout=PATIENCE_S)
        assert 0 != process.returncode, printed
        folders = [*(tmp_path / "out").glob("checkpoint-*")]
        assert {None} == {checkpoints.fault(each) for each in folders}
        assert {2} == {len([*each.glob("rng_state_[01].pth")]) for each in folders}
