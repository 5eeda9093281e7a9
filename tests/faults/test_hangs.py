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


def hung_once(guarded, steps):
    """The report of a run whose first attempt hung."""
    assert 0 == guarded.run(), guarded.shown()[-4000:]
    report = guarded.report()
    first, second = report["attempts"]
    assert ("finished", steps, "proved") == (
        report["outcome"], report["steps_done"], report["certificate"]["verdict"]
    )  # fmt: skip
    assert ("hang_no_output", "silent") == (first["cause"]["class"], first["cause"]["variant"])
    assert first["resumed_from"] is None
    assert second["resumed_from"]
    return first["cause"]["evidence"], guarded.events(ev.StopBegun)[0]


LONGER = (*JOB[: JOB.index("--max_steps")], "--max_steps", "20", "--save_steps", "4")
BUDGETS = "silence.minimum_s = 5\nsilence.startup_s = 120\n"


@pytest.mark.long
def test_a_stopped_rank_is_found_and_a_silent_start_of_thrice_its_budget_is_left_alone(hanging):
    """One of two ranks gets SIGSTOP; both stacks are told, and the next attempt proves the training."""
    things = ({"do": "begin late"}, {"do": "stop", "rank": 1, "step": 15, "attempt": 1})
    guarded = hanging(*things, policy=BUDGETS, command=LONGER, env=TWO)
    evidence, stop = hung_once(guarded, 20)

    assert "training" == stop.silent
    edits = {edit["knob"]: edit["new"] for edit in guarded.report()["attempts"][1]["edits"]}
    assert "1800" == edits["ddp_timeout"]
    assert evidence[0]["text"].startswith("rank 1 is stopped by a signal")
    assert "rank 0 stands in" in evidence[0]["text"]


@pytest.mark.long
def test_the_lock_of_a_build_that_died_is_left_where_it_is_and_another_folder_is_taken(hanging, tmp_path):
    """PyTorch waits for it without end, at every start; it may be another machine's, so it is not removed."""
    lock = tmp_path / "extensions/extension/lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    guarded = hanging({"do": "wait for a build"}, policy="silence.startup_s = 20\n", env=env)

    assert 0 == guarded.run(), guarded.shown()[-4000:]

    report = guarded.report()
    first, second = report["attempts"]
    assert ("finished", STEPS, "build_lock") == (report["outcome"], report["steps_done"], first["cause"]["variant"])
    assert "wait at file_baton.py" in first["cause"]["evidence"][0]["text"]
    (edit,) = [edit for edit in second["edits"] if edit["knob"] == "TORCH_EXTENSIONS_DIR"]
    assert str(tmp_path / "extensions") == edit["old"]
    assert edit["new"].startswith(str(tmp_path / "guardian_runs"))
    assert lock.exists()


@pytest.mark.long
def test_a_rank_that_spins_in_c_is_found_by_its_stack(hanging):
    """It computes, so it is not idle; it stands at the same place each time."""
    evidence, stop = hung_once(hanging({"do": "spin", "step": 15, "attempt": 1}, policy=BUDGETS, command=LONGER), 20)

    assert "every rank stood at the same place" in stop.why
    assert "spin at sitecustomize.py" in evidence[0]["text"]
