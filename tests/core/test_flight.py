"""The flight recorder is asked to write beside the log where several ranks train, and never against the user."""

from __future__ import annotations

import pytest

from guardian.core import adapters, flight, planning
from guardian.core.policy import DEFAULT

ARGV = ("sft", "--model", "demo", "--dataset", "demo")
FILE = "/runs/r1/attempts/0001/nccl_trace_rank_"
OLD = {
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": FILE,
}
NEW = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1", "TORCH_FR_BUFFER_SIZE": "2000", "TORCH_FR_DUMP_TEMP_FILE": FILE}


def planned(argv=ARGV, env=(), *, taken=(), torch=None):
    """What of it the first launch of a command sets."""
    adapter = adapters.recognise(tuple(argv), dict(env), dict)
    terms = planning.Terms(
        "7d2f", tuple(argv), adapter, DEFAULT, "/runs/r1", "python", None, None, torch=torch, taken=frozenset(taken)
    )
    return {name: value for name, value in terms.first(0.0).env if name in flight.NAMES}


def test_several_ranks_write_what_they_last_did_together_beside_their_log():
    """In the folder of the attempt, under the names that their torch knows; under both where its version is unknown."""
    assert NEW == planned(env={"NPROC_PER_NODE": "2"}, torch=(2, 8))
    assert OLD == planned(env={"NPROC_PER_NODE": "2"}, torch=(2, 7))
    assert OLD | NEW == planned(env={"NPROC_PER_NODE": "2"})


def test_one_rank_alone_has_nobody_to_wait_for():
    """Nothing is added to its environment; nor to that of a program of which nothing is known."""
    assert {} == planned()
    assert {} == planned(("./train.sh",), {"NPROC_PER_NODE": "2"})


def test_a_launcher_that_counts_the_ranks_itself_may_start_several():
    """`--nproc-per-node gpu` says no number."""
    argv = (
        "torchrun",
        "--nproc-per-node",
        "gpu",
        "train.py",
        "--output_dir",
        "out",
        "--per_device_train_batch_size",
        "1",
    )

    assert NEW == planned(argv, torch=(2, 13))


@pytest.mark.parametrize("torch", [(2, 7), (2, 8), None])
@pytest.mark.parametrize("names", [flight.SIZES, flight.FILES, (flight.ON_TIMEOUT,)])
def test_what_the_user_has_set_stays_under_either_name(names, torch):
    """The other settings are added all the same."""
    two = {"NPROC_PER_NODE": "2"}
    for taken in names:
        assert planned(env=two, torch=torch).keys() - names == planned(env=two, torch=torch, taken={taken}).keys()
