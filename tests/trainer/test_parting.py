"""Ranks that trained to the end leave their process group, each time."""

import subprocess
import sys

import pytest

PARTINGS = 300
"""With the group's last meeting let go of by gloo's own thread, one of some 200 never ended (torch 2.13)."""
RANK = """
import sys, torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from guardian.trainer.parting import leave_group

rank, folder, times = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
for time in range(times):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/{time}", rank=rank, world_size=2)
    model = DistributedDataParallel(torch.nn.Linear(4, 4))
    model(torch.ones(2, 4)).sum().backward()
    leave_group()
    del model
print("parted", times)
"""


@pytest.mark.long
def test_ranks_part_and_none_stays_behind(tmp_path):
    """DDP, gloo, two real ranks: the model is let go of after the group, as a script's end does it."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path), str(PARTINGS)], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        assert [f"parted {PARTINGS}\n"] * 2 == [rank.communicate(timeout=400)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
