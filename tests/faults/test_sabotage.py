"""A proof that cannot fail proves nothing: the same recovery with a harmed resume is found out."""

import pytest

from tests.faults.harness import TINY, Guarded, harm

JOB = (*TINY, "--output_dir", "out", "--max_steps", "6", "--save_steps", "2")
KILL = {"attempt": 1, "step": 4, "do": "kill"}


@pytest.fixture
def recovered(tmp_path):
    """The exit code and the report of a run that was killed at step 4, and resumed from step 2 with this harm."""
    started = []

    def run(*things):
        guarded = Guarded(tmp_path, *JOB, env=harm(KILL, *things))
        started.append(guarded)
        code = guarded.run()
        report = guarded.report()
        assert ("finished", 6, code) == (report["outcome"], report["steps_done"], report["exit_code"]), guarded.shown()
        assert [None, 2] == [a["resume_step"] or None for a in report["attempts"]]
        return code, report

    yield run
    for guarded in started:
        guarded.clean_up()


def test_a_resume_that_is_left_alone_is_proved(recovered):
    """Whatever the runs below are found guilty of, it is not what brings the harm into them."""
    code, report = recovered()

    assert (0, "proved") == (code, report["certificate"]["verdict"])
    assert 1 == report["certificate"]["replayed_steps"]
    assert report["summary"].endswith("replayed steps equal.")


def test_a_sampler_that_is_one_row_off_after_the_resume_violates_the_certificate(recovered):
    """As many rows as before, and other ones: the run is finished, and no success."""
    code, report = recovered({"attempt": 2, "do": "shift the rows"})

    assert (1, "violated", 16) == (code, report["certificate"]["verdict"], report["effective_batch"])
    assert ["other samples at step 3 when run again in attempt 2"] == report["certificate"]["reasons"]


def test_an_accumulation_that_is_doubled_after_the_resume_violates_the_certificate(recovered):
    """32 rows enter forward in each step where 16 were asked for."""
    code, report = recovered({"attempt": 2, "do": "double the accumulation"})

    assert (1, "violated", None) == (code, report["certificate"]["verdict"], report["effective_batch"])
    assert "32 rows instead of 16 were counted at steps 3-6 (attempt 2)" in report["certificate"]["reasons"]
    assert "VIOLATED" in report["summary"]


@pytest.mark.long
def test_batches_that_are_doubled_behind_the_arguments_back_violate_the_certificate(recovered):
    """All that the job says of its batch stays as it was: only counting in forward can tell."""
    code, report = recovered({"attempt": 2, "do": "double the batches"})

    assert (1, "violated") == (code, report["certificate"]["verdict"])
    assert "32 rows instead of 16 were counted at steps 3-6 (attempt 2)" in report["certificate"]["reasons"]
