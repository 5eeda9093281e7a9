"""Data loader processes that run out of something: shared memory, memory, open files. They become fewer, or get more.

Real shortages on a real data loader. What the trainer is asked to do stays as it was.
"""

import json

import pytest

from tests.faults.confined import memory_of, open_files_of, shared_memory_of
from tests.faults.harness import JOBS, TINY, Guarded
from tests.jobs.hunger import hungry

STEPS = 4
JOB = ("--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "100")
WORKERS = "--dataloader_num_workers"
PREFETCH = "--dataloader_prefetch_factor"


@pytest.fixture
def healed(tmp_path):
    """Runs a job that guardian heals, in one restart; what it showed goes with the test's output."""
    started = []

    def run(*command, around=(), attempts=2, **how):
        guarded = Guarded(tmp_path, *TINY, *JOB, *command, **how)
        guarded.around = around
        started.append(guarded)
        code = guarded.run()
        print(guarded.shown())
        report = guarded.report()
        print(json.dumps(report, indent=1))
        assert 0 == code, guarded.shown()[-6000:]
        assert ("finished", STEPS, 16) == (report["outcome"], report["steps_done"], report["effective_batch"])
        assert ("proved", attempts) == (report["certificate"]["verdict"], len(report["attempts"]))
        return report

    yield run
    for guarded in started:
        guarded.clean_up()


def fallen(report):
    """What each attempt ended of, and what the next one changed for it."""
    return [
        (a["cause"]["class"], a["cause"]["variant"], [(e["knob"], e["old"], e["new"]) for e in changed(b)])
        for a, b in zip(report["attempts"], report["attempts"][1:], strict=False)
    ]


def changed(attempt):
    """Its edits, besides where it went on."""
    return [edit for edit in attempt["edits"] if edit["kind"] != "resume"]


# --- shared memory -----------------------------------------------------------------------------------------------


@pytest.fixture
def long_rows(tmp_path):
    """As many rows as usual, of a thousand tokens each: a batch of eight is 200 KB."""
    row = json.dumps({"query": "a" * 480, "response": "b" * 480})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 128)
    return ("--dataset", str(tmp_path / "rows.jsonl"), "--max_length", "1024")


def test_batches_that_shared_memory_does_not_hold_are_loaded_by_fewer_workers_after_one_restart(
    healed, long_rows, tmp_path
):
    """Torch says so in a thread of the worker's, and the job waits for ever, at once or when the lost batch's turn comes.

    Where a row has told how large they are, as many workers stay as /dev/shm holds the batches of; else none.
    """
    (tmp_path / "policy.toml").write_text("[pending]\nsettle_s = 5\n")
    options = ("--policy", "policy.toml")
    eager = ("--per_device_train_batch_size", "8", WORKERS, "4", PREFETCH, "8")
    report = healed(*long_rows, *eager, around=shared_memory_of(2), options=options)

    ((failure, variant, edits),) = fallen(report)
    assert ("shm_bus_error", "full") == (failure, variant)
    none, as_many_as_fit = (
        [("workers", "4", "0"), ("prefetch", "8", None)],
        [("workers", "4", "1"), ("prefetch", "8", "1")],
    )
    assert edits in (none, as_many_as_fit)
    assert "unable to allocate shared memory(shm) for file" in report["attempts"][0]["cause"]["evidence"][0]["text"]


@pytest.mark.long
def test_a_bus_error_in_a_worker_is_answered_with_fewer_workers(healed):
    """Two processes of 1.2 MiB each in 2 MiB: the second dies of SIGBUS, and one alone has room."""
    report = healed(WORKERS, "2", around=shared_memory_of(2), env=hungry(worker_shm_mib=1.2, from_batch=7))

    assert [("shm_bus_error", "full", [("workers", "2", "1"), ("prefetch", "2", "1")])] == fallen(report)


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_worker_that_the_kernel_kills_is_answered_with_half_as_many(healed):
    """Two of them do not fit into the cgroup beside the trainer, one does; the batch stays what it is."""
    with memory_of(1536) as around:
        report = healed(WORKERS, "2", around=around, env=hungry(worker_mib=600))

    assert [("host_oom", "worker", [("prefetch", "2", "1"), ("workers", "2", "1")])] == fallen(report)


@pytest.mark.long
def test_workers_that_the_kernel_goes_on_killing_are_given_up(healed):
    """Not one of them fits: the trainer loads its rows itself."""
    with memory_of(1536) as around:
        report = healed(WORKERS, "2", around=around, env=hungry(worker_mib=1400), attempts=3)

    first, second = fallen(report)
    assert ("host_oom", "worker", [("prefetch", "2", "1"), ("workers", "2", "1")]) == first
    assert ("host_oom", "worker", [("workers", "1", "0")]) == second


# --- open files --------------------------------------------------------------------------------------------------

EAGER = (
    *("--dataset", f"{JOBS / 'rows.jsonl'}#256", WORKERS, "2", PREFETCH, "100"),
    *("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "16"),
)
"""Each tensor that waits is an open file, and there are three in a batch."""


def test_a_loader_without_open_files_gets_as_many_as_it_may_have(healed, tmp_path):
    """Many batches ahead are more than the soft limit allows, and the hard one has room."""
    (tmp_path / "policy.toml").write_text("[pending]\nsettle_s = 5\n")
    report = healed(*EAGER, around=open_files_of(128), options=("--policy", "policy.toml"))

    assert [("shm_bus_error", "fds", [("nofile", None, "hard")])] == fallen(report)


@pytest.mark.long
def test_where_no_more_open_files_are_to_be_had_tensors_are_handed_over_by_name(healed, tmp_path):
    """The hard limit is as low as the soft one; names in /dev/shm need no open file."""
    (tmp_path / "policy.toml").write_text("[pending]\nsettle_s = 5\n")
    report = healed(*EAGER, around=open_files_of(128, hard=128), options=("--policy", "policy.toml"), attempts=3)

    first, second = fallen(report)
    assert ("shm_bus_error", "fds", [("nofile", None, "hard")]) == first
    assert ("shm_bus_error", "fds", [("GUARDIAN_SHARING_STRATEGY", None, "file_system")]) == second
