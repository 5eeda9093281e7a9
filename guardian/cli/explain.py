"""`guardian explain`: what a log tells of a job that nobody watched. It only reads."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from guardian.cli import parsing
from guardian.errors import HostError, UserError

if TYPE_CHECKING:
    from guardian.core.explaining import Explanation
    from guardian.core.rules import Rule
    from guardian.host.matching import Matcher

EXAMPLE = """example:
  guardian explain train.log
  guardian explain --exit-code 137 --json node0.log node1.log

- reads the standard input. Without an exit code the end is judged by the text alone."""
STDIN = "-"
TELL_AFTER_S = 2.0
MIB = 1 << 20


def main(argv: list[str]) -> int:
    """A word on each log; 0 whatever it says."""
    options = parsing.parser("explain", "Say from a job's log what failed first, and why.", EXAMPLE)
    options.add_argument("logs", nargs="+", metavar="LOG", help="a log of any training job; - for the standard input")
    options.add_argument("--exit-code", type=int, metavar="N", help="how the job ended, if you know")
    options.add_argument("--rules", type=Path, metavar="DIR", help="a folder of further rules")
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    from guardian.host import rulebook
    from guardian.host.matching import Matcher

    rules = rulebook.load(chosen.rules)
    matcher = Matcher(rules)
    for number, name in enumerate(chosen.logs):
        explanation = _explain(name, rules, matcher, chosen.exit_code)
        text = json.dumps(as_json(name, explanation)) if chosen.json else in_words(name, explanation)
        gap = "\n" if number and not chosen.json else ""
        sys.stdout.write(f"{gap}{text}\n")
        sys.stdout.flush()
    return 0


def as_json(name: str, told: Explanation) -> dict[str, object]:
    """A line of `--json`."""
    return {
        "file": name,
        "class": told.failure,
        "variant": told.variant,
        "rule": told.rule,
        "title": told.title,
        "retryable": told.retryable,
        "phase": told.phase,
        "last_step": told.last_step,
        "confidence": told.confidence,
        "evidence": [{"line": line.number, "text": line.text} for line in told.evidence],
        "symptoms": list(told.symptoms),
        "survived": told.survived,
        "blind": list(told.blind),
        "actions": list(told.actions),
    }


def in_words(name: str, told: Explanation) -> str:
    """The same for people."""
    from guardian.ui.plain import printable

    called = told.failure + (f"/{told.variant}" if told.variant else "")
    place = told.phase.replace("_", " ") + (f", step {told.last_step}" if told.last_step is not None else "")
    lines = [
        f"{name}: {called}: {told.title}",
        f"  in: {place}",
        *(f"  line {line.number}: {line.text}" if line.number else f"  {line.text}" for line in told.evidence),
        *([f"  seen too, as consequences: {', '.join(told.symptoms)}"] if told.symptoms else []),
        *([f"  survived: {told.survived} lines that looked like failures"] if told.survived else []),
        *([f"  not known: {', '.join(told.blind)}"] if told.blind else []),
        *(f"  {'then' if number else 'guardian would'}: {action}" for number, action in enumerate(told.actions)),
    ]
    return "\n".join(printable(line) for line in lines)


def _explain(name: str, rules: tuple[Rule, ...], matcher: Matcher, code: int | None) -> Explanation:
    from guardian.host import reading

    with ExitStack() as opened:
        try:
            source = sys.stdin.buffer if name == STDIN else opened.enter_context(_open(name))
            return reading.explain(rules, matcher, reading.twice(source), code, _Progress(name))
        except OSError as error:
            raise HostError(f"{name}: {error.strerror or error}") from error


def _open(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb", buffering=0)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder, not a log") from None


class _Progress:
    """Says now and then how far a long log has been read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = time.monotonic() + TELL_AFTER_S

    def __call__(self, offset: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_AFTER_S
            parsing.say(f"{self._name}: {offset // MIB} MiB read")
