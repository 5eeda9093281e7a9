"""Curves in characters: braille and blocks where the terminal can show them, ASCII elsewhere. No state, no colors.

Every column shows the mean of its steps; columns between two steps are drawn as a line. Losses that are not a
number leave a hole and a mark on the axis, and so does every step from which an attempt went on. Letters below the axis
stand where attempts ended; the other curves are a row each, over the same steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LABEL_WIDTH = 10
RANGE_WIDTH = 20
"""Behind the curves of one row, where there is room: from where to where they go."""
RANGE_FROM = 80


@dataclass(frozen=True, slots=True)
class Marks:
    """The characters of a plot."""

    dots: tuple[int, int]
    """Columns and rows of dots in one character."""
    tick: str
    wall: str
    corner: str
    floor: str
    restart: str
    edited: str
    """A restart with other settings."""
    hole: str
    levels: str
    """Of a curve of one row, from low to high."""


BRAILLE = Marks((2, 4), "┤", "│", "└", "─", restart="▲", edited="◆", hole="×", levels="▁▂▃▄▅▆▇█")  # noqa: RUF001 - meant
ASCII = Marks((1, 1), "+", "|", "+", "-", restart="^", edited="#", hole="x", levels=".:-=o*%@")

# Unicode 15.0, section 21.1: the bits of the eight dots, by column and row.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


@dataclass(frozen=True, slots=True)
class Happened:
    """What is marked besides the curve."""

    ended: tuple[tuple[int, str], ...] = ()
    """(step, letter of the cause) where attempts ended."""
    resumed: tuple[tuple[int, bool], ...] = ()
    """(step, whether settings were changed) where attempts went on."""


def loss_curve(
    attempts: Sequence[Sequence[tuple[int, float]]],
    *,
    width: int,
    height: int,
    marks: Marks = BRAILLE,
    happened: Happened | None = None,
    others: Sequence[tuple[str, Sequence[tuple[int, float]]]] = (),
) -> list[str]:
    """The lines of a plot at most `width` wide, `height` rows high plus axis and labels; none without two points.

    A step that ran again is drawn as it was in the last attempt that ran it.
    """
    happened = happened or Happened(resumed=tuple((attempt[0][0], False) for attempt in attempts[1:] if attempt))
    points = sorted({step: _bounded(loss) for attempt in attempts for step, loss in attempt}.items())
    losses = [loss for _, loss in points if math.isfinite(loss)]
    ranged = bool(others) and width >= RANGE_FROM
    columns = width - LABEL_WIDTH - 1 - RANGE_WIDTH * ranged
    if len(losses) < 2 or points[-1][0] == points[0][0] or height < 2:
        return []
    if columns < max(8, len(f"{points[0][0]} {points[-1][0]}")):
        return []
    low, high = min(losses), max(losses)
    per, tall = marks.dots
    heights = _heights(points, columns * per, height * tall, low, high)
    grid = _line(heights, height * tall)
    body = [_row(grid, row, columns, marks) for row in range(height)]
    labels = {0: f"{high:.3g}", height - 1: f"{low:.3g}"} if high > low else {height // 2: f"{low:.3g}"}
    lines = [
        f"{labels.get(at, ''):>{LABEL_WIDTH - 1}} {marks.tick if at in labels else marks.wall}{text}"
        for at, text in enumerate(body)
    ]
    place = _places(points, columns)
    # A mark at every place tells nothing.
    resumed = happened.resumed if len(happened.resumed) <= columns // 4 else ()
    holes = [step for step, loss in points if not math.isfinite(loss)]
    axis = _axis(columns, [(place(step), changed) for step, changed in resumed], map(place, holes), marks)
    below = _letters(columns, [(place(step), letter) for step, letter in happened.ended])
    return [
        *(line.rstrip() for line in lines),
        " " * LABEL_WIDTH + marks.corner + axis,
        *([" " * (LABEL_WIDTH + 1) + below] if below else []),
        " " * (LABEL_WIDTH + 1) + _ends(points[0][0], points[-1][0], columns),
        *(_strip(name, values, place, marks, ranged=ranged) for name, values in others),
    ]


def _letters(columns: int, ended: Sequence[tuple[int, str]]) -> str:
    """Where several attempts ended, the cause of most of them."""
    at_column: dict[int, list[str]] = {}
    for at, letter in ended:
        at_column.setdefault(at, []).append(letter)
    row = [max(found, key=found.count) if (found := at_column.get(at)) else " " for at in range(columns)]
    return "".join(row).rstrip()


def _strip(name: str, values: Sequence[tuple[int, float]], place: _Places, marks: Marks, *, ranged: bool) -> str:
    """A curve of one row: where nothing was logged between two points the earlier one stands."""
    found: dict[int, list[float]] = {}
    for step, value in values:
        if place.first <= step <= place.last:
            found.setdefault(place(step), []).append(_bounded(value))
    means = {at: sum(column) / len(column) for at, column in found.items()}
    finite = [mean for mean in means.values() if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    row, last = [" "] * place.columns, " "
    for at in range(min(means, default=0), max(means, default=-1) + 1):
        if at in means:
            last = _level(means[at], low, high, marks)
        row[at] = last
    span = f" {low:.3g} to {high:.3g}" if ranged and finite else ""
    return f"{name:>{LABEL_WIDTH - 1}} {marks.wall}{''.join(row)}{span}".rstrip()


def _level(value: float, low: float, high: float, marks: Marks) -> str:
    if not math.isfinite(value):
        return marks.hole
    share = (value - low) / (high - low) if high > low else 0.5
    return marks.levels[min(len(marks.levels) - 1, int(share * len(marks.levels)))]


def _bounded(loss: float) -> float:
    """A log may hold any number; differences of these stay numbers, and their labels stay short."""
    if not math.isfinite(loss):
        return math.nan
    return max(-1e99, min(1e99, loss)) if abs(loss) >= 1e-98 else 0.0


def _places(points: list[tuple[int, float]], columns: int) -> _Places:
    return _Places(points[0][0], points[-1][0], columns)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a step lies on the axis."""

    first: int
    last: int
    columns: int

    def __call__(self, step: int) -> int:
        share = (step - self.first) / (self.last - self.first)
        return min(self.columns - 1, max(0, round(share * (self.columns - 1))))


def _heights(points: list[tuple[int, float]], columns: int, rows: int, low: float, high: float) -> list[int | None]:
    """The row of dots (0 is the top) of every column of dots; None where there is nothing to draw."""
    place = _places(points, columns)
    found: dict[int, list[float]] = {}
    for step, loss in points:
        found.setdefault(place(step), []).append(loss)
    means = {at: sum(losses) / len(losses) for at, losses in found.items()}  # not a number spreads: a hole
    known = sorted(means)
    heights: list[int | None] = [None] * columns
    for left, right in zip(known, [*known[1:], known[-1]], strict=True):
        for at in range(left, max(right, left + 1)):
            share = (at - left) / (right - left) if right > left else 0.0
            value = means[left] if at == left else means[left] + (means[right] - means[left]) * share
            if math.isfinite(value):
                heights[at] = round((high - value) / (high - low) * (rows - 1)) if high > low else rows // 2
    return heights


def _line(heights: list[int | None], rows: int) -> list[list[bool]]:
    """Dots, with what lies between two neighbours shared by their columns."""
    grid = [[False] * len(heights) for _ in range(rows)]
    before: int | None = None
    for at, height in enumerate(heights):
        if height is not None:
            grid[height][at] = True
            last = height if before is None else before
            for row in range(min(last, height) + 1, max(last, height)):
                nearer = at - 1 if abs(row - last) < abs(row - height) else at
                grid[row][nearer] = True
        before = height
    return grid


def _row(grid: list[list[bool]], row: int, columns: int, marks: Marks) -> str:
    per, tall = marks.dots
    if (per, tall) == (1, 1):
        return "".join("*" if on else " " for on in grid[row])
    cells = []
    for column in range(columns):
        bits = sum(_DOTS[x][y] for x in range(per) for y in range(tall) if grid[row * tall + y][column * per + x])
        cells.append(chr(0x2800 + bits) if bits else " ")
    return "".join(cells)


def _axis(columns: int, resumed: Iterable[tuple[int, bool]], holes: Iterable[int], marks: Marks) -> str:
    floor = [marks.floor] * columns
    for at in holes:
        floor[at] = marks.hole
    for at, changed in resumed:
        # A plain restart at the same place does not hide that something was changed.
        floor[at] = marks.edited if changed or floor[at] == marks.edited else marks.restart
    return "".join(floor)


def _ends(first: int, last: int, columns: int) -> str:
    return f"{first}{last:>{columns - len(str(first))}}"
