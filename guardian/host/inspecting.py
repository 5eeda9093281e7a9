"""Read every byte of checkpoints and judge them anew: checksums, and numbers that are none.

Without torch, by the forms in core/tensorfiles.py; what those do not know is given to the job's own Python. Files are
read, never mapped into memory: one that the job's rotation cuts short meanwhile would end us with SIGBUS. Runs in the
thread of whoever asks, who can bound its time and stop it; what was not looked into then is said of the checkpoint.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import IO, TYPE_CHECKING

from guardian.core import checkpoints as judging
from guardian.core import events as ev
from guardian.core import tensorfiles
from guardian.core.checkpoints import FileFact, FolderFacts
from guardian.core.tensorfiles import Broken
from guardian.core.values import dataclass
from guardian.host import checkpoints, torchpython

if TYPE_CHECKING:
    from zipfile import ZipFile

CHUNK = 4 * 1024 * 1024
"""Bytes read at once; a multiple of every number's width."""
ZEROS = bytes(1024)
DOUBTS_MAX = 64
"""Of a file, so many places with zeros are remembered."""
MASK_MOST = 4096
"""Of a mask's infinite numbers so many are looked at for a NaN among them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the reading is."""

    done: int
    """Bytes."""
    total: int
    path: str
    """The file that is being read."""


def inspect(
    paths: Sequence[str],
    *,
    world: int | None = None,
    interpreter: str | None = None,
    deadline_s: float,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    until_sound: bool = False,
) -> tuple[ev.Checkpoint, ...]:
    """The checkpoint folders with their verdicts, in the order given. Never raises for what it finds.

    `world`: the ranks that want to go on. `interpreter`: a Python that has torch. The newest are read first;
    `until_sound`: once one proved sound, only the headers of the older ones are looked at. After `deadline_s`, or
    when `stop` says so, the rest is judged by its headers and told to be unread.
    """
    order = sorted(paths, key=lambda p: -_step(p))
    found: dict[str, ev.Checkpoint] = {}
    facts: dict[str, FolderFacts] = {}
    for path in order:
        found[path], looked = _glance(path, world)
        if looked is not None and found[path].complete:
            facts[path] = looked
    work = _Work(deadline_s, sum(map(_bytes, facts.values())), progress, stop)
    for path, looked in facts.items():
        older = [p for p in order if _step(p) < judging.step_of(looked)]
        found[path] = _inspected(looked, older, world, interpreter, work)
        if until_sound and found[path].complete:
            break
    return tuple(found[path] for path in paths)


def _step(path: str) -> int:
    step = checkpoints.step_in_name(path)
    return -1 if step is None else step


def _glance(path: str, world: int | None) -> tuple[ev.Checkpoint, FolderFacts | None]:
    step = checkpoints.step_in_name(path)
    try:
        facts = checkpoints.look(path, step)
    except OSError as error:
        return checkpoints.unreadable(path, step, error), None
    return judging.judge(facts, world), facts


def _bytes(facts: FolderFacts) -> int:
    return sum(f.size for f in facts.files if f.name.endswith(judging.TENSOR_FILES))


# --- one checkpoint ----------------------------------------------------------------------------------------------


def _inspected(
    facts: FolderFacts, older: Iterable[str], world: int | None, interpreter: str | None, work: _Work
) -> ev.Checkpoint:
    try:
        files = [_read(facts.path, fact, older, work) for fact in facts.files]
        files = _by_torch(facts.path, files, interpreter, work)
    except OSError as error:
        return checkpoints.unreadable(facts.path, facts.step, error)
    return judging.judge(replace(facts, files=tuple(files)), world)


def _read(folder: str, fact: FileFact, older: Iterable[str], work: _Work) -> FileFact:
    """What the bytes of a file say; a file of another kind as it is. Raises OSError where it is gone."""
    path = os.path.join(folder, fact.name)
    if fact.broken or not fact.name.endswith((*judging.TENSOR_FILES, ".distcp")):
        return fact
    work.path = path
    try:
        if fact.name.endswith(".safetensors"):
            return _safetensors(path, fact, older, work)
        if fact.name.endswith(".distcp"):
            return replace(fact, unseen="not scanned: FSDP's own form")
        return replace(fact, unseen=OLD_FORM) if checkpoints.is_legacy(path) else _archive(path, fact, work)
    except Halted as why:
        return replace(fact, unseen=f"not scanned: {why}")
    except Broken as why:
        return replace(fact, broken=str(why))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            raise
        return replace(fact, broken=f"cannot be read ({error.strerror})")


# --- safetensors -------------------------------------------------------------------------------------------------


def _safetensors(path: str, fact: FileFact, older: Iterable[str], work: _Work) -> FileFact:
    tainted = None
    zeros: dict[tensorfiles.Tensor, int] = {}
    with open(path, "rb") as file:
        for tensor in checkpoints.tensors(path, fact.size):
            file.seek(tensor.begin)
            at = tensor.begin
            for chunk in _chunks(file, tensor.end - tensor.begin, work):
                tainted = tainted or _taint(tensor.name, tensor.dtype, chunk)
                zero = chunk.find(ZEROS) if tensor.dtype in tensorfiles.FORMS else -1
                if zero >= 0 and len(zeros) < DOUBTS_MAX:
                    zeros.setdefault(tensor, at + zero)
                at += len(chunk)
    return replace(_doubted(fact, zeros, older), tainted=tainted)


def _doubted(fact: FileFact, zeros: dict[tensorfiles.Tensor, int], older: Iterable[str]) -> FileFact:
    """What rows of zeros mean in a file that has no checksum.

    Training does not bring weights back to exactly zero: where an older checkpoint has numbers, a block of the disk
    was lost. Where there is none to compare with, nobody knows: unused rows of an embedding are zeros as well.
    """
    for path in older:
        before = os.path.join(path, fact.name)
        try:
            known = checkpoints.tensors(before, os.stat(before).st_size)
            with open(before, "rb") as file:
                for tensor, at in zeros.items():
                    if tensor in known and _holds_numbers(file, at):
                        where = f"{os.path.basename(path)} has weights"
                        return replace(fact, broken=f"has zeros in {tensor.name} where {where}")
            return fact
        except (OSError, Broken):
            continue
    first = next(iter(zeros), None)
    if first is None:
        return fact
    return replace(
        fact, unseen=f"zeros in {first.name}; a safetensors file has no checksum to tell if they belong there"
    )


def _holds_numbers(file: IO[bytes], at: int) -> bool:
    file.seek(at)
    there = file.read(len(ZEROS))
    return there.count(0) < len(there) / 2


# --- torch.save --------------------------------------------------------------------------------------------------

OLD_FORM = "not scanned: in torch's old form"


def _archive(path: str, fact: FileFact, work: _Work) -> FileFact:
    """Every member against its checksum, and the numbers of every storage."""
    tainted = unseen = None
    with open(path, "rb") as file, checkpoints.archive(file) as listed:
        with checkpoints.damage_told("is damaged (checksum of data.pkl)"):
            storages = _storages(listed)
        for info in listed.infolist():
            storage = storages.pop(info.filename, None)
            if storage is not None and storage.dtype is None:
                unseen = "not scanned: numbers of a type that is not known here"
            with checkpoints.damage_told(f"is damaged (checksum of {info.filename})"), listed.open(info) as content:
                for chunk in _chunks(content, info.file_size, work):
                    if storage is not None:
                        tainted = tainted or _taint(storage.name or info.filename, storage.dtype, chunk)
    if storages:
        raise Broken(f"lacks {next(iter(storages))}, which its data.pkl names")
    return replace(fact, tainted=tainted, unseen=unseen)


def _storages(listed: ZipFile) -> dict[str, tensorfiles.Storage]:
    """The storages by the member that holds each; none where numbers lie the other way round."""
    index = next(info for info in listed.infolist() if info.filename.endswith("/data.pkl"))
    top = index.filename.removesuffix("data.pkl")
    order = f"{top}byteorder"
    if order in listed.namelist() and listed.read(order) != b"little":
        return {}
    return {f"{top}data/{s.key}": s for s in tensorfiles.storages_of(listed.read(index))}


def _by_torch(folder: str, files: list[FileFact], interpreter: str | None, work: _Work) -> list[FileFact]:
    """Let the job's own Python read what is unread by its form."""
    names = [f.name for f in files if f.unseen == OLD_FORM]
    if not names:
        return files
    if interpreter is None:
        why = f"{OLD_FORM}, and no Python with torch is known"
        return [replace(f, unseen=why) if f.name in names else f for f in files]
    paths = {os.path.join(folder, name): name for name in names}
    try:
        said = torchpython.read(interpreter, list(paths), work.check)
    except Halted as why:
        said = {path: torchpython.Said(unread=str(why)) for path in paths}
    told = {paths[path]: one for path, one in said.items()}
    return [_told(f, told[f.name]) if f.name in told else f for f in files]


def _told(fact: FileFact, said: torchpython.Said) -> FileFact:
    if said.broken is not None:
        return replace(fact, broken=said.broken, unseen=None)
    if said.unread is not None:
        return replace(fact, unseen=f"{OLD_FORM}: {said.unread}")
    return replace(fact, tainted=said.tainted, unseen=None)


# --- bytes -------------------------------------------------------------------------------------------------------


class Halted(Exception):  # noqa: N818 - it names why reading went no further
    """The time is up, or nobody wants to know any more."""


class _Work:
    """The reading as a whole: how far it is, and whether it may go on."""

    def __init__(
        self,
        deadline_s: float,
        total: int,
        progress: Callable[[Progress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self._end = time.monotonic() + deadline_s
        self._total = total
        self._progress = progress
        self._stop = stop
        self._done = 0
        self.path = ""

    def check(self) -> None:
        """Raises Halted."""
        if self._stop is not None and self._stop():
            raise Halted("interrupted")
        if time.monotonic() >= self._end:
            raise Halted("out of time")

    def add(self, done: int) -> None:
        self._done += done
        if self._progress is not None:
            self._progress(Progress(self._done, max(self._total, self._done), self.path))


def _chunks(file: IO[bytes], size: int, work: _Work) -> Iterator[bytes]:
    """So many bytes in pieces. Raises Broken where the file ends before, and Halted."""
    left = size
    while left:
        work.check()
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise Broken("became shorter while it was read")
        left -= len(chunk)
        work.add(len(chunk))
        yield chunk


def _taint(name: str, dtype: str | None, chunk: bytes) -> str | None:
    if dtype not in tensorfiles.FORMS:
        return None
    found = tensorfiles.not_numbers(chunk, dtype)
    if "mask" in name:  # attention masks are saved with minus infinity in them
        return f"NaN in {name}" if any(nan for _, nan in islice(found, MASK_MOST)) else None
    first = next(found, None)
    return None if first is None else f"{'NaN' if first[1] else 'infinite numbers'} in {name}"
