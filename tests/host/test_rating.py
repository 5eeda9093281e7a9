"""A checkpoint's copy with another learning rate: what a resumed training really runs at, and what is refused."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.host import rating
from tests.interpreters import PYTHONS_4_LONG
from tests.trainer.jobs import DEMO, run

torch = pytest.importorskip("torch")

JOB = (*DEMO, "--output_dir", "out", "--max_steps", "6", "--save_steps", "2", "--lr_scheduler_type", "cosine")


@pytest.fixture(scope="module", params=PYTHONS_4_LONG)
def trained(request, tmp_path_factory):
    """A real training on each transformers: (its folder, its Python)."""
    folder = tmp_path_factory.mktemp("trained")
    run(*JOB, "--learning_rate", "0.01", cwd=folder, python=request.param)
    return folder, request.param


def asked(source, folder, *, target=1e-3):
    """A copy of a checkpoint, in a run's folder."""
    return ev.Rated(1, str(source), target, str(folder / "attempts" / "0002" / "patched" / source.name))


def made(source, folder, python=sys.executable, **more):
    """What came of it."""
    return rating.rate(asked(source, folder, **more), interpreter=python, deadline_s=300)


def rates(folder):
    """Step -> the rate that the training logged."""
    state = json.loads((folder / "checkpoint-6" / "trainer_state.json").read_text())
    return {one["step"]: one["learning_rate"] for one in state["log_history"] if "learning_rate" in one}


def contents(folder):
    """Every byte of it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_training_that_goes_on_from_the_copy_runs_at_a_tenth_of_the_old_curve(trained, tmp_path):
    """The argument has no say; the checkpoint is as it was, and a copy of what was saved later changes nothing."""
    folder, python = trained
    source = folder / "out" / "checkpoint-2"
    before = contents(source)

    done = made(source, tmp_path, python)
    run(*JOB, "--learning_rate", "0.01", "--resume_from_checkpoint", done.copy, "--output_dir", "again",
        cwd=tmp_path, python=python)  # fmt: skip

    assert (None, pytest.approx(0.01)) == (done.why, done.before)
    assert before == contents(source)
    old, new = rates(folder / "out"), rates(tmp_path / "again")
    assert {step: pytest.approx(0.1 * old[step], rel=1e-3) for step in (3, 4, 5)} == {s: new[s] for s in (3, 4, 5)}
    later = made(tmp_path / "again" / "checkpoint-4", tmp_path, python)
    assert (None, None, pytest.approx(1e-3)) == (later.copy, later.why, later.before)


def test_both_files_have_the_rate_and_the_moments_are_untouched(trained, tmp_path):
    """The log reads the schedule; the first step would run at what optimizer.pt says."""
    folder, python = trained
    source = folder / "out" / "checkpoint-2"
    copy = Path(made(source, tmp_path, python).copy)
    old, new = (torch.load(one / "optimizer.pt", weights_only=True) for one in (source, copy))
    schedule = [torch.load(one / "scheduler.pt", weights_only=True) for one in (source, copy)]

    for name in ("lr", "initial_lr"):
        assert [g[name] for g in new["param_groups"]] == pytest.approx([0.1 * g[name] for g in old["param_groups"]])
    assert [pytest.approx(0.1 * rate) for rate in schedule[0]["base_lrs"]] == schedule[1]["base_lrs"]
    assert old["state"].keys() == new["state"].keys()
    assert all(torch.equal(old["state"][n]["exp_avg"], new["state"][n]["exp_avg"]) for n in old["state"])
    assert (source / "model.safetensors").samefile(copy / "model.safetensors")


@pytest.fixture
def checkpoint(trained, tmp_path):
    """One to be spoilt."""
    return Path(shutil.copytree(trained[0] / "out" / "checkpoint-2", tmp_path / "checkpoint-2"))


def test_what_does_not_say_its_rate_in_a_known_form_is_refused_and_nothing_is_left(checkpoint, tmp_path):
    """DeepSpeed's shards, a missing or a broken file, no Python: each with its reason."""

    def why(**more):
        done = made(checkpoint, tmp_path / "run", **more)
        assert (None, []) == (done.copy, [p for p in (tmp_path / "run").rglob("*") if p.is_file()])
        return done.why

    assert "the Python of the job is not known" in why(python=None)
    assert "No such file" in why(python=str(tmp_path / "python"))
    os.truncate(checkpoint / "scheduler.pt", 100)
    assert "RuntimeError" in why()
    (checkpoint / "scheduler.pt").unlink()
    assert "there is no scheduler.pt" in why()
    (checkpoint / "global_step2").mkdir()
    assert "DeepSpeed's shards" in why()


def test_whoever_does_not_wait_any_longer_ends_the_writing(checkpoint, tmp_path):
    """A request to stop, or the time that a copy may take."""
    stopped = rating.rate(asked(checkpoint, tmp_path), interpreter=sys.executable, deadline_s=300, stop=lambda: True)
    late = rating.rate(asked(checkpoint, tmp_path), interpreter=sys.executable, deadline_s=0)

    assert ("interrupted", "it took over 0 s") == (stopped.why, late.why)


def test_the_copies_go_when_they_are_not_needed_any_more(checkpoint, tmp_path):
    """They are guardian's own; the checkpoint is not."""
    done = made(checkpoint, tmp_path)
    rating.release(str(tmp_path / "attempts"))

    assert not Path(done.copy).exists()
    assert checkpoint.is_dir()
