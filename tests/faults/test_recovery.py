"""A supervised fine-tune is killed and finishes anyway: the same samples, the same losses, the same batch.

Real processes, real signals, the embedded trainer. Every recovered run is compared, step by step, with one that
nobody disturbed.
"""

import os
import signal

import pytest

from tests.faults.harness import DEMO, Guarded, Sampler, surviving

STEPS = 24
JOB = (*DEMO, "--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "4")
TWO = {"NPROC_PER_NODE": "2"}


def losses(run):
    return {number: step.loss for number, step in surviving(run).items()}


def same_training(run, undisturbed):
    """Loss at each step within 1e-4 x max(1, |loss|) of the undisturbed run's, rows equal by count at each step."""
    ours, theirs = surviving(run), surviving(undisturbed)
    assert list(range(1, STEPS + 1)) == sorted(ours) == sorted(theirs)
    for number, step in theirs.items():
        assert ours[number].rows == step.rows == 16
        assert abs(ours[number].loss - step.loss) <= 1e-4 * max(1, abs(step.loss)), f"step {number}"


@pytest.fixture(scope="module", params=[{}, TWO], ids=["one process", "two ranks"])
def world(request):
    """The environment that gives the number of ranks."""
    return request.param


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, world):
    """The run that nobody disturbs."""
    guarded = Guarded(tmp_path_factory.mktemp("undisturbed"), *JOB, env=world)
    assert 0 == guarded.run(), guarded.shown()[-4000:]
    return guarded


@pytest.fixture
def guarded(tmp_path, world):
    """A run to be disturbed; nothing of it outlives the test."""
    one = Guarded(tmp_path, *JOB, env=world)
    yield one
    one.clean_up()


def test_an_undisturbed_run_is_proved_and_leaves_one_attempt(undisturbed):
    """The baseline of all others, and the report of a quiet night."""
    report = undisturbed.report()

    assert ("finished", 0, STEPS, 16) == tuple(report[k] for k in ("outcome", "exit_code", "steps_done", "effective_batch"))
    assert "proved" == report["certificate"]["verdict"]
    assert 1 == len(report["attempts"])


def test_a_trainer_killed_twice_finishes_with_the_same_training(guarded, undisturbed):
    """SIGKILL of a rank in the middle of a step, in two attempts: resumed from a checkpoint each time."""
    guarded.start()
    sampler = Sampler(guarded)
    sampler.start()
    guarded.until_step(6, attempt=1)
    guarded.kill_rank(1, rank=guarded.story().attempts[0].world - 1)
    guarded.until_step(14, attempt=2)
    guarded.kill_rank(2)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    assert set() == sampler.stop()
    report = guarded.report()
    assert ("finished", STEPS, 3) == (report["outcome"], report["steps_done"], len(report["attempts"]))
    assert "proved" == report["certificate"]["verdict"], report["certificate"]
    assert report["certificate"]["replayed_steps"] > 0
    assert all(a["cause"] and a["resumed_from"] for a in report["attempts"][:-1][1:])
    same_training(guarded.story(), undisturbed.story())


def test_a_killed_agent_whose_ranks_live_on_is_cleared_away_and_resumed(tmp_path, request, world, undisturbed):
    """torchrun's ranks train on as orphans: asked to save, ended, and never alive beside the next attempt's."""
    if not world:
        pytest.skip("one process has no agent")
    guarded = Guarded(tmp_path, *JOB, env=world)
    request.addfinalizer(guarded.clean_up)
    guarded.start()
    sampler = Sampler(guarded)
    sampler.start()
    guarded.until_step(6, attempt=1)
    os.kill(guarded.story().attempts[0].job.pid, signal.SIGKILL)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    assert set() == sampler.stop()
    assert "proved" == guarded.report()["certificate"]["verdict"]
    same_training(guarded.story(), undisturbed.story())
