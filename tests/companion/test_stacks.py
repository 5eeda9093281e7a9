"""Stacks on request: from a process that hangs, from those that it forked, and never at the price of the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def memories(pid):
    """What a process has in its memories for stacks: name without the constant part -> text."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        name = os.readlink(link).removeprefix("/memfd:").removesuffix(" (deleted)")
        if name.startswith("guardian-stacks-"):
            found[name] = link.read_text()
    return found


def printed(pid, text):
    """What is in the process's own memory once this text is in it."""
    for _ in range(600):
        found = memories(pid)[wire.STACKS_MEMORY.format(pid=pid)]
        if text in found:
            return found
        time.sleep(0.1)
    raise AssertionError(memories(pid))


def catches(pid, signum):
    """As the kernel sees it."""
    with open(f"/proc/{pid}/status") as file:
        mask = next(line.split()[1] for line in file if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (signum - 1) & 1)


@pytest.mark.parametrize("how", ["hangs", "forks"])
def test_a_process_that_hangs_tells_where(hanging, tmp_path, how):
    """And goes on hanging; a forked one has memory of its own, and no file is made for it."""
    job, pid = hanging(HANGS, how)
    assert catches(pid, REQUEST)
    os.kill(pid, REQUEST)

    assert "deep_within" in printed(pid, "deep_within")
    assert job.poll() is None
    assert ("forks" == how) == (pid != job.pid)
    assert pid == job.pid or {""} == set(memories(job.pid).values())
    assert [] == list((tmp_path / "attempt").iterdir())


@pytest.mark.parametrize("how", ["hangs", "forks"])
def test_a_python_that_was_built_against_an_older_library_is_armed_too(hanging, how):
    """Its os module has no memfd_create; the library that it runs with has."""
    _, pid = hanging("import os\ndel os.memfd_create\n" + HANGS, how)
    os.kill(pid, REQUEST)

    assert "deep_within" in printed(pid, "deep_within")


def test_a_handler_of_the_jobs_own_is_left_alone(hanging, tmp_path):
    """It was there first."""
    job, pid = hanging(OWN + HANGS, "hangs")
    os.kill(pid, REQUEST)

    assert "mine" == job.stdout.readline().strip()
    assert {} == memories(pid)


def test_without_the_knob_nothing_is_armed(hanging, tmp_path):
    """The request would end such a process: SigCgt says so before."""
    _, pid = hanging(HANGS, "hangs", spec="{}")

    assert not catches(pid, REQUEST)
    assert {} == memories(pid)


def test_where_no_memory_can_be_had_nothing_is_armed(hanging):
    """The job runs; the trouble is told with the first training loop."""
    refused = "import os\ndef none(name): raise OSError(23, name)\nos.memfd_create = none\n"
    job, pid = hanging(refused + HANGS, "hangs")

    assert not catches(pid, REQUEST)
    assert job.poll() is None


def test_the_constants_are_those_of_the_wire():
    """It cannot import them."""
    assert wire.STACKS_MEMORY == stacks.MEMORY
    assert wire.STACKS_FD_AT_LEAST == stacks.NUMBER_AT_LEAST
    assert REQUEST == stacks.SIGNAL
