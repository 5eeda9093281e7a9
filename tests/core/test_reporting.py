"""The report tells what happened, what it cost, and what to do next; its JSON is a contract."""

from __future__ import annotations

import json
import math

import pytest

from guardian.core import events as ev
from guardian.core.contract import as_json
from guardian.core.lineage import stretches
from guardian.core.reporting import report, summary
from guardian.ui.wording import facts as facts_shown
from tests.core.stories import (
    ARGV,
    a_long_night,
    blind,
    created,
    ended,
    failed,
    finished,
    gave_up,
    hello,
    killed,
    launched,
    logged,
    pause,
    resumed,
    saved,
    steps,
    stopped,
    story,
    two_kills,
)


def test_two_kills_are_told_in_one_sentence():
    """What the README promises."""
    assert (
        "finished, 3 attempts, 60 of 60 steps, effective batch 16 counted at every step, replayed steps equal."
        == summary(report(two_kills()))
    )


def test_each_attempt_says_where_it_went_and_what_it_lost():
    """Killed at 35 with a save at 30, at 47 with a save at 40."""
    told = report(two_kills())

    assert [(1, 1, 35, 5), (2, 31, 47, 7), (3, 41, 60, 0)] == [
        (a.number, a.first_step, a.last_step, a.lost_steps) for a in told.attempts
    ]
    assert [None, "out/checkpoint-30", "out/checkpoint-40"] == [a.resumed_from for a in told.attempts]
    assert (60, 60, 0) == (told.steps_done, told.max_steps, told.exit_code)


def test_the_hosts_last_figures_stand_with_their_attempt():
    """The most memory of all attempts on the screen, each attempt's own for programs; other facts are no figures."""
    facts = (("memory_limit_mib", 16384.0), ("oom_victim", "rank"), ("tree_peak_mib", 15360.0))
    end = (ev.TreeEnded(0), ev.Ended(0, 0, None, None, (), None, (), facts=facts), ev.Diagnosed(0, None))
    run = story(launched(), hello(), steps(1, 5), *end)
    told = report(run)

    assert {"memory_limit_mib": 16384.0, "tree_peak_mib": 15360.0} == as_json(told)["attempts"][0]["host"]
    assert ("at most 15.0 GiB, the limit is 16.0 GiB",) == next(
        f.lines for f in facts_shown(told) if f.label == "memory"
    )
    assert {} == as_json(report(two_kills()))["attempts"][0]["host"]


def test_goodput_counts_the_time_between_steps_that_were_not_run_again():
    """A minute of start-up, 20 steps that count in ten seconds each, and a stop."""
    run = story(
        launched(), pause(56), hello(), steps(1, 11, every_s=10), saved(11), killed(),
        launched(resume=11), hello(step=11), steps(12, 22, every_s=10), finished(),
    )  # fmt: skip
    told = report(run)

    assert math.isclose(200 / told.wall_s, told.goodput)


def test_steps_that_are_run_again_earn_no_goodput():
    """The same night with the save five steps earlier is worth less."""

    def night(save):
        """Killed at step 11, resumed from this save."""
        first = (launched(), hello(), steps(1, 11, every_s=10), saved(save), killed())
        return report(
            story(first, launched(resume=save), hello(step=save), steps(save + 1, 22, every_s=10), finished())
        )

    assert 50 == round(night(6).attempts[0].cost_s - night(11).attempts[0].cost_s)
    assert night(6).goodput < night(11).goodput


def test_a_step_lost_to_two_later_attempts_is_lost_once():
    """Attempt 3 begins before attempt 2 did: attempt 1 loses what lies beyond, attempt 2 only what it did."""
    run = story(
        launched(), hello(), steps(1, 35), saved(20, 30), killed(),
        launched(resume=30), hello(step=30), steps(31, 33), killed(),
        launched(resume=20), hello(step=20), steps(21, 60), finished(),
    )  # fmt: skip

    assert [15, 3, 0] == [a.lost_steps for a in report(run).attempts]
    assert [20, 20, None] == [s.until for s in stretches(run)]


def test_an_attempt_that_died_in_start_up_ran_nothing_again():
    """What counts is where the training really went on."""
    run = story(
        launched(), hello(), steps(1, 35), saved(20, 30), killed(),
        launched(resume=20), killed(),
        launched(resume=30), hello(step=30), steps(31, 60), finished(),
    )  # fmt: skip

    assert [5, 0, 0] == [a.lost_steps for a in report(run).attempts]


def test_the_steps_done_are_those_of_the_surviving_line():
    """An attempt that begins again at 30 has not yet done 35."""
    dead = (launched(), hello(), steps(1, 35), saved(30), killed())

    assert 35 == report(story(dead)).steps_done
    assert 30 == report(story(dead, launched(resume=30))).steps_done
    assert 31 == report(story(dead, launched(resume=30), hello(step=30), steps(31, 31))).steps_done
    assert report(story(launched())).steps_done is None


def test_a_job_without_a_companion_is_told_by_its_log():
    """Steps, time and losses as far as the trainer logged them; nothing is called proved."""
    told = report(story(launched(), logged(10, 60, by=10), finished()))

    assert (10, 60, 60) == (told.attempts[0].first_step, told.attempts[0].last_step, told.max_steps)
    assert (10, 20, 30, 40, 50, 60) == tuple(step for step, _ in told.losses[0])
    assert "finished, 1 attempt, 60 of 60 steps, nothing proved: rows were not counted" in summary(told)


def test_a_violated_certificate_spoils_the_exit_code_and_leaves_the_outcome():
    """It finished, and it is no success."""
    run = story(
        launched(), hello(), steps(1, 35), saved(30), killed(),
        launched(resume=30), hello(step=30), steps(31, 60, rows=32), finished(),
    )  # fmt: skip
    told = report(run)

    assert (ev.Outcome.FINISHED, 1) == (told.outcome, told.exit_code)
    assert summary(told).endswith(
        "certificate VIOLATED: 32 rows instead of 16 were counted at steps 31-60 (attempt 2)."
    )


@pytest.mark.parametrize(
    "ending, outcome, code, following",
    [
        (stopped(), "stopped", 130, ["guardian", "resume", "r1"]),
        (
            stopped(ev.StopBy.SIGTERM, code=75, outcome=ev.Outcome.PREEMPTED),
            "preempted",
            75,
            ["guardian", "resume", "r1"],
        ),
        ((killed(), gave_up("too often")), "gave_up", 1, ["guardian", "resume", "r1"]),
        ((killed(), gave_up("bug", ev.Outcome.NOT_RETRYABLE, 4)), "not_retryable", 4, ["guardian", "run", "--", *ARGV]),
        (finished(), "finished", 0, None),
        ((), "running", None, None),
    ],
)
def test_every_outcome_names_its_exit_code_and_the_next_command(ending, outcome, code, following):
    """The morning begins with a command that can be pasted."""
    told = as_json(report(story(launched(), hello(), steps(1, 60), ending)))

    assert (outcome, code, following) == (told["outcome"], told["exit_code"], told["next_argv"])


def test_a_crash_in_start_up_is_told_with_its_line_and_its_fix():
    """No step, no retry, and what to do."""
    run = story(
        launched(),
        failed(
            "code_bug",
            "an unknown argument",
            "error: --lerning_rate",
            number=7,
            retries=0,
            advice="use --learning_rate",
        ),
        gave_up("an unknown argument", ev.Outcome.NOT_RETRYABLE, 4),
    )
    told = report(run)
    (attempt,) = as_json(told)["attempts"]

    assert [{"line": 7, "text": "error: --lerning_rate"}] == attempt["cause"]["evidence"]
    assert ("code_bug", None, "use --learning_rate") == tuple(
        attempt["cause"][k] for k in ("class", "variant", "advice")
    )
    assert "failed for good, 1 attempt, no step seen: an unknown argument." == summary(told)


@pytest.mark.parametrize(
    "ending, words",
    [
        ((), "is running"),
        (ev.StopBegun(0, "guardian stop", ()), "is being ended: guardian stop"),
        (ev.TreeEnded(0), "ended, not judged yet"),
        (ev.StartFailed(0, "No such file"), "could not be started: No such file"),
        (ended(signal=9)[:3], "killed by signal 9"),
        (ended(3)[:3], "exit code 3"),
        (ended()[:3], "gone, nobody saw how"),
        (gave_up("it survives SIGKILL"), "left as it was"),
    ],
)
def test_an_attempt_without_a_cause_says_how_it_stands(ending, words):
    """Whatever the moment at which the report is asked for."""
    assert words == report(story(launched(), ending)).attempts[0].end


def test_the_contract_holds_every_key_and_only_what_json_can_say():
    """Other programs read it: a night with everything in it, NaN included."""
    run = story(
        launched(), hello(), steps(1, 35, loss=math.nan), saved(30), blind("gpu", "no driver"), killed(), resumed(),
        launched(resume=30, edits=[ev.Edit("device_batch", "8", "4", "preserving")], passed_over=[("out/checkpoint-35", "torn")], pin="none"),
        hello(step=30), steps(31, 60), finished(),
    )  # fmt: skip
    told = json.loads(json.dumps(as_json(report(run)), allow_nan=False))

    assert {
        "run", "outcome", "exit_code", "steps_done", "max_steps", "wall_s", "goodput", "attempts", "effective_batch",
        "certificate", "skipped_checkpoints", "next_argv",
    } <= told.keys()  # fmt: skip
    assert {"number", "first_step", "last_step", "resumed_from", "cause", "edits", "lost_steps", "seconds"} <= told[
        "attempts"
    ][0].keys()
    assert {"verdict", "reasons", "steps_counted", "replayed_steps", "largest_loss_difference"} <= told[
        "certificate"
    ].keys()
    assert [{"path": "out/checkpoint-35", "reason": "torn"}] == told["skipped_checkpoints"]
    assert [{"path": "out/checkpoint-30", "reason": "no space"}] == told["unpinned_checkpoints"]
    assert {"knob": "device_batch", "old": "8", "new": "4", "kind": "preserving"} in told["attempts"][1]["edits"]
    assert (1, ["gpu: no driver"]) == (told["guardian_restarts"], told["blind"])


def test_no_secret_of_the_command_or_the_log_is_told():
    """Arguments, edits, evidence, reasons."""
    run = story(
        created(argv=("train.py", "--hub_token", "s3cr3t")),
        launched(edits=[ev.Edit("env.HF_TOKEN", None, "s3cr3t", "preserving")]),
        failed("auth", "token=s3cr3t is refused", "HTTP 401 for HF_TOKEN=s3cr3t", advice="renew --token s3cr3t"),
        gave_up("HF_TOKEN=s3cr3t is refused", ev.Outcome.NOT_RETRYABLE, 4),
    )

    assert "s3cr3t" not in json.dumps(as_json(report(run))) + repr(report(run))


def test_a_run_without_an_attempt_has_a_report():
    """The folder was made, nothing else."""
    told = as_json(report(story()))

    assert ("running", [], None, None) == (told["outcome"], told["attempts"], told["steps_done"], told["goodput"])


def test_a_long_night_adds_up():
    """500 attempts: the steps that were finished are those that count and those that were lost."""
    told = report(a_long_night())
    ran = sum(a.last_step - a.first_step + 1 for a in told.attempts)

    assert told.steps_done + sum(a.lost_steps for a in told.attempts) == ran
    assert 2495 == told.certificate.replayed_steps
