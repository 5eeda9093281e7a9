"""Look into checkpoint folders, and notice when they change. Reads only; never writes or deletes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.core import checkpoints as judging
from guardian.core.checkpoints import FileFact, FolderFacts
from guardian.core.events import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

STATE_MAX = 64 * 1024 * 1024
"""trainer_state.json grows with the log history; beyond this it is not read."""
HEADER_MAX = 64 * 1024 * 1024
SLACK_S = 2.0
"""File systems stamp with a clock of their own, and some in whole seconds."""
VERSION = re.compile(r"v\d+-\d{8}-\d{6}")


def scan(folder: str, *, since: float | None = None, announced: frozenset[str] = frozenset()) -> tuple[Checkpoint, ...]:
    """The checkpoints in a folder, judged, by ascending step; () where there is no such folder.

    A folder that an earlier run left is not this run's: with `since` (wall seconds) only those count whose
    state file was written later, or whose path the job itself announced.
    """
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    found = []
    for name in names:
        match = judging.NAME.fullmatch(name)
        path = os.path.join(folder, name)
        if match and os.path.isdir(path) and (path in announced or _written_since(path, since)):
            found.append(_judged(path, int(match[1])))
    return tuple(sorted(found, key=lambda c: c.step))


def _judged(path: str, step: int) -> Checkpoint:
    """One that cannot be looked into is passed over; the others count all the same."""
    try:
        return judging.judge(look(path, step))
    except OSError as error:
        return Checkpoint(path, step, complete=False, why=f"{error.filename or path}: {error.strerror}")


def first_write(mark: Path) -> float | None:
    """The file systems' time when this run began, from a file that its first launch wrote; None without one.

    Compared with the checkpoints' own times: the supervisor's clock may have been set in between.
    """
    try:
        return mark.stat().st_mtime - SLACK_S
    except OSError:
        return None


def versions(folder: str) -> tuple[str, ...]:
    """A folder and the versioned ones (`v0-20261121-010227`) that swift and our trainer make below it."""
    try:
        below = sorted(n for n in os.listdir(folder) if VERSION.fullmatch(n))
    except (FileNotFoundError, NotADirectoryError):
        below = []
    return (folder, *(os.path.join(folder, n) for n in below))


def _written_since(path: str, since: float | None) -> bool:
    if since is None:
        return True
    for newest in (os.path.join(path, judging.STATE), path):
        try:
            return os.stat(newest).st_mtime >= since
        except FileNotFoundError:
            continue
    return False  # it was rotated away while it was looked at


def look(path: str, step: int) -> FolderFacts:
    """What lies in one checkpoint folder. Raises OSError when it cannot be listed."""
    files = []
    folders = []
    state = None
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_dir():
                folders.append(entry.name)
                continue
            size = entry.stat().st_size
            files.append(FileFact(entry.name, size, _broken(entry.path, size)))
            if entry.name == judging.STATE and size <= STATE_MAX:
                state = Path(entry.path).read_text("utf-8", "replace")
    return FolderFacts(path, step, tuple(files), state, tuple(folders))


def _broken(path: str, size: int) -> str | None:
    """What is wrong with the inside of a tensor file, seen from its header or directory alone."""
    if path.endswith(".safetensors"):
        with open(path, "rb") as file:
            head = file.read(judging.HEADER_LENGTH)
            length = int.from_bytes(head, "little")
            if length <= HEADER_MAX:
                head += file.read(length)
        return judging.safetensors_problem(head, size)
    if path.endswith((".pt", ".pth")):
        import zipfile  # noqa: PLC0415 - needed when the job has saved; its start need not wait for it

        if not zipfile.is_zipfile(path):
            return "is cut off (no zip directory at its end)"
    return None


class Watch:
    """Call back when something changes right below a folder that may not exist yet.

    The callback runs in a thread of watchdog's; without inotify (limit reached, network file system) watchdog's
    polling observer serves.
    """

    def __init__(self, folder: str, changed: Callable[[], None]) -> None:
        self._observer = _observe(folder, changed)

    def close(self) -> None:
        """Stop watching; bounded."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2)


def _observe(folder: str, changed: Callable[[], None]) -> BaseObserver | None:
    # Imported here: watchdog is needed only once the job has said where it saves.
    import logging  # noqa: PLC0415 - as watchdog, which brings it

    from watchdog.events import FileSystemEventHandler  # noqa: PLC0415
    from watchdog.observers import Observer  # noqa: PLC0415
    from watchdog.observers.polling import PollingObserver  # noqa: PLC0415

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in ("created", "moved", "deleted", "modified"):
                changed()

    # Closed while it reads, it logs an error; where nobody set up logging, that goes to the user's terminal.
    logging.getLogger("watchdog").setLevel(logging.CRITICAL)
    for kind in (Observer, PollingObserver):
        observer = kind()
        observer.daemon = True
        try:
            observer.schedule(Handler(), folder, recursive=False)
            observer.start()
        except OSError:
            continue
        return observer
    return None
