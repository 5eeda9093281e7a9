"""What the marks under the curves mean: a letter for each cause, a line for each letter. No state, no colors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core.spelling import count
from guardian.ui.plots import Happened
from guardian.ui.text import clean
from guardian.ui.wording import ASKED

if TYPE_CHECKING:
    from guardian.core.faults import Fault
    from guardian.core.reporting import Report
    from guardian.ui.plots import Marks

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CAUSES_MOST = 4
"""Letters that are explained on a screen."""
PLACES_MOST = 3
"""Ends that are told of each."""


def happened(told: Report) -> Happened:
    """What is to be marked, and where."""
    letters = _letters(told)
    ended = tuple((fault.step, letters[fault.id, fault.variant]) for fault in told.faults)
    resumed = tuple((f.resumed_step, bool(f.edits)) for f in told.faults if f.resumed_step is not None)
    return Happened(ended, resumed)


def _letters(told: Report) -> dict[tuple[str, str | None], str]:
    """In the order in which the causes came; behind Z all have the last one."""
    causes = dict.fromkeys((fault.id, fault.variant) for fault in told.faults)
    return {cause: LETTERS[min(at, len(LETTERS) - 1)] for at, cause in enumerate(causes)}


def heading(axis: str, marks: Marks) -> str:
    """What the signs on the axis mean, of those that are there."""
    meanings = ((marks.restart, "went on"), (marks.edited, "went on with other settings"))
    return "".join(f", {sign} {meaning}" for sign, meaning in meanings if sign in axis)


def legend(told: Report, width: int) -> list[str]:
    """A line for each letter: the cause, and where."""
    lines = []
    for (cause, variant), letter in list(_letters(told).items())[:CAUSES_MOST]:
        ends = [fault for fault in told.faults if (fault.id, fault.variant) == (cause, variant)]
        places = "; ".join(map(_place, ends[:PLACES_MOST]))
        more = f"; {count(len(ends) - PLACES_MOST, 'more time')}" if len(ends) > PLACES_MOST else ""
        title = "was stopped" if (cause, variant) == ASKED else clean(ends[0].title, width // 2)
        lines.append(clean(f"{letter} {title}: {places}{more}", width))
    others = len(_letters(told)) - CAUSES_MOST
    return [*lines, *([f"and {count(others, 'other cause')}"] if others > 0 else [])]


def _place(fault: Fault) -> str:
    on = "" if fault.resumed_step is None else f", on from {fault.resumed_step}"
    changed = f" with {', '.join(e.knob for e in fault.edits)} changed" if fault.edits and on else ""
    return f"step {fault.step}{on}{changed}"
