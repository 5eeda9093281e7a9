"""`guardian soak`: what users run to trust us, and its verdict can say no."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from guardian.soaking import Result, verdict
from tests.faults.harness import harm

JOB = ("sft", "--model", "demo", "--dataset", "demo#160", "--logging_steps", "1")


def soaked(folder, kills, steps, env=None):
    """The result of a soak, as JSON; its run makes no last step before all kills are made, however fast it is."""
    own = ("soak", "--kills", str(kills), "--json", "--")
    done = subprocess.run(
        [sys.executable, "-m", "guardian", *own, *JOB, "--max_steps", str(steps), "--save_steps", "5"],
        cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(folder / "state")}
        | harm({"do": "await the kills", "step": steps})
        | (env or {}),
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_few_kills_cost_nothing(tmp_path):
    """Trainer, keeper and guardian are killed; the training is the undisturbed one."""
    seen = soaked(tmp_path, 4, 20)

    assert ("finished", 20, 0, [], []) == tuple(
        seen[k] for k in ("outcome", "steps_done", "doubled", "lost", "left_over")
    )
    assert 4 == seen["kills_asked"] == sum(seen["kills"].values())
    assert seen["largest_loss_difference"] <= 1e-4


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_fifty_kills_in_three_hundred_steps_cost_nothing(tmp_path):
    """Nothing doubled, lost or left over; the guardian does not grow."""
    seen = soaked(tmp_path, 50, 300)

    assert ("finished", 300, 0, [], []) == tuple(
        seen[k] for k in ("outcome", "steps_done", "doubled", "lost", "left_over")
    )
    assert 50 == sum(seen["kills"].values())
    assert seen["pss_last_mib"] < 60
    assert seen["descriptors_last"] < 40


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_ranks_and_their_launcher_are_killed_too(tmp_path):
    """Two ranks under torchrun, whose killed agent leaves them training."""
    seen = soaked(tmp_path, 10, 60, {"NPROC_PER_NODE": "2"})

    assert {"launcher", "rank"} <= seen["kills"].keys()
    assert 60 == seen["steps_done"]


@pytest.mark.parametrize(
    "flaw",
    [
        {"doubled": 1},
        {"lost": (7,)},
        {"left_over": ("process 1",)},
        {"largest_loss_difference": 0.01},
        {"largest_loss_difference": None},
        {"outcome": "gave_up", "exit_code": 1},
        {"kills": Counter()},
    ],
)
def test_the_verdict_can_say_no(flaw):
    """Each flaw alone is enough."""
    good = {
        "outcome": "finished",
        "exit_code": 0,
        "largest_loss_difference": 0.0,
        "kills_asked": 1,
        "kills": Counter(job=1),
    }

    assert verdict(Result(**good))[0]
    assert not verdict(Result(**{**good, **flaw}))[0]


def test_a_run_that_was_over_before_the_last_kill_is_told():
    """Fewer kills than were asked for cost nothing, but nobody is left to believe that there were more."""
    seen = Result(exit_code=0, outcome="finished", largest_loss_difference=0.0, kills_asked=4, kills=Counter(keeper=3))
    good, lines = verdict(seen)

    assert good
    assert "kills: 3 keeper (4 asked for: the run was over first; give it more steps)" in lines
