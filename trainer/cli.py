"""From the command line to a run: everything that can be wrong with the input is said before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from guardian.errors import UserError

from . import launch, output_folder
from .command_line import given_values
from .data import check_files, load_rows
from .help_text import help_text
from .model_loading import is_tiny
from .settings import decide


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(help_text(), end="")
        return 0
    try:
        return _run(words)
    except UserError as error:
        print(f"guardian.trainer: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("guardian.trainer: interrupted; the newest checkpoint stands", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    given = given_values(words)
    group = launch.group_from(os.environ)
    settings = decide(given, group)
    output_folder.make(settings.output_dir)
    launch.limit_threads(group, tiny=is_tiny(settings["model"]))
    if group.needs_launcher:
        check_files(settings.data)
        launch.become_torchrun(words, group)
    rows = load_rows(settings.data)
    from .train import train  # imports torch: nothing above may

    return train(settings, rows)
