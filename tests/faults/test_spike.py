"""A loss that jumps: watched first; gone back behind only where it does not come back."""

import pytest

from tests.faults.harness import JOBS, TINY, Guarded

JOB = (*TINY, "--output_dir", "out", "--max_steps", "80", "--save_steps", "10", "--learning_rate", "1e-3")


@pytest.fixture
def guarded(tmp_path):
    """A run whose weights are jolted in its first attempt; ended in any case."""
    started = []

    def run(jolt):
        started.append(Guarded(tmp_path, *JOB, env={"PYTHONPATH": str(JOBS / "jolted"), "JOLT": jolt}))
        started[-1].run()
        return started[-1]

    yield run
    for one in started:
        one.clean_up()


@pytest.mark.long
def test_a_loss_that_stays_where_it_jumped_leads_back_before_it_with_a_lower_rate(guarded):
    """The job is ended while it trains on; what it saved since is whole, and is not resumed from."""
    one = guarded("25")
    report, run = one.report(), one.story()
    first, second = report["attempts"]

    assert ("finished", 0, 80) == (report["outcome"], report["exit_code"], report["steps_done"]), one.shown()
    assert "loss_spike" == first["cause"]["class"]
    assert "jumped at step 26" in first["cause"]["title"]
    assert run.attempts[0].stop.rule == "spike-stays"
    assert 20 == second["resume_step"]
    assert max(step.lr for step in run.attempts[1].steps) <= 5e-4 * 1.001
    assert "consistent" == report["certificate"]["verdict"]


@pytest.mark.long
def test_a_loss_that_comes_back_is_left_alone(guarded):
    """Six steps high, and nobody acts: one attempt."""
    one = guarded("25-32")
    report, run = one.report(), one.story()

    losses = {log.step: log.loss for log in run.attempts[0].logged if log.loss is not None}
    assert 5 * losses[25] < min(losses[step] for step in range(26, 32))
    assert ("finished", 0, 1) == (report["outcome"], report["exit_code"], len(report["attempts"])), one.shown()
