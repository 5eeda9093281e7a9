"""guardian as a shell calls it: what it writes where, and its exit code."""

import os
import subprocess
import sys

ALONE = {"NO_COLOR": "1", "PYTHONUNBUFFERED": ""}


def guardian(*arguments, cwd, env=None, **options):
    """A finished call; nothing that the caller's terminal or locale decides."""
    return subprocess.run(
        [sys.executable, "-m", "guardian", *arguments],
        cwd=cwd, env=os.environ | ALONE | {"XDG_STATE_HOME": str(cwd / ".state")} | (env or {}), stdin=subprocess.DEVNULL,
        **({"capture_output": True, "text": True} | options), timeout=240, check=False,
    )  # fmt: skip


def complaints(done, code):
    """The one or more lines that were said of what is wrong, without what each begins with; nothing else was said."""
    assert (code, "") == (done.returncode, done.stdout), done.stderr
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("guardian: error: ") for line in lines), done.stderr
    return [line.removeprefix("guardian: error: ") for line in lines]


def complaint(done, code):
    """The one line that was said of what is wrong."""
    (line,) = complaints(done, code)
    return line
