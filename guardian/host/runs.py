"""Run folders: one per run, named for people, made for their owner alone, and never taken for one another.

A folder becomes a run with its journal; what a start left behind before that is empty, and is used again.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from guardian.core import events as ev
from guardian.core.planning import attempt_folder
from guardian.core.values import dataclass
from guardian.errors import HostError, UserError
from guardian.host import lock
from guardian.host.journal import last_record, read_records, unborn

JOURNAL = "journal.jsonl"
PINS = "pins"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
HINT_MOST = 24
OURS = 0o700


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything about a run lies."""

    path: Path
    """Absolute."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def journal(self) -> Path:
        return self.path / JOURNAL

    @property
    def pins(self) -> Path:
        return self.path / PINS

    def attempt_dir(self, number: int) -> Path:
        """Where an attempt's files lie; attempts count from 1."""
        return Path(attempt_folder(str(self.path), number))

    def make_attempt_dir(self, number: int) -> Path:
        """The folder of an attempt, made where it is missing. Raises HostError."""
        folder = self.attempt_dir(number)
        try:
            folder.mkdir(mode=OURS, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"{folder} cannot be made: {error.strerror}") from error
        return folder


def create(base: Path, name: str | None, *, hint: str = "run") -> RunFolder:
    """A new run folder below `base`: of this name, or of one made from the time and the hint.

    Raises UserError for a name that cannot be used, HostError for one that a living guardian uses, or a folder that
    cannot be made.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"--name {name[:80]!r}: a name has 1 to 64 of A-Z a-z 0-9 . _ - and does not begin with a dot")
    try:
        base.mkdir(mode=OURS, parents=True, exist_ok=True)
        return _make_new(base.absolute(), hint) if name is None else _make(RunFolder(base.absolute() / name))
    except OSError as error:
        raise HostError(f"no run folder can be made in {base}: {error.strerror}") from error


def find(base: Path, wanted: str | None) -> RunFolder:
    """The run of this name below `base` or in this folder; None: the newest. Raises UserError, HostError."""
    if wanted is None:
        found = list_runs(base)
        if not found:
            raise UserError(f"there is no run in {base}")
        return found[0]
    path = base / wanted if NAME.fullmatch(wanted) else Path(wanted)
    if not os.path.lexists(path) and (Path(wanted) / JOURNAL).exists():
        path = Path(wanted)  # the folder of a run, named from where it lies
    if not os.path.lexists(path):
        import difflib  # noqa: PLC0415 - only for who mistypes; the job need not wait for it

        near = difflib.get_close_matches(path.name, [one.name for one in list_runs(path.parent)], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"there is no run {path.name} in {path.parent}{hint}")
    return at(path)


def at(path: Path) -> RunFolder:
    """The run whose folder this is. Raises UserError, HostError where there is none, or not ours."""
    folder = RunFolder(Path(os.path.abspath(path)))
    _check_owned(folder.path)
    if folder.path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # What a stranger writes into the journal would be run as us.
        raise HostError(f"others may write in {path}: see that all is as you left it, then chmod go-w {path}")
    if not folder.journal.is_file():
        raise UserError(f"{path} is not a run folder: it has no {JOURNAL}")
    return folder


def list_runs(base: Path) -> tuple[RunFolder, ...]:
    """Our runs below a folder, the newest first; () where there is no such folder."""
    try:
        names = os.listdir(base)
    except OSError:
        return ()
    found = [RunFolder(base.absolute() / name) for name in names if _is_ours(base / name)]
    begun = [(_begun(one), one.name, one) for one in found if one.journal.is_file()]
    return tuple(one for _, _, one in sorted(begun, key=lambda run: run[:2], reverse=True))


def _make(folder: RunFolder) -> RunFolder:
    try:
        folder.path.mkdir(mode=OURS)
    except FileExistsError:
        _check_unused(folder)
    folder.path.chmod(OURS)  # whatever the umask took away, or an earlier start gave
    return folder


def _make_new(base: Path, hint: str) -> RunFolder:
    """A folder that was not there before; whoever makes it first has the name."""
    for name in _names(hint):
        folder = RunFolder(base / name)
        try:
            folder.path.mkdir(mode=OURS)
        except FileExistsError:
            continue
        folder.path.chmod(OURS)
        return folder
    raise AssertionError("numbers do not run out")


def _check_unused(folder: RunFolder) -> None:
    """Raise what stands in the way of a new run in a folder that exists already."""
    _check_owned(folder.path)
    holder = lock.holder(folder.path)
    if holder is not None:
        raise HostError(f"run {folder.name} is in use by {holder}")
    if not folder.journal.exists():
        if set(os.listdir(folder.path)) <= {lock.FILE}:
            return
        raise UserError(f"{folder.path} exists already and is not a run folder: choose another --name")
    if unborn(folder.journal):
        return
    last = last_record(folder.journal)
    if last is not None and isinstance(last.event, ev.RunFinished) and last.event.outcome is ev.Outcome.FINISHED:
        raise UserError(f"the name {folder.name} is used by a run that has finished: choose another --name")
    raise UserError(
        f"the name {folder.name} is used by a run that can go on: guardian resume {folder.name}, or another --name"
    )


def _check_owned(path: Path) -> None:
    """A run folder is a folder, and ours: a stranger's could make us act for him."""
    try:
        found = path.lstat()
    except OSError as error:
        raise HostError(f"{path} cannot be looked at: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise HostError(f"{path} is a link: a run folder is used under its own path only")
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is not a folder")
    if found.st_uid != os.geteuid():
        raise HostError(f"{path} belongs to another user (uid {found.st_uid})")


def _is_ours(path: Path) -> bool:
    try:
        _check_owned(path)
    except (UserError, HostError):
        return False
    return True


def _begun(folder: RunFolder) -> float:
    """When a run was made, by its own word; by its folder's where the journal cannot be read."""
    try:
        first = next(read_records(folder.journal), None)
    except HostError:
        first = None
    return first.stamp.wall if first else folder.journal.stat().st_mtime


def _names(hint: str) -> Iterator[str]:
    """20261121-0810-sft, 20261121-0810-sft-2, ..."""
    word = re.sub(r"[^a-z0-9]+", "-", hint.lower()).strip("-")[:HINT_MOST] or "run"
    plain = f"{time.strftime('%Y%m%d-%H%M')}-{word}"
    return itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
