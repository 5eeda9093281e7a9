"""A job of two ranks that trains nothing and talks like one that does.

    ranks.py FOLDER SECONDS

100 lines a second on standard output, nine of ten of them a progress bar that redraws itself, the tenth what
transformers logs; two heartbeats as the companion writes them (guardian/core/wire.py), two steps a second; a
checkpoint folder a minute. FOLDER gets the job's pid and its checkpoints, and the heartbeats where no guardian says
where they belong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

LINES_PER_S = 100
LINES_PER_STEP = 50
STEPS_PER_SAVE = 120
MAX_STEPS = 100_000
WORLD = 2
BATCH = {"device_batch": 4, "accumulation": 2, "data_parallel": WORLD, "effective_batch": 4 * 2 * WORLD}


class Rank:
    """One rank's heartbeat: a JSON object a line, appended with one write each."""

    def __init__(self, folder: Path, number: int) -> None:
        self._number = number
        path = folder / f"heartbeat.{number}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(self, event: str, **facts: object) -> None:
        """Write one line."""
        line = {"t": time.time(), "ev": event, **facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def hello(self, output: Path) -> None:
        """What opens a training loop."""
        self.tell(
            "hello",
            v=1,
            pid=os.getpid(),
            rank=self._number,
            local_rank=self._number,
            world=WORLD,
            step=0,
            max_steps=MAX_STEPS,
            batch_argument=4,
            **BATCH,
            steps_per_epoch=1000,
            save_steps=STEPS_PER_SAVE,
            logging_steps=1,
            learning_rate=1e-4,
            output_dir=str(output),
            trainer="Trainer",
            resumed_from=None,
            versions={"python": "3.11", "torch": "2.13.0", "transformers": "5.19.0"},
        )

    def step(self, number: int) -> None:
        """What an optimizer step says; its loss is that of the step before, as on a GPU."""
        rows = BATCH["effective_batch"] // WORLD
        late = {"loss": [number - 1, loss(number - 1)]} if number > 1 else {}
        self.tell("step", step=number, rows=rows, tokens=rows * 512, fp=f"{number * 2654435761:016x}", lr=1e-4, **late)
        if self._number == 0:
            self.tell("log", step=number, logs={"loss": loss(number), "grad_norm": 0.7, "learning_rate": 1e-4})


def main(folder: Path, seconds: float) -> None:
    """Train for a while."""
    (folder / "pid").write_text(str(os.getpid()))
    output = folder / "out"
    output.mkdir(exist_ok=True)
    ranks = [Rank(Path(os.environ.get("GUARDIAN_DIR", folder)), number) for number in range(WORLD)]
    for rank in ranks:
        rank.hello(output)
    begun = time.monotonic()
    for line in range(1, int(seconds * LINES_PER_S)):
        step = line // LINES_PER_STEP
        sys.stdout.write(logged(step) if line % 10 == 0 else bar(step, line))
        sys.stdout.flush()
        if line % LINES_PER_STEP == 0:
            for rank in ranks:
                rank.step(step)
            if step % STEPS_PER_SAVE == 0:
                ranks[0].tell("saved", step=step, path=str(save(output, step)))
        time.sleep(max(0.0, begun + line / LINES_PER_S - time.monotonic()))


def loss(step: int) -> float:
    """It falls."""
    return round(2.0 / (1 + step / 500), 4)


def logged(step: int) -> str:
    """A line of transformers' log."""
    return f"{{'loss': '{loss(step)}', 'grad_norm': '0.7', 'learning_rate': '0.0001', 'epoch': '{step / 1000:.2f}'}}\n"


def bar(step: int, line: int) -> str:
    """A redrawn progress bar, as tqdm draws it."""
    done = "█" * (20 * step // MAX_STEPS)
    return f"\r  {100 * step // MAX_STEPS}%|{done:<20}| {step}/{MAX_STEPS} [{line / 100:.2f}s<13:52:10,  2.00it/s]"


def save(output: Path, step: int) -> Path:
    """A checkpoint folder, whole by its names and sizes."""
    folder = output / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for name in ("optimizer.pt", "scheduler.pt"):
        # The smallest zip file there is: the directory of an empty one.
        (folder / name).write_bytes(b"PK\5\6" + bytes(18))
    history = [{"step": one, "loss": loss(one), "grad_norm": 0.7, "learning_rate": 1e-4} for one in range(1, step + 1)]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
