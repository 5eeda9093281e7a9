"""What single processes hold: memory (PSS: pages that n share count one n-th) and open files.

Reading a large process's PSS walks its page tables: tens of milliseconds for tens of GiB. Whoever asks spaces it out.
"""

from __future__ import annotations

import os


def pss_mib(pid: int) -> float | None:
    """None: it may not be read, is gone, or the kernel is older than 4.14."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            line = next((line for line in file if line.startswith(b"Pss:")), b"")
    except OSError:
        return None
    fields = line.split()
    return int(fields[1]) / 1024 if len(fields) > 1 and fields[1].isdigit() else None


def open_files(pid: int) -> int | None:
    """How many descriptors a process has; None where it may not be told."""
    folder = f"/proc/{pid}/fd"
    try:
        # Since Linux 6.2 the folder's size is their number; before that it is 0.
        return os.stat(folder).st_size or len(os.listdir(folder))
    except OSError:
        return None
