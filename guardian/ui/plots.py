"""A loss curve in characters: braille where the terminal can show it, ASCII elsewhere. No state, no colors.

Every column shows the mean of its steps; columns between two steps are drawn as a line. Losses that are not a
number leave a hole and a mark on the axis, and so does every restart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LABEL_WIDTH = 10


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
    hole: str


BRAILLE = Marks(dots=(2, 4), tick="┤", wall="│", corner="└", floor="─", restart="▲", hole="×")  # noqa: RUF001 - meant
ASCII = Marks(dots=(1, 1), tick="+", wall="|", corner="+", floor="-", restart="^", hole="x")

# Unicode 15.0, section 21.1: the bits of the eight dots, by column and row.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def loss_curve(
    attempts: Sequence[Sequence[tuple[int, float]]], *, width: int, height: int, marks: Marks = BRAILLE
) -> list[str]:
    """The lines of a plot at most `width` wide, `height` rows high plus axis and labels; none without two points.

    A step that ran again is drawn as it was in the last attempt that ran it.
    """
    points = sorted({step: _bounded(loss) for attempt in attempts for step, loss in attempt}.items())
    losses = [loss for _, loss in points if math.isfinite(loss)]
    columns = width - LABEL_WIDTH - 1
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
    starts = [attempt[0][0] for attempt in attempts[1:] if attempt]
    if len(starts) > columns // 4:
        starts = []  # a mark at every place tells nothing
    holes = [step for step, loss in points if not math.isfinite(loss)]
    return [
        *(line.rstrip() for line in lines),
        " " * LABEL_WIDTH + marks.corner + _axis(columns, map(place, starts), map(place, holes), marks),
        " " * (LABEL_WIDTH + 1) + _ends(points[0][0], points[-1][0], columns),
    ]


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


def _axis(columns: int, restarts: Iterable[int], holes: Iterable[int], marks: Marks) -> str:
    floor = [marks.floor] * columns
    for at in holes:
        floor[at] = marks.hole
    for at in restarts:
        floor[at] = marks.restart
    return "".join(floor)


def _ends(first: int, last: int, columns: int) -> str:
    return f"{first}{last:>{columns - len(str(first))}}"
