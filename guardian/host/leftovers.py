"""What earlier attempts of a run left behind: processes that carry its mark although no attempt lives.

Asked only between two attempts, of a run whose GPUs are still held: what bears the mark then is left over.
"""

from __future__ import annotations

from guardian.core import wire
from guardian.host import processes


def find(run: str) -> tuple[processes.Process, ...]:
    """The living processes of our user with the mark of any attempt of the run, and what descends from them."""
    prefix = f"{wire.ENV_MARK}={run}/".encode()
    everyone = processes.snapshot()
    marked = {
        pid
        for pid in everyone
        if processes.is_ours(pid) and any(part.startswith(prefix) for part in processes.environment(pid))
    }
    members = processes.descendants(everyone, marked)
    living = [everyone[pid] for pid in members if everyone[pid].life is processes.Life.ALIVE]
    return tuple(processes.with_cmdline(process) for process in sorted(living, key=processes.age))
