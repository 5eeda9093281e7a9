"""A supervised fine-tune is killed and finishes anyway: the same samples, the same losses, the same batch.

Real processes, real signals, the embedded trainer. Every recovered run is compared, step by step, with one that
nobody disturbed.
"""

import json
import os
import signal

import pytest

from guardian.core import events as ev
from guardian.host import journal
from tests.faults.harness import TINY, Guarded, Sampler, harm, surviving

STEPS = 16
JOB = (*TINY, "--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "4")
TWO = {"NPROC_PER_NODE": "2"}


def undisturbed(folder, env):
    """A finished run of the job."""
    guarded = Guarded(folder, *JOB, env=env)
    assert 0 == guarded.run(), guarded.shown()[-4000:]
    return guarded


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """The run that nobody disturbs, in one process."""
    return undisturbed(tmp_path_factory.mktemp("one"), {})


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """The run that nobody disturbs, in two ranks under torchrun."""
    return undisturbed(tmp_path_factory.mktemp("two"), TWO)


@pytest.fixture
def disturbed(tmp_path):
    """Starts a run in which harm is done, and a sampler of its processes; nothing of them outlives the test."""
    started = []

    def start(*things, env=None, options=()):
        guarded = Guarded(tmp_path, *JOB, env=harm(*things) | (env or {}), options=options).start()
        started.append(guarded)
        sampler = Sampler(guarded)
        sampler.start()
        return guarded, sampler

    yield start
    for guarded in started:
        guarded.clean_up()


def same_training(guarded, undisturbed):
    """Loss at each step within 1e-4 x max(1, |loss|) of the undisturbed run's, rows equal by count at each step."""
    ours, theirs = surviving(guarded.story()), surviving(undisturbed.story())
    assert list(range(1, STEPS + 1)) == sorted(ours) == sorted(theirs)
    for number, step in theirs.items():
        assert 16 == ours[number].rows == step.rows
        assert step.fingerprint == ours[number].fingerprint
        assert abs(ours[number].loss - step.loss) <= 1e-4 * max(1, abs(step.loss)), f"step {number}"


def never_two_at_once(guarded, sampler, attempts):
    """No process of an attempt was seen beside one of another, and each tree was gone before the next was begun."""
    assert set() == sampler.stop()
    assert set(range(1, attempts + 1)) == sampler.alone
    kinds = ev.Launched | ev.TreeEnded
    seen = [r.event for r in journal.read_records(guarded.run_folder.journal) if isinstance(r.event, kinds)]
    expected = [(kind, n) for n in range(1, attempts + 1) for kind in (ev.Launched, ev.TreeEnded)]
    assert expected == [(type(event), event.attempt) for event in seen]


def recovered(guarded, attempts):
    """The report of a run that finished after so many attempts, each resumed from a checkpoint, and is proved."""
    report = guarded.report()
    assert ("finished", 0, STEPS, 16) == told(report, "outcome", "exit_code", "steps_done", "effective_batch")
    assert attempts == len(report["attempts"])
    assert all(a["resumed_from"] for a in report["attempts"][1:])
    assert "proved" == report["certificate"]["verdict"], report["certificate"]
    return report


def told(report, *keys):
    """Some values of a report."""
    return tuple(report[key] for key in keys)


def test_a_run_that_nobody_disturbs_is_one_attempt_and_proved(one_rank):
    """The baseline of the others, and the report of a quiet night."""
    report = recovered(one_rank, attempts=1)

    assert (STEPS, 0) == told(report["certificate"], "steps_counted", "replayed_steps")
    assert not report["attempts"][0]["cause"]


def test_a_trainer_killed_twice_in_the_middle_of_a_step_finishes_the_same_training(disturbed, one_rank):
    """SIGKILL by its own hand in the first attempt, from another process in the second."""
    guarded, sampler = disturbed({"attempt": 1, "step": 7, "do": "kill"}, {"attempt": 2, "step": 11, "do": "hold"})
    os.kill(guarded.until_held(2), signal.SIGKILL)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    never_two_at_once(guarded, sampler, attempts=3)
    report = recovered(guarded, attempts=3)
    assert [(1, 6, 2), (5, 10, 2), (9, 16, 0)] == [
        told(a, "first_step", "last_step", "lost_steps") for a in report["attempts"]
    ]
    assert 4 == report["certificate"]["replayed_steps"]
    assert all("SIGKILL" in a["cause"]["title"] for a in report["attempts"][:2])
    same_training(guarded, one_rank)
    marked_at_their_steps(guarded, report)


def marked_at_their_steps(guarded, report):
    """The report names the last steps before the kills, and its curve has their marks there, and where it went on."""
    faults = [fault for attempt in report["attempts"] for fault in attempt["faults"]]
    assert [(6, 4), (10, 8)] == [told(fault, "step", "resumed_step") for fault in faults]
    lines = guarded.call("report", guarded.name).stdout.split("\n")
    at = next(at for at, line in enumerate(lines) if line.startswith((f"{'':10}└─", f"{'':10}+-")))
    axis, letters = lines[at][11:], lines[at + 1][11:]
    places = [round((step - 1) / (STEPS - 1) * (len(axis) - 1)) for step in (6, 10, 4, 8)]
    assert ["A", "A"] == [letters[place] for place in places[:2]]
    assert {axis[place] for place in places[2:]} <= {"▲", "^"}
    assert 2 == letters.count("A")


def test_one_of_two_ranks_killed_takes_its_tree_along_and_the_run_finishes(disturbed, two_ranks):
    """The other rank waits in a collective and torchrun ends it: all of them are gone before the next attempt."""
    guarded, sampler = disturbed({"attempt": 1, "rank": 1, "step": 7, "do": "kill"}, env=TWO)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    never_two_at_once(guarded, sampler, attempts=2)
    report = recovered(guarded, attempts=2)
    assert "SIGKILL" in report["attempts"][0]["cause"]["title"]
    assert 2 == report["certificate"]["replayed_steps"]
    same_training(guarded, two_ranks)


def test_ranks_whose_launcher_was_killed_save_before_they_are_ended(disturbed, two_ranks):
    """torchrun's ranks live on as orphans: they are asked to save and stop, no finished step is lost."""
    guarded, sampler = disturbed(
        {"attempt": 1, "rank": 0, "step": 5, "do": "kill the launcher"}, {"attempt": 1, "do": "be slow"}, env=TWO
    )

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    never_two_at_once(guarded, sampler, attempts=2)
    (asked,) = guarded.events(ev.SaveAsked)
    first, second = recovered(guarded, attempts=2)["attempts"]
    assert asked.save_at == first["last_step"] == second["resume_step"] < STEPS
    assert 0 == first["lost_steps"]
    same_training(guarded, two_ranks)


def logged_losses(guarded):
    """What the trainer itself wrote beside its last checkpoint."""
    state = json.loads((guarded.folder / "out" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


def test_without_a_companion_a_killed_run_goes_on_and_nothing_is_claimed(disturbed, one_rank):
    """Resumed by what the folders and the log tell; that nothing was counted is said, not passed over."""
    guarded, sampler = disturbed({"attempt": 1, "step": 7, "do": "kill"}, options=("--no-companion",))

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    never_two_at_once(guarded, sampler, attempts=2)
    report = guarded.report()
    assert ("finished", 0, STEPS, None) == told(report, "outcome", "exit_code", "steps_done", "effective_batch")
    assert [None, 4] == [a["resume_step"] for a in report["attempts"]]
    assert ("not_provable", 0) == told(report["certificate"], "verdict", "steps_counted")
    assert "nothing proved: rows were not counted: the run was started without a companion" in report["summary"]
    assert logged_losses(one_rank) == pytest.approx(logged_losses(guarded), rel=1e-4)
