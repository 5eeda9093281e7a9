"""Read and edit a command line token by token: no token is lost, reordered or re-quoted except the edited one.

The grammar is argparse's, as the training frameworks use it: `--name value`, `--name=value`, flags, lists of
values; `-` and `_` in a name are the same; the last occurrence wins; `--` ends the options.
"""

from __future__ import annotations

import re

from guardian.core.values import dataclass

Argv = tuple[str, ...]

# argparse takes these for values, not for options (argparse.py, _negative_number_matcher), as long as no option of
# the parser looks like a number; none of the frameworks has one.
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")

VARIABLE = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
"""A word that sets a variable of the command's environment."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One place where an option is named."""

    at: int
    """Index of the token that names it."""
    end: int
    """Index after its last value; `at + 1` where the value is inline or there is none."""
    inline: bool
    """Written `--name=value`."""


def occurrences(argv: Argv, *names: str) -> tuple[Occurrence, ...]:
    """Every place where one of these names (without dashes) is given, in order."""
    wanted = {_same(name) for name in names}
    found = []
    at, limit = 0, _end_of_options(argv)
    while at < limit:
        token = argv[at]
        if not _is_option(token):
            at += 1
            continue
        inline = "=" in token
        end = at + 1
        while not inline and end < limit and not _is_option(argv[end]):
            end += 1
        if token.startswith("--") and _same(token[2:].partition("=")[0]) in wanted:
            found.append(Occurrence(at, end, inline))
        at = end
    return tuple(found)


def given(argv: Argv, *names: str) -> bool:
    """Whether one of the names stands in the command, with a value or as a flag."""
    return bool(occurrences(argv, *names))


def values(argv: Argv, *names: str) -> tuple[str, ...]:
    """The values of the last occurrence; none for a flag, and none where the name is not given."""
    found = occurrences(argv, *names)
    if not found:
        return ()
    last = found[-1]
    return (argv[last.at].partition("=")[2],) if last.inline else argv[last.at + 1 : last.end]


def value(argv: Argv, *names: str) -> str | None:
    """The (first) value of the last occurrence; None for a flag, and where the name is not given."""
    return next(iter(values(argv, *names)), None)


def set_value(argv: Argv, new: str, name: str, *aliases: str) -> Argv:
    """The command with the value of the last occurrence replaced, in the spelling that stands there, or appended."""
    found = occurrences(argv, name, *aliases)
    # Only the inline form keeps argparse from reading such a value as an option, or as the end of them.
    joined = _is_option(new) or new == "--"
    if not found:
        end = _end_of_options(argv)
        tokens = (f"--{name}={new}",) if joined else (f"--{name}", new)
        return (*argv[:end], *tokens, *argv[end:])
    last = found[-1]
    option = argv[last.at].partition("=")[0]
    if last.inline or joined:
        rest = last.at + (1 if last.inline or last.end == last.at + 1 else 2)
        return (*argv[: last.at], f"{option}={new}", *argv[rest:])
    rest = min(last.at + 2, last.end)
    return (*argv[: last.at + 1], new, *argv[rest:])


def remove(argv: Argv, *names: str) -> Argv:
    """The command without these options and their values."""
    gone = {at for one in occurrences(argv, *names) for at in range(one.at, one.end)}
    return tuple(token for at, token in enumerate(argv) if at not in gone)


def launchable(argv: Argv) -> Argv:
    """What can be executed: `NAME=value` in front of a command is the shell's way of writing, `env` is the system's."""
    return ("env", *argv) if argv and VARIABLE.fullmatch(argv[0]) else argv


def _same(name: str) -> str:
    return name.replace("-", "_")


def _end_of_options(argv: Argv) -> int:
    return argv.index("--") if "--" in argv else len(argv)


def _is_option(token: str) -> bool:
    """Whether argparse reads the token as an option rather than as a value."""
    if token in ("", "-", "--") or token[0] != "-" or _NEGATIVE_NUMBER.fullmatch(token):
        return False
    return " " not in token.partition("=")[0]
