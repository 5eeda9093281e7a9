"""`guardian report`: the story of a run, finished or not."""

from __future__ import annotations

import json
import sys

from guardian.cli import choosing, parsing
from guardian.core.contract import as_json
from guardian.core.reporting import report
from guardian.host import story
from guardian.host.logged import with_logged

EXAMPLE = """example:
  guardian report night1"""


def main(argv: list[str]) -> int:
    """Print the report."""
    options = parsing.parser("report", "Tell the story of a run.", EXAMPLE)
    parsing.add_run(options, optional=True)
    parsing.add_run_dir(options)
    parsing.add_json(options)
    chosen = options.parse_args(argv)
    folder = choosing.choose(chosen.run_dir, chosen.run)
    told = report(with_logged(story.load(folder), folder))
    if chosen.json:
        sys.stdout.write(json.dumps(as_json(told), indent=1) + "\n")
        return 0
    from guardian.cli.session import screen
    from guardian.ui.report import render

    width, color = screen()
    sys.stdout.write(render(told, width, color) + "\n")
    return 0
