"""Exit code 0 alone is no finish, and a finish needs no last step: what the trainer decided itself is respected."""

import pytest

from tests.faults.harness import TINY, Guarded, harm

JOB = (*TINY, "--output_dir", "out", "--max_steps", "6", "--save_steps", "2")
EARLY_STOP = (
    *("--val_dataset", f"{TINY[4]}#16", "--eval_steps", "2", "--early_stop_interval", "1"),
    *("--learning_rate", "1e-30"),  # nothing is learnt: no evaluation is better than the first
)


@pytest.fixture
def guarded(tmp_path):
    """Makes a run; nothing of it outlives the test."""
    made = []

    def make(*command, env=None):
        made.append(Guarded(tmp_path, *command, env=env))
        return made[-1]

    yield make
    for one in made:
        one.clean_up()


def test_exit_code_0_before_the_last_step_is_resumed(guarded):
    """A program that calls sys.exit(0) at step 4 of 6 has not finished its training."""
    run = guarded(*JOB, env=harm({"attempt": 1, "step": 4, "do": "leave"}))

    assert 0 == run.run(), run.shown()[-4000:]

    report = run.report()
    first, second = report["attempts"]
    assert ("exit_0_early", 3) == (first["cause"]["variant"], first["last_step"])
    assert (2, 6, None) == (second["resume_step"], second["last_step"], second["cause"])
    assert ("proved", None) == (report["certificate"]["verdict"], report["remark"])


def test_exit_code_0_twice_at_the_same_step_is_accepted_with_a_remark(guarded):
    """Whatever ends it there, it is no accident: not tried a third time, and not passed over in silence."""
    run = guarded(*JOB, env=harm({"step": 4, "do": "quit at once"}))

    assert 0 == run.run(), run.shown()[-4000:]

    report = run.report()
    assert ("finished", 0, 3) == (report["outcome"], report["exit_code"], report["steps_done"])
    assert ["exit_0_early", None] == [a["cause"] and a["cause"]["variant"] for a in report["attempts"]]
    remark = "it ended at step 3 of 6 twice, without a reason that can be seen: accepted"
    assert remark == report["remark"] == report["reason"]
    assert remark[1:] in run.call("report", "r1").stdout


def test_an_early_stop_by_the_trainers_own_decision_is_a_finish(guarded):
    """The evaluations show no progress, the trainer ends: one attempt, at step 4 of 6."""
    run = guarded(*JOB, *EARLY_STOP)

    assert 0 == run.run(), run.shown()[-4000:]

    report = run.report()
    assert ("finished", 0, 4, None) == tuple(report[k] for k in ("outcome", "exit_code", "steps_done", "remark"))
    assert [None] == [a["cause"] for a in report["attempts"]]
    assert "proved" == report["certificate"]["verdict"], report["certificate"]
