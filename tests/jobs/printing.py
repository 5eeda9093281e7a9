"""A job that fills the disk on which its output lies, and prints on: a full disk under its output would end it.

    python printing.py --fill FILE --lines 40 --done FILE

A Python program dies of OSError at its print; this one says so with exit code 9.
"""

import argparse
import errno
import sys
import time
from pathlib import Path


def main():
    """Fill, print slowly, and leave a mark when all was printed."""
    options = argparse.ArgumentParser()
    options.add_argument("--fill", type=Path, required=True)
    options.add_argument("--lines", type=int, required=True)
    options.add_argument("--done", type=Path, required=True)
    chosen = options.parse_args()
    try:
        print("begins", flush=True)
        time.sleep(3)
        fill(chosen.fill)
        for number in range(chosen.lines):
            print(f"line {number} " + "." * 4000, flush=True)
            time.sleep(0.01)
    except OSError as error:
        # The folder of the mark lies on another disk.
        chosen.done.write_text(str(error))
        sys.exit(9)
    finally:
        chosen.fill.unlink()
    chosen.done.write_text("all printed")


def fill(path):
    """Write until no byte fits."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


if __name__ == "__main__":
    main()
