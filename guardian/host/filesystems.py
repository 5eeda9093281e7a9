"""Room, inodes and read-only mounts of the file systems that a run writes to, and what a save takes there.

Looked at in a thread of its own: a network file system that does not answer holds up nothing else. What it said long
ago is no reading any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
EVERY_S = 5.0
STALE_S = 60.0
SHM = Path("/dev/shm")  # noqa: S108 - its size, not a file in it


class Watch:
    """Looks at the places now and then; `latest` never waits. `saved`: the newest whole checkpoint, measured once."""

    def __init__(
        self, places: Callable[[], tuple[Path, ...]], every_s: float = EVERY_S, *,
        saved: Callable[[], str | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._places = places
        self._saved = saved
        self._measured: tuple[str, float] | None = None
        self._every_s = every_s
        self._stop = threading.Event()
        self._latest: tuple[float, dict[str, float]] = (time.monotonic(), {})
        threading.Thread(target=self._work, name="file-systems", daemon=True).start()

    def latest(self) -> dict[str, float] | None:
        """The last readings; None: none has come for a minute."""
        at, found = self._latest
        return found if time.monotonic() - at < STALE_S else None

    def close(self) -> None:
        """Stop looking; nothing is waited for."""
        self._stop.set()

    def _work(self) -> None:
        while True:
            try:
                found = look(self._places()) | self._of_save()
            except Exception:  # noqa: BLE001 - no reading is better than no thread
                found = {}
            self._latest = (time.monotonic(), found)
            if self._stop.wait(self._every_s):
                return

    def _of_save(self) -> dict[str, float]:
        path = self._saved()
        if path is None:
            return {}
        if self._measured is None or self._measured[0] != path:
            self._measured = (path, size_mib(path))
        return {"save_mib": self._measured[1]}


def size_mib(folder: str) -> float:
    """What the files of a folder take; what vanishes meanwhile takes nothing."""
    sizes = []
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.lstat(os.path.join(base, name)).st_size)
    return sum(sizes) / MIB


def look(places: tuple[Path, ...]) -> dict[str, float]:
    """Of several places the fullest counts."""
    found: dict[str, float] = {}
    for place in places:
        room = _statvfs(place)
        if room is not None:
            _least(found, "disk_free_mib", room.f_bavail * room.f_frsize / MIB)
            found["disk_read_only"] = max(found.get("disk_read_only", 0.0), float(bool(room.f_flag & os.ST_RDONLY)))
            if room.f_files:  # file systems that make them as needed count none
                _least(found, "inodes_free", float(room.f_favail))
    shm = _statvfs(SHM)
    if shm is not None:
        found["shm_free_mib"] = shm.f_bavail * shm.f_frsize / MIB
        found["shm_total_mib"] = shm.f_blocks * shm.f_frsize / MIB
    return found


def _least(found: dict[str, float], name: str, value: float) -> None:
    found[name] = min(found.get(name, value), value)


def _statvfs(place: Path) -> os.statvfs_result | None:
    """Of the place, or of what of its path is there already."""
    for one in (place, *place.parents):
        try:
            return os.statvfs(one)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
