"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import NoReturn

from guardian.cli.complaints import complain
from guardian.errors import UserError

RUNS = Path("guardian_runs")
UNKNOWN = "unrecognized arguments: "
"""argparse's own words."""


class Help(argparse.RawDescriptionHelpFormatter):
    """argparse's, which would import shutil with the first option that is added, to know how wide the terminal is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


class Parser(argparse.ArgumentParser):
    """argparse that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """One line that names the argument; exit 2."""
        unknown = message.removeprefix(UNKNOWN)
        if unknown != message:
            word = unknown.split()[0]
            message = f"there is no option {word}{self._near(word)}" if word.startswith("-") else f"too much: {unknown}"
        complain(f"{message}; see {self.prog} --help")
        sys.exit(UserError.exit_code)

    def _near(self, word: str) -> str:
        near = difflib.get_close_matches(word.partition("=")[0], self._option_string_actions, n=1)
        return f"; did you mean {near[0]}?" if near else ""


def parser(command: str, what: str, example: str) -> Parser:
    """A command's parser with its example at the end of the help."""
    return Parser(
        prog=f"guardian {command}",
        description=what,
        epilog=example,
        formatter_class=Help,
        allow_abbrev=False,
    )


def _columns() -> int:
    """As shutil.get_terminal_size tells them."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def say(text: str) -> None:
    """Tell a person at once what a command is waiting for."""
    sys.stderr.write(f"guardian: {text}\n")
    sys.stderr.flush()


def split_command(argv: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Guardian's own arguments, and the command after the first `--`."""
    if "--" not in argv:
        return argv, ()
    at = argv.index("--")
    return argv[:at], tuple(argv[at + 1 :])


def add_run_dir(options: argparse.ArgumentParser) -> None:
    """Where the run folders are."""
    options.add_argument(
        "--run-dir", type=Path, default=RUNS, metavar="DIR", help=f"folder of the run folders (default: {RUNS})"
    )


def add_run(options: argparse.ArgumentParser, *, optional: bool) -> None:
    """Which run: its name, or the path of its folder."""
    text = "name of the run or path of its folder" + (" (default: the newest)" if optional else "")
    options.add_argument("run", nargs="?" if optional else None, metavar="RUN", help=text)


def add_detach(options: argparse.ArgumentParser) -> None:
    """Whether to give the terminal back."""
    options.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="return when the job is started; guardian goes on without a terminal",
    )


def add_json(options: argparse.ArgumentParser) -> None:
    """Output for machines."""
    options.add_argument("--json", action="store_true", help="print JSON, for programs to read")


def judge_rules(folder: Path | None) -> None:
    """Read a person's own rules before anything is started: the session reads the rules after the launch.

    Raises UserError with a line per complaint.
    """
    from guardian.host import userfiles

    if folder is None and userfiles.own_rules() is None:
        return
    from guardian.host import rulebook

    rulebook.load(folder)
