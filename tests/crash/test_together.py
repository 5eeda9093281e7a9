"""Guardian dies, and its job, its keeper or the whole machine with it: `resume` finds out what is left."""

import os
import signal
import time
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.host import processes
from guardian.host.crash import BOOT_SWITCH, STILL_SWITCH
from tests.crash.test_sweep import clean, counting

PATIENCE_S = 120
ANOTHER_BOOT = {BOOT_SWITCH: "another-boot", STILL_SWITCH: "100000"}
"""The machine was started anew; nobody shall wait until an earlier boot shows that it is dead."""


@pytest.fixture
def living(tmp_path):
    """A run whose job counts; its guardian has been killed."""
    guarded = counting(tmp_path, every_s=0.3)
    guarded.start()
    guarded.until("the job counts", lambda _: (tmp_path / "count").exists())
    guarded.process.kill()
    guarded.process.wait()
    yield guarded
    guarded.clean_up()


def pids(guarded):
    """The keeper's and the job's."""
    (launched,) = guarded.events(ev.Launched)
    (started,) = guarded.events(ev.JobStarted)
    return launched.keeper_pid, started.pid


def kill(*victims):
    """SIGKILL, and wait until they are gone."""
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while any((p := processes.look(v)) and p.life is processes.Life.ALIVE for v in victims):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def causes(guarded):
    """The variant of each attempt's cause."""
    return [(a["cause"] or {}).get("variant") for a in guarded.report()["attempts"]]


def resumed(guarded):
    """`resume` finishes the run, and nothing ran twice."""
    guarded.start("resume", guarded.name)
    assert 0 == guarded.wait(), guarded.shown()
    clean(guarded)


def test_a_job_that_dies_while_guardian_is_dead_is_judged_by_its_keepers_record(living):
    """The exit code is known although nobody watched."""
    _, job = pids(living)
    kill(job)

    resumed(living)

    assert "killed" == causes(living)[0]


def test_a_keeper_killed_alone_leaves_its_job_to_be_adopted(living):
    """The job goes on; what ends it later is not known, and the count is whole."""
    keeper, job = pids(living)
    kill(keeper)
    assert processes.look(job)

    resumed(living)

    assert "unseen" == causes(living)[0]


def test_keeper_and_job_killed_together_leave_an_end_that_nobody_saw(living):
    """As a container's OOM group does it: no record, and no blame."""
    kill(*pids(living))

    resumed(living)

    assert "unseen" == causes(living)[0]


def test_after_a_restart_of_the_machine_the_run_goes_on(living):
    """Everything is gone, and the numbers of the old boot mean nothing."""
    kill(*pids(living))
    living.env |= ANOTHER_BOOT

    resumed(living)

    assert "host_restart" == causes(living)[0]


def test_after_a_restart_a_stranger_with_the_jobs_number_is_left_alone(living):
    """The recorded pids live on (here: the very job), but the boot is another one: their numbers count no more.

    What carries the attempt's mark is found all the same, so a job is never doubled even then.
    """
    keeper, job = pids(living)
    kill(keeper)
    living.env |= ANOTHER_BOOT

    resumed(living)

    assert not Path(f"/proc/{job}").exists()
