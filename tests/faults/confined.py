"""Limits for a guardian and the job it starts: a memory cgroup, a small /dev/shm, few open files.

Each is words to go before guardian's own; where the machine does not give it, the test is skipped and says so.
"""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")
JOIN = 'echo $$ > "$0" && exec "$@"'


def memory_controller():
    """Where a cgroup with a limit of memory can be made, and the name of the limit in it; skips where nowhere."""
    for place, limit in ((V1, "memory.limit_in_bytes"), (V2, "memory.max")):
        offered = limit != "memory.max" or "memory" in _words(place / "cgroup.subtree_control")
        if offered and os.access(place / "cgroup.procs", os.W_OK):
            return place, limit
    pytest.skip("no memory cgroup can be made here: it takes root, and a controller that may be written to")


def _words(file):
    with contextlib.suppress(OSError):
        return file.read_text().split()
    return []


@contextlib.contextmanager
def memory_of(mib):
    """Words that put what follows into a memory cgroup of its own; it is gone afterwards."""
    place, limit = memory_controller()
    group = place / f"guardian-test-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        (group / limit).write_text(str(mib * 2**20))
        for name, allowed in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", mib * 2**20)):
            with contextlib.suppress(OSError):  # where there is swap it would hold what is too much
                (group / name).write_text(str(allowed))
        yield ("sh", "-c", JOIN, str(group / "cgroup.procs"))
    finally:
        leave(group)


def leave(group):
    """Take a cgroup away once its last process is reaped."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)
    raise AssertionError(f"{group} cannot be removed: {_words(group / 'cgroup.procs')} live in it")


def shared_memory_of(mib):
    """Words that give what follows a /dev/shm of its own."""
    mount = f'mount -t tmpfs -o size={mib}m none /dev/shm && exec "$@"'
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh")
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no /dev/shm of its own can be mounted here: it takes root and a mount namespace")
    return words


def open_files_of(soft, hard=None):
    """Words that lower the soft limit of open files, and the hard one only if it is given."""
    both = f"ulimit -Sn {soft}" + (f" && ulimit -Hn {hard}" if hard else "")
    return ("sh", "-c", f'{both} && exec "$@"', "sh")
