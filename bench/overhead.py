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
from dataclasses import dataclass
from pathlib import Path

import contestants as who
import figures
import footprint

LIFE_S = 6.0
"""Of a child before it dies: a keeper that stands by is started 3 s after a launch, and needs some time to."""
DEATHS = 4
PATIENCE_S = 300.0
HELPS = 40
FIRST_LOOK_MIN = 0.25
LOOKS_MIN = (1.0, 5.0)


@dataclass(frozen=True)
class Look:
    """What one contestant's processes took up to a moment."""

    name: str
    after_s: float
    sum: footprint.Footprint


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
    sync_ms = figures.Samples("sync", tuple(syncs)).median
    floor = (
        f"A durable append to this disk took {sync_ms:.1f} ms meanwhile; guardian waits for one before it starts a job."
    )
    wanted = dict.fromkeys((one.name for one in field[2:]), 1 / 15)
    return [*figures.compared(rows, "ms", who.GUARDIAN), *figures.verdicts(rows, who.GUARDIAN, wanted), "", floor]


def gaps(notes: Path) -> list[float]:
    """Milliseconds from each death to the next beginning."""
    told = [(what, int(at)) for what, at in (line.split() for line in notes.read_text("ascii").splitlines())]
    found = [
        (at - died) / 1e6 for (was, died), (what, at) in itertools.pairwise(told) if (was, what) == ("died", "began")
    ]
    if len(found) != DEATHS:
        raise SystemExit(f"{notes.name}: {len(found)} of {DEATHS} deaths were followed by a start")
    return found


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
    wanted = dict.fromkeys((one.name for one in field[3:]), 1 / 20)
    return [*figures.compared(rows, "ms", who.GUARDIAN), *figures.verdicts(rows, who.GUARDIAN, wanted)]


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
            # Without a timeout: with one, Popen.wait polls in doubling steps, and what ends within 32 ms takes 32.
            who.start(command, folder).wait()
            if turn >= 0:
                took[name].append((time.monotonic_ns() - begun) / 1e6)
    rows = [figures.Samples(name, tuple(values)) for name, values in took.items()]
    median = rows[0].median
    wanted = f"* wanted: under 200 ms; it is {median:.0f} ms: **{figures.said(median < 200)}**"
    return [*figures.compared(rows, "ms", "guardian --help"), "", wanted]


def watch(folder: Path, minutes: float) -> list[str]:
    """Memory and CPU time of those who supervise a talking job, both at once."""
    field = (who.guardian(folder), who.TORCHRUN)
    places = {one.name: folder / f"watch-{number}" for number, one in enumerate(field)}
    for place in places.values():
        place.mkdir()
    job_s = 60 * minutes + 30
    living = {one.name: who.start(one.over(who.ranks(places[one.name], job_s)), folder) for one in field}
    try:
        seen = [Look(name, 0.0, footprint.NOTHING) for name in living]
        jobs = {name: job_pid(place) for name, place in places.items()}
        begun = time.monotonic()
        for moment in (FIRST_LOOK_MIN, *(m for m in LOOKS_MIN if m < minutes), minutes):
            time.sleep(max(0.0, begun + 60 * moment - time.monotonic()))
            for name, process in living.items():
                if process.poll() is not None:
                    raise SystemExit(f"{name} ended after {moment} min with exit code {process.returncode}")
                seen.append(Look(name, time.monotonic() - begun, footprint.look(process.pid, jobs[name])))
                progress("watch", name, [moment, seen[-1].sum.pss_mib, seen[-1].sum.cpu_s])
    finally:
        for process in living.values():
            who.finish(process, PATIENCE_S)  # the job ends by itself
    return looked(seen)


def looked(seen: list[Look]) -> list[str]:
    """The looks as a table, the CPU time of each since the one before, and what was wanted."""
    lines = [
        "| after | who | processes | PSS, MiB | private, MiB | CPU, s | CPU since the line before, % of a core |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    last: dict[str, Look] = {}
    busiest = 0.0
    for one in seen:
        if before := last.get(one.name):
            share = 100 * (one.sum.cpu_s - before.sum.cpu_s) / (one.after_s - before.after_s)
            sizes = f"{one.sum.processes} | {one.sum.pss_mib:.1f} | {one.sum.private_mib:.1f}"
            lines.append(f"| {one.after_s / 60:.2f} min | {one.name} | {sizes} | {one.sum.cpu_s:.2f} | {share:.2f} |")
            if one.name == who.GUARDIAN and one.after_s > 60 * FIRST_LOOK_MIN + 1:
                busiest = max(busiest, share)
        last[one.name] = one
    pss = {name: one.sum.pss_mib for name, one in last.items()}
    ours = pss[who.GUARDIAN]
    rows = [figures.Samples(name, (value,)) for name, value in pss.items()]
    return [
        *lines,
        *figures.verdicts(rows, who.GUARDIAN, {who.TORCHRUN.name: 1 / 4}),
        f"* wanted: under 60 MiB in all; it is {ours:.1f}: **{figures.said(ours < 60)}**",
        f"* wanted: under 1 % of a core, started; it is at most {busiest:.2f} %: **{figures.said(busiest < 1)}**",
    ]


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
