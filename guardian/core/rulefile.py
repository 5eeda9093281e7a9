r"""Read a rule file: one failure per file, TOML, every complaint with its line.

id = "cuda-oom"                     # of the file's own choosing: lower case, digits, dashes
class = "cuda_oom"                  # what it is called in reports: CLASSES
title = "No room for {asked_mib} MiB"  # {name}: a fact, or what a pattern captured as (?P<name>...); {exit}: its end
role = "cause"                      # see ROLES
explains = ["nccl_timeout"]         # classes that are its consequences where both are seen
false_friends = "What looks like it and is not."
[match]                             # at least one of `any`, each of `all`, none of `unless`
any = [
  { log = 'out of memory\. Tried to allocate (?P<asked_mib>[\d.]+ [KMG]iB)' },
  { exit = [98, "SIGABRT"] },
  { series = "grad_norm", is = "nan", times = 3 },    # the latest so many logs in a row; see windows.py
  { fact = "oom_kills > 0" },                         # see facts.py
  { rule = "another-rules-id" },
  { all = [{ log = 'a' }, { exit = 1 }] },            # joined once more, no deeper
]
capture = ['(?P<idle_mib>[\d.]+ [KMG]iB) is reserved']  # tells more about a hit near it
confirm = "stall"                   # see CONFIRMS; left out: "exit"
settle = "30 s"                     # of a stall: so long without an optimizer step
within = "10 min"                   # of series: the decisive logs took no longer
[[variant]]                         # the first whose `when` is true (or left out); its ladder goes on into the rule's
name = "fragmentation"
when = { idle_mib = ">= asked_mib" }
[[variant.try]]
env = { PYTORCH_CUDA_ALLOC_CONF = "+expandable_segments:True" }  # "+" merges into a list of key:value
[[try]]                             # the ladder, from the top; a rung whose `when` is not true is left out
when = { steps_done = "> 0" }       # a list of such tables: one of them
set = { device_batch = "halve", accumulation = "keep-effective-batch" }
repeat = "until-floor"              # "once" if left out, a number, "budget" (as the policy allows)
[[try]]
wait = { until = "disk_free_mib > 1024", at_most = "10 min" }
resume = "previous"                 # "newest" if left out, "scratch", "before:first_bad_step"
advise = "..."
[[try]]
give_up = "What the user can do."

A group whose name ends in _mib or _s takes number and unit together and becomes a number in that unit. A pattern that
captures (?P<exitcode>...) tells how the process ended that its line is about, as torchrun does of the rank that fell
first, and (?P<local_rank>...) which one it was: conditions on exits then hold for it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from guardian.core import matchfile
from guardian.core.facts import FACTS
from guardian.core.ladderfile import ladder
from guardian.core.rules import CLASSES, CONFIRMS, FIELD, ROLES, Rule, RuleIs, Variant
from guardian.core.rungs import Rung
from guardian.core.tomltable import Complaint, Reader, Table, nearest
from guardian.core.tomltext import Path

_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HEADER = ("id", "class", "title", "role", "explains", "false_friends", "match", "variant", "try")


def parse(
    tables: Mapping[str, object], text: str, file: str, regex_problem: matchfile.RegexProblem
) -> tuple[Rule | None, tuple[Complaint, ...]]:
    """The rule in a file, or every complaint about it. `regex_problem` says why the matcher refuses a pattern."""
    reader = Reader(text, file, [])
    top = Table(reader, (), tables)
    top.only(*_HEADER)
    identity = _identity(top, "id")
    match = Table(reader, ("match",), top.table("match"))
    match.only("any", "all", "unless", "capture", "confirm", "settle", "within")
    joined = {key: matchfile.conditions(match, key, regex_problem) for key in ("any", "all", "unless")}
    if not reader.complaints and not joined["any"] and not joined["all"]:
        top.complain("match", "must name at least one condition in any or all")
    rule = Rule(
        id=identity,
        failure=top.choice("class", CLASSES),
        title=top.text("title"),
        role=top.choice("role", ROLES),
        explains=tuple(top.known("explains", one, CLASSES) for one in top.texts("explains")),
        false_friends=top.text("false_friends", required=False) or None,
        any=joined["any"],
        all=joined["all"],
        ladder=(),
        unless=joined["unless"],
        capture=matchfile.patterns(match, "capture", regex_problem),
        confirm=match.choice("confirm", CONFIRMS) if "confirm" in match.values else "exit",
        settle_s=match.seconds("settle"),
        within_s=match.seconds("within"),
        source=file,
    )
    _check_modifiers(match, rule)
    captured = {name for pattern in rule.patterns for name in matchfile.groups(pattern)}
    if not top.values.get("try"):
        top.complain("try", "a rule says what to try: at least one [[try]]")
    rule = replace(rule, ladder=ladder(top, captured), variants=_variants(top, captured))
    _check_fields(top, rule, captured)
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
    for rule in merged.values():
        complaints += [Complaint(rule.source, line(rule), "match", why) for why in _leaning_problems(rule, merged)]
    return tuple(merged.values()), tuple(complaints)


def _leaning_problems(rule: Rule, rules: Mapping[str, Rule]) -> list[str]:
    """What is wrong with the rules that a rule asks for."""
    asked = _asked(rule)
    wrong = [f"there is no rule {name!r}{nearest(name, rules)}" for name in asked if name not in rules]
    seen: set[str] = set()
    ahead = list(asked)
    while ahead:
        name = ahead.pop()
        if name in rules and name not in seen:
            seen.add(name)
            ahead += _asked(rules[name])
    return [*wrong, f"{rule.id!r} asks for itself"] if rule.id in seen else wrong


def _asked(rule: Rule) -> list[str]:
    return [one.id for one in rule.conditions if isinstance(one, RuleIs)]


def _identity(table: Table, key: str) -> str:
    value = table.text(key)
    if value and not _ID.fullmatch(value):
        table.complain(key, "must be lower-case words joined by dashes")
    return value


def _check_modifiers(match: Table, rule: Rule) -> None:
    """Modifiers that would do nothing are slips."""
    if rule.settle_s is not None and rule.confirm != "stall":
        match.complain("settle", 'is for confirm = "stall" alone')
    if rule.within_s is not None and not rule.series:
        match.complain("within", "is for series conditions alone")


_VARIANT = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def _variants(top: Table, captured: Collection[str]) -> tuple[Variant, ...]:
    found: list[Variant] = []
    for one in top.tables("variant", "must be sections: [[variant]]"):
        one.only("name", "when", "title", "try")
        name = one.text("name")
        if name and not _VARIANT.fullmatch(name):
            one.complain("name", "must be lower-case words joined by underscores")
        if name in [known.name for known in found]:
            one.complain("name", f"{name!r} is used twice; `when` may be a list", name)
        if found and not found[-1].when.alternatives:
            one.complain("", f"can never be taken: the variant {found[-1].name!r} before it has no `when`")
        title = one.text("title", required=False) or None
        found.append(Variant(name, matchfile.when(one, "when", captured), title, ladder(one, captured)))
    return tuple(found)


def _check_fields(top: Table, rule: Rule, captured: Collection[str]) -> None:
    """A text may only name facts and what a pattern of the rule captures."""
    known = {"exit", *captured, *FACTS}
    texts: list[tuple[Path, str | None]] = [(("title",), rule.title), *_texts(("try",), rule.ladder)]
    for place, variant in enumerate(rule.variants):
        texts += [(("variant", place, "title"), variant.title), *_texts(("variant", place, "try"), variant.ladder)]
    for path, text in texts:
        for name, _ in FIELD.findall(text or ""):
            if name not in known:
                table = Table(top.reader, path[:-1], {})
                near = nearest(name, captured) if captured else nearest(name, known)
                table.complain(str(path[-1]), f"no pattern captures {{{name}}}{near}")


def _texts(path: Path, ladder: tuple[Rung, ...]) -> list[tuple[Path, str | None]]:
    given = [((*path, place, "give_up"), rung.give_up) for place, rung in enumerate(ladder)]
    return given + [((*path, place, "advise"), rung.advise) for place, rung in enumerate(ladder)]
