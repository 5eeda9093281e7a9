"""A save on an exception: nothing of a finished step is lost, and where a save would not be sound there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.companion.launching import plan, run
from tests.interpreters import PYTHON_4, needs_transformers_4

STEPS = 12
FALL = {"fault_after": 7, "caught": True}
GLOO = {"ddp_backend": "gloo"}
SPEC = {"fingerprint": True, "rescue": True, "restore_batch": True}


@pytest.fixture(scope="module")
def fallen(tmp_path_factory, python):
    """Trainings that fail in step 8, beside those that do not; the last one takes the process with it."""
    folder = tmp_path_factory.mktemp("fallen")
    eventful = {"eval_strategy": "steps", "eval_steps": 7}
    plans = [
        plan("undisturbed", folder, (4, 4), STEPS),
        plan("noisy", folder, (4, 4), STEPS, dropout=0.2),
        plan("eventful", folder, (4, 4), STEPS, arguments=eventful, dropout=0.2),
        plan("noisy fallen", folder, (4, 4), STEPS, dropout=0.2, fault="raise", place="loader", **FALL),
        plan("eventful fallen", folder, (4, 4), STEPS, arguments=eventful, dropout=0.2, fault="raise", place=1, **FALL),
        plan("evaluated", folder, (4, 1), 9, arguments={**eventful, "eval_steps": 8}, fault="raise",
             place="evaluation", **FALL),
        plan("in the optimizer", folder, (4, 1), 9, fault="raise", place="optimizer", **FALL),
        plan("in the first step", folder, (4, 1), 9, fault="raise", fault_after=0, caught=True),
        plan("while saving", folder, (4, 1), 9, arguments=saves(8), fault="full", place="save", **FALL),
        plan("there already", folder, (4, 1), 9, arguments=saves(7), fault="raise", **FALL),
        plan("weights only", folder, (4, 1), 9, arguments={"save_only_model": True}, fault="raise", **FALL),
        plan("trying again", folder, (4, 1), 9, arguments={"auto_find_batch_size": True}, fault="raise", **FALL),
        plan("lost device", folder, (4, 1), 9, fault="device", **FALL),
        plan("interrupted", folder, (4, 1), 9, fault="interrupt", **FALL),
        plan("without a worker", folder, (4, 1), 9, fault="worker", also="child", **FALL),
        plan("no room", folder, (4, 1), 9, fault="raise", also="full", **FALL),
        plan("fallen", folder, (4, 4), STEPS, arguments=saves(4), fault="allocator", also="terminate", place=2,
             fault_after=7),
    ]  # fmt: skip
    return run(folder, plans, spec=SPEC, python=python)


def saves(steps):
    """Arguments."""
    return {"save_strategy": "steps", "save_steps": steps}


@pytest.fixture(scope="module")
def resumed(fallen, tmp_path_factory, python):
    """What goes on from the checkpoints that were saved."""
    folder = tmp_path_factory.mktemp("resumed")
    noisy = fallen.folder / "noisy fallen" / "checkpoint-8"
    forgetful = folder / "forgetful" / "checkpoint-8"
    shutil.copytree(noisy, forgetful)
    (forgetful / "rng_state.pth").unlink()
    eventful = {"eval_strategy": "steps", "eval_steps": 7}
    plans = [
        plan("gone on", folder, (2, 8), STEPS, resume=str(fallen.folder / "fallen" / "checkpoint-7")),
        plan("noisy on", folder, (4, 4), STEPS, dropout=0.2, resume=str(noisy)),
        plan("noisy without", folder, (4, 4), STEPS, dropout=0.2, resume=str(forgetful)),
        plan("eventful on", folder, (4, 4), STEPS, arguments=eventful, dropout=0.2,
             resume=str(fallen.folder / "eventful fallen" / "checkpoint-7")),
    ]  # fmt: skip
    return run(folder, plans, spec=SPEC, python=python)


def losses(ran, name, rank=0):
    """Per step, as the companion counted them."""
    return dict(line["loss"] for line in ran.told(name, "step", rank))


def after(step, values):
    """The later steps."""
    return {one: value for one, value in values.items() if one > step}


def what_came_of_it(ran, name, rank=0):
    """Of the exception that left this training."""
    (exc,) = ran.told(name, "exc", rank)
    return exc.get("phase"), exc.get("rescued"), exc.get("not_rescued")


def test_an_allocator_error_in_the_middle_of_a_step_loses_no_finished_step(fallen, resumed):
    """4 x 4 fails in the third micro-batch of step 8, saves 7, and goes on as 2 x 8: as if nothing had happened."""
    path = str(fallen.folder / "fallen" / "checkpoint-7")

    assert ("train", path, None) == what_came_of_it(fallen, "fallen")
    assert [8, 9, 10, 11, 12] == list(losses(resumed, "gone on"))
    assert after(7, fallen.steps("undisturbed", "fp")) == resumed.steps("gone on", "fp")
    assert {16} == set(resumed.steps("gone on", "rows").values())
    assert after(7, losses(fallen, "undisturbed")) == pytest.approx(losses(resumed, "gone on"), rel=1e-6)
    assert after(7, fallen.truth("undisturbed", "weights")) == pytest.approx(
        resumed.truth("gone on", "weights"), rel=1e-6
    )


def test_the_job_ends_as_it_would_without_us(fallen):
    """By its own exception, though a SIGTERM came while we wrote."""
    (exc,) = fallen.told("fallen", "exc")

    assert (1,) == fallen.codes
    assert fallen.output.strip().splitlines()[-1].startswith("RuntimeError: [enforce fail at alloc_cpu.cpp")
    assert (7, "RuntimeError", 4) == (exc["step"], exc["type"], exc["rows"])
    assert exc["text"] in fallen.output


def test_a_rescue_is_told_as_a_save(fallen):
    """The phase before it, the folder after it."""
    phases = [(line["phase"], line["step"]) for line in fallen.told("fallen", "phase")]

    assert ("save", 7) == phases[-1]
    assert str(fallen.folder / "fallen" / "checkpoint-7") == fallen.told("fallen", "saved")[-1]["path"]


def test_dropout_goes_on_with_the_random_numbers_of_the_finished_step(fallen, resumed):
    """Without them, or with those of the moment of the failure, other activations are dropped and the losses differ."""
    whole = after(8, losses(fallen, "noisy"))
    missing = losses(resumed, "noisy without")

    assert whole == pytest.approx(losses(resumed, "noisy on"), rel=1e-6)
    assert list(whole) == list(missing)
    assert whole != pytest.approx(missing, rel=1e-4)


def test_an_evaluation_after_the_step_may_draw_random_numbers(fallen, resumed):
    """What it leaves is what the next step begins with."""
    assert after(7, losses(fallen, "eventful")) == pytest.approx(losses(resumed, "eventful on"), rel=1e-6)


def test_a_fault_of_the_loader_or_of_an_evaluation_is_met_too(fallen):
    """Between two steps everything is whole."""
    loader, evaluation = (fallen.folder / name / "checkpoint-8" for name in ("noisy fallen", "evaluated"))

    assert ("train", str(loader), None) == what_came_of_it(fallen, "noisy fallen")
    assert ("eval", str(evaluation), None) == what_came_of_it(fallen, "evaluated")


def test_the_death_of_a_data_loader_process_does_not_interrupt_the_save(fallen):
    """Its connection is reset first, and only then torch hears of its end and raises wherever the job is."""
    path = str(fallen.folder / "without a worker" / "checkpoint-7")

    assert ("train", path, None) == what_came_of_it(fallen, "without a worker")


@pytest.mark.parametrize(
    "name, phase, why",
    [
        ("in the optimizer", "optimizer", "it was inside the optimizer step"),
        ("in the first step", "train", "no step has finished in this process"),
        ("while saving", "save", "a checkpoint was being written"),
        ("there already", "train", "checkpoint-7 is there already"),
        ("weights only", "train", "save_only_model"),
        ("trying again", "train", "auto_find_batch_size"),
        ("lost device", "train", "after 'CUDA error'"),
        ("interrupted", "train", "KeyboardInterrupt is no failure"),
        ("no room", "train", "No space left on device"),
    ],
)
def test_where_a_save_is_not_sound_there_is_none(fallen, name, phase, why):
    """And the exception's line says so; nothing half-written stays."""
    told, rescued, reason = what_came_of_it(fallen, name)
    left = sorted(path.name for path in Path(fallen.folder / name).glob("*"))

    assert (phase, None) == (told, rescued)
    assert why in reason
    assert {"there already": ["checkpoint-7"], "while saving": ["checkpoint-8"]}.get(name, []) == left


def test_no_trouble_of_the_companion_was_told(fallen, resumed):
    """Refusals are answers, not errors."""
    assert [] == [line for line in [*fallen.heartbeat(), *resumed.heartbeat()] if line["ev"] == "error"]


def fallen_pair(folder, ranks, **more):
    """Two ranks of which some fail in the second micro-batch of step 8; and the checkpoint that should be there."""
    falling = {"fault": "allocator", "fault_after": 7, "place": 1, "ranks": ranks, "dropout": 0.2}
    failed = run(folder, [plan("fallen", folder, (4, 2), STEPS, arguments=GLOO, **falling)], spec=SPEC, ranks=2, **more)
    return failed, folder / "fallen" / "checkpoint-7"


def saved_by_a_pair(failed, rescued, ranks):
    """True if it is whole, alone, and told by a rank that failed."""
    files = {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors", "optimizer.pt", "scheduler.pt"}
    # The rank that waits for it ends by an exception, or gloo aborts it (SIGABRT) as it exits.
    assert failed.codes in {(1, 1), (1, -6), (-6, 1)}
    assert ["checkpoint-7"] == [path.name for path in rescued.parent.iterdir()]
    assert files <= {path.name for path in rescued.iterdir()}
    assert 7 == json.loads((rescued / "trainer_state.json").read_text())["global_step"]
    return str(rescued) in [what_came_of_it(failed, "fallen", rank)[1] for rank in ranks]


@pytest.fixture(scope="module")
def pair_undisturbed(tmp_path_factory):
    """Two ranks that nothing happens to."""
    folder = tmp_path_factory.mktemp("pair_undisturbed")
    return run(folder, [plan("noisy", folder, (4, 2), STEPS, arguments=GLOO, dropout=0.2)], spec=SPEC, ranks=2)


@pytest.mark.parametrize("ranks", [[1], [0, 1]], ids=["one fails", "both fail"])
def test_a_rank_that_failed_writes_what_all_ranks_go_on_from(tmp_path, pair_undisturbed, ranks):
    """Rank 1 has the weights too; rank 0 hands over its random numbers while it waits for the gradients."""
    failed, rescued = fallen_pair(tmp_path, ranks)
    (tmp_path / "on").mkdir()
    on = plan("on", tmp_path / "on", (4, 2), STEPS, arguments=GLOO, dropout=0.2, resume=str(rescued))
    went_on = run(tmp_path / "on", [on], spec=SPEC, ranks=2)

    assert saved_by_a_pair(failed, rescued, ranks)
    for rank in (0, 1):
        assert after(7, pair_undisturbed.steps("noisy", "fp", rank)) == went_on.steps("on", "fp", rank)
        whole = after(7, losses(pair_undisturbed, "noisy", rank))
        assert whole == pytest.approx(losses(went_on, "on", rank), rel=1e-6)


@needs_transformers_4
def test_a_rank_that_failed_writes_under_transformers_4(tmp_path):
    """Which cannot resume two ranks on a CPU, from any checkpoint: it asks torch for a device "cpu:0"."""
    failed, rescued = fallen_pair(tmp_path, [1], python=PYTHON_4)

    assert saved_by_a_pair(failed, rescued, [1])
    assert "can be trusted" in what_came_of_it(failed, "fallen", 0)[2]
