"""A job that saves by rename and resumes: it counts to a number, and dies on the way as often as it is told to.

    python counting.py --state FILE --upto 12 --die-at 4 --die-at 8

Its own state file is its checkpoint; a place of dying is used once, remembered beside it. A line says what it counts.
"""

import argparse
import os
import signal
import time
from pathlib import Path


def main():
    """Count on from where the state file stands."""
    options = argparse.ArgumentParser()
    options.add_argument("--state", type=Path, required=True)
    options.add_argument("--upto", type=int, required=True)
    options.add_argument("--die-at", type=int, action="append", default=[])
    options.add_argument("--every-s", type=float, default=0.05)
    options.add_argument("--quiet", action="store_true")
    chosen = options.parse_args()
    claim(chosen.state.with_suffix(f".{os.getpid()}.alive"), chosen.state)
    at = int(chosen.state.read_text()) if chosen.state.exists() else 0
    while at < chosen.upto:
        at += 1
        if not chosen.quiet:
            print(f"{at}/{chosen.upto}", flush=True)
        time.sleep(chosen.every_s)
        half = chosen.state.with_suffix(".half")
        half.write_text(str(at))
        half.replace(chosen.state)
        mark = chosen.state.with_suffix(f".died{at}")
        if at in chosen.die_at and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def claim(mine, state):
    """Note that we run, and write down for the test whoever runs beside us: there must never be one."""
    mine.write_text(str(os.getpid()))
    for other in state.parent.glob(f"{state.stem}.*.alive"):
        pid = int(other.stem.rpartition(".")[2])
        if pid != os.getpid() and Path(f"/proc/{pid}").exists() and running(pid):
            with state.with_suffix(".doubled").open("a") as file:
                file.write(f"{pid} beside {os.getpid()}\n")


def running(pid):
    """Whether the process is a living copy of this job."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX" and b"counting.py" in line


if __name__ == "__main__":
    main()
