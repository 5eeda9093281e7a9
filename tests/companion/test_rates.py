"""The learning rate that guardian sets is the one that the optimizer uses, over every resume that follows.

The rates are read in a hook of the optimizer's own step, group by group.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.companion.launching import COMPANION, companion_module, plan, run

rates = companion_module().beside("guardian_rates")
EVERY_TWO = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2, "max_grad_norm": 0.0}
SCHEDULES = {
    "linear": {"lr_scheduler_type": "linear"},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    "warming": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 7},
    "floor": {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 2e-3}},
    "stable": {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 2,
               "lr_scheduler_kwargs": {"num_stable_steps": 4, "num_decay_steps": 6}},
}  # fmt: skip
PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 2,
           "metric_for_best_model": "loss"}  # fmt: skip
NAMES = [*SCHEDULES, "several"]
STEPS = 12


def trainings(folder, steps=STEPS, resume=None, **more):
    """One for each schedule, and one whose groups learn at different rates."""
    found = []
    for name in [*NAMES, *more.get("also", ())]:
        schedule = {**EVERY_TWO, **SCHEDULES.get(name, PLATEAU if name.startswith("plateau") else {})}
        own = {"rates": [1e-2, 1.6e-1]} if name == "several" else {}
        at = {"resume": str(resume[0] / name / f"checkpoint-{resume[1]}")} if resume else {}
        found.append(plan(name, folder, (4, 1), steps, arguments=schedule, **own, **at))
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory, python):
    """As the command line says."""
    folder = tmp_path_factory.mktemp("base")
    return run(folder, trainings(folder, also=["plateau"]), spec={}, python=python)


@pytest.fixture(scope="module")
def lowered(base, tmp_path_factory, python):
    """From step 4 on a fifth of it; one that begins with it."""
    folder = tmp_path_factory.mktemp("lowered")
    plans = trainings(folder, resume=(base.folder, 4), also=["plateau"])
    plans.append(plan("plateau of its own", folder, (4, 1), STEPS, arguments={**EVERY_TWO, **PLATEAU}))
    return run(folder, plans, spec={"learning_rate": 2e-3}, python=python)


@pytest.fixture(scope="module")
def again(lowered, tmp_path_factory, python):
    """The same order, from a checkpoint that was written under it."""
    folder = tmp_path_factory.mktemp("again")
    plans = trainings(folder, resume=(lowered.folder, 8))
    plans.append(plan("plateau of its own", folder, (4, 1), STEPS, arguments={**EVERY_TWO, **PLATEAU},
                      resume=str(lowered.folder / "plateau of its own" / "checkpoint-8")))  # fmt: skip
    return run(folder, plans, spec={"learning_rate": 2e-3}, python=python)


def ratios(ran, reference, name):
    """{step: the rate of each group, relative to the reference's}."""
    own, theirs = ran.truth(name, "lrs"), reference.truth(name, "lrs")
    return {step: [rate / other for rate, other in zip(own[step], theirs[step], strict=True)] for step in own}


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_is_the_wanted_part_of_the_schedule_at_every_step(base, lowered, name):
    """In every group, whatever the schedule, resumed inside of its warm-up too."""
    found = ratios(lowered, base, name)

    assert [5, 6, 7, 8, 9, 10, 11, 12] == [step for step in found if base.truth(name, "lr")[step]]
    assert all(found[step] == pytest.approx([0.2] * len(found[step])) for step in found)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_resume_sets_it_once_and_not_twice(base, again, name):
    """The target is absolute: nothing is missing to it any more."""
    found = ratios(again, base, name)
    (told,) = again.told(name, "lr")

    assert [9, 10, 11, 12] == list(found)
    assert all(found[step] == pytest.approx([0.2] * len(found[step])) for step in found)
    assert told["before"] == told["after"]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_set_is_told(base, lowered, name):
    """Of the first group, after the checkpoint has been loaded; the job's own log shows it too."""
    (told,) = lowered.told(name, "lr")
    logged = {step: float(rate) for step, rate in lowered.truth(name, "logged_lr").items()}

    assert (4, pytest.approx(base.truth(name, "lr")[5])) == (told["step"], told["before"])
    assert told["before"] * 0.2 == pytest.approx(told["after"])
    assert "error" not in told
    assert lowered.truth(name, "lr") == pytest.approx(logged)


def test_where_nothing_says_what_the_rate_is_relative_to_it_is_refused(base, lowered):
    """The plateau's schedule forgets where it began: the training goes on as it was, and the refusal is told."""
    (told,) = lowered.told("plateau", "lr")

    assert "does not say which learning rate it began with" in told["error"]
    assert told["before"] == told["after"] == 1e-2
    assert {1e-2} == set(lowered.truth("plateau", "lr").values())


def test_a_schedule_that_forgets_is_reminded_by_the_checkpoint(lowered, again):
    """Set at the start, the base rides along in the optimizer's state."""
    (told,) = again.told("plateau of its own", "lr")

    assert {2e-3} == set(lowered.truth("plateau of its own", "lr").values())
    assert {2e-3} == set(again.truth("plateau of its own", "lr").values())
    assert (2e-3, 2e-3, None) == (told["before"], told["after"], told.get("error"))


@pytest.fixture(scope="module")
def rewarmed(base, tmp_path_factory, python):
    """Four steps of warm-up from step 4; one training falls in the middle of it."""
    folder = tmp_path_factory.mktemp("rewarmed")
    plans = trainings(folder, resume=(base.folder, 4))
    plans.append(plan("fallen", folder, (4, 1), STEPS, arguments={**EVERY_TWO, **SCHEDULES["cosine"]}, caught=True,
                      fault="raise", fault_after=7, resume=str(base.folder / "cosine" / "checkpoint-4")))  # fmt: skip
    return run(folder, plans, spec={"rewarm": {"from": 4, "steps": 4}, "rescue": True}, python=python)


@pytest.fixture(scope="module")
def rewarmed_on(rewarmed, tmp_path_factory, python):
    """Resumed from the middle of the warm-up."""
    folder = tmp_path_factory.mktemp("rewarmed_on")
    plans = trainings(folder, resume=(rewarmed.folder, 6))
    return run(folder, plans, spec={"rewarm": {"from": 4, "steps": 4}}, python=python)


@pytest.mark.parametrize("name", NAMES)
def test_a_rewarming_rises_to_the_schedule_and_leaves_it(base, rewarmed, rewarmed_on, name):
    """From a fifth to four fifths, also over a resume in the middle; the job's own log shows it."""
    risen = {5: 0.2, 6: 0.4, 7: 0.6, 8: 0.8, 9: 1.0, 10: 1.0, 11: 1.0, 12: 1.0}
    logged = {step: float(rate) for step, rate in rewarmed.truth(name, "logged_lr").items()}
    first = {step: groups[-1] for step, groups in ratios(rewarmed, base, name).items()}
    second = {step: groups[-1] for step, groups in ratios(rewarmed_on, base, name).items()}

    assert risen == pytest.approx(first)
    assert {step: risen[step] for step in range(7, 13)} == pytest.approx(second)
    assert rewarmed.truth(name, "lr") == pytest.approx(logged)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_from_the_middle_of_a_rewarming_does_not_show_it(base, rewarmed, name):
    """Neither in the schedule nor in the groups."""
    plain, ours = (stored(ran.folder / name / "checkpoint-6") for ran in (base, rewarmed))

    assert plain == ours


def test_nor_does_one_that_was_saved_when_an_exception_left_the_loop(base, rewarmed):
    """In the middle of a step the optimizer still has the lowered rate."""
    _, shown, groups = stored(rewarmed.folder / "fallen" / "checkpoint-7")

    assert [base.truth("cosine", "lr")[8]] == pytest.approx(shown[:1])
    assert groups[0][0] == shown[0]


def stored(checkpoint):
    """The rates in it: the schedule's bases, its last ones, those of the groups."""
    schedule, optimizer = (torch.load(checkpoint / name) for name in ("scheduler.pt", "optimizer.pt"))
    groups = [(group["lr"], group["initial_lr"]) for group in optimizer["param_groups"]]
    return schedule["base_lrs"], schedule["_last_lr"], groups


def test_no_trouble_of_the_companion_was_told(base, lowered, again, rewarmed, rewarmed_on):
    """All of the above without one error swallowed."""
    every = [line for ran in (base, lowered, again, rewarmed, rewarmed_on) for line in ran.heartbeat()]

    assert [] == [line for line in every if line["ev"] == "error"]


def optimizer_of(*groups):
    """Groups of parameters with these rates."""
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in groups]
    return torch.optim.SGD(parameters)


SCHEDULERS = {
    "LambdaLR": lambda one: torch.optim.lr_scheduler.LambdaLR(one, lambda step: 0.9**step),
    "CosineAnnealingLR": lambda one: torch.optim.lr_scheduler.CosineAnnealingLR(one, 8, eta_min=0.02),
    "StepLR": lambda one: torch.optim.lr_scheduler.StepLR(one, 3),
    "ExponentialLR": lambda one: torch.optim.lr_scheduler.ExponentialLR(one, 0.8),
    "OneCycleLR": lambda one: torch.optim.lr_scheduler.OneCycleLR(
        one, [group["lr"] for group in one.param_groups], total_steps=12, cycle_momentum=False
    ),
    "SequentialLR": lambda one: torch.optim.lr_scheduler.SequentialLR(
        one,
        [torch.optim.lr_scheduler.LinearLR(one, total_iters=3), torch.optim.lr_scheduler.ExponentialLR(one, 0.8)],
        [3],
    ),
    "ChainedScheduler": lambda one: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.LinearLR(one, total_iters=3), torch.optim.lr_scheduler.ExponentialLR(one, 0.8)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_bare_schedulers_go_on_as_if_they_had_begun_with_it(name):
    """Set in the middle, and once more: what follows is a tenth of the undisturbed run's, in both groups."""
    whole, cut = optimizer_of(1.0, 16.0), optimizer_of(1.0, 16.0)
    schedules = [SCHEDULERS[name](one) for one in (whole, cut)]
    found = []
    for step in range(10):
        if step in (4, 7):
            rates.set_base(cut, schedules[1], 0.1, fresh=False)
        found.append([mine["lr"] / own["lr"] for mine, own in zip(cut.param_groups, whole.param_groups, strict=True)])
        for one, schedule in zip((whole, cut), schedules, strict=True):
            one.step()
            schedule.step()

    assert found[:4] == [[1.0, 1.0]] * 4
    assert all(pair == pytest.approx([0.1, 0.1]) for pair in found[4:])


@pytest.mark.parametrize("target", [0, -1e-4, float("nan"), float("inf"), True, "1e-4"])
def test_a_rate_that_is_none_is_refused(target):
    """Whoever wrote it: nothing is scaled by it."""
    optimizer = optimizer_of(1.0)
    with pytest.raises(rates.Refused):
        rates.set_base(optimizer, SCHEDULERS["StepLR"](optimizer), target, fresh=True)

    assert 1.0 == optimizer.param_groups[0]["lr"]


def test_a_scheduler_of_deepspeed_that_is_not_known_is_refused():
    """OneCycle has a floor and a top as well, and another meaning of them."""
    strange = type("OneCycle", (), {"__module__": "deepspeed.runtime.lr_schedules", "optimizer": None})()
    with pytest.raises(rates.Refused, match="OneCycle is not known well enough"):
        rates.set_base(optimizer_of(1.0), strange, 0.1, fresh=False)


def test_a_rewarming_that_was_cut_off_by_a_caught_exception_is_not_done_twice():
    """The job goes on with the next step: its own share, of the schedule's rate."""
    optimizer = optimizer_of(1.0)
    scheduler = SimpleNamespace(optimizer=optimizer, _last_lr=[1.0])
    rewarming = rates.Rewarming(0, 3)
    rewarming.lower(0, optimizer, scheduler)
    rewarming.lower(1, optimizer, scheduler)

    assert [0.5] == [group["lr"] for group in optimizer.param_groups] == scheduler._last_lr
    rewarming.undo()
    assert [1.0] == [group["lr"] for group in optimizer.param_groups] == scheduler._last_lr


def test_the_files_of_the_companion_are_found_beside_it():
    """Its folder is on no path when they are wanted."""
    assert str(COMPANION / "guardian_rates.py") == rates.__file__
