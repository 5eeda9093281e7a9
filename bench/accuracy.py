"""How often `guardian explain` is right, on logs that others labelled.

    python bench/accuracy.py [--json] [--write] [--misses] PATH...

PATH: JSONL with `text`, `label`, and where there is any: `id`, `also_ok` (labels that a careful reader could give as
well), `hard`, `exit_code` (given to the diagnosis; without it the text alone counts), `variant`.

Strict: the label. Lenient: the label, or one of `also_ok`. Macro-F1 is the mean over the classes that are labelled.
A *false stop* is a failure that another attempt heals and that was called hopeless, or a log without a failure that was
called one; a *false retry* is a hopeless one that would be tried again. With --write the table goes into RESULTS.md.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import figures

from guardian.core.explaining import HEALTHY, Explanation
from guardian.host import reading, rulebook
from guardian.host.matching import Matcher

# Budgets as the classes have them: no other attempt, or one at most once the training has got somewhere.
HOPELESS = frozenset({"config_conflict", "dependency_error", "device_assert", "model_load_error"})
ONCE = frozenset({"code_bug", "dataset_error"})
EITHER = frozenset({"checkpoint_corrupt", "unknown"})
"""Damaged: the next sound one. Incompatible: none."""


@dataclass(frozen=True)
class Answer:
    """One log, what it is and what it was taken for."""

    id: str
    label: str
    accepted: frozenset[str]
    hard: bool
    variant: str | None
    told: Explanation

    @property
    def right(self) -> bool:
        return self.told.failure == self.label

    @property
    def lenient(self) -> bool:
        return self.told.failure in self.accepted

    @property
    def false_stop(self) -> bool:
        if self.lenient:
            return False
        if self.label == HEALTHY:
            return True
        heals = self.label not in HOPELESS | ONCE | EITHER
        return heals and self.told.failure != HEALTHY and self.told.retries == 0

    @property
    def false_retry(self) -> bool:
        if self.lenient or self.told.failure == HEALTHY:
            return False
        often = self.told.retries is None or self.told.retries > (1 if self.label in ONCE else 0)
        return self.label in HOPELESS | ONCE and often


@dataclass(frozen=True)
class Row:
    """One class."""

    label: str
    cases: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Figures:
    """What a set of answers comes to."""

    cases: int
    macro_f1: float
    macro_f1_lenient: float
    accuracy: float
    accuracy_lenient: float
    hard: float | None
    hard_lenient: float | None
    variants: float | None
    false_stops: tuple[str, ...]
    false_retries: tuple[str, ...]
    classes: tuple[Row, ...]
    confused: tuple[tuple[str, str, int], ...]


def read(paths: list[Path]) -> list[dict[str, object]]:
    """The cases of some files."""
    lines = [line for path in paths for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [json.loads(line) for line in lines]


def answers(cases: list[dict[str, object]]) -> list[Answer]:
    """Each case, explained as `guardian explain` does."""
    rules = rulebook.load(None)
    matcher = Matcher(rules)
    return [_answer(case, reading.explain(rules, matcher, _stream(case), _code(case))) for case in cases]


def figures_of(given: list[Answer]) -> Figures:
    """The table."""
    strict = [(a.label, a.told.failure) for a in given]
    # A label that a careful reader could have given as well counts as the right one.
    lenient = [(a.told.failure if a.lenient else a.label, a.told.failure) for a in given]
    labels = sorted({a.label for a in given})
    hard = [a for a in given if a.hard]
    variants = [a for a in given if a.variant is not None]
    wrong = Counter((label, told) for label, told in strict if label != told)
    return Figures(
        cases=len(given),
        macro_f1=_mean([row.f1 for row in _rows(strict, labels)]),
        macro_f1_lenient=_mean([row.f1 for row in _rows(lenient, labels)]),
        accuracy=_mean([a.right for a in given]),
        accuracy_lenient=_mean([a.lenient for a in given]),
        hard=_mean([a.right for a in hard]) if hard else None,
        hard_lenient=_mean([a.lenient for a in hard]) if hard else None,
        variants=_mean([a.variant == (a.told.variant or "") for a in variants]) if variants else None,
        false_stops=tuple(a.id for a in given if a.false_stop),
        false_retries=tuple(a.id for a in given if a.false_retry),
        classes=tuple(_rows(strict, labels)),
        confused=tuple((label, told, count) for (label, told), count in wrong.most_common()),
    )


def table(given: Figures) -> list[str]:
    """As a section of RESULTS.md."""
    summary = (
        f"{given.cases} logs: macro-F1 **{given.macro_f1:.3f}** strict, {given.macro_f1_lenient:.3f} lenient; accuracy "
        f"{given.accuracy:.3f} strict, {given.accuracy_lenient:.3f} lenient; hard cases {_said(given.hard)} strict, "
        f"{_said(given.hard_lenient)} lenient; variants {_said(given.variants)}."
    )
    return [
        summary,
        "",
        f"* false stops: {len(given.false_stops)}{_named(given.false_stops)}",
        f"* false retries: {len(given.false_retries)}{_named(given.false_retries)}",
        "",
        "| class | logs | precision | recall | F1 |",
        "|---|---:|---:|---:|---:|",
        *(f"| {r.label} | {r.cases} | {r.precision:.2f} | {r.recall:.2f} | {r.f1:.2f} |" for r in given.classes),
        "",
        *(f"* {label} taken for {told}: {count}" for label, told, count in given.confused),
    ]


def _rows(pairs: list[tuple[str, str]], labels: list[str]) -> list[Row]:
    rows = []
    for label in labels:
        right = sum(1 for pair in pairs if pair == (label, label))
        cases = sum(1 for want, _ in pairs if want == label)
        told = sum(1 for _, said in pairs if said == label)
        precision, recall = right / told if told else 0.0, right / cases if cases else 0.0
        rows.append(Row(label, cases, precision, recall, 2 * right / (told + cases) if told + cases else 0.0))
    return rows


def _answer(case: dict[str, object], told: Explanation) -> Answer:
    also = case.get("also_ok") or []
    accepted = frozenset({str(case["label"]), *(str(one) for one in also if isinstance(also, list))})
    variant = case.get("variant")
    return Answer(
        id=str(case.get("id", "?")),
        label=str(case["label"]),
        accepted=accepted,
        hard=bool(case.get("hard")),
        variant=None if variant is None else str(variant),
        told=told,
    )


def _stream(case: dict[str, object]) -> io.BytesIO:
    return io.BytesIO(str(case["text"]).encode("utf-8", "surrogateescape"))


def _code(case: dict[str, object]) -> int | None:
    code = case.get("exit_code")
    return code if isinstance(code, int) else None


def _mean(values: list[bool] | list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _named(ids: tuple[str, ...]) -> str:
    return f" ({', '.join(ids)})" if ids else ""


def main() -> int:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    options.add_argument("--json", action="store_true", help="for programs")
    options.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options.add_argument("--misses", action="store_true", help="name each log that was taken for another class")
    asked = options.parse_args()
    given = answers(read(asked.paths))
    found = figures_of(given)
    lines = table(found)
    if asked.write:
        figures.write("accuracy", lines)
    sys.stdout.write((json.dumps(asdict(found), indent=1) if asked.json else "\n".join(lines)) + "\n")
    if asked.misses:
        for one in given:
            if not one.right:
                mark = "(accepted)" if one.lenient else ""
                line = one.told.evidence[0] if one.told.evidence else None
                print(f"{one.id} {one.label} <- {one.told.failure} [{one.told.rule}] {mark} {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
