"""Turn a command line into the values that were given, or into one line that names the argument at fault.

Names may be written with `-` or `_`, values as `--name value` or `--name=value`; the last one wins, so that a
value can be overridden by appending it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from guardian.errors import UserError

from .argument import Argument, Value, transformers_major
from .arguments import ARGUMENTS, FRAMEWORK_NAMES, REFUSED, WITHOUT_EFFECT
from .config_file import SUFFIXES, Pairs, read_config
from .framework_arguments import TRANSLATED

_BY_NAME = {name: argument for argument in ARGUMENTS.values() for name in (argument.name, *argument.also)}


def given_values(argv: Sequence[str], environ: MutableMapping[str, str] = os.environ) -> dict[str, Value]:
    """What the user gave, by the arguments' own names; a configuration file may add to `environ`."""
    words = list(argv)
    if words and words[0] == "sft":
        words.pop(0)
    pairs: Pairs = []
    if words and not words[0].startswith("-") and words[0].endswith(SUFFIXES):
        pairs, wanted = read_config(Path(words.pop(0)))
        for name, value in wanted.items():
            environ.setdefault(name, value)
    return _read([*pairs, *_split(words)])


def _split(words: Sequence[str]) -> Pairs:
    pairs: Pairs = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            pairs.append((name, [value] if equals else []))
        elif pairs:
            pairs[-1][1].append(word)
        else:
            raise UserError(f"{word}: an argument begins with --; the first word may be sft or a {_SUFFIX_WORDS} file")
    return pairs


_SUFFIX_WORDS = ", ".join(SUFFIXES)


def _read(pairs: Pairs) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for written, texts in pairs:
        name = written.replace("-", "_")
        if name in WITHOUT_EFFECT:
            values[name] = None
            continue
        argument = _BY_NAME.get(name) or _unknown(written, name)
        values.pop(argument.name, None)  # the last one wins, also in the order of what is reported
        values[argument.name] = _value(argument, texts)
        _check_version(argument)
    return values


def _value(argument: Argument, texts: list[str]) -> Value:
    if argument.kind == "words":
        if not texts:
            raise UserError(f"--{argument.name}: needs a value")
        return tuple(texts)
    if argument.kind == "bool" and not texts:
        return True
    if not texts:
        raise UserError(f"--{argument.name}: needs a value")
    if len(texts) > 1:
        raise UserError(f"--{argument.name} {texts[0]}: takes one value; what is {texts[1]} for?")
    return argument.read(texts[0])


def _unknown(written: str, name: str) -> Argument:
    if name in REFUSED:
        raise UserError(f"--{written}: not offered: {REFUSED[name]}")
    near = difflib.get_close_matches(name, [*_BY_NAME, *REFUSED, *WITHOUT_EFFECT], n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(f'--{each}' for each in near)}?" if near else "; --help lists them all"
    raise UserError(f"--{written}: there is no such argument{hint}")


def _check_version(argument: Argument) -> None:
    if argument.name not in FRAMEWORK_NAMES or argument.name in TRANSLATED or len(argument.majors) > 1:
        return
    major = transformers_major()
    if major not in argument.majors:
        raise UserError(f"--{argument.name}: transformers {major} does not have it")
