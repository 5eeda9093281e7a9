"""Build the stub `libnvidia-ml.so.1`, and write the readings that it gives: for machines that have no GPU.

A fake at the edge, for what cannot exist here: the library is loaded through the real binding, by its real name, in the
real probe process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("stub.c")
LIBRARY = "libnvidia-ml.so.1"
CARD = {"total": 24576, "used": 400, "gpu": 0, "memory": 0, "power": 60000, "temperature": 35, "ecc": 0}


def build(folder: Path) -> Path:
    """The folder with the built library; skips where no C compiler is."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler builds the stub of NVML here")
    made = folder / LIBRARY
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(SOURCE)], check=True)
    return folder


class Cards:
    """The script of the stub: what its cards say from now on."""

    def __init__(self, folder: Path, library: Path, count: int = 1) -> None:
        self.path = folder / "nvml.script"
        self.library = library
        self.head: list[str] = [f"cards {count}"]
        self.readings = {at: dict(CARD) for at in range(count)}
        self.processes: dict[int, list[tuple[int, int]]] = {at: [] for at in range(count)}
        self.xids: list[tuple[int, int]] = []
        self.write()

    @property
    def env(self) -> dict[str, str]:
        """For the probe alone: nothing else finds the library."""
        return {"LD_LIBRARY_PATH": str(self.library), "GUARDIAN_STUB_NVML": str(self.path)}

    @property
    def guardians(self) -> dict[str, str]:
        """For a guardian, which hands the folder on to its probe only."""
        return {"GUARDIAN_NVML_FOLDER": str(self.library), "GUARDIAN_STUB_NVML": str(self.path)}

    def say(self, card: int = 0, **readings: int) -> None:
        """Other readings; None: the card does not tell."""
        self.readings[card].update(readings)
        self.write()

    def hold(self, *held: tuple[int, int], card: int = 0) -> None:
        """These processes (pid, MiB) and no others are on the card."""
        self.processes[card] = list(held)
        self.write()

    def lose(self, card: int = 0) -> None:
        self.say(card, lost=1)

    def xid(self, number: int, card: int = 0) -> None:
        self.xids.append((card, number))
        self.write()

    def stick(self, function: str) -> None:
        """From now on a call of it never returns."""
        self.head.append(f"stuck {function}")
        self.write()

    def write(self) -> None:
        """By rename: the stub may be reading."""
        lines = list(self.head)
        for at, known in self.readings.items():
            lines += [f"{at} no {name}" if value is None else f"{at} {name} {value}" for name, value in known.items()]
            lines += [f"{at} proc {pid} {mib}" for pid, mib in self.processes[at]]
        lines += [f"{at} xid {number}" for at, number in self.xids]
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        os.replace(new, self.path)
