"""Jobs in which nothing happens any more: found within the budget of their phase, ended, and gone on with."""

import pytest

from guardian.core import events as ev
from tests.faults.harness import TINY, Guarded, harm

STEPS = 4
JOB = (*TINY, "--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "2")
TWO = {"NPROC_PER_NODE": "2"}


@pytest.fixture
def hanging(tmp_path, request):
    """A run with these budgets to which things are done."""

    def start(*things, policy, command=JOB, **how):
        file = tmp_path / "policy.toml"
        file.write_text(policy)
        how["env"] = harm(*things) | how.get("env", {})
        guarded = Guarded(tmp_path, *command, options=("--policy", str(file)), **how)
        request.addfinalizer(guarded.clean_up)
        return guarded

    return start


@pytest.mark.long
def test_a_rank_that_does_not_leave_after_its_training_is_ended_and_the_run_is_finished(hanging):
    """Every rank said that its training was over and the last checkpoint is whole: nothing is trained again."""
    guarded = hanging({"do": "never leave", "rank": 1}, policy="silence.teardown_s = 4\n", env=TWO)

    assert 0 == guarded.run(), guarded.shown()[-4000:]

    report = guarded.report()
    (stop,) = guarded.events(ev.StopBegun)
    assert ("teardown", 1, "finished", 0) == (
        stop.silent, len(report["attempts"]), report["outcome"], report["exit_code"]
    )  # fmt: skip
    assert "had trained to its last step" in guarded.events(ev.RunFinished)[0].reason
    assert "would not leave were ended" in report["summary"] + guarded.shown()
    assert "proved" == report["certificate"]["verdict"]
