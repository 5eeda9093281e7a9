"""The rank that the others wait for is named, in a real job of two ranks; nothing is done about it."""

import pytest

from tests.faults.harness import TINY, Guarded, harm


@pytest.mark.long
def test_the_rank_that_the_others_wait_for_is_named_while_the_job_runs_and_in_its_report(tmp_path):
    """It sleeps for a second between two micro-batches of each step; the steps of both take equally long."""
    late = {"rank": 1, "do": "be slow"}
    job = (*TINY, "--output_dir", "out", "--max_steps", "36", "--save_steps", "36")
    guarded = Guarded(tmp_path, *job, env=harm(late, late) | {"NPROC_PER_NODE": "2"})
    try:
        assert 0 == guarded.run(), guarded.shown()[-4000:]
        report = guarded.report()
    finally:
        guarded.clean_up()

    assert 1 == guarded.shown().count("guardian: the others wait for rank 1: at ")
    (straggler,) = report["stragglers"]
    assert (1, 1) == (straggler["rank"], straggler["attempt"])
    assert straggler["behind_s"] < straggler["step_s"]
    assert 1 == len(report["attempts"])
