"""The curve is right where it is looked at: ends, restarts, holes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from guardian.ui.plots import ASCII, BRAILLE, LABEL_WIDTH, loss_curve


def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right():
    """Labels at the highest and the lowest row, the first and the last step below."""
    assert [
        "        4 +****                ",
        "          |    ******          ",
        "          |          ******    ",
        "        1 +                ****",
        "          +--------------------",
        "           1                 20",
    ] == [line.ljust(31) for line in loss_curve([[(1, 4.0), (20, 1.0)]], width=31, height=4, marks=ASCII)]


def test_braille_has_eight_dots_to_a_character():
    """The same line on a grid of 40 by 8 dots."""
    lines = loss_curve([[(1, 4.0), (20, 1.0)]], width=31, height=2, marks=BRAILLE)

    assert ["        4 ┤⠉⠑⠒⠒⠢⠤⠤⣀⣀⣀", "        1 ┤          ⠉⠉⠉⠒⠒⠢⠤⠤⢄⣀"] == lines[:2]


def test_a_restart_is_marked_where_the_attempt_went_on():
    """At step 11 of 1 to 21, in the middle."""
    first = [(step, 1.0 / step) for step in range(1, 13)]
    second = [(step, 1.0 / step) for step in range(11, 22)]
    axis = loss_curve([first, second], width=32, height=4, marks=ASCII)[-2]

    assert "+----------^----------" == axis.strip()


def test_the_last_run_of_a_step_is_drawn():
    """What was run again has replaced what was lost."""
    lost = [(1, 1.0), (2, 100.0)]
    kept = [(2, 1.0), (3, 0.5)]

    assert "        1 +" == loss_curve([lost, kept], width=40, height=3, marks=ASCII)[0][:11]


def test_a_loss_that_is_no_number_leaves_a_hole_and_a_mark():
    """It is not drawn as if it were something."""
    losses = [(step, math.nan if step in {5, 6} else float(step)) for step in range(1, 11)]
    lines = loss_curve([losses], width=LABEL_WIDTH + 11, height=3, marks=ASCII)

    assert "+----xx----" == lines[-2].strip()
    assert all(" " == row[LABEL_WIDTH + 1 :].ljust(10)[4] for row in lines[:3])


def test_a_constant_loss_is_a_line_with_one_label():
    """There is no highest and no lowest."""
    lines = loss_curve([[(1, 2.0), (9, 2.0)]], width=40, height=3, marks=ASCII)

    assert ["          |", "        2 +" + "*" * 29, "          |"] == lines[:3]


def test_restarts_at_every_place_are_not_marked():
    """They would tell nothing."""
    attempts = [[(step, 1.0 / step)] for step in range(1, 60)]

    assert "^" not in loss_curve(attempts, width=40, height=3, marks=ASCII)[-2]


def test_there_is_no_curve_without_two_points():
    """Nothing seen, one step, nothing but NaN, no room."""
    assert [] == loss_curve([], width=80, height=6)
    assert [] == loss_curve([[(3, 1.0)]], width=80, height=6)
    assert [] == loss_curve([[(1, math.nan), (2, math.inf)]], width=80, height=6)
    assert [] == loss_curve([[(1, 1.0), (2, 2.0)]], width=12, height=6)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 10**9), st.floats()), max_size=30), max_size=5),
    st.integers(1, 130),
    st.integers(1, 12),
    st.sampled_from([BRAILLE, ASCII]),
)
def test_any_losses_make_a_plot_that_fits_or_none(attempts, width, height, marks):
    """NaN, infinities and the largest floats included."""
    lines = loss_curve([sorted(a, key=lambda p: p[0]) for a in attempts], width=width, height=height, marks=marks)

    assert len(lines) in {0, height + 2}
    assert all(len(line) <= width for line in lines)
