"""Hard-links torch and what it asks for from one virtual environment into another: quick, and no disk is spent.

Usage: share_torch.py FROM TO. Each environment stands by itself afterwards: either may be changed or deleted.
"""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"  # of another Python: none there


def name_of(text: str) -> str:
    """The name that a requirement, or a distribution, begins with, in the one spelling that all are compared in."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", text)[0]).lower()


def installed(place: Path) -> dict[str, Distribution]:
    return {name_of(each.metadata["Name"]): each for each in distributions(path=[str(place)])}


def needed(start: str, there: dict[str, Distribution]) -> dict[str, Distribution]:
    """A distribution and all that it asks for, as far as they are there."""
    found: dict[str, Distribution] = {}
    wanted = [start]
    while wanted:
        name = wanted.pop()
        if name in there and name not in found:
            found[name] = there[name]
            wanted += [name_of(line) for line in there[name].requires or () if "extra ==" not in line]
    return found


def write_programs(distribution: Distribution, environment: Path) -> None:
    # Such as torchrun. Through sh: the first line of a program may hold no blanks, and a path may.
    for program in distribution.entry_points:
        if program.group != "console_scripts":
            continue
        file = environment / "bin" / program.name
        file.parent.mkdir(exist_ok=True)
        start = f"#!/bin/sh\n'''exec' \"{environment.resolve() / 'bin/python'}\" \"$0\" \"$@\"\n' '''\n"
        file.write_text(f"{start}import sys\nfrom {program.module} import {program.attr}\nsys.exit({program.attr}())\n")
        file.chmod(0o755)


def link(distribution: Distribution, place: Path) -> None:
    """All but its programs, which name the other environment; INSTALLER, which says that it is whole, last."""
    files = [file for file in distribution.files or () if ".." not in file.parts]
    for file in sorted(files, key=lambda each: each.name == "INSTALLER"):
        target = place / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # of a linking that was cut off
        os.link(str(distribution.locate_file(file)), target)


def main() -> None:
    environments = [Path(argument) for argument in sys.argv[1:]]
    source, target = (environment / PACKAGES for environment in environments)
    standing = installed(target)  # whichever version: to replace it is the installer's work
    for name, distribution in needed("torch", installed(source)).items():
        if name not in standing:
            link(distribution, target)
            write_programs(distribution, environments[1])
            print(f"linked {name} {distribution.version}")


if __name__ == "__main__":
    main()
