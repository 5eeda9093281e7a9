"""What a long journal costs whoever reads it: `resume`, `report`, with a snapshot and without.

    .venv/bin/python bench/journal.py [--mib 1024] [--runs 3] [--write]

The journal is one of a run of years: almost nothing but `Positions`, four attempts, a kill after each. A reading is a
process of its own; the floor is the same process on a journal of some kilobytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures

from guardian.core import events as ev
from guardian.core import records
from guardian.core.folding import begin, fold
from guardian.host import runs, snapshots, story
from guardian.host.journal import Journal

MIB = 1024 * 1024
ATTEMPTS = 4
BATCH = 10_000
SECTION = "journal"
TITLE = "## Reading a long journal"


def main() -> None:
    """Make, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mib", type=int, default=1024)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--write", action="store_true")
    options.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.read is not None:
        read(chosen.read)
        return
    with tempfile.TemporaryDirectory() as base:
        lines = measure(Path(base), chosen.mib, chosen.runs)
    print("\n".join(lines))
    if chosen.write:
        with_place()
        figures.write(SECTION, lines)


def read(folder: Path) -> None:
    """Load the run in this process; print what it took."""
    begun = time.perf_counter()
    told = story.tell(runs.RunFolder(folder))
    took = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"s": took, "peak_mib": peak / 1024, "lines": told.lines, "how": told.snapshot}))


def measure(base: Path, mib: int, times: int) -> list[str]:
    """The table."""
    short, _ = make(base / "short", 16 * 1024)
    long, took = make(base / "long", mib * MIB)
    rows = [("some kilobytes", short, times), ("with a snapshot", long, times)]
    seen = [(name, [readings(folder) for _ in range(count)]) for name, folder, count in rows]
    (long / snapshots.FILE).unlink()
    seen.append(("without a snapshot", [readings(long)]))
    floor = min(one["s"] for one in seen[0][1]), min(one["peak_mib"] for one in seen[0][1])
    lines = [
        f"A journal of {mib} MiB, {seen[-1][1][0]['lines']} lines. A snapshot takes {1000 * took:.0f} ms to write.",
        f"{figures.machine()}; load {figures.load()}.",
        "",
        "| | seconds | times the floor | peak RSS, MiB | times the floor | samples |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, ones in seen:
        seconds, peak = min(one["s"] for one in ones), max(one["peak_mib"] for one in ones)
        ratios = f"{seconds / floor[0]:.1f} | {peak:.1f} | {peak / floor[1]:.2f}"
        lines.append(f"| {name} | {seconds:.3f} | {ratios} | {len(ones)} |")
    return lines


def readings(folder: Path) -> dict[str, float]:
    """One reading in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--read", folder], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def make(folder: Path, size: int) -> tuple[Path, float]:
    """A run folder with a journal of this size and a snapshot of most of it, and the time that took."""
    folder.mkdir()
    journal = Journal.create(folder / runs.JOURNAL)
    run = None
    for number in range(1, ATTEMPTS + 1):
        for event in (*begun(number), ev.Positions(number, 7919, 83)):
            told = record(event)
            journal.append(told, sync=False)
            run = fold(run, told) if run else begin(told)
        journal = filled(journal, told, size * number // ATTEMPTS)
        for event in ended(number) if number < ATTEMPTS else (ev.Noted("the newest line"),):
            told = record(event)
            journal.append(told, sync=False)
            run = fold(run, told)
    journal.checksum()  # a guardian that wrote the journal itself has it already
    since = time.perf_counter()
    assert snapshots.write(folder, run, journal)
    took = time.perf_counter() - since
    # What a living run writes after its latest snapshot: as much as there may be before the next one.
    tail = min(snapshots.EVERY_MIB * MIB, journal.size)
    filled(journal, record(ev.Positions(ATTEMPTS, 7919, 83)), journal.size + tail).close()
    return folder, took


def begun(number: int) -> tuple[ev.Event, ...]:
    """An attempt begins, the first one with the run."""
    plan = ev.Planned(number, ("train",), (), None, None, (), 0.0, "because")
    created = ev.RunCreated("uuid", "r1", ("train",), "/", None, companion=True, policy="{}", version="0", uid=1000)
    start = (plan, ev.Launched(number, 11, 22), ev.JobStarted(number, 33, 44))
    return (created, *start) if number == 1 else start


def ended(number: int) -> tuple[ev.Event, ...]:
    """It is killed."""
    end = ev.Ended(number, None, 9, None, (), None, ())
    return ev.LauncherExited(number, None, 9), ev.TreeEnded(number), end, ev.Diagnosed(number, None)


def filled(journal: Journal, one: ev.Record, upto: int) -> Journal:
    """The journal with so many of the same record that it has this size; folding one of them is folding all."""
    line = records.encode(one)
    count = max(0, upto - journal.size) // len(line)
    with journal.path.open("ab") as file:
        for _ in range(count // BATCH):
            file.write(line * BATCH)
        file.write(line * (count % BATCH))
    lines = journal.lines + count
    journal.close()
    journal, _ = Journal.open(journal.path)
    journal.lines = lines
    return journal


def record(event: ev.Event) -> ev.Record:
    return ev.Record(ev.Stamp(1.8e9, 12345.678, "d1b2a3c4-0000-4000-8000-1234567890ab", "node", 4000), event)


def with_place() -> None:
    """Give the section a place in RESULTS.md where it has none yet."""
    text = figures.RESULTS.read_text("utf-8") if figures.RESULTS.exists() else "# What guardian costs\n"
    if f"<!-- {SECTION} -->" not in text:
        how = "`bench/journal.py`; what a reader of the run folder (`resume`, `report`) waits for and holds in memory."
        place = f"\n{TITLE}\n\n{how}\n\n<!-- {SECTION} -->\n<!-- end of {SECTION} -->\n"
        figures.RESULTS.write_text(text.rstrip("\n") + "\n" + place, "utf-8")


if __name__ == "__main__":
    main()
