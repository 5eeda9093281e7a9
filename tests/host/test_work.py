"""What processes have done: computed, read, written."""

import subprocess
import sys

from guardian.host.processes import work

BUSY = "sum(range(20_000_000)); open('/dev/null', 'wb').write(bytes(3 << 20)); print(flush=True); input()"


def test_a_process_that_computed_and_wrote_has_done_more_than_one_that_waits():
    """Both numbers grow with what was done, and a process that is gone counts nothing."""
    waiting = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    busy = subprocess.Popen([sys.executable, "-c", BUSY], stdin=-1, stdout=-1)
    try:
        for one in (waiting, busy):
            one.stdout.readline()
        idle, done = work([waiting.pid]), work([busy.pid])
        both = work([waiting.pid, busy.pid])
    finally:
        for one in (waiting, busy):
            one.kill()
            one.communicate()

    assert done.cpu_s > idle.cpu_s
    assert done.io_bytes >= idle.io_bytes + (3 << 20)
    assert both.io_bytes >= done.io_bytes + idle.io_bytes
    assert (0.0, 0) == (work([busy.pid]).cpu_s, work([busy.pid]).io_bytes)
