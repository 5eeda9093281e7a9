"""A loss that is no number, for real: healed where a lower rate heals it, and given up with the reason where not."""

import json
import math
from pathlib import Path

import pytest

from tests.faults.harness import JOBS, TINY, Guarded

JOB = (*TINY, "--output_dir", "out", "--max_steps", "16", "--save_steps", "2")
DIVERGES = ("--optim", "sgd", "--learning_rate", "2", "--lr_scheduler_type", "constant", "--max_grad_norm", "0")
"""Several times what this model stands without its gradient being cut: NaN within ten steps."""


@pytest.fixture
def guarded(tmp_path):
    """A run of these arguments, whose rows of step `spoilt` overflow; ended in any case."""
    started = []

    def run(*command, spoilt=None, options=(), **more):
        env = {} if spoilt is None else {"PYTHONPATH": str(JOBS / "spoilt"), "SPOILT": str(spoilt)} | more
        started.append(Guarded(tmp_path, *command, env=env, options=options))
        started[-1].run()
        return started[-1]

    yield run
    for one in started:
        one.clean_up()


def losses(run, number):
    """What the job logged in an attempt."""
    return [one.loss for one in run.attempts[number - 1].logged if one.loss is not None]


def test_a_divergence_is_healed_from_before_its_first_bad_step_with_a_rate_that_is_real(guarded):
    """Ended as soon as it is sure, resumed before it, and the optimizer really uses the lower rate."""
    one = guarded(*JOB, *DIVERGES)
    report, run = one.report(), one.story()

    assert ("finished", 0, 16) == (report["outcome"], report["exit_code"], report["steps_done"]), one.shown()
    assert {"nan_loss"} == {a["cause"]["class"] for a in report["attempts"] if a["cause"]}
    assert all(math.isfinite(loss) for loss in losses(run, len(run.attempts)))
    for before, after in zip(run.attempts, run.attempts[1:], strict=False):
        bad = dict(before.diagnosed.cause.facts)["first_bad_step"]
        assert (after.plan.resume_step or 0) < bad
        target = dict(after.plan.settings)["learning_rate"]
        assert max(step.lr for step in after.steps) <= target * 1.001
        assert target < max(step.lr for step in before.steps)
    assert "consistent" == report["certificate"]["verdict"]


@pytest.mark.long
def test_without_the_companion_the_rate_is_lowered_in_a_copy_of_the_checkpoint(guarded):
    """The job logs the lower rate, the checkpoint itself is as it was, and nothing is left of the copy."""
    one = guarded(*JOB, *DIVERGES, options=("--no-companion",))
    report, run = one.report(), one.story()

    assert ("finished", 0) == (report["outcome"], report["exit_code"]), one.shown()
    assert [rated for attempt in run.attempts for rated in attempt.rated if rated.copy]
    assert "has the learning rate" in one.shown()
    last = run.attempts[-1].plan
    states = Path(one.folder, "out").rglob("checkpoint-16/trainer_state.json")
    state = max(states, key=lambda path: path.stat().st_mtime)
    logs = [log for log in json.loads(state.read_text())["log_history"] if "learning_rate" in log]
    rates = {log["step"]: log["learning_rate"] for log in logs}
    assert {2.0} == {rates[step] for step in rates if step <= run.attempts[1].plan.resume_step}
    (rate,) = {rates[step] for step in rates if step > last.resume_step}
    assert dict(last.settings)["learning_rate"] == pytest.approx(rate)
    folders = [{e.knob: e.new for e in attempt.plan.edits}.get("output_dir") for attempt in run.attempts[1:]]
    assert len(folders) == len(set(folders)), "nothing is saved over what was given up"
    assert all(math.isfinite(log["loss"]) for log in logs)
    assert "not_provable" == report["certificate"]["verdict"]
    assert not list(one.run_folder.path.glob("attempts/*/patched"))


def test_rows_that_spoil_the_loss_whatever_the_rate_are_named_by_their_step(guarded):
    """The same step again after a lower rate: it is the data, and no third attempt is made."""
    one = guarded(*JOB, spoilt=7)
    report = one.report()
    last = report["attempts"][-1]["cause"]

    assert ("not_retryable", 4, 2) == (report["outcome"], report["exit_code"], len(report["attempts"])), one.shown()
    assert ("nan_loss", "data") == (last["class"], last["variant"])
    assert "step 7" in report["reason"]
    assert "rows 96 to 111 of epoch 1" in last["advice"]
    assert 6 == report["attempts"][1]["resume_step"]
    assert ["learning_rate", "warmup_ratio"] == sorted(e["knob"] for e in report["attempts"][1]["edits"][-2:])


@pytest.mark.long
def test_a_plugin_that_sets_the_rate_again_violates_the_certificate(guarded):
    """What was promised is not what ran, whatever the arguments say: no success."""
    one = guarded(*JOB, spoilt="7,0", RATE="0.003")
    report = one.report()

    assert ("finished", 1, "violated") == (report["outcome"], report["exit_code"], report["certificate"]["verdict"]), (
        one.shown()
    )
    assert "the job used a learning rate 0.003 at step 7" in report["certificate"]["reasons"][0]
    assert report["failed_edits"] == report["certificate"]["reasons"][:1]


@pytest.mark.long
def test_what_no_lower_rate_heals_ends_with_what_else_can_be_done(guarded):
    """Another step each time, so it is not one row: after half the rate and a tenth of that nothing is left to try."""
    # Between two falls nothing new is saved: two new checkpoints would put the ladder back to its top.
    one = guarded(*TINY, "--output_dir", "out", "--max_steps", "40", "--save_steps", "20", spoilt="22,23,24,25")
    report = one.report()

    assert ("gave_up", 1, 3) == (report["outcome"], report["exit_code"], len(report["attempts"])), one.shown()
    assert "bf16" in report["reason"]
    rates = [e["new"] for a in report["attempts"] for e in a["edits"] if e["knob"] == "learning_rate"]
    assert ["1e-05", "1e-06"] == rates


@pytest.mark.long
def test_without_a_checkpoint_before_it_the_training_begins_again(guarded):
    """Said so; what the first attempt had saved after it is left where it is."""
    one = guarded(*JOB[:-1], "1", spoilt=1)
    report = one.report()

    second = report["attempts"][1]
    assert (None, 0) == (second["resumed_from"], second["resume_step"] or 0), one.shown()
    assert "attempt 2 starts from the beginning" in one.shown()
    assert list(Path(one.folder, "out").glob("checkpoint-*"))


@pytest.mark.long
def test_a_nan_in_the_very_last_step_is_no_finish(guarded):
    """The job ends with exit code 0 at max_steps; its weights are spoilt all the same."""
    one = guarded(*TINY, "--output_dir", "out", "--max_steps", "8", "--save_steps", "2", spoilt=8)
    report = one.report()

    assert "nan_loss" == report["attempts"][0]["cause"]["class"], one.shown()
    assert "finished" != report["outcome"]
    assert 6 == report["attempts"][1]["resume_step"]
    skipped = [Path(one["path"]).name for one in report["skipped_checkpoints"]]
    assert ["checkpoint-8"] == skipped
