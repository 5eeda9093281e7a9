"""Samples as rows of a table, and tables as sections of RESULTS.md that are replaced one by one."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


@dataclass(frozen=True)
class Samples:
    """What one contestant took, in one unit."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """Smallest, quartiles, largest: on a shared machine the tail is the neighbours'."""
        low, high = min(self.values), max(self.values)
        if len(self.values) < 4:
            return f"{low:.1f} to {high:.1f}"
        first, _, third = statistics.quantiles(self.values, n=4)
        return f"{low:.1f} / {first:.1f} / {third:.1f} / {high:.1f}"


def compared(rows: list[Samples], unit: str, ours: str) -> list[str]:
    """A table of medians, each with what part of it ours is."""
    base = next(row.median for row in rows if row.name == ours)
    lines = [
        f"| | median, {unit} | least / quartiles / most | samples | {ours} is |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = "" if row.name == ours else part(base, row.median)
        lines.append(f"| {row.name} | {row.median:.1f} | {row.spread} | {len(row.values)} | {ratio} |")
    return lines


def verdicts(rows: list[Samples], ours: str, wanted: dict[str, float]) -> list[str]:
    """What was wanted of each, and whether it is so."""
    base = next(row.median for row in rows if row.name == ours)
    lines = [""]
    for row in (row for row in rows if row.name in wanted):
        limit = wanted[row.name]
        is_so = said(base <= row.median * limit)
        lines.append(f"* wanted: at most {share(limit)} of {row.name}; it is {share(base / row.median)}: **{is_so}**")
    return lines


def said(is_so: bool) -> str:  # noqa: FBT001 - the truth of what was wanted, and nothing else
    """Whether a wish came true."""
    return "reached" if is_so else "missed"


def share(ratio: float) -> str:
    """A ratio as a part, or as a multiple."""
    return f"{ratio:.2g} times" if ratio > 1 else f"1/{1 / ratio:.3g}"


def part(ours: float, theirs: float) -> str:
    """A ratio as one reads it."""
    return f"1/{theirs / ours:.1f} of it" if ours <= theirs else f"{ours / theirs:.1f} times it"


def load() -> str:
    """How busy the machine is with others."""
    one, five, _ = os.getloadavg()
    return f"{one:.1f} over 1 min, {five:.1f} over 5 min"


def sync_ms(folder: Path, count: int = 50) -> float:
    """What one durable append costs on this disk: the floor under every journalled decision."""
    path = folder / "sync"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        os.write(file, b"x" * 300)
        os.fdatasync(file)
        took.append(1000 * (time.perf_counter() - begun))
    os.close(file)
    path.unlink()
    return statistics.median(took)


def machine() -> str:
    """What was measured on, without its name."""
    system = platform.uname()
    kernel = ".".join(system.release.split(".")[:2])
    return f"{os.cpu_count()} cores, {system.system} {kernel}, {system.machine}, Python {platform.python_version()}"


def write(name: str, lines: list[str]) -> None:
    """Put a section between its marks in RESULTS.md; what stands around it stays."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = RESULTS.read_text("utf-8")
    before, found, rest = text.partition(begin)
    if not found:
        raise SystemExit(f"{RESULTS.name} has no place for {name}: {begin}")
    _, _, after = rest.partition(end)
    RESULTS.write_text(before + "\n".join((begin, *lines, end)) + after, "utf-8")
