"""guardian: start a fine-tune in the evening, find it finished in the morning.

Each command is a file of this package; only the one that is called is imported.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

from guardian import __version__
from guardian.cli.complaints import complain
from guardian.errors import GuardianError, HostError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "run": "run a training command under supervision",
    "resume": "go on with a run, or take over one whose guardian is gone",
    "attach": "follow a run from another terminal",
    "explain": "say from a log what failed first, and why",
    "logs": "show the output of a run's job",
    "report": "tell the story of a run",
    "doctor": "say which checkpoints can be resumed from",
    "rules": "list, show and test the rules; the facts that they may ask for",
    "status": "list your runs and where they stand",
    "stop": "save and stop a run",
    "soak": "kill a run again and again, and show that nothing is lost",
}
EXIT_INTERRUPTED: Final = 130
EXIT_CODES: Final = """exit codes of run and resume:
  0    finished
  1    gave up, or finished with the effective batch or the data violated
  2    the command line, a policy or a rule file is wrong
  3    the host or the run folder stands in the way
  4    the job failed in a way that no retry heals
  75   stopped from outside, resumable (SIGTERM, guardian stop)
  130  stopped by Ctrl-C, resumable"""


def usage() -> str:
    """The text of `guardian --help`."""
    commands = "\n".join(f"  {name:<8} {what}" for name, what in COMMANDS.items())
    return (
        "usage: guardian COMMAND ...\n\n"
        f"commands:\n{commands}\n\n"
        "example:\n  guardian run -- sft --model demo --dataset demo --output_dir out\n\n"
        "`guardian COMMAND --help` tells the rest.\n\n"
        f"{EXIT_CODES}\n"
    )


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code."""
    if not argv:
        return _wrong("no command is given; guardian --help lists them")
    if argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        sys.stdout.write(f"guardian {__version__}\n")
        return 0
    if argv[0] not in COMMANDS:
        return _wrong(f"there is no command {argv[0]!r}{_near(argv[0])}; see guardian --help")
    command = importlib.import_module(f"guardian.cli.{argv[0]}")
    try:
        return int(command.main(list(argv[1:])))
    except GuardianError as error:
        complain(str(error))
        return error.exit_code


def _wrong(why: str) -> int:
    complain(why)
    return UserError.exit_code


def _near(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(COMMANDS), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def entry() -> None:
    """The console script."""
    # What this terminal cannot show, an argument's foreign bytes for one, is shown as an escape and ends nothing.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_guarded(sys.argv[1:]))


def _guarded(argv: Sequence[str]) -> int:
    """The exit code of a command, whatever became of its reader."""
    try:
        return _flushed(argv)
    except BrokenPipeError:
        _abandon_output()  # whoever read it has gone; there is nobody left to complain to
        return HostError.exit_code
    except OSError as error:
        if error.filename is not None:
            raise
        _abandon_output()
        complain(f"the output cannot be written: {error.strerror}")
        return HostError.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # no run listens to it yet, or none any more


def _flushed(argv: Sequence[str]) -> int:
    try:
        code = main(argv)
    except SystemExit as left:  # of argparse, after --help or a wrong option
        code = int(left.code or 0)
    sys.stdout.flush()
    return code


def _abandon_output() -> None:
    """Leave what is still buffered to nobody, or Python complains of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
