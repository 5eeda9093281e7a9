"""Hold rules against the samples beside them: whether they speak where they should, and nowhere else.

A pattern is blunt in a part when leaving that part out changes nothing in any sample: then no sample shows what the
part is good for. That is advice; everything else is a mistake of the rule or of its samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import re2

from guardian.core import events as ev
from guardian.core import samples as sampling
from guardian.core.diagnosing import diagnose
from guardian.core.exits import normal
from guardian.core.facts import facts_of
from guardian.core.mutating import mutants
from guardian.core.rules import Log, Rule, RuleIs, Seen
from guardian.core.samples import Sample
from guardian.core.values import dataclass
from guardian.host import rulebook
from guardian.host.matching import Matcher, compiled

MISTAKES = ("missing", "unreadable", "missed", "noisy", "unused", "ambiguous")
BLUNT = "blunt"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a rule or its samples; public keys of `guardian rules test --json`."""

    rule: str
    kind: str
    """One of MISTAKES, or BLUNT."""
    line: int | None
    """Of the sample's header."""
    text: str


def check(chosen: Iterable[Rule], all_rules: tuple[Rule, ...], told: Callable[[str], None]) -> tuple[Finding, ...]:
    """What is wrong with the chosen ones, where all of them are in force; `told` hears each rule's id."""
    chosen = tuple(chosen)
    found: list[Finding] = []
    samples: dict[str, list[Sample]] = {}
    for rule in chosen:
        samples[rule.id], wrong = _read(rule)
        found += wrong
    # In pieces: a search stops at its first match, and there are thousands of searches.
    others = ["\n".join(sample.text for sample in own) for own in samples.values()]
    matcher = Matcher(all_rules)
    for rule in chosen:
        told(rule.id)
        if samples[rule.id]:
            found += _spoken(rule, samples[rule.id], all_rules, matcher)
            found += _unused(rule, samples[rule.id])
            found += _blunt(rule, samples[rule.id], others)
    return tuple(found)


def _read(rule: Rule) -> tuple[list[Sample], list[Finding]]:
    text = rulebook.samples_of(rule)
    if text is None:
        return [], [Finding(rule.id, "missing", None, f"there is no {rule.id}.samples beside it")]
    try:
        own = sampling.read(text)
    except ValueError as error:
        return [], [Finding(rule.id, "unreadable", None, f"a header is not as it should be: line {error}")]
    missing = [
        Finding(rule.id, "missing", None, f"no sample is a {what}")
        for what, matches in (("match", True), ("no-match", False))
        if not any(sample.matches == matches for sample in own)
    ]
    return own, missing


def _spoken(rule: Rule, own: list[Sample], rules: tuple[Rule, ...], matcher: Matcher) -> list[Finding]:
    """Samples that it misses, that it should not match, and that another class of failure takes from it."""
    found = []
    for sample in own:
        attempt = sampling.attempt_of(sample, _hits(matcher, sample.text))
        run = sampling.run_of(attempt)
        holds = _holds(rule, rules, sample, matcher)
        if sample.matches != holds:
            kind = "missed" if sample.matches else "noisy"
            found.append(Finding(rule.id, kind, sample.line, f"{sample.source}: {sample.why}"))
        elif holds and rule.role != "symptom":
            cause = diagnose(rules, attempt, run).cause
            called = f"{cause.id}/{cause.variant}" if cause and cause.variant else cause.id if cause else "no failure"
            if cause is None or cause.id != rule.failure or sample.variant not in (None, cause.variant):
                wanted = rule.failure + (f"/{sample.variant}" if sample.variant else "")
                text = f"{sample.source}: {called} is said of it, not {wanted}"
                found.append(Finding(rule.id, "ambiguous", sample.line, text))
    return found


def _holds(rule: Rule, rules: tuple[Rule, ...], sample: Sample, matcher: Matcher) -> bool:
    """Whether the rule holds on the sample, with the rules that it asks for."""
    attempt = sampling.attempt_of(sample, _hits(matcher, sample.text))
    facts = facts_of(sampling.run_of(attempt), attempt)
    asked = {one.id for one in rule.conditions if isinstance(one, RuleIs)}
    true = frozenset(one.id for one in rules if one.id in asked and _holds(one, rules, sample, matcher))
    patterns = frozenset(hit.pattern for hit in attempt.hits if hit.rule == rule.id)
    return rule.holds(Seen(patterns, (normal(sample.exit),), facts, attempt.logged, true))


def _unused(rule: Rule, own: list[Sample]) -> list[Finding]:
    """Patterns that match nothing that is shown; those of `unless` may do so in a no-match alone."""
    numbers = {n: p for n, p in enumerate(rule.patterns)}  # noqa: C416 - a dict by place, not of pairs
    logs = [one for one in rule.conditions if isinstance(one, Log)]
    speaking = rule.speaking | set(range(len(logs), len(rule.patterns)))
    found = []
    for number, pattern in numbers.items():
        texts = [sample.text for sample in own if sample.matches or number not in speaking]
        if not any(_occurs(pattern, text) for text in texts):
            found.append(Finding(rule.id, "unused", None, f"no sample is matched by {pattern}"))
    return found


def _blunt(rule: Rule, own: list[Sample], others: list[str]) -> list[Finding]:
    """Parts of patterns that no sample shows to be needed."""
    found = []
    for pattern in rule.patterns:
        regex = compiled(pattern)
        mine, elsewhere = _told(regex, own), None
        for part, rest in mutants(pattern):
            try:
                other = compiled(rest)
            except re2.error:
                continue  # left out, it leaves no pattern
            if _told(other, own) != mine:
                continue
            elsewhere = elsewhere or [_search(regex, text) is None for text in others]
            if [_search(other, text) is None for text in others] == elsewhere:
                found.append(Finding(rule.id, BLUNT, None, f"{part} is shown by no sample to be needed in {pattern}"))
    return found


def _told(regex: re2._Regexp, own: list[Sample]) -> list[dict[bytes, bytes] | None]:
    """What a pattern captures, sample by sample; None where it does not match."""
    return [match.groupdict() if (match := _search(regex, sample.text)) else None for sample in own]


def _occurs(pattern: str, text: str) -> bool:
    return _search(compiled(pattern), text) is not None


def _search(regex: re2._Regexp, text: str) -> re2._Match | None:
    """In the text's lines, as the matcher looks for it."""
    return regex.search(text.replace("\r", "\n").encode())


def _hits(matcher: Matcher, text: str) -> tuple[ev.Hit, ...]:
    found = [*matcher.scan(text.encode(), 1, 0), *matcher.rest()]
    return tuple(ev.Hit(1, h.rule, h.pattern, h.offset, ev.Line(h.line, h.text), h.captures) for h in found)
