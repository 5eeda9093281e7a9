"""`guardian rules`: what guardian knows of failures, and whether a rule of your own does what its samples say."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.cli import parsing
from guardian.errors import UserError
from guardian.host import rulebook
from guardian.ui.plain import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardian.core.rules import Rule
    from guardian.ruletesting import Finding

EXAMPLE = """commands:
  list        every rule in force, yours in the place of ours where they have the same id
  show ID     the file of a rule, and what it knows
  test [DIR]  hold each rule against the samples beside it; of a folder of yours, or of all rules in force
  facts       the facts that rules may ask for

example:
  guardian rules show cuda-oom
  guardian rules test ~/.config/guardian/rules

test exits with 1 where a rule misses a sample, speaks on one that it should not, or is confused with another one."""
EXIT_MISTAKES = 1
TELL_AFTER_S = 2.0


def main(argv: list[str]) -> int:
    """Run one of the commands; 0, or 1 where a test found a mistake."""
    options = parsing.parser("rules", "List, show and test the rules.", EXAMPLE)
    options.add_argument("what", choices=("list", "show", "test", "facts"), metavar="COMMAND", help="see below")
    options.add_argument("of", nargs="?", metavar="ID|DIR", help="a rule, to show; a folder of rules, to test")
    options.add_argument("--rules", type=Path, metavar="DIR", help="a folder of further rules")
    options.add_argument("--blunt", action="store_true", help="test: tell every part of a pattern that no sample needs")
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    if chosen.of is not None and chosen.what not in ("show", "test"):
        raise UserError(f"rules {chosen.what} takes nothing more: {chosen.of}")
    if chosen.what == "facts":
        return _facts(as_json=chosen.json)
    if chosen.what == "test":
        return _test(chosen.of, chosen.rules, as_json=chosen.json, blunt=chosen.blunt)
    rules = rulebook.load(chosen.rules)
    if chosen.what == "list":
        return _list(rules, as_json=chosen.json)
    return _show(rules, chosen.of, as_json=chosen.json)


def _list(rules: tuple[Rule, ...], *, as_json: bool) -> int:
    rows = sorted(rules, key=lambda rule: (rule.failure, rule.id))
    if as_json:
        _print_json({"rules": [_row(rule) for rule in rows]})
        return 0
    wide, long = max(len(rule.failure) for rule in rows), max(len(rule.id) for rule in rows)
    for rule in rows:
        _say(f"{rule.failure:<{wide}}  {rule.id:<{long}}  {rule.role:<8}  {rule.title}")
    return 0


def _row(rule: Rule) -> dict[str, object]:
    return {"id": rule.id, "class": rule.failure, "role": rule.role, "title": rule.title, "source": rule.source}


def _show(rules: tuple[Rule, ...], name: str | None, *, as_json: bool) -> int:
    if name is None:
        raise UserError("rules show: name a rule; guardian rules list has them")
    rule = next((rule for rule in rules if rule.id == name), None)
    if rule is None:
        from guardian.core.tomltable import nearest

        raise UserError(f"there is no rule {name!r}{nearest(name, [rule.id for rule in rules])}")
    text = rulebook.text_of(rule)
    if as_json:
        _print_json(_row(rule) | _known(rule) | {"text": text})
        return 0
    _say(f"# {rule.source}")
    for line in text.splitlines():
        _say(line)
    return 0


def _known(rule: Rule) -> dict[str, object]:
    return {
        "explains": list(rule.explains),
        "false_friends": rule.false_friends,
        "confirm": rule.confirm,
        "patterns": list(rule.patterns),
        "variants": [variant.name for variant in rule.variants],
    }


def _facts(*, as_json: bool) -> int:
    from guardian.core.facts import FACTS

    if as_json:
        rows = [
            {"name": n, "about": f.about, "unit": f.unit, "source": f.source, "when_unknown": f.when_unknown}
            for n, f in FACTS.items()
        ]
        _print_json({"facts": rows})
        return 0
    for name, fact in FACTS.items():
        _say(f"{name} ({fact.unit}): {fact.about}")
        _say(f"    from {fact.source}; unknown {fact.when_unknown}")
    return 0


def _test(folder: str | None, further: Path | None, *, as_json: bool, blunt: bool) -> int:
    from guardian import ruletesting

    own = rulebook.folder(Path(folder)) if folder is not None else None
    # What is tested is in force, whatever of the same id is elsewhere.
    in_force = rulebook.load(Path(folder) if folder is not None else further)
    chosen = in_force if own is None else tuple(rule for rule in in_force if rule.id in {one.id for one in own})
    found = ruletesting.check(chosen, in_force, _progress(len(chosen)))
    mistakes = [one for one in found if one.kind in ruletesting.MISTAKES]
    advice = [one for one in found if one.kind == ruletesting.BLUNT]
    if as_json:
        _print_json({"rules": len(chosen), "findings": [asdict(one) for one in (*mistakes, *advice)]})
        return EXIT_MISTAKES if mistakes else 0
    for one in (*mistakes, *(advice if blunt else [])):
        _say(_in_words(one))
    _say(_summary(len(chosen), mistakes, advice, blunt=blunt))
    return EXIT_MISTAKES if mistakes else 0


def _in_words(one: Finding) -> str:
    place = f"{one.rule}.samples:{one.line}" if one.line is not None else one.rule
    return f"{place}: {one.kind}: {one.text}"


def _summary(count: int, mistakes: list[Finding], advice: list[Finding], *, blunt: bool) -> str:
    kinds = Counter(one.kind for one in mistakes)
    wrong = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "no mistake"
    more = f"; {len(advice)} parts of patterns that no sample needs" if advice else ""
    return f"{count} rules tested: {wrong}{more}" + ("" if blunt or not advice else " (--blunt tells them)")


def _progress(total: int) -> Callable[[str], None]:
    """Says now and then which rule is at work."""
    begun = last = time.monotonic()
    count = 0

    def told(rule: str) -> None:
        nonlocal last, count
        count += 1
        now = time.monotonic()
        if now - max(last, begun) >= TELL_AFTER_S:
            last = now
            parsing.say(f"rule {count} of {total}: {rule}")

    return told


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _say(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
