"""A rank and a process below it, as a data loader has; one of them takes more memory than there is.

orphaned.py rank|worker FIRST MORE GO: it takes FIRST MiB, and MORE once a file GO is there. If the worker dies the rank
says nothing of use, and ends with exit code 1.
"""

import os
import sys
import time


def take(mib):
    """Memory that is really there."""
    held = bytearray(mib << 20)
    held[::4096] = b"x" * len(held[::4096])
    return held


def greedy(first, more, go):
    """Hold what is told, then more."""
    held = [take(first)]
    while not os.path.exists(go):
        time.sleep(0.1)
    held.append(take(more))
    time.sleep(1000)


def main():
    """The rank waits for its worker, as a data loader does."""
    who, first, more, go = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    worker = os.fork()
    if who == ("rank" if worker else "worker"):
        greedy(first, more, go)
    if not worker:
        time.sleep(1000)
    _, status = os.waitpid(worker, 0)
    time.sleep(3)
    print("the batch did not come", flush=True)
    sys.exit(1 if status else 0)


main()
