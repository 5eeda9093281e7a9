"""Read what makes a rule true: the [match] of a rule file, and the comparisons of facts wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from guardian.core.exits import SIGNALS
from guardian.core.facts import FACTS, TEXT
from guardian.core.rules import Condition, ExitIs, FactIs, Group, Log, Plain, RuleIs
from guardian.core.rungs import Comparison, When
from guardian.core.tomltable import Table, nearest
from guardian.core.windows import KINDS, SERIES, Series

MAX_PATTERN = 2000
_GROUP = re.compile(r"\(\?P<(\w+)>")
_NUMERIC = ("_mib", "_s")
_FACT = re.compile(r"(\w+)\s*((?:==|!=|<|>).*)")
_TEST = re.compile(r"(==|!=|<=|>=|<|>)\s*(\S.*)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w-]*")
_TRUTH = {"true": 1.0, "false": 0.0}
_TEXT_END = re.compile(r"(?<!\\)(?:\\\\)*\\[Az]")
_WIDE_CLASS = re.compile(r"\[[^\]]*[^\x00-\x7f]")
_CONDITIONS = ("log", "exit", "series", "fact", "rule")
_LISTED = "must be a list of conditions: [{ log = '...' }, { exit = 1 }]"

RegexProblem = Callable[[str], str | None]


def conditions(table: Table, key: str, problem: RegexProblem) -> tuple[Condition, ...]:
    """The conditions of a list, each of which may join others once more."""
    found: list[Condition] = []
    for one in table.tables(key, _LISTED):
        if "any" in one.values or "all" in one.values:
            found += _group(one, problem)
        else:
            found += _plain(one, problem)
    return tuple(found)


def patterns(table: Table, key: str, problem: RegexProblem) -> tuple[str, ...]:
    """The patterns of a list of texts; each must capture something."""
    listed = table.texts(key)
    for one in listed:
        refused = _pattern_problem(one) or problem(one) or (None if groups(one) else "captures nothing: (?P<name>...)")
        if refused:
            table.complain(key, refused, one)
    return tuple(listed)


def groups(pattern: str) -> list[str]:
    """The names of what a pattern captures."""
    return _GROUP.findall(pattern)


def when(table: Table, key: str, captured: Collection[str]) -> When:
    """Comparisons of facts and of what the rule captures: a table of them, or a list of such tables."""
    asked = table.values.get(key)
    if asked is None:
        return When()
    hint = 'must hold facts: { steps_done = "> 0" }'
    each = table.tables(key, hint) if isinstance(asked, list) else [table.inner(key, hint)]
    if not each or not all(one.values for one in each):
        table.complain(key, hint)
    return When(tuple(tuple(_tests(one, captured)) for one in each))


def comparison(table: Table, key: str, captured: Collection[str]) -> Comparison | None:
    """A comparison in one text: "disk_free_mib > 1024"."""
    text = table.values.get(key)
    match = _FACT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        table.complain(key, 'must compare a fact: "disk_free_mib > 1024"')
        return None
    return _comparison(table, key, match[1], match[2], captured)


def _tests(table: Table, captured: Collection[str]) -> list[Comparison]:
    found = []
    for fact, text in table.values.items():
        one = _comparison(table, fact, fact, text, captured)
        found += [one] if one else []
    return found


def _comparison(table: Table, key: str, fact: str, text: object, captured: Collection[str]) -> Comparison | None:
    """The comparison of a fact with what the text says: a number, a text, true or false, or another fact."""
    known = {*FACTS, *captured}
    match = _TEST.fullmatch(text.strip()) if isinstance(text, str) else None
    if fact not in known:
        table.complain(key, f"there is no such fact{nearest(fact, known)}", fact)
    elif text == "known":
        return Comparison(fact, "==", fact, other=True)  # a fact that is unknown equals nothing, not even itself
    elif match is None:
        table.complain(key, 'must be a comparison, like "> 0", "== cpu" or ">= asked_mib"; or "known"')
    elif _NUMBER.fullmatch(match[2]):
        return _checked(table, key, Comparison(fact, match[1], float(match[2])), captured)
    elif match[2] in _TRUTH:
        return _checked(table, key, Comparison(fact, match[1], _TRUTH[match[2]]), captured)
    elif match[2] in known:
        return _checked(table, key, Comparison(fact, match[1], match[2], other=True), captured)
    elif match[1] not in ("==", "!=") or not _WORD.fullmatch(match[2]):
        table.complain(key, f"{match[2]!r} is neither a number nor a fact{nearest(match[2], known)}", match[2])
    else:
        return _checked(table, key, Comparison(fact, match[1], match[2]), captured)
    return None


def _checked(table: Table, key: str, one: Comparison, captured: Collection[str]) -> Comparison:
    """Numbers are compared with numbers, texts with texts; what a pattern captures may look like either."""
    left = _is_text(one.fact, captured)
    right = _is_text(str(one.value), captured) if one.other else isinstance(one.value, str)
    if left is not None and right is not None and left != right:
        table.complain(key, f"{one.fact} is a {'text' if left else 'number'}, and {one.value} is not")
    elif left and one.operator not in ("==", "!="):
        table.complain(key, f"{one.fact} is a text: compare it by == or !=")
    return one


def _is_text(name: str, captured: Collection[str]) -> bool | None:
    """None: a captured text, which may be a number."""
    if name in captured:
        return False if name.endswith(_NUMERIC) else None
    return FACTS[name].unit == TEXT


def _group(table: Table, problem: RegexProblem) -> list[Condition]:
    table.only("any", "all")
    either, each = (
        tuple(found for one in table.tables(key, _LISTED) for found in _plain(one, problem)) for key in ("any", "all")
    )
    if not either and not each and not table.reader.complaints:
        table.complain("", "joins no conditions")
    return [Group(either, each)]


def _plain(table: Table, problem: RegexProblem) -> list[Plain]:
    """The one condition of a table."""
    named = [kind for kind in _CONDITIONS if kind in table.values]
    more = ("is", "times") if named == ["series"] else ()
    table.only(*((*named, *more) if len(named) == 1 else _CONDITIONS))
    if len(named) != 1:
        if named or not table.values:
            table.complain("", "must hold one condition: log, exit, series, fact or rule")
        return []
    if named[0] == "fact":
        test = comparison(table, "fact", ())
        return [FactIs(test)] if test else []
    if named[0] == "rule":
        return [RuleIs(table.text("rule"))]
    if named[0] == "series":
        return [_series(table)]
    return [_log(table, problem) if named[0] == "log" else _exit(table, table.values["exit"])]


def _series(table: Table) -> Series:
    of, kind = table.choice("series", SERIES), table.choice("is", KINDS)
    times = table.values.get("times", 1)
    if not isinstance(times, int) or isinstance(times, bool) or times < 1:
        table.complain("times", "must be a number from 1", "times")
        times = 1
    return Series(of, kind, times)


def _log(table: Table, problem: RegexProblem) -> Log:
    pattern = table.values["log"]
    if not isinstance(pattern, str) or not pattern:
        table.complain("log", "must be a regular expression between single quotes")
        return Log("")
    refused = _pattern_problem(pattern) or problem(pattern)
    if refused:
        table.complain("log", refused, pattern)
    return Log(pattern)


def _pattern_problem(pattern: str) -> str | None:
    """What the matcher would accept and yet would not mean the same everywhere."""
    if len(pattern) > MAX_PATTERN:
        return f"is longer than {MAX_PATTERN} characters"
    if _TEXT_END.search(pattern):
        return r"\A and \z mean the whole text here; ^ and $ are the ends of a line"
    if _WIDE_CLASS.search(pattern):
        return "a letter outside ASCII cannot stand in [...]: patterns match bytes"
    return None


def _exit(table: Table, value: object) -> ExitIs:
    listed = value if isinstance(value, list) else [value]
    codes, signals = set(), set()
    for one in listed:
        if isinstance(one, str) and one in SIGNALS:
            signals.add(SIGNALS[one])
        elif isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 255:
            codes.add(one)
        else:
            near = nearest(one, SIGNALS) if isinstance(one, str) else ""
            table.complain("exit", f"{one!r} is neither a code from 0 to 255 nor the name of a signal{near}", one)
    if not listed:
        table.complain("exit", "must name a code or a signal")
    return ExitIs(frozenset(codes), frozenset(signals))
