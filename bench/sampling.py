"""What looking at a job's processes and its host costs: CPU time of a process that samples, beside one that does not.

    python bench/sampling.py [--minutes M] [--write]

The job is a rank of 2 GiB and eight data loader processes of 200 MiB, all asleep. With --write the table goes into
RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import figures

RANK_MIB, WORKERS, WORKER_MIB = 2048, 8, 200
JOB = """
import os, sys, time
def take(mib):
    held = bytearray(mib << 20)
    held[::4096] = b"x" * len(held[::4096])
    return held
for n in range(int(sys.argv[2])):
    if os.fork() == 0:
        own = take(int(sys.argv[3]))
        time.sleep(10_000)
held = take(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(10_000)
"""
LOOKER = """
import pathlib, sys, time
from guardian.host import metricsfile, processes, sampling
pid, seconds, folder, looks = int(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4] == "yes"
view = lambda: sampling.View("bench/1", None, frozenset({processes.identify(pid)}), (pid,))
if looks:
    sampler = sampling.Sampler(1, folder, view, lambda: (folder,), print)
time.sleep(5)  # what it reads once at the beginning does not count
begun = time.process_time()
time.sleep(seconds)
took = time.process_time() - begun
if looks:
    assert sampler.finish(60)
    window = metricsfile.last(folder / metricsfile.NAME)
    assert {"rank", "worker"} == {member.role for member in window.tree}, window
print(took / seconds)
"""


def share(pid: int, seconds: float, folder: Path, *, looks: bool) -> float:
    """Of one core, over so many seconds."""
    words = (sys.executable, "-c", LOOKER, str(pid), str(seconds), str(folder), "yes" if looks else "no")
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return 100 * float(done.stdout)


def measured(folder: Path, minutes: float) -> list[str]:
    """Both in turns; a table."""
    words = (sys.executable, "-c", JOB, str(RANK_MIB), str(WORKERS), str(WORKER_MIB))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as job:
        try:
            assert job.stdout is not None
            assert job.stdout.readline() == "ready\n"
            took: dict[str, list[float]] = {"sampling": [], "asleep": []}
            for turn in range(3):
                for name, values in took.items():
                    place = folder / f"{name}-{turn}"
                    place.mkdir()
                    values.append(share(job.pid, 20 * minutes, place, looks=name == "sampling"))
        finally:
            os.killpg(job.pid, signal.SIGKILL)
    processes = sum(entry.name.isdecimal() for entry in Path("/proc").iterdir())
    lines = ["| | median, % of one core | least to most | samples |", "|---|---:|---:|---:|"]
    for name, values in took.items():
        ordered = sorted(values)
        lines.append(f"| {name} | {ordered[1]:.2f} | {ordered[0]:.2f} to {ordered[2]:.2f} | {len(values)} |")
    return [f"{figures.machine()}; {processes} processes on the machine; load {figures.load()}.", "", *lines]


def main() -> None:
    """Measure, print, and write if asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="of each of the two (default: 3)")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = measured(Path(folder), chosen.minutes)
    sys.stdout.write("\n".join(lines) + "\n")
    if chosen.write:
        figures.write("sampling", lines)


if __name__ == "__main__":
    main()
