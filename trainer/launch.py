"""Become torchrun where several ranks are asked for: the same process, so that whoever started us still holds it.

NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT are read from the environment, as ms-swift does.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardian.errors import UserError


@dataclass(frozen=True, slots=True)
class Group:
    """The ranks that the environment asks for, or that we are one of."""

    ranks_per_node: int = 1
    nodes: int = 1
    is_member: bool = False  # a launcher has started us as one of the ranks

    @property
    def world_size(self) -> int:
        return self.ranks_per_node * self.nodes

    @property
    def needs_launcher(self) -> bool:
        return not self.is_member and self.world_size > 1


def group_from(environ: Mapping[str, str]) -> Group:
    if "LOCAL_RANK" in environ and "WORLD_SIZE" in environ:
        per_node = _count(environ, "LOCAL_WORLD_SIZE")
        return Group(per_node, max(1, _count(environ, "WORLD_SIZE") // per_node), is_member=True)
    return Group(_count(environ, "NPROC_PER_NODE"), _count(environ, "NNODES"))


def _count(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{name}={text} in the environment: must be a whole number of at least 1")
    return int(text)


def limit_threads(group: Group, *, tiny: bool) -> None:
    """Share the cores among the ranks of this machine; a tiny model is no quicker on more than one.

    Threads that spin while they wait for each other come to a crawl where the cores are shared with other
    programs (a tenth of the speed on two busy cores), so they sleep. It counts only before torch is imported.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", "1" if tiny else str(max(1, cores // group.ranks_per_node)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def become_torchrun(argv: Sequence[str], group: Group) -> None:
    """Does not return."""
    command = torchrun_command(argv, group, os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted; the argv is handed over as it came


def torchrun_command(argv: Sequence[str], group: Group, environ: Mapping[str, str]) -> list[str]:
    options = ["--nproc_per_node", str(group.ranks_per_node)]
    if group.nodes > 1:
        options += ["--nnodes", str(group.nodes)]
        options += [f"--{name.lower()}={environ[name]}" for name in ("NODE_RANK", "MASTER_ADDR") if name in environ]
    port = environ.get("MASTER_PORT") or (str(free_port()) if group.nodes == 1 else "")
    options += ["--master_port", port] if port else []
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "guardian.trainer", *argv]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
