"""Which run a command means: one of the current folder first, then any of this user's."""

from __future__ import annotations

import os
from pathlib import Path

from guardian.cli import parsing
from guardian.errors import UserError
from guardian.host import registry, runs


def choose(run_dir: Path, wanted: str | None) -> runs.RunFolder:
    """The folder of a run by its name or path; None: the newest here. Raises UserError, HostError.

    Only a run that somebody names is looked for elsewhere: `stop` without a name must not stop another folder's.
    """
    elsewhere = run_dir is parsing.RUNS  # who says where it lies, means there
    try:
        return runs.find(run_dir, wanted)
    except UserError as error:
        if wanted is None and elsewhere and registry.entries():
            raise UserError(f"{error}; guardian status lists yours of other folders") from None
        if wanted is None or not elsewhere or not runs.NAME.fullmatch(wanted) or os.path.lexists(run_dir / wanted):
            raise
        found = {entry.folder.path: entry.folder for entry in registry.entries() if entry.name == wanted}
        if not found:
            raise
    if len(found) > 1:
        where = ", ".join(str(path) for path in found)
        raise UserError(f"several runs are named {wanted}; name the folder of one: {where}")
    return next(iter(found.values()))
