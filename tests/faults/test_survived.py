"""Lines that look like death in jobs that live: nothing is restarted, and the run finishes in one attempt."""

import json

import pytest

from tests.faults.harness import JOBS, TINY, Guarded, harm
from tests.jobs.hunger import hungry

JOB = ("--output_dir", "out", "--max_steps", "8", "--save_steps", "100")
LONG = 120
"""Tokens; the usual rows have less."""
SAID = (
    "Killed",
    "nan",
    "Bus error",
    "CUDA out of memory",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
    "RuntimeError: unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
    "loss: nan, grad_norm: nan",
)


def rows_with(tmp_path, answers):
    """The usual rows, some of them with other answers."""
    rows = [json.loads(line) for line in (JOBS / "rows.jsonl").read_text().splitlines()]
    for place, answer in answers.items():
        rows[place]["response"] = answer
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ("--dataset", str(path))


@pytest.fixture
def finished(tmp_path):
    """Runs a job, and shows that one attempt was all it took."""
    started = []

    def run(*command, env):
        guarded = Guarded(tmp_path, *TINY, *JOB, *command, env=env)
        started.append(guarded)
        assert 0 == guarded.run(), guarded.shown()[-6000:]
        report = guarded.report()
        assert ("finished", 8, 1) == (report["outcome"], report["steps_done"], len(report["attempts"]))
        assert "proved" == report["certificate"]["verdict"], report["certificate"]
        return guarded

    yield run
    for guarded in started:
        guarded.clean_up()


def test_a_job_that_catches_its_allocator_error_and_goes_on_is_left_alone(tmp_path, finished):
    """It prints the whole traceback, skips the batch, and its next step is what counts."""
    one_long = rows_with(tmp_path, {76: "word " * 80})
    split = ("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2")
    guarded = finished(*one_long, *split, env=hungry(mib_per_row=60, room_mib=400, longer_than=LONG, caught=True))

    printed = guarded.run_folder.attempt_dir(1) / "job.log"
    assert 1 == printed.read_text().count("DefaultCPUAllocator: can't allocate memory: you tried to allocate")


def test_a_job_whose_data_speaks_of_death_is_left_alone(tmp_path, finished):
    """It prints the rows that it trains on, and they hold every word that a rule looks for."""
    guarded = finished(*rows_with(tmp_path, dict(enumerate(SAID))), env=harm({"do": "show the rows"}))

    assert [] == [line for line in SAID if f"\n{line}\n" not in guarded.shown()]
