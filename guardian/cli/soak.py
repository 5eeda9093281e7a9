"""`guardian soak`: kill a run again and again, and show that nothing is lost and nothing doubled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from guardian.cli import parsing
from guardian.errors import UserError

FOLDER = Path("guardian_soak")
EXAMPLE = """example:
  guardian soak --kills 50 -- sft --model demo --dataset demo --max_steps 300 --save_steps 10

The command runs twice: undisturbed, and with its trainer, ranks, launcher, keeper and guardian killed at random. Both
trainings are compared step by step. Exit codes: 0 nothing lost and nothing doubled, 1 otherwise."""


def main(argv: list[str]) -> int:
    """Run the soak; its verdict as exit code."""
    own, command = parsing.split_command(argv)
    options = parsing.parser("soak", "Kill a run again and again, and compare it with an undisturbed one.", EXAMPLE)
    options.usage = "guardian soak [options] -- COMMAND ..."
    options.add_argument("--kills", type=int, default=50, help="how many processes are killed (default: 50)")
    options.add_argument("--seed", type=int, default=0, help="of the moments and the victims (default: 0)")
    options.add_argument("--dir", type=Path, default=FOLDER, help="where it works (default: guardian_soak)")
    parsing.add_json(options)
    chosen = options.parse_args(own)
    if not command:
        raise UserError("no command to run: guardian soak [options] -- COMMAND ...")
    if "--output_dir" in command:
        raise UserError("leave --output_dir out: the soak gives each of its two runs a folder of its own")
    from guardian.soaking import Soak, verdict

    result = Soak(chosen.dir, tuple(command), kills=chosen.kills, seed=chosen.seed).run()
    good, lines = verdict(result)
    text = json.dumps(result.as_json(), indent=1) if chosen.json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    return 0 if good else 1
