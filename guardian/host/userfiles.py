"""Small text files that a person wrote: read within bounds, every trouble as one line that names the file."""

from __future__ import annotations

import os
import re
import stat
import sys
from typing import Any

from guardian.errors import MissingFileError, UserError

MAX_BYTES = 1 << 20
_AT_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)|\s*\(at end of document\)")


def read_text(path: str, *, trusted: bool = False) -> str:
    """The file's text. Raises UserError. `trusted`: refused where somebody else could have written it."""
    try:
        # O_NONBLOCK: a pipe in the file's place must not hold us up; it is refused below.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise UserError(f"{path}: is not a file")
        if trusted:
            refuse_strangers(path, facts)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: is larger than {MAX_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8") from None


def refuse_strangers(path: str, facts: os.stat_result) -> None:
    """Raises UserError where another user owns a file or folder, or where others may write it; root may."""
    if facts.st_uid not in (os.geteuid(), 0):
        raise UserError(f"{path}: belongs to another user (uid {facts.st_uid})")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path}: others may write it; take that right away: chmod go-w {path}")


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises UserError with the line."""
    # Not at the top: most starts read no policy, and the job need not wait for it.
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        at = _AT_LINE.search(message)
        line = int(at[1]) if at and at[1] else text.count("\n") + 1
        raise UserError(f"{path}:{line}: is not TOML: {_AT_LINE.sub('', message)}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None


def own_rules() -> str | None:
    """The folder with this user's own rules; None where there is none."""
    base = config_folder()
    folder = os.path.join(base, "rules") if base else None
    return folder if folder and os.path.isdir(folder) else None


def config_folder() -> str | None:
    """Where this user's settings for guardian lie; None where there is no home to look in."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path is to be ignored
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".config")
    return os.path.join(base, "guardian")
