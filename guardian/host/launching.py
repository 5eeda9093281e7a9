"""What was launched, written beside its log: launch.json keeps the command as given and what guardian set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from guardian.core import wire
from guardian.host.private import write_private

if TYPE_CHECKING:
    from pathlib import Path

    from guardian.core.events import Planned


def write_launch(folder: Path, planned: Planned) -> None:
    """Write launch.json by rename, for its owner alone. Raises OSError.

    Of the environment only what guardian adds is kept: the rest is the caller's, and may hold secrets. Not synced: the
    journal says the same of the attempt, and is; the job shall not wait for the disk twice.
    """
    content = {"attempt": planned.attempt, "argv": list(planned.argv), "env": dict(planned.env)}
    write_private(folder / wire.LAUNCH, json.dumps(content, indent=1), sync=False)
