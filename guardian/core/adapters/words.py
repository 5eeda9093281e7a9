"""What a training command says: its own words first, then the configuration file that it names.

Two ways of writing: `--name value` as argparse reads it, and `name=value` as OmegaConf reads it.
"""

from __future__ import annotations

import json
import math
import re

from guardian.core import commandline
from guardian.core.job import Finding, ReadConfig, Value
from guardian.core.values import dataclass
from guardian.errors import UserError

Argv = tuple[str, ...]
Pairs = tuple[tuple[str, tuple[str, ...]], ...]

CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
TRUE = frozenset({"true", "yes", "on", "1", "t", "y"})
FALSE = frozenset({"false", "no", "off", "0", "f", "n"})

WHOLE = frozenset({
    "device_batch", "accumulation", "workers", "prefetch", "max_length", "eval_batch", "save_total_limit",
    "ddp_timeout",
})  # fmt: skip
ROWS = frozenset({"device_batch", "accumulation"})
NUMBERS = frozenset({"learning_rate", "warmup_ratio", "save_steps"})
SWITCHES = frozenset({"pin_memory", "gradient_checkpointing", "ddp_find_unused_parameters"})


@dataclass(frozen=True, slots=True)
class Words:
    """What is given, in the command and in the file before it."""

    rest: Argv
    """The options, without what starts the program."""
    config: Pairs | None = ()
    """What the configuration file says, as words; None: there is a file and it cannot be read."""
    dashed: bool = True
    """Written `--name value`; else `name=value`."""

    def text(self, *names: str) -> str | None:
        """The value as written: the command line's, else the file's; a switch without a value is `true`."""
        said = self.said(*names)
        if said is not None:
            return said
        return next((words[0] for name, words in reversed(self.config or ()) if name in names and words), None)

    def said(self, *names: str) -> str | None:
        """The value that stands in the command itself."""
        if not self.dashed:
            found = [word.partition("=")[2] for word in self.rest if word.partition("=")[0] in names and "=" in word]
            return found[-1] if found else None
        # A switch that is on by default has a twin (HfArgumentParser): --no_dataloader_pin_memory.
        twins = tuple(f"no_{name}" for name in names)
        last = max(commandline.occurrences(self.rest, *names, *twins), key=lambda one: one.at, default=None)
        if last is None:
            return None
        if self.rest[last.at][2:].replace("-", "_").partition("=")[0] in twins:
            return "false"
        return next(iter(commandline.values(self.rest[last.at : last.end], *names)), "true")

    def every(self, name: str) -> tuple[str, ...]:
        """Each value that the command itself gives, in order; the last counts."""
        if not self.dashed:
            return tuple(word.partition("=")[2] for word in self.rest if word.startswith(f"{name}="))
        found = commandline.occurrences(self.rest, name)
        return tuple(next(iter(commandline.values(self.rest[one.at : one.end], name)), "true") for one in found)

    def put(self, new: str, *names: str) -> Words:
        """With the value set: where one of the names stands, in its spelling, else appended under the first name."""
        if self.dashed:
            # The twin may stand behind, and would win.
            rest = commandline.remove(self.rest, *(f"no_{name}" for name in names))
            return Words(commandline.set_value(rest, new, *names), self.config, dashed=True)
        at = [i for i, word in enumerate(self.rest) if "=" in word and word.partition("=")[0] in names]
        if not at:
            return Words((*self.rest, f"{names[0]}={new}"), self.config, dashed=False)
        name = self.rest[at[-1]].partition("=")[0]
        return Words((*self.rest[: at[-1]], f"{name}={new}", *self.rest[at[-1] + 1 :]), self.config, dashed=False)

    def without(self, name: str) -> Words | None:
        """With the value left to the program; None where the configuration file gives it, which is not edited."""
        if any(key == name for key, _ in self.config or ()):
            # OmegaConf has a word for nothing; argparse has none.
            return None if self.dashed else self.put("null", name)
        if self.dashed:
            return Words(commandline.remove(self.rest, name), self.config, dashed=True)
        return Words(tuple(w for w in self.rest if w.partition("=")[0] != name), self.config, dashed=False)

    def environment(self) -> dict[str, str]:
        """The mapping under ENV in the file, which swift sets where the environment does not."""
        text = next((words[0] for name, words in self.config or () if name == "ENV" and words), "{}")
        try:
            asked = json.loads(text)
        except ValueError:
            return {}
        return {str(k): str(v) for k, v in asked.items()} if isinstance(asked, dict) else {}


def value(knob: str, text: str, findings: list[Finding], *, name: str) -> Value:
    """What a knob's text means; None and a finding where it means nothing."""
    kind = "a number"
    try:
        if knob in SWITCHES:
            kind = "true or false"
            return _truth(text)
        if knob in ROWS:
            kind = "a whole number of at least 1"
            return _at_least_one(text)
        if knob in WHOLE:
            kind = "a whole number"
            return int(text)
        if knob in NUMBERS:
            return int(text) if re.fullmatch(r"-?\d{1,18}", text) else _finite(text)
    except ValueError:
        findings.append(Finding("not-a-number", "error", f"--{name} {text}: is not {kind}", f"give {kind}"))
        return None
    return text


def spelt(new: Value) -> str:
    """How a value is written on a command line."""
    if isinstance(new, bool):
        return "true" if new else "false"
    return str(new)


def config(rest: Argv, read_config: ReadConfig, findings: list[Finding]) -> Pairs | None:
    """The file that stands first, as pairs; empty where there is none."""
    path = rest[0] if rest else ""
    if path.startswith("-") or not path.endswith(CONFIG_SUFFIXES):
        return ()
    return read_pairs(path, read_config, findings)


def read_pairs(path: str, read_config: ReadConfig, findings: list[Finding]) -> Pairs | None:
    """A configuration file as pairs; None and a finding where it cannot be read."""
    try:
        content = read_config(path)
    except UserError as error:
        fix = "mend the file or its path: until then nothing of this command is changed"
        findings.append(Finding("config-unreadable", "warning", f"{error}; what it says is unknown here", fix))
        return None
    return tuple((str(key).replace("-", "_"), _as_words(item)) for key, item in content.items() if item is not None)


def _as_words(item: object) -> tuple[str, ...]:
    """The words that one would have written on the command line."""
    items = item if isinstance(item, list) else [item]
    return tuple(each if isinstance(each, str) else json.dumps(each, default=str) for each in items)


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in TRUE | FALSE:
        raise ValueError(text)
    return word in TRUE


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
