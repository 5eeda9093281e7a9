"""A big log of jobs that work, woven from recorded ones: eight ranks talk at once, bars redraw with carriage returns."""

import random
from pathlib import Path

LOGS = Path(__file__).parent.parent / "data" / "raw_logs"
WOVEN = (
    "swift_ddp2_gloo",
    "swift_full_uninterrupted",
    "hf_uninterrupted",
    "lf_full",
    "swift_lora_cpu",
    "ds_zero1_hf2",
    "swift_full_resumed_lower_lr",
    "hf_resume_more_steps_warmup",
)


def woven(size, seed=0):
    """So many bytes; the ranks' lines come in runs of one to three, as pipes deliver them."""
    chance = random.Random(seed)
    ranks = [_lines(name, number) for number, name in enumerate(WOVEN)]
    at = [0] * len(ranks)
    parts, length = [], 0
    while length < size:
        rank = chance.randrange(len(ranks))
        for _ in range(chance.randint(1, 3)):
            line = ranks[rank][at[rank] % len(ranks[rank])]
            at[rank] += 1
            parts.append(line)
            length += len(line)
    return b"".join(parts)


def _lines(name, rank):
    """A recorded log's own lines; those of a logger with the rank in front, as torchrun does on request."""
    lines = (LOGS / f"{name}.log").read_bytes().splitlines(keepends=True)[1:-1]
    marked = [b"[default%d]:" % rank + line if line.startswith(b"[INFO") else line for line in lines]
    return [line if line.endswith((b"\n", b"\r")) else line + b"\n" for line in marked]
