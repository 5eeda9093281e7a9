"""What guardian costs, measured side by side with what people use instead.

    python bench/overhead.py [restart] [start] [help] [watch] [--runs N] [--minutes M] [--write]

The contestants take turns, so that each meets the same machine; figures are medians, and only their ratios mean
something elsewhere. With --write the tables go into RESULTS.md. To be run with the interpreter that guardian and
torchrun are installed for.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import contestants as who
import figures
import footprint

LIFE_S = 6.0
"""Of a child before it dies: a keeper that stands by is started 3 s after a launch, and needs some time to."""
DEATHS = 4
PATIENCE_S = 300.0
HELPS = 40
LOOKS_MIN = (1.0, 5.0)


def restart(folder: Path, runs: int) -> list[str]:
    """Death of the job -> first instruction of the next."""
    child = who.child(folder)
    field = (who.guardian(folder), who.BASH_LOOP, who.TORCHRUN, who.TORCHRUN_ALONE, who.TORCHRUN_QUICK)
    took: dict[str, list[float]] = {one.name: [] for one in field}
    syncs = []
    for turn in range(runs):
        syncs.append(figures.sync_ms(folder))
        for one in field:
            notes = folder / f"restart-{turn}-{one.name.replace(' ', '-')}"
            process = who.start(one.over((*child, str(notes), str(LIFE_S), str(DEATHS))), folder)
            who.finish(process, PATIENCE_S)
            took[one.name] += gaps(notes)
            progress(f"restart {turn + 1}/{runs}", one.name, took[one.name][-DEATHS:])
    rows = [figures.Samples(name, tuple(values)) for name, values in took.items()]
    floor = (
        f"One durable append took {sorted(syncs)[len(syncs) // 2]:.1f} ms here (median); guardian makes one at least."
    )
    return [*figures.compared(rows, "ms", who.GUARDIAN), "", floor]


def gaps(notes: Path) -> list[float]:
    """Milliseconds from each death to the next beginning."""
    told = [(what, int(at)) for what, at in (line.split() for line in notes.read_text("ascii").splitlines())]
    return [
        (at - died) / 1e6 for (was, died), (what, at) in itertools.pairwise(told) if (was, what) == ("died", "began")
    ]


def start(folder: Path, runs: int) -> list[str]:
    """Start of the command -> first instruction of the job."""
    child = who.child(folder)
    field = (who.guardian(folder), who.BASH, who.PYTHON, who.TORCHRUN, who.TORCHRUN_ALONE)
    took: dict[str, list[float]] = {one.name: [] for one in field}
    for turn in range(-1, runs):  # the turn before the first one fills the caches
        for one in field:
            notes = folder / f"start-{turn}-{one.name.replace(' ', '-')}"
            begun = time.monotonic_ns()
            who.finish(who.start(one.over((*child, str(notes), "0", "0")), folder), PATIENCE_S)
            if turn >= 0:
                took[one.name].append((int(notes.read_text("ascii").split()[1]) - begun) / 1e6)
                progress(f"start {turn + 1}/{runs}", one.name, took[one.name][-1:])
    rows = [figures.Samples(name, tuple(values)) for name, values in took.items()]
    return figures.compared(rows, "ms", who.GUARDIAN)


def helped(folder: Path, runs: int) -> list[str]:
    """`guardian --help` beside an interpreter that does nothing."""
    commands = {
        "guardian --help": (str(who.SCRIPTS / "guardian"), "--help"),
        "python -c pass": (sys.executable, "-c", "pass"),
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(-1, max(runs, HELPS)):
        for name, command in commands.items():
            begun = time.monotonic_ns()
            who.finish(who.start(command, folder), PATIENCE_S)
            if turn >= 0:
                took[name].append((time.monotonic_ns() - begun) / 1e6)
    rows = [figures.Samples(name, tuple(values)) for name, values in took.items()]
    return figures.compared(rows, "ms", "guardian --help")


def watch(folder: Path, minutes: float) -> list[str]:
    """Memory and CPU time of those who supervise a talking job, both at once."""
    field = (who.guardian(folder), who.TORCHRUN)
    seconds = 60 * minutes + 30
    places = {one.name: folder / f"watch-{number}" for number, one in enumerate(field)}
    for place in places.values():
        place.mkdir()
    living = {one.name: who.start(one.over(who.ranks(places[one.name], seconds)), folder) for one in field}
    try:
        jobs = {name: job_pid(place) for name, place in places.items()}
        lines = [
            "| after | who | processes | PSS, MiB | private, MiB | CPU, s | CPU since the line before, % of a core |",
            "|---:|---|---:|---:|---:|---:|---:|",
        ]
        begun, last = time.monotonic(), dict.fromkeys(living, (0.0, 0.0))
        totals: dict[str, footprint.Footprint] = {}
        for moment in (0.25, *(m for m in LOOKS_MIN if m < minutes), minutes):
            time.sleep(max(0.0, begun + 60 * moment - time.monotonic()))
            for name, process in living.items():
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended after {moment} min with exit code {process.returncode}")
                now, seen = time.monotonic() - begun, footprint.look(process.pid, jobs[name])
                share = 100 * (seen.cpu_s - last[name][1]) / (now - last[name][0])
                row = f"{seen.processes} | {seen.pss_mib:.1f} | {seen.private_mib:.1f} | {seen.cpu_s:.2f} | {share:.2f}"
                lines.append(f"| {now / 60:.2f} min | {name} | {row} |")
                print(lines[-1], flush=True)
                last[name], totals[name] = (now, seen.cpu_s), seen
        ours, theirs = totals[who.GUARDIAN].pss_mib, totals[who.TORCHRUN.name].pss_mib
        lines += ["", f"At the end {who.GUARDIAN}'s PSS is {figures.part(ours, theirs)}."]
        return lines
    finally:
        for process in living.values():
            process.terminate()
        for process in living.values():
            who.finish(process, PATIENCE_S)


def job_pid(place: Path) -> int:
    """The pid that the job wrote down, once it runs."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            return int((place / "pid").read_text())
        except (OSError, ValueError):
            time.sleep(0.1)
    raise SystemExit("the job never began")


def progress(what: str, name: str, values: list[float]) -> None:
    """One line, so that it can be watched."""
    print(f"{what:14} {name:40} {' '.join(f'{value:.1f}' for value in values)}", flush=True)


def main() -> None:
    """Measure what is asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help="restart, start, help, watch (default: all)")
    options.add_argument("--runs", type=int, default=5, help="turns of each contestant (default: 5)")
    options.add_argument("--minutes", type=float, default=10, help="for watch (default: 10)")
    options.add_argument("--dir", type=Path, help="a folder on the disk to measure on (default: a temporary one)")
    options.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    asked = options.parse_args()
    parts: dict[str, Callable[[Path], list[str]]] = {
        "restart": lambda folder: restart(folder, asked.runs),
        "start": lambda folder: start(folder, asked.runs),
        "help": lambda folder: helped(folder, asked.runs),
        "watch": lambda folder: watch(folder, asked.minutes),
    }
    unknown = set(asked.parts) - parts.keys()
    if unknown:
        options.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name in asked.parts or parts:
        with tempfile.TemporaryDirectory(prefix="guardian-bench-", dir=asked.dir) as folder:
            before = figures.load()
            lines = parts[name](Path(folder))
        when = time.strftime("%Y-%m-%d", time.gmtime())
        lines = [f"{when}; {figures.machine()}; load before {before}, after {figures.load()}.", "", *lines]
        print("\n".join(lines), flush=True)
        if asked.write:
            figures.write(name, lines)


if __name__ == "__main__":
    main()
