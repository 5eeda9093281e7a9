"""Hold rules against what was seen of a living or an ended job, and say where each that is true shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from guardian.core.events import Hit, Line, Logged
from guardian.core.exits import Exit
from guardian.core.facts import FACTS, said, witness
from guardian.core.rules import LINES_AFTER, LINES_BEFORE, PROGRESS, FactIs, Rule, RuleIs, Seen
from guardian.core.rungs import Facts
from guardian.core.units import mib, seconds
from guardian.core.values import dataclass
from guardian.core.windows import find

AFTER_THE_LOG = float("inf")


@dataclass(frozen=True, slots=True)
class Held:
    """A rule that is true, and where that shows."""

    rule: Rule
    line: Line | None
    """None: it shows in no line and in no logged number, but in how the job ended."""
    offset: float
    """Of that line in the log; what shows in logged numbers comes after it."""
    captures: tuple[tuple[str, float | str], ...]


def held(
    rules: Iterable[Rule], hits: Sequence[Hit], exits: tuple[Exit, ...], facts: Facts, logged: Sequence[Logged]
) -> tuple[Held, ...]:
    """The rules that are true, those whose line comes first in front."""
    own: dict[str, list[Hit]] = {}
    for hit in hits:
        if hit.rule != PROGRESS:
            own.setdefault(hit.rule, []).append(hit)
    true: dict[str, Rule] = {}
    found: list[Held] = []
    # Rules that ask for others come after those; the loader has seen to it that none asks for itself.
    for rule in _leaning_last(rules):
        patterns = frozenset(hit.pattern for hit in own.get(rule.id, ()))
        seen = Seen(patterns, exits, facts, logged, frozenset(true))
        if rule.holds(seen):
            true[rule.id] = rule
            found.append(_held(rule, own.get(rule.id, []), rule.deciding(seen), seen))
    return tuple(sorted(found, key=_place))


def captures(hit: Hit, own: Sequence[Hit]) -> tuple[tuple[str, float | str], ...]:
    """What the hit captured, and what the rule's other patterns did near it; the nearest line's word counts."""
    at = hit.line.number or 0
    near = [one for one in own if at - LINES_BEFORE <= (one.line.number or 0) <= at + LINES_AFTER]
    told: dict[str, str] = {}
    for one in sorted(near, key=lambda one: (one != hit, abs(one.offset - hit.offset))):
        told = dict(one.captures) | told
    return tuple(sorted((name, value) for name, text in told.items() if (value := amount(name, text)) is not None))


def amount(name: str, text: str) -> float | str | None:
    """A capture as a fact: a number in the unit that its name ends in, else the text; None: it is no such amount."""
    if name.endswith("_mib"):
        return mib(text)
    return seconds(text) if name.endswith("_s") else text


def evidence(rule: Rule, facts: Facts) -> tuple[Line, ...]:
    """The facts that a rule's conditions ask for and that hold, in words."""
    tests = [one.test for one in rule.asserting if isinstance(one, FactIs) and one.test.holds(facts)]
    names = dict.fromkeys(test.fact for test in tests if test.fact in FACTS)
    return tuple(Line(None, text) for name in names if (text := said(name, facts)))


def blind(rules: Iterable[Rule], seen: Mapping[str, frozenset[int]], exits: tuple[Exit, ...], facts: Facts) -> set[str]:
    """Facts that are unknown, and that alone keep a rule from being judged."""
    return {
        name
        for rule in rules
        if rule.answer(Seen(seen.get(rule.id, frozenset()), exits, facts)) is None
        for name in rule.unknown(facts)
    }


def _leaning_last(rules: Iterable[Rule]) -> list[Rule]:
    """Each rule after those that it asks for."""
    listed = list(rules)
    asks = {rule.id: {one.id for one in rule.conditions if isinstance(one, RuleIs)} for rule in listed}
    ordered: list[Rule] = []
    placed: set[str] = set()
    while listed:
        ready = [rule for rule in listed if asks[rule.id] & asks.keys() <= placed] or listed
        ordered += ready
        placed |= {rule.id for rule in ready}
        listed = [rule for rule in listed if rule.id not in placed]
    return ordered


def _held(rule: Rule, own: list[Hit], deciding: frozenset[int], seen: Seen) -> Held:
    speaking = [hit for hit in own if hit.pattern in deciding]
    if speaking:
        first = min(speaking, key=lambda hit: (hit.offset, hit.pattern))
        return Held(rule, first.line, first.offset, captures(first, own))
    found = [one for series in rule.series if (one := find(series, seen.logged, rule.within_s))]
    text = found[0].text if found else _witnessed(rule, seen.facts)
    return Held(rule, None if text is None else Line(None, text), AFTER_THE_LOG, ())


def _witnessed(rule: Rule, facts: Facts) -> str | None:
    """What a fact says that alone is as good as a line: a GPU's report of its own fault."""
    tests = [one.test for one in (*rule.any, *rule.all) if isinstance(one, FactIs)]
    return witness([test.fact for test in tests if test.holds(facts)], facts)


def _place(one: Held) -> tuple[float, str]:
    return (one.offset, one.rule.id)
