"""What processes have done: computed, read, written."""

import subprocess
import sys
import time

from guardian.host.processes import running, work

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


SPINS = """
import threading
threading.Thread(target=lambda: all(x == 0 for x in iter(int, 1)), daemon=True).start()
print(flush=True)
input()
"""


def test_a_thread_that_waits_for_a_processor_is_seen_whatever_the_main_thread_does():
    """On a full machine it may get next to no time; a process that waits for its input never wants any."""
    waiting = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    spinning = subprocess.Popen([sys.executable, "-c", SPINS], stdin=-1, stdout=-1)
    try:
        for one in (waiting, spinning):
            one.stdout.readline()
        deadline = time.monotonic() + 60
        while running([waiting.pid]) and time.monotonic() < deadline:
            time.sleep(0.05)  # on its way into the read
        assert not running([waiting.pid])
        assert running([waiting.pid, spinning.pid])
    finally:
        for one in (waiting, spinning):
            one.kill()
            one.communicate()
