"""The report as one screen that a stranger understands in a minute, and as Markdown for the run folder.

What happened comes first, the proof second, the attempts third; the last line says all of it in one sentence.
Text of the job is shown short and cannot drive the terminal. However long the night was, the screen stays one.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from guardian.core.reporting import summary
from guardian.ui import wording
from guardian.ui.marks import happened, heading, legend
from guardian.ui.plots import BRAILLE, loss_curve
from guardian.ui.text import clean, duration, is_utf8, narrow

if TYPE_CHECKING:
    from guardian.core.reporting import AttemptReport, Report

WIDTH_MIN, WIDTH_MAX = 60, 120
PAGE_WIDTH = 100
"""Of the curve in report.md."""


def render(told: Report, width: int, color: bool, encoding: str | None = None) -> str:  # noqa: FBT001 - as screen() finds them
    """One screen, `width` columns wide; braille and arrows only where the encoding (stdout's by default) has them."""
    from guardian.ui.screen import draw  # noqa: PLC0415 - loads rich: not before there is something to draw

    encoding = encoding or getattr(sys.stdout, "encoding", None) or "ascii"
    columns = max(WIDTH_MIN, min(width, WIDTH_MAX))
    if is_utf8(encoding):
        return draw(told, width=columns, color=color, braille=True)
    # An ellipsis becomes three dots.
    return narrow(draw(told, width=columns - 2, color=color, braille=False), encoding)


def markdown(told: Report) -> str:
    """The same story for report.md, with every reason."""
    head = wording.headline(told)
    lines = [
        f"# {_plain(told.name)}: {head.badge.lower()}",
        "",
        _plain(head.sentence),
        "",
        _code(shlex.join(told.argv)),
        "",
    ]
    for fact in wording.facts(told, most=100):
        lines.append(f"- {fact.label}: {_plain(fact.lines[0])}")
        lines += [f"  - {_plain(line)}" for line in fact.lines[1:]]
    lines += ["", *_attempts(told)]
    others = [(one.name, one.points) for one in told.curves]
    curve = loss_curve(told.losses, width=PAGE_WIDTH, height=8, happened=happened(told), others=others)
    if curve:
        means = [line.replace("`", "'") for line in legend(told, PAGE_WIDTH)]
        lines += ["", f"Loss{heading(curve[8], BRAILLE)}:", "", "```", *curve, *means, "```"]
    if told.next_argv:
        lines += ["", f"Go on with: {_code(shlex.join(told.next_argv))}"]
    return "\n".join([*lines, "", _plain(clean(summary(told), 1000))]) + "\n"


def _attempts(told: Report) -> list[str]:
    if not told.attempts:
        return ["No attempt was started."]
    first, hidden, last = wording.grouped(told.attempts)
    lines = ["| attempt | began | steps | took | lost | ended |", "|---|---|---|---|---|---|"]
    lines += [_row(told, one) for one in first]
    if hidden:
        lines.append(f"| … | | | | | {_plain(wording.counted(hidden))} |")
    return lines + [_row(told, one) for one in last]


def _row(told: Report, one: AttemptReport) -> str:
    evidence = wording.evidence(one)
    story = (
        _plain(clean(one.end)),
        _code(evidence) if evidence else "",
        _plain(wording.origin(one)),
        *map(_plain, wording.changes(one)),
    )
    cells = (
        str(one.number),
        wording.began(one, told.wall_s),
        wording.span(one),
        duration(one.seconds),
        wording.cost(one),
        "<br>".join(filter(None, story)),
    )
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|~$" else c for c in text)


def _code(text: str) -> str:
    """Text in code type; what would end it, or the cell it stands in, is replaced."""
    return f"`{clean(text, 1000).replace('`', chr(0x27)).replace('|', '¦')}`"
