"""The effective batch is the same integer before and after every split, or there is no split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.batch import Split, halved, with_device_batch

SIZES = st.integers(1, 64)


@pytest.mark.parametrize(
    "before, after",
    [((8, 2), (4, 4)), ((6, 5), (3, 10)), ((5, 6), (2, 15)), ((7, 1), (1, 7)), ((9, 4), (4, 9)), ((2, 1), (1, 2))],
)
def test_halving_takes_the_largest_divisor_up_to_half(before, after):
    """The device batch falls no further than it must."""
    assert Split(*after) == halved(Split(*before))


def test_a_device_batch_of_one_is_the_floor():
    """One row cannot be split."""
    assert halved(Split(1, 16)) is None


@given(SIZES, SIZES, SIZES)
def test_halving_keeps_the_effective_batch_and_lowers_the_device_batch(device_batch, accumulation, world):
    """Over every batch, accumulation and world: the same integer, at most half the rows at a time."""
    now = Split(device_batch, accumulation)
    split = halved(now)

    if split is None:
        assert device_batch == 1
        return
    assert split.device_batch * split.accumulation * world == device_batch * accumulation * world
    assert 1 <= split.device_batch <= device_batch // 2
    larger = range(split.device_batch + 1, device_batch // 2 + 1)
    assert not [size for size in larger if now.rows % size == 0]


@given(SIZES, SIZES, SIZES)
def test_a_device_batch_that_does_not_divide_is_refused(device_batch, accumulation, wanted):
    """Nothing is rounded."""
    now = Split(device_batch, accumulation)
    split = with_device_batch(now, wanted)

    assert (split is None) == bool(now.rows % wanted)
    assert split is None or (split.device_batch, split.rows) == (wanted, now.rows)


@given(SIZES, SIZES)
def test_halving_again_and_again_ends_at_one(device_batch, accumulation):
    """The ladder has a floor, and it is reached in no more steps than a halving can take."""
    split, steps = Split(device_batch, accumulation), 0
    while (lower := halved(split)) is not None:
        split, steps = lower, steps + 1

    assert split.device_batch == 1
    assert steps <= device_batch.bit_length()
