"""Draw the report with rich: one screen, whatever the night was.

This module loads rich, which takes a tenth of a second: import it when there is something to draw.
"""

from __future__ import annotations

import io
import shlex
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from guardian.core.reporting import summary
from guardian.ui import wording
from guardian.ui.marks import happened, heading, legend
from guardian.ui.plots import ASCII, BRAILLE, loss_curve
from guardian.ui.text import clean, duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from guardian.core.reporting import AttemptReport, Report
    from guardian.ui.plots import Marks

WIDE = 100
"""Columns from which a row has room for the time at which an attempt began."""
ROOMY = 4
"""Rows up to which each may take several lines."""
CURVE_HEIGHT = 6
INDENT = "  "
COLUMNS = (f"{INDENT}#", "began", "steps", "took", "lost", "ended")


def draw(told: Report, *, width: int, color: bool, braille: bool) -> str:
    """The report in lines of at most `width` columns; the last one, the summary, is never broken."""
    page = io.StringIO()
    console = Console(
        file=page,
        width=width,
        height=1000,
        color_system="standard" if color else None,
        force_terminal=color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    head = wording.headline(told)
    marks = BRAILLE if braille else ASCII
    parts = (
        _head(told, head, width),
        _facts(told, width),
        _attempts(told, width),
        _curve(told, width, marks),
    )
    for part in parts:
        if part is not None:
            console.print(part)
            console.print()
    if told.next_argv is not None:
        # Never broken, as the summary: it is there to be copied.
        console.print(_next(told.next_argv), soft_wrap=True)
        console.print()
    console.print(Text(clean(summary(told), 1000), f"bold {head.color}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip("\n").split("\n"))


def _head(told: Report, head: wording.Headline, width: int) -> RenderableType:
    title = Text.assemble((f" {head.badge} ", f"bold {head.color} reverse"), " ", (head.sentence, "bold"))
    command = clean(f"{told.name}: {shlex.join(told.argv)}", width)
    return Group(title, Text(f" {command}", "dim", no_wrap=True, overflow="ellipsis"))


def _facts(told: Report, width: int) -> RenderableType:
    known = wording.facts(told)
    label_width = max(len(fact.label) for fact in known) + len(INDENT)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=label_width)
    grid.add_column(width=width - label_width - 4)
    for fact in known:
        lines = (
            (fact.lines[0], *(f"- {line}" for line in fact.lines[1:])) if fact.label == "certificate" else fact.lines
        )
        grid.add_row(Text(f"{INDENT}{fact.label}", "dim"), Text("\n".join(lines), fact.style))
    return grid


def _next(argv: tuple[str, ...]) -> Text:
    return Text.assemble((f"{INDENT}go on with  ", "dim"), (clean(shlex.join(argv), 1000), "bold"))


def _curve(told: Report, width: int, marks: Marks) -> RenderableType | None:
    height = CURVE_HEIGHT if len(told.attempts) <= ROOMY else CURVE_HEIGHT - 2
    others = [(one.name, one.points) for one in told.curves]
    signs = happened(told)
    lines = loss_curve(told.losses, width=width - 1, height=height, marks=marks, happened=signs, others=others)
    if not lines:
        return None
    axis = lines[height]
    return Text(
        "\n".join([f"{INDENT}loss{heading(axis, marks)}", *lines, *(INDENT + x for x in legend(told, width - 6))]),
        no_wrap=True,
        overflow="ellipsis",
    )


# --- the attempts ------------------------------------------------------------------------------------------------


def _attempts(told: Report, width: int) -> RenderableType:
    first, hidden, last = wording.grouped(told.attempts)
    if not first:
        return Text(f"{INDENT}No attempt was started.", "dim")
    roomy = len(first) + len(last) <= ROOMY
    rows = _table(told, first, width, roomy=roomy, header=True)
    if not hidden:
        return rows
    between = Text(f"{INDENT}… {wording.counted(hidden)}", "dim", no_wrap=True, overflow="ellipsis")
    return Group(rows, between, _table(told, last, width, roomy=roomy, header=False))


def _table(told: Report, attempts: tuple[AttemptReport, ...], width: int, *, roomy: bool, header: bool) -> Table:
    widths = _widths(told, width)
    grid = Table(
        box=None, show_header=header, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0), show_edge=False
    )
    words = COLUMNS[-1]
    for name, columns in widths.items():
        grid.add_column(name, width=columns, no_wrap=not (roomy and name == words), overflow="ellipsis")
    for one in attempts:
        cells = dict(_cells(told, one, limit=widths[words] if roomy else None))
        grid.add_row(*(cells[name] for name in widths))
    return grid


def _widths(told: Report, width: int) -> dict[str, int]:
    """Columns of the table, as wide as what they show; the words get what is left."""
    shown = [dict(_cells(told, one, limit=None)) for one in _visible(told)]
    widths = {name: max(len(name), *(cells[name].cell_len for cells in shown)) for name in COLUMNS[:-1]}
    if width < WIDE:
        del widths["began"]
    left = width - sum(widths.values()) - 2 * len(widths) - 1
    return {**widths, COLUMNS[-1]: left}


def _visible(told: Report) -> tuple[AttemptReport, ...]:
    first, _, last = wording.grouped(told.attempts)
    return first + last


def _cells(told: Report, one: AttemptReport, *, limit: int | None) -> Iterator[tuple[str, Text]]:
    yield COLUMNS[0], Text(f"{INDENT}{one.number}")
    yield "began", Text(wording.began(one, told.wall_s), "dim")
    yield "steps", Text(wording.span(one))
    yield "took", Text(duration(one.seconds))
    yield "lost", Text(wording.cost(one))
    yield COLUMNS[-1], _ending(one, limit)


def _ending(one: AttemptReport, limit: int | None) -> Text:
    """How it ended, its line of the log, where it went on from, what was changed.

    With a limit each has a line of that length, the first one two, and where the ranks stood three; without, only
    changes are never crowded out.
    """
    style = {"finished": "green", "is running": "cyan"}.get(one.end, "" if one.cause is None else "red")
    changed = ", ".join(wording.changes(one))
    text = Text.assemble((clean(one.end, 2 * limit - 10 if limit else 200), style))
    evidence = wording.evidence(one)
    of_log = evidence.startswith("line ")
    for detail, apart, lines in (
        (evidence, limit, 1 if of_log else 3), (wording.origin(one), limit, 1), (changed, True, 1),
    ):  # fmt: skip
        if detail:
            text.append("\n" if apart else ", ")
            # Broken at words, lines are a little shorter than they could be.
            text.append(clean(detail, lines * limit - 10 * (lines - 1) if limit else 200), "dim")
    return text
