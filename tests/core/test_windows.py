"""Logged numbers over several logs: what is an alarm, and what only looks like one."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.events import Logged
from guardian.core.trail import Trail
from guardian.core.windows import LOOK_BACK, SPIKE_STAYS, Series, find, first_bad_step, runaway_step, spike_step

NAN, INF = math.nan, math.inf


def logs(*losses, norms=None, rates=None, every=10, walls=None):
    """A log of each loss, every so many steps; the learning rate falls."""
    norms = norms or [1.0 + n / 100 for n in range(len(losses))]
    rates = rates or [1e-4 - n * 1e-6 for n in range(len(losses))]
    walls = walls or [None] * len(losses)
    trail = Trail()
    for n, one in enumerate(zip(losses, norms, rates, walls, strict=True), 1):
        trail = trail.append(Logged(1, n * every, 1000, *one))
    return trail


def step(found):
    """Where it began; False: it does not hold."""
    return found is not None and found.step


@pytest.mark.parametrize(
    "losses, times, began",
    [
        ((2.0, NAN), 1, 20),
        ((2.0, NAN), 2, False),
        ((2.0, NAN, INF, NAN), 2, 20),
        ((2.0, NAN, NAN, 1.9), 1, False),
        ((NAN, 2.0, NAN, NAN), 2, 30),
        ((), 1, False),
        ((2.0, 0.0), 1, False),
    ],
)
def test_a_loss_that_is_no_number_counts_while_it_lasts(losses, times, began):
    """So many logs in a row, up to the latest; what came back is history."""
    assert began == step(find(Series("loss", "nan", times), logs(*losses)))


def test_a_step_that_the_scaler_skips_is_no_alarm():
    """fp16 finds its scale by a gradient that is no number now and then; three in a row are something else."""
    thrice = Series("grad_norm", "nan", 3)
    losses = (2.0, 2.1, 2.0, 1.9, 2.0)

    assert find(thrice, logs(*losses, norms=[1.0, NAN, 1.0, INF, NAN])) is None
    assert 30 == step(find(thrice, logs(*losses, norms=[1.0, 1.0, NAN, INF, NAN])))


def test_a_loss_of_zero_beside_a_gradient_that_is_no_number_is_no_number():
    """HF's filter and swift log 0 for it; alone, 0 is what is logged when all is learnt."""
    hidden = logs(2.0, 0.0, 0.0, norms=[1.0, NAN, NAN])

    assert 20 == step(find(Series("loss", "nan", 2), hidden))
    assert 20 == first_bad_step(hidden)
    assert find(Series("loss", "nan"), logs(2.0, 0.0, norms=[1.0, 1e-5])) is None
    assert find(Series("loss", "nan"), logs(2.0, 0.0, norms=[None, None])) is None


@pytest.mark.parametrize(
    "losses, norms, rates, frozen",
    [
        ((2.0, 1.9, 1.9, 1.9), [1.0, 0.0, 0.0, 0.0], None, True),
        ((2.0, 1.9, 1.9, 1.9), [1.0, None, None, None], None, True),
        ((2.0, 1.9, 1.9, 1.9), [1.0, NAN, NAN, NAN], None, True),
        ((2.0, 1.9, 1.9, 1.8), [0.0, 0.0, 0.0, 0.0], None, False),
        ((2.0, 1.9, 1.9, 1.9), [1.0, 0.7, 0.8, 0.9], None, False),
        ((2.0, 0.0, 0.0, 0.0), [1.0, 0.1, 0.2, 0.1], None, False),
        ((2.0, 1.9, 1.9, 1.9), [0.0, 0.0, 0.0, 0.0], [1e-4] * 4, False),
        ((2.0, 1.9, 1.9, 1.9), [0.0, 0.0, 0.0, 0.0], [None] * 4, False),
    ],
)
def test_a_loss_is_frozen_only_while_the_rate_moves_and_no_gradient_lives(losses, norms, rates, frozen):
    """A plateau repeats its rounded loss, and its gradient moves; a job that logs the same again moves nothing."""
    assert frozen == (find(Series("loss", "frozen", 3), logs(*losses, norms=norms, rates=rates)) is not None)


def test_a_spike_is_far_over_what_is_usual_and_has_not_come_back():
    """Five times the median of the logs before; one point that comes back is none, and a spike does not become usual."""
    calm = [2.0 + n % 3 / 10 for n in range(20)]
    twice = Series("loss", "spike", 2)

    assert 210 == step(find(twice, logs(*calm, 30.0, 31.0)))
    assert 210 == step(find(Series("loss", "spike", 1), logs(*calm, *[30.0] * 9)))
    assert find(twice, logs(*calm, 30.0)) is None
    assert find(twice, logs(*calm, 30.0, 31.0, 2.2)) is None
    assert find(twice, logs(*calm, 9.0, 9.0)) is None
    assert find(twice, logs(*calm[:19], 30.0, 31.0)) is None, "nobody knows yet what is usual"


def decay(steps, first=6.0, last=2.0, over=30.0, noise=0.3, seed=1):
    """A loss as small models have it: it falls, and scatters."""
    rng = random.Random(seed)
    return [last + (first - last) * math.exp(-n / over) + rng.gauss(0, noise) for n in range(steps)]


STAYS = Series("loss", "spike", SPIKE_STAYS)
RECORDED = (
    5.554, 5.083, 4.543, 4.121, 3.9, 3.612, 3.423, 3.348, 3.308, 3.36, 3.223, 3.237, 3.361, 3.219, 3.155, 3.194, 3.155,
    3.245, 3.221, 3.311, 3.111, 3.159, 3.329, 3.212, 3.16,
)  # fmt: skip
"""What the embedded trainer logged: its demo model on 160 demo rows, transformers 5.19."""


@pytest.mark.parametrize(
    "losses",
    [
        decay(120),
        decay(120, noise=1.2),
        [abs(loss) for loss in decay(200, first=3.0, last=0.3, over=15, noise=0.5)],
        [2.0, 9.0, 14.0, 30.0, 31.0, 28.0, 33.0, *[30.0] * 20],
        [11.0 - n / 4 for n in range(30)] + [3.6 + n / 3 for n in range(15)],
        [*decay(60, first=2.0, last=0.05, over=8, noise=0.01), *decay(40, first=1.9, last=1.4, noise=0.05)],
        [*RECORDED, *[40.0] * (SPIKE_STAYS - 1)],
        [*RECORDED, 40.0, 35.0, 20.0, 11.0, 7.0, 6.0, 5.9, 5.7, 5.6, 5.5],
        RECORDED,
    ],
)
def test_no_jump_that_stays_is_seen_in_noise_a_warm_up_other_rows_or_one_that_comes_back(losses):
    """At no moment of the training: the condition is asked with each log."""
    seen = [at for at in range(1, len(losses) + 1) if find(STAYS, logs(*losses[:at]))]

    assert [] == seen


def test_a_jump_that_stays_began_where_the_loss_left_its_course():
    """Also after a single point that came back, and while the weights slowly learn again."""
    jolted = [*RECORDED, 90.0, *RECORDED[-5:], *[60.0 - n for n in range(10)]]

    assert spike_step(logs(*RECORDED, *[60.0 - n for n in range(10)])) == 260
    assert spike_step(logs(*jolted)) is None, "one in a hundred may have been as high, and there are not yet so many"
    assert spike_step(logs(*RECORDED * 4, *jolted)) == (4 * 25 + 32) * 10


def test_a_noisy_series_needs_more_than_its_noise():
    """A gradient's norm that scatters over decades has no spike of five times its median."""
    noisy = [0.01, 9.0, 0.5, 14.0, 0.02] * 6

    assert find(Series("grad_norm", "spike", 1), logs(*([2.0] * 31), norms=[*noisy, 13.0])) is None
    assert find(Series("grad_norm", "spike", 1), logs(*([2.0] * 31), norms=[*noisy, 99.0])) is not None


def test_changing_means_that_each_value_is_another():
    """So many in a row."""
    assert find(Series("lr", "changing", 3), logs(1.0, 1.0, 1.0, 1.0)) is not None
    assert find(Series("lr", "changing", 3), logs(1.0, 1.0, 1.0, 1.0, rates=[3.0, 2.0, 2.0, 1.0])) is None


def test_two_tellers_of_one_step_count_once():
    """The companion and job.log both tell of a step."""
    twice = logs(2.0, NAN).append(Logged(1, 20, 1000, NAN, 1.0, 1e-5))

    assert find(Series("loss", "nan", 2), twice) is None


def test_within_bounds_the_time_of_the_decisive_logs():
    """Unknown times are not within."""
    series = Series("loss", "nan", 2)

    assert find(series, logs(NAN, NAN, walls=[0.0, 50.0]), 60.0)
    assert not find(series, logs(NAN, NAN, walls=[0.0, 70.0]), 60.0)
    assert not find(series, logs(NAN, NAN), 60.0)
    assert find(series, logs(NAN, NAN), None)


def test_the_first_bad_step_is_where_the_numbers_went_bad_for_good():
    """Loss or gradient; what came back does not count, and logs without numbers say nothing."""
    gone = logs(2.0, 2.0, 2.0, NAN, norms=[1.0, NAN, 1.0, NAN]).append(Logged(1, 50, 1000, None, None, 1e-5))

    assert 40 == first_bad_step(gone)
    assert 20 == first_bad_step(logs(2.0, 2.0, NAN, norms=[1.0, NAN, 1.0]))
    assert first_bad_step(logs(NAN, 2.0)) is None
    assert first_bad_step(Trail()) is None


def test_a_long_run_is_judged_by_its_end():
    """A condition is asked again with every log: it does not look at all of them."""
    long = logs(*[2.0] * (LOOK_BACK + 500), *[NAN] * 3)

    assert (LOOK_BACK + 501) * 10 == step(find(Series("loss", "nan", 3), long))


@given(st.lists(st.sampled_from([2.0, 1.5, NAN, INF, None]), max_size=12), st.integers(1, 4))
def test_nan_holds_exactly_when_the_last_known_values_are_none(losses, times):
    """Logs without the number are passed over."""
    known = [loss for loss in losses if loss is not None]
    bad = len(known) >= times and not any(math.isfinite(loss) for loss in known[-times:])

    assert bad == (find(Series("loss", "nan", times), logs(*losses)) is not None)


def test_a_loss_that_runs_away_before_it_is_no_number_went_wrong_where_it_began():
    """A checkpoint in the middle of a runaway is whole, finite and worthless."""
    losses = [5.5, 4.8, 5.1, 4.9, 155.0, 1403.0, float("nan"), float("nan")]
    logged = tuple(Logged(1, step, 24, loss, 1.0, 1e-3) for step, loss in enumerate(losses, 1))

    assert (7, 5) == (first_bad_step(logged), runaway_step(logged))


def test_without_a_runaway_the_first_bad_step_is_where_it_went_wrong():
    """Rough is not away."""
    losses = [5.5, 4.8, 9.7, 15.2, 13.9, float("nan"), float("nan")]
    logged = tuple(Logged(1, step, 24, loss, 1.0, 1e-3) for step, loss in enumerate(losses, 1))

    assert (6, 6) == (first_bad_step(logged), runaway_step(logged))
    assert runaway_step(logged[:5]) is None
