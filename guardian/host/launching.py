"""What was launched, written beside its log: launch.json keeps the command as given and what guardian set."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from guardian.core import wire

if TYPE_CHECKING:
    from pathlib import Path

    from guardian.core.events import Planned


def write_launch(folder: Path, planned: Planned) -> None:
    """Write launch.json by rename, for its owner alone. Raises OSError.

    Of the environment only what guardian adds is kept: the rest is the caller's, and may hold secrets.
    """
    content = {"attempt": planned.attempt, "argv": list(planned.argv), "env": dict(planned.env)}
    half = folder / (wire.LAUNCH + ".tmp")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, folder / wire.LAUNCH)
