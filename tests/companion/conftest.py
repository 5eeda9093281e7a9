"""The real jobs of these tests: each process start costs seconds, so that one run proves many things."""

from __future__ import annotations

import pytest

from tests.companion.launching import plan, run
from tests.interpreters import PYTHONS_4_LONG

STEPWISE = {"save_strategy": "steps", "save_steps": 2}
LOADED = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 3, "per_device_eval_batch_size": 2}
ALL_KNOBS = {"fingerprint": True, "restore_batch": True, "restore_intervals": True, "longest": True,
             "stacks": True}  # fmt: skip


@pytest.fixture(scope="session", params=PYTHONS_4_LONG)
def python(request):
    """The interpreter of the job."""
    return request.param


@pytest.fixture(scope="session")
def killed(tmp_path_factory, python):
    """4 x 4, a save at each second step, killed in the middle of step 6."""
    folder = tmp_path_factory.mktemp("killed")
    first = plan("first", folder, (4, 4), 8, arguments=STEPWISE, fault="kill", fault_after=5)
    return run(folder, [first], spec={"fingerprint": True}, python=python)


@pytest.fixture(scope="session")
def many(tmp_path_factory, killed, python):
    """Trainings one after the other in one process; the first goes on from the killed job, the last fails."""
    folder = tmp_path_factory.mktemp("many")
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss", "learning_rate": 0.0}
    plans = [
        plan("resumed", folder, (2, 8), 8, arguments={**STEPWISE, "save_steps": 1},
             resume=str(killed.folder / "first" / "checkpoint-4")),
        plan("whole", folder, (8, 2), 8, arguments={**STEPWISE, "save_steps": 4}),
        plan("early", folder, (4, 1), 12, arguments=evaluated, early_stopping=True),
        plan("signalled", folder, (4, 1), 6, signal_after=2),
        plan("epoch", folder, (4, 4), None, arguments={"num_train_epochs": 1, **LOADED}, rows=40),
        plan("adapted", folder, (4, 2), 2, arguments={"gradient_checkpointing": True}, peft=True),
        plan("restored", folder, (4, 4), 2, restored_batch=8),
        plan("shrunk", folder, (8, 1), 2, arguments={"auto_find_batch_size": True}, fault="memory", fault_after=1),
        plan("stopped", folder, (4, 1), 6, control={"id": 7, "save_at": 3, "stop": True}),
        plan("late", folder, (4, 1), 4, control={"id": 8, "save_at": 0, "stop": True}),
        plan("gone", folder, (4, 1), 2, hidden=True),
        plan("full", folder, (4, 1), 2, room=100),
        plan("failing", folder, (4, 2), 4, fault="raise", fault_after=1),
    ]  # fmt: skip
    return run(folder, plans, spec=ALL_KNOBS, python=python)


@pytest.fixture(scope="session")
def pair(tmp_path_factory, python):
    """Two ranks under DDP: the global batch of the others, then a save-and-stop."""
    folder = tmp_path_factory.mktemp("pair")
    plans = [
        plan("shared", folder, (4, 2), 4, arguments={"ddp_backend": "gloo"}),
        plan("halted", folder, (4, 2), 6, arguments={"ddp_backend": "gloo"},
             control={"id": 1, "save_at": 3, "stop": True}),
    ]  # fmt: skip
    return run(folder, plans, spec={"fingerprint": True}, ranks=2, python=python)
