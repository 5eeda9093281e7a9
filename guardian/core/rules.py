"""Failure rules: what was seen, what it is called, and what to try. A rule says; it never computes.

What a rule file looks like stands in `rulefile`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from guardian.core.exits import Exit
from guardian.core.values import dataclass

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
FACTS = {"steps_done": "optimizer steps that the run has completed, over all its attempts"}
PROGRESS = "(progress)"
"""In place of a rule's id: the trainer logged steps after every hit before this line. No rule can be called so."""

FIELD = re.compile(r"\{(\w+)\}")
Facts = Mapping[str, float | None]


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


Condition = Log | ExitIs


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fact compared with a number; a fact that is unknown makes it not true."""

    fact: str
    operator: str
    value: float

    def holds(self, facts: Facts) -> bool:
        fact = facts.get(self.fact)
        if fact is None:
            return False
        signs = {"==": fact == self.value, "!=": fact != self.value, "<": fact < self.value, ">": fact > self.value}
        return signs[self.operator] if self.operator in signs else signs[self.operator[0]] or signs["=="]


@dataclass(frozen=True, slots=True)
class Rung:
    """One thing to try."""

    restart: bool
    repeat: int | None = 1
    """None: as often as the policy's budget allows."""
    give_up: str | None = None
    advise: str | None = None
    when: tuple[Comparison, ...] = ()


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
    source: str = ""
    """The file it came from."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its log patterns; their places are the numbers in `Hit.pattern`."""
        return tuple(c.pattern for c in (*self.any, *self.all) if isinstance(c, Log))

    @property
    def patterns_needed(self) -> bool:
        """Whether no exit alone can make it true."""
        logs = [isinstance(c, Log) for c in self.all]
        return any(logs) or (bool(self.any) and all(isinstance(c, Log) for c in self.any))

    def holds(self, hit: frozenset[int], exits: tuple[Exit, ...]) -> bool:
        """Whether the patterns with these numbers and one of these exits make it true."""
        number = -1
        answers = []
        for condition in (*self.any, *self.all):
            if isinstance(condition, Log):
                number += 1
                answers.append(number in hit)
            else:
                answers.append(any(condition.holds(one) for one in exits))
        either, each = answers[: len(self.any)], answers[len(self.any) :]
        return (any(either) or not either) and all(each)

    def rungs(self, facts: Facts) -> tuple[Rung, ...]:
        """The ladder as it stands under these facts."""
        return tuple(rung for rung in self.ladder if all(test.holds(facts) for test in rung.when))

    def retries(self, facts: Facts) -> int | None:
        """Restarts before it gives up; None: the policy's budget."""
        total = 0
        for rung in self.rungs(facts):
            if rung.give_up is not None:
                break
            if rung.repeat is None:
                return None
            total += rung.repeat
        return total

    def advice(self, facts: Facts) -> str | None:
        """What to tell the user: the first rung's advice, else what it would say on giving up."""
        rungs = self.rungs(facts)
        advise = next((r.advise for r in rungs[:1] if r.advise), None)
        return advise or next((r.give_up for r in rungs if r.give_up), None)


def filled(text: str, captures: Mapping[str, str]) -> str:
    """The text with its {fields}; what no pattern captured this time is "an unknown amount"."""
    return FIELD.sub(lambda m: captures.get(m[1], "an unknown amount"), text)
