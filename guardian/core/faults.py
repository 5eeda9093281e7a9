"""Where the attempts of a run ended although the training was not over, and how it went on from there.

Pure, and made from the attempts as they are reported: what is drawn, what is written and what is told as JSON agree.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardian.core.events import Edit
    from guardian.core.reporting import AttemptReport


@dataclass(frozen=True, slots=True)
class Fault:
    """The end of an attempt that has a cause."""

    attempt: int
    step: int
    """The last step that it had finished, or with which it began."""
    id: str
    variant: str | None
    title: str
    resumed_step: int | None
    """How many finished steps the next attempt began with; None: there was none, or nobody knows."""
    edits: tuple[Edit, ...]
    """What was changed for the next attempt, besides where it resumes from."""


def faults(attempts: Sequence[AttemptReport]) -> tuple[Fault, ...]:
    """In the order in which they happened."""
    following = zip_longest(attempts, attempts[1:])
    return tuple(_fault(one, after) for one, after in following if one.cause is not None)


def _fault(one: AttemptReport, after: AttemptReport | None) -> Fault:
    assert one.cause is not None
    return Fault(
        attempt=one.number,
        step=one.last_step if one.last_step is not None else one.resume_step or 0,
        id=one.cause.id,
        variant=one.cause.variant,
        title=one.cause.title,
        resumed_step=_resumed(after) if after is not None else None,
        edits=tuple(edit for edit in after.edits if edit.kind != "resume") if after is not None else (),
    )


def _resumed(after: AttemptReport) -> int | None:
    if after.resume_step is None and after.resumed_from is None:
        return 0
    return after.resume_step
