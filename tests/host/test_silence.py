"""Silence of real jobs under one policy: each hang is found within its budget, and no slow job is touched.

The budgets are the policy's defaults, divided: a steady training may be silent for 10 s instead of 60 s, and what lasts
25 s here is what lasts minutes at night. Only who knows the phase, and looks for a second sign, gets all of these right.
"""

from __future__ import annotations

import json
import signal
import sys

import pytest

from guardian.core import events as ev
from guardian.core import stacks
from tests.faults.confined import shared_memory_of
from tests.faults.harness import JOBS, TINY, Guarded, harm

BUDGET_S = 10
POLICY = f"""
[silence]
minimum_s = {BUDGET_S}
startup_s = 300
skip_s = 300
evaluation_s = 300
saving_s = 300
teardown_s = 300

[pending]
settle_s = 5
"""
SLOW_S = 25
"""Longer than any of these jobs may be silent between two steps."""
LATE_S = 120
"""Generous: a busy machine looks later than it wanted to."""
STEPS = 20
STANDS_AT = 15
"""The pauses of ten steps must be known before they say anything of the next."""
REAL = (*TINY, "--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "10")
TWO = {"NPROC_PER_NODE": "2"}


@pytest.fixture
def silent(tmp_path, request):
    """A run under the policy of this file."""

    def start(*command, things=(), policy=POLICY, **how):
        (tmp_path / "policy.toml").write_text(policy)
        how["env"] = harm(*things) | how.get("env", {}) if things else how.get("env", {})
        guarded = Guarded(tmp_path, *command, options=("--policy", "policy.toml"), **how)
        request.addfinalizer(guarded.clean_up)
        return guarded

    return start


def found(guarded, phase="training"):
    """The one silence that was ended, and where the processes stood before it was; the run went on to its end."""
    stops = guarded.events(ev.StopBegun)
    assert 1 == len(stops), guarded.shown()[-6000:]
    (stop,) = stops
    report = guarded.report()
    print(guarded.shown())
    assert (phase, 1) == (stop.silent, stop.attempt)
    assert BUDGET_S <= stop.silent_s <= BUDGET_S * 5 + LATE_S
    assert ["hang_no_output", None] == [a["cause"] and a["cause"]["class"] for a in report["attempts"]]
    assert "finished" == report["outcome"]
    return stacks.group(guarded.events(ev.StacksTaken)[-1].stacks)


def ranks(groups):
    """Where each rank stands, by its innermost calls: the odd one first."""
    return [(one.ranks, one.odd, [frame.function for frame in one.frames]) for one in groups if one.kind == "rank"]


# --- hangs -------------------------------------------------------------------------------------------------------


def test_a_rank_that_spins_in_c_is_found_and_named(silent):
    """It computes all the time, and holds its interpreter: that its stack never changes is the second sign."""
    guarded = silent(sys.executable, str(JOBS / "standing.py"), "spin", "out")
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    (odd, spinning, inner), (_, waiting, outer) = ranks(found(guarded))
    assert [((1,), True), ((0,), False)] == [(odd, spinning), ((0,), waiting)]
    assert ("spins_in_c", "all_reduce") == (inner[0], outer[0])
    assert "rank 1 stands in spins_in_c at standing.py:" in guarded.shown()


@pytest.mark.long
def test_a_bar_that_is_redrawn_without_a_step_hides_nothing(silent):
    """Its prints are no steps."""
    guarded = silent(sys.executable, str(JOBS / "standing.py"), "redraw", "out")
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    assert ["redraws", "all_reduce"] == [inner[0] for _, _, inner in ranks(found(guarded))]


@pytest.mark.long
def test_a_rank_that_spins_in_an_evaluation_is_found_though_the_evaluation_may_last(silent):
    """Batch by batch it lasts twice its budget; then no batch comes, and every rank stands at the same place."""
    short = POLICY.replace("evaluation_s = 300", f"evaluation_s = {BUDGET_S}")
    guarded = silent(sys.executable, str(JOBS / "standing.py"), "evaluate", "out", policy=short)
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    assert ["spins_in_c", "all_reduce"] == [inner[0] for _, _, inner in ranks(found(guarded, "evaluation"))]


@pytest.mark.long
def test_a_rank_that_never_begins_its_training_is_found_by_the_budget_of_the_start(silent):
    """The other one said hello, and waits for it. Which rank it is nobody said; where it stands is told."""
    short = POLICY.replace("startup_s = 300", f"startup_s = {BUDGET_S}")
    guarded = silent(sys.executable, str(JOBS / "standing.py"), "mute", "out", policy=short)
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    groups = found(guarded, "start-up")
    assert ["all_reduce"] == [inner[0] for _, _, inner in ranks(groups)]
    assert "never_begins" in [one.frames[0].function for one in groups if one.kind == "process" and one.frames]


@pytest.mark.long
def test_a_printed_error_after_which_nothing_comes_is_the_cause(silent, tmp_path):
    """A lost batch of a data loader that /dev/shm does not hold: the line decides, and it is not called a hang."""
    row = json.dumps({"query": "a" * 480, "response": "b" * 480})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 128)
    long_rows = ("--dataset", "rows.jsonl", "--max_length", "1024", "--per_device_train_batch_size", "8")
    loaders = ("--dataloader_num_workers", "4", "--dataloader_prefetch_factor", "8", "--max_steps", "4")
    guarded = silent(*REAL, *long_rows, *loaders)
    guarded.around = shared_memory_of(2)
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    (stop,) = guarded.events(ev.StopBegun)
    assert (1, None) == (stop.attempt, stop.silent)
    assert ["shm_bus_error", None] == [a["cause"] and a["cause"]["class"] for a in guarded.report()["attempts"]]


@pytest.mark.long
def test_a_rank_asleep_beside_a_collective_is_named(silent):
    """Two ranks of a real training over gloo: rank 0 waits in its collective for rank 1, which sleeps.

    The stacks of the processes that load their data are told as well.
    """
    asleep = {"do": "sleep", "attempt": 1, "rank": 1, "step": STANDS_AT}
    guarded = silent(*REAL, "--dataloader_num_workers", "1", things=[asleep], env=TWO)
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    groups = found(guarded)
    assert [((1,), True, "sleep"), ((0,), False, "_engine_run_backward")] == [
        (who, odd, inner[0]) for who, odd, inner in ranks(groups)
    ]
    assert {0, 1} == {rank for one in groups if one.kind == "worker" for rank in one.ranks}
    assert "proved" == guarded.report()["certificate"]["verdict"]


@pytest.mark.long
def test_a_rank_that_was_stopped_is_named(silent):
    """By SIGSTOP; the tree is ended all the same, and nobody waits for the stopped one."""
    guarded = silent(*REAL, env=TWO, things=[{"do": "be slow", "attempt": 1, "rank": 0}]).start()
    guarded.until_step(STANDS_AT, attempt=1)
    guarded.kill_rank(1, rank=1, number=signal.SIGSTOP)
    assert 0 == guarded.wait(), guarded.shown()[-6000:]

    groups = found(guarded)
    assert (1,) == stacks.odd_ranks(groups)
    assert ["T"] == [one.state for one in groups if one.ranks == (1,) and one.kind == "rank"]


# --- no hangs ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_slow_starts_evaluations_saves_and_resumes_are_left_alone(silent):
    """Each is silent and idle for longer than a steady training may be; one restart, after a kill that the test made."""
    slow = [
        {"do": what, "attempt": attempt, "seconds": SLOW_S}
        for what, attempt in (
            ("start slowly", 1), ("evaluate slowly", 1), ("save slowly", 1), ("start slowly", 2), ("skip slowly", 2),
        )
    ]  # fmt: skip
    evaluating = ("--val_dataset", f"{TINY[4]}#16", "--eval_strategy", "steps", "--eval_steps", "12")
    killed = {"do": "kill", "attempt": 1, "step": STANDS_AT}
    guarded = silent(*REAL, *evaluating, things=[*slow, killed])
    assert 0 == guarded.run(), guarded.shown()[-6000:]

    report = guarded.report()
    assert [] == guarded.events(ev.StopBegun)
    assert ["preempted_or_interrupted", None] == [a["cause"] and a["cause"]["class"] for a in report["attempts"]]
    assert ("finished", STEPS, "proved") == (report["outcome"], report["steps_done"], report["certificate"]["verdict"])
    assert (3 * SLOW_S, 2 * SLOW_S) <= tuple(a["seconds"] for a in report["attempts"])
