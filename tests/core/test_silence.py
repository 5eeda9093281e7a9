"""How long a job may be silent: what is learnt of its steps, and what the companion's words say of its phase."""

import random
from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.core import silence
from guardian.core.cards import Card, Use
from guardian.core.gpus import computes, spins
from guardian.core.policy import DEFAULT, Silence
from guardian.core.run import GAPS_KEPT, Gaps
from tests.core import stories as tell
from tests.core.stories import story


def gaps(*pauses):
    """Of a loop whose steps came so far apart."""
    told, wall = Gaps().step(0, 1000.0), 1000.0
    for step, pause in enumerate(pauses, 1):
        wall += pause
        told = told.step(step, wall)
    return told


def phase(*parts, policy=DEFAULT):
    """(phase, budget) after these parts."""
    run = story(*parts)
    where = silence.standing(run, run.attempts[-1], policy)
    return where and (where.phase, where.budget_s)


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250, 6400])
def test_the_99th_percentile_of_the_pauses_is_the_one_that_a_hundredth_of_them_exceeds(count):
    """Compared with all of them sorted; only the longest are kept."""
    pauses = [random.Random(count).expovariate(1.0) + 0.01 for _ in range(count)]
    told = gaps(*pauses)

    assert count == told.count
    assert sorted(pauses, reverse=True)[-(-count // 100) - 1] == pytest.approx(told.percentile_99())
    assert len(told.longest) <= GAPS_KEPT


def test_before_any_pause_nothing_is_known():
    """And one step is none."""
    assert Gaps().percentile_99() is None
    assert gaps().percentile_99() is None


def test_the_ranks_make_one_step_together():
    """Eight of them do not make a step an eighth as long."""
    run = story(tell.launched(), tell.hello(ranks=8), tell.steps(1, 20, ranks=8, every_s=3.0))

    assert (19, 3.0) == (run.attempts[0].gaps.count, run.attempts[0].gaps.percentile_99())
    assert gaps(10.0, 10.0) == gaps(10.0, 10.0).step(1, 1021.0)


def test_evaluations_and_saves_are_no_pauses_of_the_training():
    """Their time is their own."""
    save = (ev.PhaseChanged(0, 0, "save", 20, 0.0), tell.pause(500), ev.PhaseChanged(0, 0, "train", 20, 0.0))
    run = story(tell.launched(), tell.hello(), tell.steps(1, 20, every_s=2.0), save, tell.steps(21, 30, every_s=2.0))

    assert (29, 2.0) == (run.attempts[0].gaps.count, run.attempts[0].gaps.percentile_99())


def test_each_phase_has_its_budget():
    """As the policy says, and in training as the steps do."""
    policy = replace(
        DEFAULT,
        silence=Silence(minimum_s=9, factor=4, startup_s=1, skip_s=2, evaluation_s=3, saving_s=4, teardown_s=5),
    )
    begun = (tell.created(family="embedded"), tell.launched())
    steps = (*begun, tell.hello(), tell.steps(1, 20, every_s=3.0))

    assert (silence.STARTUP, 1) == phase(*begun, policy=policy)
    assert (silence.FIRST_STEPS, 1) == phase(*begun, tell.hello(), tell.steps(1, 8), policy=policy)
    assert (silence.SKIPPING, 2) == phase(tell.launched(resume=9), tell.hello(step=9), policy=policy)
    assert (silence.TRAINING, 12.0) == phase(*steps, policy=policy)
    assert (silence.EVALUATION, 3) == phase(*steps, ev.PhaseChanged(0, 0, "eval", 20, 0.0), policy=policy)
    assert (silence.SAVING, 4) == phase(*steps, ev.PhaseChanged(0, 0, "save", 20, 0.0), policy=policy)
    assert (silence.TEARDOWN, 5) == phase(*steps, ev.TrainingEnded(0, 0, 20, 20, "max_steps", 0.0), policy=policy)


def test_the_steps_of_a_second_training_are_learnt_anew():
    """A job may train more than once, and count from the beginning again."""
    first = (tell.launched(), tell.hello(), tell.steps(1, 40, every_s=50.0))
    over = ev.TrainingEnded(0, 0, 40, 40, "max_steps", 0.0)
    again = replace(tell.hello()[0], learning_rate=1e-6)

    assert (silence.FIRST_STEPS, 1800) == phase(*first, over, again, tell.steps(1, 5))
    assert (silence.TRAINING, 60) == phase(*first, over, again, tell.steps(1, 20))


@pytest.mark.parametrize(
    ("utilisation", "traffic", "after_s", "works"),
    [
        (97.0, 31.0, 5, True),
        (100.0, 0.0, 5, False),
        (0.0, 0.0, 5, False),
        (None, 0.0, 5, None),
        (97.0, None, 5, None),
        (97.0, 31.0, 60, None),
    ],
)
def test_a_gpu_works_when_it_reads_and_writes(utilisation, traffic, after_s, works):
    """Kernels that wait for other ranks keep it busy without traffic; an old reading, or none, says nothing."""
    card = Card(0, "GPU-1", utilisation=utilisation, memory_traffic=traffic)
    used = replace(story(tell.launched()).attempts[0], gpus=(Use(0, "GPU-1", ours=True),))
    run = replace(story(tell.launched()), gpus_seen=ev.GpusSeen(1, 100.0, True, (card,)))

    assert works == computes(run, used, 100.0 + after_s)
    assert computes(run, run.attempts[0], 105.0) is None


@pytest.mark.parametrize(
    "change, spin",
    [
        ({}, True),
        ({"utilisation": 40.0}, False),
        ({"memory_traffic": 20.0}, False),
        ({"power_w": 600.0}, False),
        ({"power_w": None}, False),
        ({"memory_traffic": None}, False),
        ({"mig": True}, False),
        ({"uuid": "GPU-9"}, False),
    ],
    ids=["waits", "idle", "traffic", "power", "power unknown", "traffic unknown", "MIG", "another's"],
)
def test_gpus_whose_kernels_only_wait_are_busy_at_low_power_without_traffic(change, spin):
    """All that the job uses; what is not known is not taken for it."""
    waits = Card(0, "GPU-1", utilisation=100.0, memory_traffic=0.0, power_w=140.0, power_limit_w=700.0)
    used = replace(story(tell.launched()).attempts[0], gpus=(Use(0, "GPU-1", ours=True), Use(1, "GPU-2", ours=True)))
    cards = (replace(waits, **change), replace(waits, index=1, uuid="GPU-2"))
    run = replace(story(tell.launched()), gpus_seen=ev.GpusSeen(1, 100.0, True, cards if spin else cards[:1]))

    assert spin == spins(run, used, 105.0)
    assert not spins(run, used, 160.0)


def test_a_log_at_its_last_step_is_a_training_that_is_over():
    """Nobody tells what is done after it."""
    logged = (tell.created(companion=False), tell.launched(), tell.logged(1, 60))

    assert (silence.TEARDOWN, 900) == phase(*logged)
    assert (silence.TRAINING, 60) == phase(*logged[:2], tell.logged(1, 59))
