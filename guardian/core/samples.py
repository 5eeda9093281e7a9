"""Read `<id>.samples`: excerpts of real logs, each under a header with source, version and verdict.

    # source OWNER/REPO#12; ms-swift 4.6.0; match
    the lines of the log
    # source recorded with a full disk; torch 2.13.0; exit 139; no-match because it is a warning
    the lines of the log
    # source recorded at a memory limit; Linux 5.15; exit 137; oom_kills 1; match
    the last lines before it was killed

A verdict may name the rule's variant: `match as leftover`. The exit is left out where the log alone counts; then the
job's exit code is 1. Facts (core/facts.py) are given where the rule asks for them.
"""

from __future__ import annotations

import re

from guardian.core import events as ev
from guardian.core import metrics
from guardian.core.facts import FACTS, TEXT
from guardian.core.run import Attempt, Run
from guardian.core.trail import Trail
from guardian.core.values import dataclass

TAIL = 40
"""Last lines that a living job's end keeps."""
_HEADER = re.compile(r"# source (.+?); ([^;]+); ((?:\w+ [^;]+; )*)(match(?: as (\w+))?|no-match because .+)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One excerpt."""

    source: str
    version: str
    exit: int
    facts: tuple[tuple[str, float | str], ...]
    matches: bool
    variant: str | None
    """Of the rule, where the verdict names it: "match as leftover"."""
    why: str
    text: str
    line: int = 1
    """Of its header in the file."""


def read(text: str) -> list[Sample]:
    """The samples in a file's text; ValueError where a header is missing or wrong."""
    samples = []
    line = 1
    for block in re.split(r"^(?=# source)", text, flags=re.MULTILINE):
        header, _, body = block.partition("\n")
        match = _HEADER.fullmatch(header)
        if block and (match is None or not body.strip()):
            raise ValueError(f"{line}: {header}")
        if match:
            source, version, given, verdict, variant = match.groups()
            code, facts = _given(given, f"{line}: {header}")
            matches = verdict.startswith("match")
            samples.append(Sample(source, version, code, facts, matches, variant, verdict, body, line))
        line += block.count("\n")
    return samples


def _given(text: str, header: str) -> tuple[int, tuple[tuple[str, float | str], ...]]:
    """The exit code and the facts that a header gives."""
    given = dict(part.split(" ", 1) for part in text.split("; ") if part)
    code = int(given.pop("exit", "1"))
    if not given.keys() <= FACTS.keys():
        raise ValueError(header)
    return code, tuple((name, value if FACTS[name].unit == TEXT else float(value)) for name, value in given.items())


def attempt_of(sample: Sample, hits: tuple[ev.Hit, ...]) -> Attempt:
    """The end of a job that printed just this, and ended so."""
    logged: Trail[ev.Logged] = Trail()
    for n in metrics.read(sample.text.encode()):
        logged = logged.append(metrics.logged(n, 1))
    lines = sample.text.removesuffix("\n").split("\n")
    tail = tuple(ev.Line(number, line) for number, line in enumerate(lines, 1))[-TAIL:]
    ended = ev.Ended(1, sample.exit, None, None, tail, None, (), facts=sample.facts)
    plan = ev.Planned(1, ("sample",), (), None, None, (), 0.0, "first start")
    return Attempt(plan, 0.0, hits=hits, logged=logged, ended=ended)


def run_of(attempt: Attempt) -> Run:
    """A run of this attempt alone."""
    created = ev.RunCreated("sample", "sample", ("sample",), "/", "sample", False, "{}", "", 0)  # noqa: FBT003 - no companion
    return Run(created, 0.0, attempts=(attempt,))
