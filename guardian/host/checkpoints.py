"""Look into checkpoint folders, and notice when they change. Reads only; never writes or deletes.

Headers and directories alone: milliseconds for a checkpoint of any size. Every byte is read by host/inspecting.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

from guardian.core import checkpoints as judging
from guardian.core import tensorfiles
from guardian.core.checkpoints import FileFact, FolderFacts
from guardian.core.events import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from zipfile import ZipFile, ZipInfo

    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

STATE_MAX = 64 * 1024 * 1024
"""trainer_state.json grows with the log history; beyond this it is not read."""
TEXT_MAX = 64 * 1024 * 1024
MEMBERS_MAX = 4096
"""Of an archive, so many members have their own header looked at."""
LOCAL_HEADER = 30
"""Bytes of a member's own header before its name (APPNOTE.TXT 4.3.7)."""
ENTRY, END_RECORD, END_RECORDS = 46, 22, 98
"""Bytes of an archive's directory: an entry before its name, the record at the end, and that with those for large files
(APPNOTE.TXT 4.3.12, 4.3.14 to 4.3.16)."""
GLANCE_MAX = 1024 * 1024
"""A data.pkl up to this size is read, and so checked by its checksum."""
SLACK_S = 2.0
"""File systems stamp with a clock of their own, and some in whole seconds."""
VERSION = re.compile(r"v\d+-\d{8}-\d{6}")


def scan(
    folder: str, *, since: float | None = None, announced: frozenset[str] = frozenset(), world: int | None = None
) -> tuple[Checkpoint, ...]:
    """The checkpoints in a folder, judged, by ascending step; () where there is no such folder.

    `world`: the ranks of the run that wants to go on; None: nobody said. A folder that an earlier run left is not this
    run's: with `since` (wall seconds) only those count whose state file was written later, or whose path the job itself
    announced.
    """
    found = [
        glance(path, step_in_name(path), world)
        for path in folders(folder)
        if path in announced or _written_since(path, since)
    ]
    return tuple(sorted(found, key=lambda c: c.step))


def folders(folder: str) -> tuple[str, ...]:
    """The folders checkpoint-<step> in a folder; () where there is no such folder."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    paths = (os.path.join(folder, name) for name in names if judging.NAME.fullmatch(name))
    return tuple(path for path in paths if os.path.isdir(path))


def glance(path: str, step: int | None, world: int | None = None) -> Checkpoint:
    """A folder's quick judgement. One that cannot be looked into is passed over; the others count all the same."""
    try:
        return judging.judge(look(path, step), world)
    except OSError as error:
        return unreadable(path, step, error)


def unreadable(path: str, step: int | None, error: OSError) -> Checkpoint:
    """What is said of a folder that nobody can look into."""
    why = judging.Unknown(f"{error.filename or path}: {error.strerror or error}")
    return judging.as_checkpoint(path, -1 if step is None else step, why)


def step_in_name(path: str) -> int | None:
    """The step that a folder's name tells."""
    match = judging.NAME.fullmatch(os.path.basename(os.path.abspath(path)))
    return int(match[1]) if match else None


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
    except OSError:
        below = []  # who looks into the folder itself is told
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


def look(path: str, step: int | None) -> FolderFacts:
    """What lies in one checkpoint folder. Raises OSError when it cannot be listed."""
    files: list[FileFact] = []
    folders = []
    texts = []
    state = None
    for entry in _entries(path):
        if entry.is_dir():
            folders.append(entry.name)
            files += [_fact(inner, f"{entry.name}/{inner.name}") for inner in _entries(entry.path) if inner.is_file()]
            continue
        files.append(_fact(entry, entry.name))
        if entry.name == judging.STATE and files[-1].size <= STATE_MAX:
            state = Path(entry.path).read_text("utf-8", "replace")
        if entry.name in judging.READ_WHOLE and files[-1].size <= TEXT_MAX:
            texts.append((entry.name, Path(entry.path).read_text("utf-8", "replace")))
    return FolderFacts(path, step, tuple(files), state, tuple(folders), tuple(texts))


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda e: e.name)


def _fact(entry: os.DirEntry[str], name: str) -> FileFact:
    size = entry.stat().st_size
    try:
        empty = _glance_into(entry.path, size)
    except tensorfiles.Broken as error:
        return FileFact(name, size, broken=str(error))
    return FileFact(name, size, empty=empty)


def _glance_into(path: str, size: int) -> bool:
    """Whether a file of tensors, whole as far as its header or directory tells, holds none. Raises Broken."""
    if path.endswith(".safetensors"):
        return not tensors(path, size)
    if path.endswith((".pt", ".pth", ".bin")) and not is_legacy(path):
        _directory(path)
    return False


def tensors(path: str, size: int) -> tuple[tensorfiles.Tensor, ...]:
    """What a safetensors file holds, from its header. Raises Broken."""
    with open(path, "rb") as file:
        head = file.read(tensorfiles.HEADER_LENGTH)
        length = int.from_bytes(head, "little")
        if length <= tensorfiles.HEADER_MAX:
            head += file.read(length)
    return tensorfiles.tensors_of(head, size)


def is_legacy(path: str) -> bool:
    """Whether torch wrote it in its old form, which has neither a directory nor a checksum."""
    with open(path, "rb") as file:
        return file.read(len(tensorfiles.LEGACY)) == tensorfiles.LEGACY


def _directory(path: str) -> None:
    """Look at an archive's directory, each member's own header, and the member that says what lies where."""
    with open(path, "rb") as file, archive(file) as listed, damage_told("has a damaged zip directory"):
        members = listed.infolist()
        file.seek(listed.start_dir)
        _whole(file.read(), listed.start_dir, members)
        for member in members[:: len(members) // MEMBERS_MAX + 1]:
            file.seek(member.header_offset)
            head = file.read(LOCAL_HEADER)
            names = sum(int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
            end = member.header_offset + LOCAL_HEADER + names + member.compress_size
            if head[:4] != b"PK\3\4" or end > listed.start_dir:
                raise tensorfiles.Broken(f"is damaged before its part {member.filename}")
        index = next((m for m in members if m.filename.endswith("/data.pkl")), None)
        if index is None:
            raise tensorfiles.Broken("is no file of torch's (no data.pkl inside)")
        if index.file_size <= GLANCE_MAX:
            with damage_told("is damaged (checksum of data.pkl)"):
                listed.read(index)


def _whole(directory: bytes, start: int, members: list[ZipInfo]) -> None:
    """Whether an archive's directory, to the file's end, agrees with itself: torch is stricter than zipfile here.

    Raises Broken.
    """
    lengths = [(len(m.orig_filename), len(m.extra), len(m.comment)) for m in members]
    length = sum(ENTRY + sum(of) for of in lengths)
    tail = directory[length:]
    good = bool(members) and all(map(_plain, members))
    # zipfile makes do with a last entry that promises more than there is.
    last = length - ENTRY - sum(lengths[-1]) if members else 0
    good = good and directory[last + 28 : last + 34] == struct.pack("<HHH", *lengths[-1])
    if len(tail) != END_RECORD:  # torch writes the records for large files whatever the size
        count, end = len(members), start + length
        here = struct.unpack("<4sQHHLLQQQQ4sLQL", tail[: END_RECORDS - END_RECORD])
        good = good and len(tail) == END_RECORDS
        good = good and here[4:] == (0, 0, count, count, length, start, b"PK\6\7", 0, end, 1)
    if not good:
        raise tensorfiles.Broken("has a damaged zip directory")


def _plain(member: ZipInfo) -> bool:
    """Whether a member is as torch writes all of them: stored as it is, in one volume, no folder, not encrypted."""
    stored = member.compress_type == 0 and member.compress_size == member.file_size
    return stored and not (member.volume or member.external_attr & 0x10 or member.flag_bits & ~0x808)


def archive(file: IO[bytes]) -> ZipFile:
    """A torch file's archive. Raises Broken where it has no directory, which stands at its end."""
    import zipfile  # noqa: PLC0415 - needed when the job has saved; its start need not wait for it

    with damage_told("is cut off (no zip directory at its end)"):
        return zipfile.ZipFile(file)


@contextlib.contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Turn all that zipfile raises for an archive that was altered into Broken."""
    import zipfile  # noqa: PLC0415 - needed when the job has saved; its start need not wait for it
    import zlib  # noqa: PLC0415 - as zipfile

    try:
        yield
    except tensorfiles.Broken:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, RuntimeError, OverflowError):
        raise tensorfiles.Broken(what) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise tensorfiles.Broken(what) from None


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
        try:  # where no instance of inotify is to be had, its observer cannot even be made
            observer = kind()
            observer.daemon = True
            observer.schedule(Handler(), folder, recursive=False)
            observer.start()
        except OSError:
            continue
        return observer
    return None
