"""Read a policy file: `--policy FILE`, else the user's own, else the defaults."""

from __future__ import annotations

import os
from pathlib import Path

from guardian.core import policy as policies
from guardian.core.policy import Policy
from guardian.core.tomltext import line_of
from guardian.errors import UserError
from guardian.host.userfiles import config_folder, parse_toml, read_text

NAME = "policy.toml"


def load(path: Path | None) -> Policy:
    """The policy in force. Raises UserError with a line per complaint: file:line: key: message."""
    chosen = str(path) if path is not None else _own()
    return policies.DEFAULT if chosen is None else _read(chosen)


def _own() -> str | None:
    folder = config_folder()
    path = os.path.join(folder, NAME) if folder else None
    return path if path and os.path.lexists(path) else None


def _read(path: str) -> Policy:
    text = read_text(path)
    policy, complaints = policies.from_tables(parse_toml(text, path))
    if complaints:
        lines = [f"{path}:{line_of(text, tuple(c.key.split('.')))}: {c.key}: {c.message}" for c in complaints]
        raise UserError("\n".join(lines))
    return policy
