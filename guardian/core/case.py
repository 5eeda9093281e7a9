"""An attempt with what can be read off it once, before it is judged."""

from __future__ import annotations

import re

from guardian.core import tracebacks
from guardian.core.events import Hit, Line
from guardian.core.exits import Exit, normal, signal_name
from guardian.core.facts import facts_of
from guardian.core.metrics import progress
from guardian.core.rules import PROGRESS, Rule
from guardian.core.run import Attempt, Run
from guardian.core.values import dataclass

# A traceback shows the program's own lines, with the texts that it would say; behind a launcher's word, or with the
# arrow and the number that a notebook puts before them.
_SOURCE = re.compile(
    r"(?:\S{1,40}[\]>):]\s*)?(?:-*>?\s*\d+\s+)?"
    r"(?:raise \w|assert |except[ (:]|warnings\.warn\(|log(?:ger|ging)?\.\w+\(|print\(|return f?[\"'])"
)

CHAINED = "During handling of the above exception, another exception occurred:"
_OWN_FAULT = re.compile(
    r"(?:\S{1,40}[\]>):] ?)?(?:Attribute|Type|Name|Key|UnboundLocal|Index|Value|Import|ModuleNotFound)Error\b"
)


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended, and the line that says so."""

    exit: Exit
    line: Line


@dataclass(frozen=True, slots=True)
class Case:
    """An attempt with what can be read off it once."""

    rules: tuple[Rule, ...]
    attempt: Attempt
    run: Run
    own: Exit
    """Of the job's first process."""
    hits: tuple[Hit, ...]
    """Those that were not survived, by their place."""
    deaths: tuple[Death, ...]
    """The rank that its launcher names as the first to fail, then the job's first process."""
    first_rank: int | None
    """The number of that rank on its node."""
    tail: tuple[Line, ...]
    facts: dict[str, float | str]

    @property
    def ended_by_us(self) -> bool:
        """Guardian stopped it, and not only what a fallen launcher had left."""
        return self.attempt.stop is not None and (bool(self.run.stop_requests) or not fell_first(self.attempt))

    def hits_of(self, rule: Rule) -> list[Hit]:
        """The rule's own."""
        return [hit for hit in self.hits if hit.rule == rule.id]

    @property
    def exits(self) -> tuple[Exit, ...]:
        return tuple(death.exit for death in self.deaths)


def make(rules: tuple[Rule, ...], attempt: Attempt, run: Run) -> Case:
    ended = attempt.ended
    own = normal(ended.code, ended.signal) if ended else Exit()
    tail = ended.tail if ended else ()
    hits = _not_survived(attempt.hits, tail)
    ranks = _first_ranks(hits)[:1]
    of_rank = [Death(normal(code), hit.line) for code, hit in ranks]
    of_job = Death(own, Line(None, f"the job's process ended {how(ended.code if ended else None, own)}"))
    return Case(
        rules=rules,
        attempt=attempt,
        run=run,
        own=own,
        hits=hits,
        deaths=(*of_rank, *([of_job] if own.seen else [])),
        first_rank=_number(ranks[0][1], "local_rank") if ranks else None,
        tail=tail,
        facts=facts_of(run, attempt),
    )


def _not_survived(hits: tuple[Hit, ...], tail: tuple[Line, ...]) -> tuple[Hit, ...]:
    """Hits after which the training did not go on: two logged steps later, a hit is history.

    One log may come late, from a rank that had not heard yet that another fails.
    """
    mark = max((hit.offset for hit in hits if hit.rule == PROGRESS), default=-1)
    steps = [line.number for line in tail if line.number is not None and progress(line.text.encode("utf-8", "replace"))]
    settled = max([0, *steps[-2:-1]])
    caught = _mishandled(tail)
    said = [h for h in hits if h.rule != PROGRESS and h.line.number not in caught and not _SOURCE.match(h.line.text)]
    left = [h for h in said if h.offset > mark and (h.line.number or 0) >= settled]
    return tuple(sorted(left, key=lambda hit: (hit.offset, hit.rule, hit.pattern)))


def _mishandled(tail: tuple[Line, ...]) -> frozenset[int | None]:
    """Lines of an interrupt that the program caught, and whose handler then failed by a fault of its own."""
    found = set()
    for at, line in enumerate(tail):
        chained = line.text.rstrip().endswith("KeyboardInterrupt") and any(
            one.text.endswith(CHAINED) for one in tail[at + 1 : at + 4]
        )
        last = next(iter(tracebacks.raised(tail[at + 1 :])), None) if chained else None
        if last is not None and _OWN_FAULT.match(last.line.text):
            found.add(line.number)
    return frozenset(found)


def _first_ranks(hits: tuple[Hit, ...]) -> list[tuple[int, Hit]]:
    """The ranks' ends, the one that fell first in front: as torchrun told them, else as its table does at its end."""
    told = [(code, hit) for hit in hits if (code := _number(hit, "exitcode")) is not None]
    return told or [(code, hit) for hit in reversed(hits) if (code := _number(hit, "tablecode")) is not None]


def _number(hit: Hit, name: str) -> int | None:
    """A capture that is a whole number of a sensible size."""
    text = dict(hit.captures).get(name, "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,4}", text) else None


def last_step(attempt: Attempt) -> int | None:
    """Where the training stands at the end; a resume with nothing left to do stands where its checkpoint is."""
    hello = attempt.hello
    known = (attempt.last_step, hello.step if hello else None, attempt.plan.resume_step)
    return max((step for step in known if step is not None), default=None)


def max_steps(attempt: Attempt, run: Run) -> int | None:
    """As this attempt says, else as the one before it did."""
    upto = reversed(run.attempts[: attempt.number])
    return next((total for total in (a.max_steps for a in (attempt, *upto)) if total is not None), None)


def fell_first(attempt: Attempt) -> bool:
    """The job's own first process was gone before guardian began to end what was left of the tree."""
    if attempt.launcher_wall is None or attempt.stop_wall is None:
        return False
    return attempt.launcher_wall <= attempt.stop_wall


def how(code: int | None, own: Exit) -> str:
    if own.signal is None:
        return f"with exit code {own.code}"
    form = f" (exit code {code})" if code is not None else ""
    return f"by {signal_name(own.signal)}{form}"
