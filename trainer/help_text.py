"""What --help prints: every argument in its group with its default, and an example that works as it stands."""

from __future__ import annotations

import textwrap

from .argument import Argument, Value
from .arguments import DEMO_DEFAULTS, DEMO_STEPS, GROUPS, WITHOUT_EFFECT

_WIDTH = 100
_INDENT = " " * 34

_OPENING = """\
usage: python -m guardian.trainer [sft] [CONFIG.yaml|CONFIG.json] --model MODEL --dataset DATA [--NAME VALUE ...]

Supervised fine-tuning of a causal language model, with ms-swift's argument names. The loss counts the answers only.

example, with nothing to download:
  python -m guardian.trainer --model demo --dataset demo --output_dir out

Rows are JSON objects in one of three forms:
  {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
  {"instruction": "...", "input": "...", "output": "..."}
  {"query": "...", "response": "...", "system": "...", "history": [["...", "..."]]}
"""


def help_text() -> str:
    parts = [_OPENING]
    for group in GROUPS:
        parts.append(f"{group.title}:")
        parts += [_entry(argument) for argument in group.arguments]
        parts.append("")
    return "\n".join([*parts, _demo(), "", _without_effect()]) + "\n"


def _entry(argument: Argument) -> str:
    names = ", ".join(f"--{name}" for name in (argument.name, *argument.also))
    notes = [argument.help] if argument.help else []
    if argument.choices:
        notes.append(f"({', '.join(argument.choices)})")
    if argument.default is not None:
        notes.append(f"[{written(argument.default)}]")
    if len(argument.majors) == 1:
        notes.append(f"(transformers {argument.majors[0]} only)")
    head = f"  {names}"
    if len(head) >= len(_INDENT):
        return "\n".join([head, *_wrapped(_INDENT, " ".join(notes))])
    return "\n".join(_wrapped(head.ljust(len(_INDENT)), " ".join(notes)))


def _wrapped(head: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=_INDENT, break_on_hyphens=False)
    return lines or ([head.rstrip()] if head.strip() else [])


def written(value: Value) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(value)
    return str(value)


def _demo() -> str:
    defaults = ", ".join(f"{name} {written(value)}" for name, value in DEMO_DEFAULTS.items())
    text = (
        f"With --model demo these defaults differ: {defaults}, and max_steps {DEMO_STEPS} where neither max_steps"
        " nor num_train_epochs is given. The log says which of them were used."
    )
    return textwrap.fill(text, _WIDTH)


def _without_effect() -> str:
    text = f"Accepted for ms-swift's sake, without effect here: {', '.join(sorted(WITHOUT_EFFECT))}."
    return textwrap.fill(text, _WIDTH)
