"""Read the configuration file that a training command names, to understand the command; never to change it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from guardian.errors import UserError

MAX_BYTES = 1 << 20


def read_config(path: str) -> Mapping[str, object]:
    """The mapping in a JSON or YAML file. Raises UserError with the reason."""
    text = _read(path)
    try:
        content = json.loads(text) if path.endswith(".json") else _yaml(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot be understood ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError("does not hold a mapping of names to values")
    return content


def _read(path: str) -> str:
    try:
        # O_NONBLOCK: a pipe in its place must not hold us up; it is refused below.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError("is not a file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"is larger than {MAX_BYTES >> 20} MiB")
    return content.decode("utf-8", "replace")


def _yaml(text: str) -> Any:  # noqa: ANN401 - a parsed file can be anything until it is looked at
    try:
        import yaml  # noqa: PLC0415 - only the training extra brings it; where it is missing JSON still works
    except ImportError:
        raise UserError("is YAML, and pyyaml is not installed beside guardian") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
