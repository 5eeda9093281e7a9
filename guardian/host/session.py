"""What will end a process of ours with no fault of its own: a log-out, Windows, the end of a container.

Only what lies readable is looked at, and nothing is started for it. What cannot be read is unknown, and not told.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOTS = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
"""Where logind.conf(5) is looked for, the strongest first."""
LINGER = Path("/var/lib/systemd/linger")
INITS = frozenset({"systemd", "init", "openrc-init", "runit", "s6-svscan", "launchd"})
"""Processes 1 that stand for a machine, not for a container."""
TEXT_MOST = 64 * 1024
_TRUE = frozenset({"1", "yes", "y", "true", "t", "on"})


@dataclass(frozen=True, slots=True)
class LogOut:
    """What logind does to a session's processes when its user logs out."""

    kills: bool | None = None
    """None: not written anywhere, not even as the distribution's default."""
    only: frozenset[str] = field(default_factory=frozenset)
    excluded: frozenset[str] = frozenset({"root"})

    def ends(self, user: str) -> bool:
        """Whether this user's processes are ended."""
        return bool(self.kills) and user not in self.excluded and (not self.only or user in self.only)


def dangers() -> tuple[str, ...]:
    """A line for each thing that would end what runs on in the background."""
    user = _user()
    found = (
        _by_log_out(_text("/proc/self/cgroup"), user),
        by_windows(_text("/proc/sys/kernel/osrelease")),
        by_container(_text("/proc/1/comm").strip()),
    )
    return tuple(line for line in found if line is not None)


def parse_logind(texts: Iterable[str]) -> LogOut:
    """The rules that these files make together, the last word counting; a commented line tells the default."""
    default: bool | None = None
    said: bool | None = None
    only: frozenset[str] = frozenset()
    excluded = frozenset({"root"})
    for commented, key, value in (line for text in texts for line in _login_section(text)):
        if key == "KillUserProcesses":
            if commented:
                default = value.lower() in _TRUE
            else:
                said = value.lower() in _TRUE
        elif key == "KillOnlyUsers" and not commented:
            only = frozenset(value.split())
        elif key == "KillExcludeUsers" and not commented:
            excluded = frozenset(value.split())
    return LogOut(default if said is None else said, only, excluded)


def unit_of(cgroup: str, uid: int) -> str | None:
    """`session` or `manager`: what of logind's a process is in, from /proc/self/cgroup; None where it is in neither.

    `session`: a log-in's scope. `manager`: the user's own service manager (tmux units, `systemd-run --user`).
    """
    if re.search(rf"/user-{uid}\.slice/user@{uid}\.service(/|$)", cgroup, re.MULTILINE):
        return "manager"
    return "session" if re.search(rf"/user-{uid}\.slice/session-[^/]+\.scope(/|$)", cgroup, re.MULTILINE) else None


def by_log_out(unit: str | None, rules: LogOut, user: str, *, lingers: bool) -> str | None:
    """What logging out does to us."""
    if unit == "session" and rules.ends(user):
        # Lingering alone does not help: it keeps the user's service manager, not the scope of a log-in.
        return (
            "logging out ends this run (logind.conf: KillUserProcesses=yes): "
            f"loginctl enable-linger {user}, then systemd-run --user --scope guardian run -d ..."
        )
    if unit == "manager" and not lingers:
        return f"logging out everywhere ends this run, for its user's services end: loginctl enable-linger {user}"
    return None


def by_windows(osrelease: str) -> str | None:
    """What Windows does to a Linux below it."""
    if "microsoft" not in osrelease.lower():
        return None
    return "this is WSL: Windows may end it, and the run with it, when its last window is closed: keep one open"


def by_container(first: str) -> str | None:
    """What the end of process 1 does to us, from its name."""
    if not first or first in INITS:
        return None
    return f"process 1 here is {first!r}, as in a container: when it ends, the run ends with it"


def _by_log_out(cgroup: str, user: str) -> str | None:
    unit = unit_of(cgroup, os.getuid())
    if unit is None:
        return None
    return by_log_out(unit, parse_logind(_logind_texts()), user, lingers=(LINGER / user).exists())


def _login_section(text: str) -> Iterator[tuple[bool, str, str]]:
    """(commented out, key, value) of each line of [Login]."""
    inside = False
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("["):
            inside = line == "[Login]"
        found = re.fullmatch(r"([#;]?)\s*([A-Za-z]+)\s*=\s*(.*)", line)
        if inside and found:
            yield bool(found[1]), found[2], found[3].strip()


def _logind_texts() -> Iterator[str]:
    """logind.conf, and what is dropped in beside it, in the order of logind.conf(5): by name, /etc before /usr."""
    whole = next((text for root in ROOTS if (text := _text(f"{root}/logind.conf"))), "")
    dropped: dict[str, str] = {}
    for root in ROOTS:
        for path in _conf_files(f"{root}/logind.conf.d"):
            dropped.setdefault(os.path.basename(path), path)
    yield whole
    for _, path in sorted(dropped.items()):
        yield _text(path)


def _conf_files(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".conf")]
    except OSError:
        return []


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _text(path: str) -> str:
    """A small file; empty where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(TEXT_MOST)
    except OSError:
        return ""
