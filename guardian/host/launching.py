"""What was launched, written beside its log: launch.json keeps the command as given and what guardian set.

Changed copies of the user's configuration files stand in overlays/; the originals are never touched.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

from guardian.core import wire
from guardian.host.private import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from guardian.core.events import Planned


OVERLAYS = "overlays"
"""Of an attempt's folder: the configuration files that its command names instead of the user's."""


def write_launch(folder: Path, planned: Planned) -> None:
    """Write overlays and launch.json by rename, for their owner alone. Raises OSError.

    Of the environment only what guardian adds is kept: the rest is the caller's, and may hold secrets. Not synced: the
    journal says the same of the attempt, and is; the job shall not wait for the disk twice.
    """
    for name, text in planned.overlays:
        write_overlay(folder, name, text)
    content = {"attempt": planned.attempt, "argv": list(planned.argv), "env": dict(planned.env)}
    write_private(folder / wire.LAUNCH, json.dumps(content, indent=1), sync=False)


def write_overlay(folder: Path, name: str, text: str) -> None:
    """Write a changed copy of a configuration file; the name is one of a file, not a way out of the folder."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    place = folder / OVERLAYS
    place.mkdir(mode=0o700, exist_ok=True)
    write_private(place / name, text, sync=False)
