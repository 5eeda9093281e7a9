"""Write small files of a run folder: whole or not at all, for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from guardian.host import crash


def write_private(path: Path, text: str, *, sync: bool = True) -> None:
    """Write by rename, mode 0600; a reader sees the old file or the new one. Raises OSError.

    Without `sync` the machine may go down and leave an empty file: for what nothing depends on.
    """
    half = path.with_name(path.name + ".tmp")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    crash.point()
    half.replace(path)
    crash.point()
