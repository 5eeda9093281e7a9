"""Stacks on request: from a process that hangs, from those that it forked, and never at the price of the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from guardian.core import wire
from tests.companion.launching import COMPANION, companion_module

stacks = companion_module().beside("guardian_stacks")
REQUEST = signal.SIGRTMIN + wire.STACKS_AFTER_RTMIN
HANGS = """
import multiprocessing, os, sys, threading, time
from transformers.trainer import CallbackHandler
def deep_within():
    print("ready", os.getpid(), flush=True)
    threading.Event().wait(60)
if sys.argv[1] == "forks":
    child = multiprocessing.get_context("fork").Process(target=deep_within)
    child.start()
    child.join()
else:
    deep_within()
"""
OWN = "import signal\nsignal.signal(signal.SIGRTMIN + 7, lambda *_: print('mine', flush=True))\n"
TRAINER = "class TrainerCallback: pass\nclass CallbackHandler: pass\nclass Trainer: pass\n"


@pytest.fixture
def hanging(tmp_path):
    """Starts a program that hangs, with a stand-in for transformers; gives it and the pid that is ready."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()
    (tmp_path / "transformers" / "trainer.py").write_text(TRAINER)
    started = []

    def start(code, *arguments, spec='{"stacks": true}'):
        path = os.pathsep.join([str(COMPANION), str(tmp_path)])
        env = {**os.environ, "PYTHONPATH": path, "GUARDIAN_DIR": str(tmp_path / "attempt"), "GUARDIAN_SPEC": spec}
        (tmp_path / "attempt").mkdir()
        job = subprocess.Popen([sys.executable, "-c", code, *arguments], env=env, stdout=subprocess.PIPE, text=True)
        started.append(job)
        return job, int(job.stdout.readline().split()[1])

    yield start
    for job in started:
        job.kill()
        job.wait()
        job.stdout.close()


def written(path, text):
    """What the file holds once this text is in it."""
    for _ in range(300):
        if path.exists() and text in path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError(path.read_text() if path.exists() else f"no {path}")


def catches(pid, signum):
    """As the kernel sees it."""
    with open(f"/proc/{pid}/status") as file:
        mask = next(line.split()[1] for line in file if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (signum - 1) & 1)


@pytest.mark.parametrize("how", ["hangs", "forks"])
def test_a_process_that_hangs_tells_where(hanging, tmp_path, how):
    """And goes on hanging; a forked one has a file of its own."""
    job, pid = hanging(HANGS, how)
    assert catches(pid, REQUEST)
    os.kill(pid, REQUEST)
    text = written(tmp_path / "attempt" / wire.STACKS_FILE.format(pid=pid), "deep_within")

    assert "in wait" in text
    assert job.poll() is None
    assert ("forks" == how) == (pid != job.pid)
    assert "" == (tmp_path / "attempt" / wire.STACKS_FILE.format(pid=job.pid)).read_text() or pid == job.pid


def test_a_handler_of_the_jobs_own_is_left_alone(hanging, tmp_path):
    """It was there first."""
    job, pid = hanging(OWN + HANGS, "hangs")
    os.kill(pid, REQUEST)

    assert "mine" == job.stdout.readline().strip()
    assert [] == list((tmp_path / "attempt").iterdir())


def test_without_the_knob_nothing_is_armed(hanging, tmp_path):
    """The request would end such a process: SigCgt says so before."""
    _, pid = hanging(HANGS, "hangs", spec="{}")

    assert not catches(pid, REQUEST)
    assert [] == list((tmp_path / "attempt").iterdir())


def test_a_folder_that_cannot_be_written_costs_nothing(hanging, tmp_path):
    """The job runs; the trouble is told with the first training loop."""
    job, pid = hanging(
        "import os; os.rmdir(os.environ['GUARDIAN_DIR']); open(os.environ['GUARDIAN_DIR'], 'w').close()\n" + HANGS,
        "hangs",
    )

    assert not catches(pid, REQUEST)
    assert job.poll() is None


def test_the_constants_are_those_of_the_wire():
    """It cannot import them."""
    assert wire.STACKS == stacks.STACKS
    assert REQUEST == stacks.SIGNAL
    assert wire.STACKS_FILE == f"{stacks.STACKS}/{{pid}}.txt"
