"""The append-only sequence under the fold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.trail import BLOCK, Trail

# Around the seams: a row is BLOCK long, a block BLOCK rows.
SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * BLOCK - 1, BLOCK * BLOCK, BLOCK * BLOCK + BLOCK + 1)


def trail(size):
    """The numbers below `size`, appended one by one."""
    grown = Trail()
    for number in range(size):
        grown = grown.append(number)
    return grown


@pytest.mark.parametrize("size", SIZES)
def test_a_trail_is_the_list_of_what_was_appended(size):
    """Length, order, every index from both ends."""
    grown, expected = trail(size), list(range(size))

    assert (size, expected, expected[::-1]) == (len(grown), list(grown), list(reversed(grown)))
    assert [*expected, *expected] == [grown[at] for at in range(-size, size)]
    assert bool(grown) is bool(size)
    for outside in (size, -size - 1):
        with pytest.raises(IndexError):
            grown[outside]


@given(st.integers(-9000, 9000), st.integers(-9000, 9000))
def test_a_slice_is_a_lists(start, stop):
    """Across the seams and beyond the ends."""
    assert tuple(range(5000))[start:stop] == LONG[start:stop]


LONG = trail(5000)


def test_growing_leaves_the_shorter_one_as_it_is():
    """Two histories may grow from one: the state before an event stays what it was."""
    before = trail(BLOCK * 2 - 1)
    one, other = before.append("one"), before.append("other")

    assert list(range(BLOCK * 2 - 1)) == list(before)
    assert ("one", "other") == (one[-1], other[-1])
    assert one != other == trail(BLOCK * 2 - 1).append("other")


def test_growing_copies_little():
    """What is full is shared: a fold over a million steps stays linear."""
    before = trail(BLOCK * BLOCK + BLOCK)

    assert before.append(0).blocks is before.blocks
    assert before.append(0).row is before.row
