"""Read a rule file: one failure per file, TOML, every complaint with its line.

id = "port-in-use"                  # of the file's own choosing: lower case, digits, dashes
class = "port_in_use"               # what it is called in reports: CLASSES
title = "The port {port} is taken"  # {name}: what a pattern captured as (?P<name>...); {exit}: how it ended
role = "cause"                      # see ROLES
explains = ["network"]              # classes that are its consequences where both are seen
false_friends = "What looks like it and is not."
[match]                             # at least one of `any`, and each of `all`
any = [{ log = 'address already in use' }, { exit = [98, "SIGABRT"] }]
[[try]]                             # the ladder, from the top; a rung whose `when` is not true is left out
when = { steps_done = "> 0" }
restart = true                      # the same command again, from the newest checkpoint
repeat = 3                          # so often ("once" if left out, "budget": as the policy allows)
advise = "..."
[[try]]
give_up = "What the user can do."

A pattern that captures (?P<exitcode>...) tells how the process ended that its line is about, as torchrun does of the
rank that fell first, and (?P<local_rank>...) which one it was: conditions on exits then hold for it too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping

from guardian.core.exits import SIGNALS
from guardian.core.rules import CLASSES, FACTS, FIELD, ROLES, Comparison, Condition, ExitIs, Log, Rule, Rung
from guardian.core.tomltext import Path, line_of
from guardian.core.values import dataclass

MAX_PATTERN = 2000
_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEST = re.compile(r"(==|!=|<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")
_GROUP = re.compile(r"\(\?P<(\w+)>")
_TEXT_END = re.compile(r"(?<!\\)(?:\\\\)*\\[Az]")
_WIDE_CLASS = re.compile(r"\[[^\]]*[^\x00-\x7f]")


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a rule file cannot be used as written."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.message}"


RegexProblem = Callable[[str], str | None]


def parse(
    tables: Mapping[str, object], text: str, file: str, regex_problem: RegexProblem
) -> tuple[Rule | None, tuple[Complaint, ...]]:
    """The rule in a file, or every complaint about it. `regex_problem` says why the matcher refuses a pattern."""
    reader = _Reader(text, file, [])
    top = _Table(reader, (), tables)
    top.only("id", "class", "title", "role", "explains", "false_friends", "match", "try")
    identity = top.text("id")
    if identity and not _ID.fullmatch(identity):
        top.complain("id", "must be lower-case words joined by dashes")
    match = _Table(reader, ("match",), top.table("match"))
    match.only("any", "all")
    conditions = {key: _conditions(match, key, regex_problem) for key in ("any", "all")}
    if not reader.complaints and not any(conditions.values()):
        top.complain("match", "must name at least one condition in any or all")
    rule = Rule(
        id=identity,
        failure=top.choice("class", CLASSES),
        title=top.text("title"),
        role=top.choice("role", ROLES),
        explains=tuple(top.known("explains", one, CLASSES) for one in top.texts("explains")),
        false_friends=top.text("false_friends", required=False) or None,
        any=conditions["any"],
        all=conditions["all"],
        ladder=_ladder(top),
        source=file,
    )
    _check_fields(top, rule)
    return (None if reader.complaints else rule), tuple(reader.complaints)


def merge(
    layers: Iterable[Iterable[Rule]], line: Callable[[Rule], int]
) -> tuple[tuple[Rule, ...], tuple[Complaint, ...]]:
    """Rules of later layers replace those of earlier ones by id; within a layer an id stands once."""
    merged: dict[str, Rule] = {}
    complaints = []
    for layer in layers:
        own: dict[str, Rule] = {}
        for rule in layer:
            if rule.id in own:
                message = f"{rule.id!r} is used in {own[rule.id].source} too"
                complaints.append(Complaint(rule.source, line(rule), "id", message))
            own[rule.id] = rule
        merged |= own
    return tuple(merged.values()), tuple(complaints)


@dataclass(frozen=True, slots=True)
class _Reader:
    """The file that is being read, and what is wrong with it so far."""

    text: str
    file: str
    complaints: list[Complaint]


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the file; every getter returns something of its type and complains where it had to invent it."""

    reader: _Reader
    path: Path
    values: Mapping[str, object]

    def complain(self, key: str, message: str, value: object = None) -> None:
        at = (*self.path, key) if key else self.path
        name = "".join(f"[{p + 1}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")
        line = line_of(self.reader.text, at, value)
        self.reader.complaints.append(Complaint(self.reader.file, line, name, message))

    def only(self, *keys: str) -> None:
        for key in self.values:
            if key not in keys:
                self.complain(key, f"there is no such key here{_nearest(key, keys)}", key)

    def text(self, key: str, *, required: bool = True) -> str:
        value = self.values.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if required or key in self.values:
            self.complain(key, "must be a text, not empty" if key in self.values else "is missing")
        return ""

    def texts(self, key: str) -> list[str]:
        value = self.values.get(key, [])
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return value
        self.complain(key, "must be a list of texts")
        return []

    def table(self, key: str) -> Mapping[str, object]:
        value = self.values.get(key)
        if isinstance(value, dict):
            return value
        self.complain(key, f"must be a section: [{key}]" if key in self.values else "is missing")
        return {}

    def choice(self, key: str, known: Iterable[str]) -> str:
        value = self.text(key)
        return self.known(key, value, known) if value else ""

    def known(self, key: str, value: str, known: Iterable[str]) -> str:
        if value not in known:
            self.complain(key, f"{value!r} is not known here{_nearest(value, known)}", value)
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.complain(key, "must be true or false")
        return value is True


def _conditions(match: _Table, key: str, regex_problem: RegexProblem) -> tuple[Condition, ...]:
    listed = match.values.get(key, [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        match.complain(key, "must be a list of conditions: [{ log = '...' }, { exit = 1 }]")
        return ()
    found: list[Condition] = []
    for place, one in enumerate(listed):
        table = _Table(match.reader, (*match.path, key, place), one)
        table.only("log", "exit")
        if len(one) != 1:
            table.complain("", "must hold one condition, log or exit")
        elif "log" in one:
            found.append(_log(table, regex_problem))
        elif "exit" in one:
            found.append(_exit(table, one["exit"]))
    return tuple(found)


def _log(table: _Table, regex_problem: RegexProblem) -> Log:
    pattern = table.values["log"]
    if not isinstance(pattern, str) or not pattern:
        table.complain("log", "must be a regular expression between single quotes")
        return Log("")
    problem = _pattern_problem(pattern) or regex_problem(pattern)
    if problem:
        table.complain("log", problem, pattern)
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


def _exit(table: _Table, value: object) -> ExitIs:
    listed = value if isinstance(value, list) else [value]
    codes, signals = set(), set()
    for one in listed:
        if isinstance(one, str) and one in SIGNALS:
            signals.add(SIGNALS[one])
        elif isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= 255:
            codes.add(one)
        else:
            near = _nearest(one, SIGNALS) if isinstance(one, str) else ""
            table.complain("exit", f"{one!r} is neither a code from 0 to 255 nor the name of a signal{near}", one)
    if not listed:
        table.complain("exit", "must name a code or a signal")
    return ExitIs(frozenset(codes), frozenset(signals))


def _ladder(top: _Table) -> tuple[Rung, ...]:
    listed = top.values.get("try", [])
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        top.complain("try", "a rule says what to try: at least one [[try]]")
        return ()
    return tuple(_rung(_Table(top.reader, ("try", place), one)) for place, one in enumerate(listed))


def _rung(table: _Table) -> Rung:
    table.only("when", "restart", "repeat", "give_up", "advise")
    restart = table.flag("restart")
    give_up = table.text("give_up", required=False) or None
    if restart == (give_up is not None):
        table.complain("", "must either restart or give_up")
    return Rung(
        restart=restart,
        repeat=_repeat(table),
        give_up=give_up,
        advise=table.text("advise", required=False) or None,
        when=_when(table),
    )


def _repeat(table: _Table) -> int | None:
    value = table.values.get("repeat", "once")
    if value == "budget":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if value != "once":
        table.complain("repeat", 'must be "once", a number from 1, or "budget"')
    return 1


def _when(table: _Table) -> tuple[Comparison, ...]:
    asked = table.values.get("when", {})
    if not isinstance(asked, dict):
        table.complain("when", 'must hold facts: { steps_done = "> 0" }')
        return ()
    tests = []
    inner = _Table(table.reader, (*table.path, "when"), asked)
    for fact, text in asked.items():
        match = _TEST.fullmatch(text) if isinstance(text, str) else None
        if fact not in FACTS:
            inner.complain(fact, f"there is no such fact{_nearest(fact, FACTS)}")
        elif match is None:
            inner.complain(fact, 'must be a comparison with a number, like "> 0"')
        else:
            tests.append(Comparison(fact, match[1], float(match[2])))
    return tuple(tests)


def _check_fields(top: _Table, rule: Rule) -> None:
    """A text may only name what a pattern of the rule captures."""
    captured = {"exit", *(name for pattern in rule.patterns for name in _GROUP.findall(pattern))}
    texts: list[tuple[Path, str]] = [(("title",), rule.title)]
    for place, rung in enumerate(rule.ladder):
        texts += [
            (("try", place, key), text) for key, text in (("give_up", rung.give_up), ("advise", rung.advise)) if text
        ]
    for path, text in texts:
        for field in FIELD.findall(text):
            if field not in captured:
                table = _Table(top.reader, path[:-1], {})
                table.complain(str(path[-1]), f"no pattern captures {{{field}}}{_nearest(field, captured)}")


def _nearest(name: object, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
