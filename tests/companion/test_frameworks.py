"""The companion under the other ways to run a trainer: sharded optimizers, compilers, spawned loaders, torchrun."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.companion.launching import HERE, Ran, environment, free_port, plan, run

pytestmark = pytest.mark.long


def zero(stage):
    """A DeepSpeed configuration with everything else as the trainer has it."""
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True, **dict.fromkeys(auto, "auto")}


@pytest.mark.parametrize("stage", [1, 2])
def test_a_sharded_optimizer_is_counted_saved_and_stopped(tmp_path, stage):
    """DeepSpeed steps within backward: rows, learning rate and the common step hold there too."""
    arguments = {"deepspeed": zero(stage), "ddp_backend": "gloo", "learning_rate": 0.01}
    order = {"id": 1, "save_at": 3, "stop": True}
    done = run(
        tmp_path,
        [plan("sharded", tmp_path, (4, 2), 6, arguments=arguments, control=order)],
        spec={"fingerprint": True},
        ranks=2,
    )

    assert (0, 0) == done.codes, done.output
    for rank in (0, 1):
        assert {1: 8, 2: 8, 3: 8} == done.steps("sharded", "rows", rank)
        assert done.truth("sharded", "lr", rank) == pytest.approx(done.steps("sharded", "lr", rank))
        assert ["guardian"] == [line["by"] for line in done.told("sharded", "end", rank)]
    assert (tmp_path / "sharded" / "checkpoint-3" / "trainer_state.json").exists()


def test_a_model_that_the_trainer_compiles_is_counted(tmp_path):
    """The hook stands on the compiled module."""
    arguments = {"torch_compile": True, "torch_compile_backend": "eager"}
    done = run(tmp_path, [plan("compiled", tmp_path, (4, 2), 3, arguments=arguments)], spec={"fingerprint": True})

    assert (0,) == done.codes, done.output
    assert {1: 8, 2: 8, 3: 8} == done.steps("compiled", "rows")
    assert all(done.steps("compiled", "fp").values())


def test_spawned_loader_workers_write_nothing(tmp_path):
    """They import the job's script again, with the same rank: one hello all the same."""
    arguments = {"dataloader_num_workers": 2}
    done = run(tmp_path, [plan("spawned", tmp_path, (4, 2), 3, arguments=arguments, spawn=True)], spec={})

    assert (0,) == done.codes, done.output
    assert 1 == len(done.told("spawned", "hello"))
    assert {1: 8, 2: 8, 3: 8} == done.steps("spawned", "rows")
    assert [None, None, None] == list(done.steps("spawned", "fp").values())


def test_ranks_that_torchrun_starts_are_told_apart(tmp_path):
    """The agent itself writes nothing."""
    (tmp_path / "attempt").mkdir()
    halves = plan("halves", tmp_path, (4, 1), 2, arguments={"ddp_backend": "gloo"})
    (tmp_path / "plan.json").write_text(json.dumps([halves]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    argv = [*launcher, str(HERE / "job.py"), str(tmp_path / "plan.json")]
    with (tmp_path / "job.log").open("wb") as log:
        code = subprocess.run(
            argv, env=environment(tmp_path / "attempt"), stdout=log, stderr=log, check=False
        ).returncode
    done = Ran(tmp_path, (code,), (tmp_path / "job.log").read_text())
    hellos = [done.told("halves", "hello", rank)[0] for rank in (0, 1)]

    assert 0 == code, done.output
    assert ["heartbeat.0.jsonl", "heartbeat.1.jsonl"] == sorted(path.name for path in (tmp_path / "attempt").iterdir())
    assert [(0, 0, 2), (1, 1, 2)] == [
        tuple(hello[key] for key in ("rank", "local_rank", "local_world")) for hello in hellos
    ]
    assert {1: 4, 2: 4} == done.steps("halves", "rows", 1)


def scheduled():
    """A schedule in DeepSpeed's own configuration."""
    numbers = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps")
    return {**zero(1), "scheduler": {"type": "WarmupDecayLR", "params": dict.fromkeys(numbers, "auto")}}


def sharded(folder, configuration, **more):
    """Six steps of two ranks, saved at each second."""
    arguments = {"deepspeed": configuration, "ddp_backend": "gloo", "learning_rate": 0.01, "warmup_steps": 1,
                 "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}  # fmt: skip
    return plan("sharded", folder, (4, 2), 6, arguments=arguments, **more)


def run_pair(folder, training, spec):
    """Two ranks in a folder of their own."""
    folder.mkdir()
    ran = run(folder, [training], spec=spec, ranks=2)
    assert "fault" in training or (0, 0) == ran.codes, ran.output
    return ran


@pytest.mark.parametrize("configuration", [zero(1), scheduled()], ids=["the trainer's schedule", "its own schedule"])
def test_a_rate_is_set_in_a_sharded_optimizer(tmp_path, configuration):
    """From the first resumed step on, in every rank, and once more from a checkpoint that was written under it."""
    base = run_pair(tmp_path / "base", sharded(tmp_path / "base", configuration), {})
    found = base.truth("sharded", "lr")
    for name, start, step in (("lowered", "base", 2), ("again", "lowered", 4)):
        resume = str(tmp_path / start / "sharded" / f"checkpoint-{step}")
        ran = run_pair(tmp_path / name, sharded(tmp_path / name, configuration, resume=resume), {"learning_rate": 1e-3})
        expected = {one: found[one] / 10 for one in range(step + 1, 7)}
        assert expected == pytest.approx(ran.truth("sharded", "lr"))
        assert expected == pytest.approx(ran.truth("sharded", "lr", 1))
        assert "error" not in ran.told("sharded", "lr")[0]


def test_a_sharded_training_that_fails_saves_nothing(tmp_path):
    """A save takes all ranks, and one of them is gone."""
    fallen = sharded(tmp_path, zero(2), fault="raise", fault_after=3)
    ran = run_pair(tmp_path / "fallen", fallen, {"rescue": True})
    (exc,) = ran.told("sharded", "exc")

    assert "DEEPSPEED: a save takes all ranks" == exc["not_rescued"]
