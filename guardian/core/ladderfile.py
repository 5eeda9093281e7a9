"""Read what a rule tries: the [[try]] tables of a rule file, each a rung."""

from __future__ import annotations

from collections.abc import Collection

from guardian.core import rungs
from guardian.core.facts import FACTS, TEXT
from guardian.core.matchfile import comparison, when
from guardian.core.rungs import Operation, Repeat, Rung, Wait
from guardian.core.tomltable import Table, nearest

_KEYS = (
    "when", "collect", "save_first", "wait", "resume", "set", "env", "limits", "restart", "repeat", "give_up", "advise",
)  # fmt: skip
_ACTS = ("restart", "save_first", "wait", "resume", "set", "env", "limits")
_KIND_SAID = {
    "whole": "a whole number from 0",
    "number": "a number above 0",
    "flag": "true or false",
    "text": "a word",
}
_MAX_VALUE = 200


def ladder(table: Table, captured: Collection[str]) -> tuple[Rung, ...]:
    """The rungs of a rule or of a variant, from the top; `captured` may be compared like facts."""
    listed = table.tables("try", "must be sections: [[try]]")
    return tuple(_rung(one, captured) for one in listed)


def _rung(table: Table, captured: Collection[str]) -> Rung:
    table.only(*_KEYS)
    give_up = table.text("give_up", required=False) or None
    acts = [key for key in _ACTS if key in table.values]
    restart = bool(acts) and (acts != ["restart"] or table.flag("restart"))
    if restart == (give_up is not None):
        table.complain("", "must either restart or give_up")
    return Rung(
        restart=restart,
        repeat=_repeat(table),
        give_up=give_up,
        advise=table.text("advise", required=False) or None,
        when=when(table, "when", captured),
        collect=tuple(table.known("collect", one, rungs.COLLECTS) for one in table.texts("collect")),
        save_first=table.flag("save_first"),
        wait=_wait(table, captured),
        resume=_resume(table, captured),
        set=_set(table),
        env=_env(table),
        limits=_limits(table),
    )


def _repeat(table: Table) -> Repeat:
    value = table.values.get("repeat", "once")
    if value == "budget":
        return None
    if value == rungs.UNTIL_FLOOR:
        if "set" not in table.values:
            table.complain("repeat", '"until-floor" is for a rung that sets something')
        return rungs.UNTIL_FLOOR
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if value != "once":
        table.complain("repeat", 'must be "once", a number from 1, "until-floor" or "budget"')
    return 1


def _wait(table: Table, captured: Collection[str]) -> Wait | None:
    if "wait" not in table.values:
        return None
    inner = table.inner("wait", 'must be a table: { until = "disk_free_mib > 1024", at_most = "10 min" }')
    inner.only("until", "at_most")
    at_most = inner.seconds("at_most")
    if at_most is None and "at_most" not in inner.values:
        inner.complain("at_most", "is missing: every wait has an end")
    until = comparison(inner, "until", captured) if "until" in inner.values else None
    return Wait(at_most or 0.0, until)


def _resume(table: Table, captured: Collection[str]) -> str:
    if "resume" not in table.values:
        return "newest"
    value = table.text("resume")
    if not value.startswith(rungs.BEFORE):
        return (
            table.known("resume", value, (*rungs.RESUMES, *(f"{rungs.BEFORE}{fact}" for fact in rungs.BEFORE_FACTS)))
            if value
            else ""
        )
    name = value.removeprefix(rungs.BEFORE)
    numbers = {*captured, *(fact for fact, about in FACTS.items() if about.unit != TEXT)}
    if name not in numbers:
        table.complain("resume", f"there is no such fact: {name!r}{nearest(name, numbers)}")
    return value


def _set(table: Table) -> tuple[tuple[str, Operation], ...]:
    inner = table.inner("set", 'must hold knobs: { device_batch = "halve" }')
    found = []
    for knob, value in inner.values.items():
        kind = rungs.KNOB_KINDS.get(knob)
        one = rungs.operation(value)
        if kind is None:
            inner.complain(knob, f"is no knob that a rule may set{nearest(knob, rungs.KNOB_KINDS)}", knob)
            continue
        wrong = "must be a value or an operation" if one is None else _operation_problem(knob, kind, one)
        if wrong:
            inner.complain(knob, wrong)
        elif one is not None:
            found.append((knob, one))
    return tuple(found)


def _operation_problem(knob: str, kind: str, one: Operation) -> str | None:
    """Why a knob cannot be set so."""
    if one.kind in rungs.NAMED_OPERATIONS:
        of = rungs.NAMED_OPERATIONS[one.kind]
        return None if of == knob else f"{one.kind!r} is for {of} alone"
    if one.kind == "literal":
        return None if _fits(kind, one.value) else f"{one.value!r} is neither {_KIND_SAID[kind]} nor an operation"
    return None if kind in ("whole", "number") else f"{one.kind!r} is for numbers, and {knob} is {_KIND_SAID[kind]}"


def _fits(kind: str, value: object) -> bool:
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "text":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 if kind == "number" else isinstance(value, int) and value >= 0


def _env(table: Table) -> tuple[tuple[str, str], ...]:
    inner = table.inner("env", 'must hold variables: { HF_HUB_OFFLINE = "1" }')
    found, known = [], rungs.VARIABLES | rungs.FOLDERS
    for name, value in inner.values.items():
        if name not in known:
            inner.complain(name, f"is no variable that a rule may set{nearest(name, known)}", name)
        elif name in rungs.FOLDERS and value != rungs.OWN:
            inner.complain(name, f'must be "{rungs.OWN}": a folder of the run')
        elif not isinstance(value, str) or not value.removeprefix("+") or len(value) > _MAX_VALUE or "\n" in value:
            inner.complain(name, f"must be a text of one line, up to {_MAX_VALUE} characters")
        else:
            found.append((name, value))
    return tuple(found)


def _limits(table: Table) -> tuple[tuple[str, str], ...]:
    inner = table.inner("limits", 'must hold limits: { nofile = "hard" }')
    found = []
    for name, value in inner.values.items():
        if name not in rungs.LIMITS:
            inner.complain(name, f"is no limit that a rule may raise{nearest(name, rungs.LIMITS)}", name)
        elif value != rungs.HARD:
            inner.complain(name, f'must be "{rungs.HARD}": as high as it may go')
        else:
            found.append((name, rungs.HARD))
    return tuple(found)
