"""Two ranks that tell of their steps as the companion does, on the standard library alone, and stand still once.

    python standing.py HOW OUT

The first attempt stands still after some steps, the second one trains to its end. HOW: `spin` in one call of C that
holds the interpreter; `redraw` a progress bar every half second without a step; `evaluate` in an evaluation, where it
spins; `mute` before its training begins.
"""

import json
import os
import subprocess
import sys
import time

BEFORE = 16
STEPS = 20
WORLD = 2
BATCHES = 20


def main(how, out):
    """Start the ranks, joined by two pipes, and wait for them."""
    there, back = os.pipe(), os.pipe()
    ends = ((back[0], there[1]), (there[0], back[1]))
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, how, out, str(read), str(write)],
            env={**os.environ, "RANK": str(rank)},
            pass_fds=(read, write),
        )
        for rank, (read, write) in enumerate(ends)
    ]
    for end in (*there, *back):
        os.close(end)
    return max(abs(rank.wait()) for rank in ranks)


class Rank:
    """One of them."""

    def __init__(self, out, read, write):
        self.rank = int(os.environ["RANK"])
        self.out, self.read, self.write = os.path.abspath(out), read, write
        self.attempt = int(os.environ["GUARDIAN_MARK"].rpartition("/")[2])

    def tell(self, event, **facts):
        """A line of the heartbeat."""
        with open(f"{os.environ['GUARDIAN_DIR']}/heartbeat.{self.rank}.jsonl", "a") as file:
            file.write(json.dumps({"t": time.time(), "ev": event, **facts}) + "\n")

    def train(self, how):
        """Say hello, step together with the other rank, and say the end."""
        prints_its_stacks = armed()
        if how == "mute" and self.attempt == 1 and self.rank == 1:
            never_begins()
        self.tell(
            "hello", v=1, pid=os.getpid(), rank=self.rank, world=WORLD, local_world=WORLD, step=0, max_steps=STEPS, device_batch=1,
            accumulation=1, data_parallel=WORLD, effective_batch=WORLD, output_dir=self.out, trainer="Standing",
            armed=prints_its_stacks,
        )  # fmt: skip
        for step in range(1, STEPS + 1):
            self.all_reduce()
            if step == BEFORE and self.attempt == 1 and self.rank == 1:
                STANDS[how]()
            if step == BEFORE and how == "evaluate":
                self.evaluate()
            time.sleep(0.1)
            self.tell("step", step=step, rows=1, tokens=1)
        self.tell("end", step=STEPS, max_steps=STEPS, by="max_steps")

    def evaluate(self):
        """Longer than two steps may be apart, and alive by its batches alone."""
        self.tell("phase", phase="eval", step=BEFORE)
        for batch in range(BATCHES):
            self.tell("batch", batch=batch)
            time.sleep(1)
        if self.attempt == 1 and self.rank == 1:
            spins_in_c()
        self.all_reduce()
        self.tell("phase", phase="train", step=BEFORE)

    def all_reduce(self):
        """Wait for the other one, as in a collective."""
        os.write(self.write, b".")
        os.read(self.read, 1)


def armed():
    """By the companion's own code, where its folder is on the path of what guardian starts."""
    for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if os.path.exists(os.path.join(folder, "guardian_stacks.py")):
            sys.path.append(folder)
            import guardian_stacks

            guardian_stacks.arm()
            return guardian_stacks.armed()
    return False


def spins_in_c():
    """One call, with the interpreter held."""
    sum(range(10**14))


def never_begins():
    """As one that waits for a lock."""
    time.sleep(100_000)


def redraws():
    """A bar that comes alive twice a second and gets nowhere."""
    while True:
        sys.stderr.write(f"\rTraining:  80%|########  | {BEFORE}/{STEPS} [00:01<00:00, 9.99it/s]")
        sys.stderr.flush()
        time.sleep(0.5)


STANDS = {"spin": spins_in_c, "redraw": redraws, "evaluate": lambda: None, "mute": lambda: None}

if __name__ == "__main__":
    if "RANK" in os.environ:
        Rank(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])).train(sys.argv[1])
    else:
        sys.exit(main(*sys.argv[1:3]))
