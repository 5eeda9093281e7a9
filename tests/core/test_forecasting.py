"""When something is used up: only what really falls is forecast."""

import pytest

from guardian.core.forecasting import empty_in_s, in_words, next_save_s


def every(seconds, values):
    """Points, so far apart."""
    return [(float(at * seconds), float(value)) for at, value in enumerate(values)]


def test_what_falls_evenly_is_empty_when_the_rate_says():
    """A hundred a second, nine hundred left."""
    assert 9.0 == pytest.approx(empty_in_s(every(10, range(7900, 800, -1000))))


def test_noise_around_a_fall_changes_little():
    """The median of the slopes."""
    noisy = [10_000 - 10 * at + (37 * at % 11) for at in range(60)]

    assert noisy[-1] / 1.0 == pytest.approx(empty_in_s(every(10, noisy)), rel=0.05)


@pytest.mark.parametrize(
    "left",
    [
        [1000.0] * 30,
        list(range(30)),
        [1000 - 300 * (at % 5 == 4) for at in range(60)],  # each save is rotated away again
        [*range(9000, 6000, -200), *[6000] * 40],  # it has stopped
        [*[9000] * 40, *range(9000, 8000, -100)],  # it has just begun: one file is being copied
    ],
)
def test_what_does_not_go_on_falling_is_not_forecast(left):
    """Steady, growing, rotating, over, or just begun."""
    assert empty_in_s(every(10, left)) is None


def test_little_is_known_from_little():
    """From half a minute on, and never further than twenty times what was seen."""
    assert empty_in_s(every(5, [100, 90, 80, 70, 60])) is None
    assert empty_in_s(every(10, range(100_000, 99_900, -10))) is None
    assert empty_in_s([]) is None


def test_what_is_gone_is_gone_now():
    """Nothing is left, and it fell."""
    assert 0.0 == empty_in_s(every(10, [400, 300, 200, 100, 0]))


@pytest.mark.parametrize(
    "full_in_s, save_s, words",
    [
        (7800.0, 9000.0, "full in 2 h 10 min at this rate, before the next save"),
        (7800.0, 600.0, "full in 2 h 10 min at this rate"),
        (20.0, None, "full in less than a minute at this rate"),
        (90_000.0, None, "full in 1 day 1 h at this rate"),
    ],
)
def test_a_forecast_is_a_sentence(full_in_s, save_s, words):
    """With the save, if it comes too late."""
    assert words == in_words(full_in_s, save_s)


@pytest.mark.parametrize(
    "every_steps, step, walls, seconds",
    [
        (100, 140, (0.0, 2.0, 4.0), 120.0),
        (100, 100, (0.0, 2.0), 200.0),
        (None, 100, (0.0, 2.0), None),
        (0.1, 100, (0.0, 2.0), None),
        (100, None, (), None),
        (100, 1, (5.0,), None),
    ],
)
def test_the_next_save_is_as_far_as_its_steps_take(every_steps, step, walls, seconds):
    """Unknown where nobody tells; a share of all steps is no number of steps."""
    assert seconds == next_save_s(every_steps, step, walls)
