"""Failure rules: what was seen, what it is called, and what to try. A rule says; it never computes.

What a rule file looks like stands in `rulefile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from guardian.core.events import Logged
from guardian.core.exits import Exit
from guardian.core.rungs import Comparison, Facts, Rung, When
from guardian.core.units import shown
from guardian.core.values import dataclass
from guardian.core.windows import Series, find

# The vocabulary of failures; public: it stands in journals, in --json output and in users' rule files.
CLASSES = (
    "checkpoint_corrupt",
    "code_bug",
    "config_conflict",
    "cuda_error",
    "cuda_oom",
    "dataset_error",
    "dependency_error",
    "device_assert",
    "disk_full",
    "gpu_hardware",
    "hang_no_output",
    "host_oom",
    "loss_spike",
    "model_load_error",
    "nan_loss",
    "nccl_timeout",
    "network",
    "network_hub",
    "port_in_use",
    "preempted_or_interrupted",
    "segfault",
    "shm_bus_error",
    "storage_error",
    "unkillable",
    "unknown",
)
ROLES = ("cause", "fallback", "symptom")
"""A `fallback` speaks only when no `cause` does (an exception of any kind), a `symptom` only when neither does."""
CONFIRMS = ("exit", "line", "stall")
"""When a rule may act: at the end only, as soon as it is true, or when no optimizer step completes any more."""
PROGRESS = "(progress)"
"""In place of a rule's id: the trainer logged steps after every hit before this line. No rule can be called so."""
LINES_BEFORE, LINES_AFTER = 200, 30
"""A capture belongs to a hit that is so near. Frames of a traceback stand above the line that names the exception."""

FIELD = re.compile(r"\{(\w+)\}( MiB)?")


@dataclass(frozen=True, slots=True)
class Log:
    """A line of the job's log that a pattern matches."""

    pattern: str


@dataclass(frozen=True, slots=True)
class ExitIs:
    """How the job ended, or the rank that torchrun names as the first to fail."""

    codes: frozenset[int]
    signals: frozenset[int]

    def holds(self, one: Exit) -> bool:
        return one.code in self.codes if one.signal is None else one.signal in self.signals


@dataclass(frozen=True, slots=True)
class FactIs:
    """A fact that compares so."""

    test: Comparison


@dataclass(frozen=True, slots=True)
class RuleIs:
    """Another rule is true."""

    id: str


Plain = Log | ExitIs | Series | FactIs | RuleIs


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions joined inside another list: at least one of `any`, and each of `all`."""

    any: tuple[Plain, ...] = ()
    all: tuple[Plain, ...] = ()


Condition = Plain | Group


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule is held against."""

    patterns: frozenset[int] = frozenset()
    """Numbers of the rule's own log patterns that occurred."""
    exits: tuple[Exit, ...] = ()
    facts: Facts = field(default_factory=dict)
    logged: Sequence[Logged] = ()
    rules: frozenset[str] = frozenset()
    """Other rules that are true."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A form of the failure that wants another answer; its ladder goes on into the rule's."""

    name: str
    when: When
    title: str | None
    ladder: tuple[Rung, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One failure: how it is recognised and what to try."""

    id: str
    failure: str
    """Its class."""
    title: str
    role: str
    explains: tuple[str, ...]
    false_friends: str | None
    any: tuple[Condition, ...]
    all: tuple[Condition, ...]
    ladder: tuple[Rung, ...]
    unless: tuple[Condition, ...] = ()
    capture: tuple[str, ...] = ()
    """Patterns whose named groups near a hit tell more of it."""
    confirm: str = "exit"
    settle_s: float | None = None
    """How long no step may complete before a stalled job is acted on; None: as the policy says."""
    within_s: float | None = None
    """The logs that make a series condition true came within so long."""
    variants: tuple[Variant, ...] = ()
    source: str = ""
    """The file it came from."""

    @property
    def conditions(self) -> tuple[Plain, ...]:
        """All of them, in the order of the file: any, all, unless."""
        return _plain((*self.any, *self.all, *self.unless))

    @property
    def asserting(self) -> tuple[Plain, ...]:
        """Those that can make it true: all but `unless`."""
        return _plain((*self.any, *self.all))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its log patterns, at last those that only capture; their places are the numbers in `Hit.pattern`."""
        return (*(one.pattern for one in self.conditions if isinstance(one, Log)), *self.capture)

    @property
    def speaking(self) -> frozenset[int]:
        """The numbers of the patterns that help to make it true: not those of `unless`, not the captures."""
        number, speaking = 0, set()
        for part, speaks in ((self.any, True), (self.all, True), (self.unless, False)):
            for one in part:
                for plain in (*one.any, *one.all) if isinstance(one, Group) else (one,):
                    if isinstance(plain, Log):
                        speaking |= {number} if speaks else set()
                        number += 1
        return frozenset(speaking)

    @property
    def series(self) -> tuple[Series, ...]:
        """Its conditions on logged numbers, but for those of `unless`."""
        return tuple(one for one in self.asserting if isinstance(one, Series))

    def holds(self, seen: Seen) -> bool:
        """Whether what was seen makes it true; what is unknown makes no condition true."""
        return self.answer(seen) is True

    def answer(self, seen: Seen) -> bool | None:
        """As `holds`; None: it hangs on facts that are unknown."""
        patterns = iter(range(len(self.patterns)))
        either = [self._one(one, seen, patterns) for one in self.any]
        each = [self._one(one, seen, patterns) for one in self.all]
        unless = [self._one(one, seen, patterns) for one in self.unless]
        if True in unless:
            return False
        return _all([*([_any(either)] if either else []), *each])

    def _one(self, condition: Condition, seen: Seen, patterns: Iterator[int]) -> bool | None:
        """Log patterns take their numbers in the order of the file, so every condition is asked."""
        if isinstance(condition, Group):
            either = [self._one(one, seen, patterns) for one in condition.any]
            each = [self._one(one, seen, patterns) for one in condition.all]
            return _all([*([_any(either)] if either else []), *each])
        if isinstance(condition, Log):
            return next(patterns) in seen.patterns
        if isinstance(condition, ExitIs):
            return any(condition.holds(one) for one in seen.exits)
        if isinstance(condition, Series):
            return find(condition, seen.logged, self.within_s) is not None
        return condition.test.answer(seen.facts) if isinstance(condition, FactIs) else condition.id in seen.rules

    def deciding(self, seen: Seen) -> frozenset[int]:
        """The numbers of the patterns whose lines say it, of conditions that are true.

        Of several that must all occur it is the first, and the others are context; one that says it alone comes before.
        """
        patterns = iter(range(len(self.patterns)))
        either = [self._lines(one, seen, patterns) for one in self.any]
        each = [self._lines(one, seen, patterns) for one in self.all]
        alone = [n for one, numbers in zip(self.any, either, strict=True) if isinstance(one, Log) for n in numbers]
        joined = [n for numbers in either for n in numbers]
        return frozenset(alone or joined or [n for numbers in each for n in numbers][:1])

    def _lines(self, condition: Condition, seen: Seen, patterns: Iterator[int]) -> list[int]:
        """The deciding patterns of one condition; it takes the numbers of all that it has."""
        numbers = [next(patterns) for one in _members(condition) if isinstance(one, Log)]
        if not self._one(condition, seen, iter(numbers)):
            return []
        any_of = condition.any if isinstance(condition, Group) else ()
        either = len([one for one in any_of if isinstance(one, Log)])
        return [n for n in numbers[:either] if n in seen.patterns] or numbers[either : either + 1]

    def unknown(self, facts: Facts) -> tuple[str, ...]:
        """The unknown facts that its conditions ask for."""
        tests = [one.test for one in self.conditions if isinstance(one, FactIs)]
        return tuple(dict.fromkeys(name for test in tests for name in test.unknown(facts)))

    def variant(self, facts: Facts) -> Variant | None:
        """The first of its variants that these facts make; None: the failure as such."""
        return next((one for one in self.variants if one.when.holds(facts)), None)

    def ladder_of(self, variant: str | None) -> tuple[Rung, ...]:
        """The rungs of a variant, then the rule's own."""
        own = next((one.ladder for one in self.variants if one.name == variant), ())
        return (*own, *self.ladder)

    def rungs(self, facts: Facts, variant: str | None = None) -> tuple[Rung, ...]:
        """The ladder as it stands under these facts."""
        return tuple(rung for rung in self.ladder_of(variant) if rung.when.holds(facts))

    def retries(self, facts: Facts, variant: str | None = None) -> int | None:
        """Restarts before it gives up; None: as the policy's budget allows, or as there are steps to a floor."""
        total = 0
        for rung in self.rungs(facts, variant):
            if rung.give_up is not None:
                break
            if not isinstance(rung.repeat, int):
                return None
            total += rung.repeat
        return total

    def advice(self, facts: Facts, variant: str | None = None) -> str | None:
        """What to tell the user: the first rung's advice, or what it says where there is nothing else to try."""
        first = next(iter(self.rungs(facts, variant)), None)
        return first.advise or first.give_up if first else None


def _members(condition: Condition) -> tuple[Plain, ...]:
    return (*condition.any, *condition.all) if isinstance(condition, Group) else (condition,)


def _plain(conditions: Sequence[Condition]) -> tuple[Plain, ...]:
    return tuple(plain for one in conditions for plain in _members(one))


def _any(answers: Sequence[bool | None]) -> bool | None:
    return True if True in answers else None if None in answers else False


def _all(answers: Sequence[bool | None]) -> bool | None:
    return False if False in answers else None if None in answers else True


def filled(text: str, facts: Mapping[str, float | str | None]) -> str:
    """The text with its {fields}; what nothing told of this time is "an unknown amount", of memory without its unit."""
    return FIELD.sub(lambda m: _shown(facts.get(m[1]), m[2] or ""), text)


def _shown(value: float | str | None, unit: str) -> str:
    return "an unknown amount" if value is None else f"{shown(value)}{unit}"
