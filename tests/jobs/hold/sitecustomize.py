"""Holds guardian up where it loads the module that HOLD names: says so with a file `held`, waits for `go`."""

import os
import sys
import time


class Finder:
    """Finds nothing; it only waits."""

    def find_spec(self, name, path=None, target=None):
        if name == os.environ["HOLD"] and not os.path.exists("held"):
            open("held", "x").close()
            while not os.path.exists("go"):
                time.sleep(0.02)


if "HOLD" in os.environ and "GUARDIAN_MARK" not in os.environ:
    sys.meta_path.insert(0, Finder())
