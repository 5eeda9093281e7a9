"""A real job's processes under a sampler: who they are, what they hold, and that nothing of it troubles anybody."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time

import pytest

from guardian.core import events as ev
from guardian.host import metricsfile, processes, sampling
from guardian.host.sampling import Sampler, View
from tests.host.attempts import Attempt, new_run, until

FORKS = """
import os, sys, time
held = bytearray(int(sys.argv[1]) << 20)
held[::4096] = b"x" * len(held[::4096])
for n in range(int(sys.argv[2])):
    if os.fork() == 0:
        own = bytearray(30 << 20)
        own[::4096] = b"y" * len(own[::4096])
        print("worker", os.getpid(), flush=True)
        time.sleep(1000)
print("rank", os.getpid(), flush=True)
time.sleep(1000)
"""
"""A rank that holds so many MiB, and as many children of 30 MiB each."""


class Watched:
    """A job under a keeper and a sampler."""

    def __init__(self, folder, *, every_s=0.05):
        self.job = Attempt(folder, run=new_run())
        self.every_s = every_s
        self.posted = []
        self.sampler = None

    def start(self, *argv):
        self.job.launch(*argv, env={"LOCAL_RANK": "0"})
        self.watch()
        return self

    def watch(self):
        self.sampler = Sampler(
            1, self.job.folder, self.view, lambda: (self.job.folder,), self.posted.append, every_s=self.every_s
        )

    def view(self):
        return View(self.job.mark, self.job.keeper.identity, frozenset())

    @property
    def windows(self):
        return metricsfile.windows(self.job.folder / metricsfile.NAME)

    def finish(self):
        assert self.sampler.finish(120)
        return self.windows


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """One whose costly looks come as often as the others."""
    monkeypatch.setattr(sampling, "SHARE", 1.0)
    monkeypatch.setattr(sampling, "TREE_EVERY_S", 0.05)
    monkeypatch.setattr(sampling, "MEMORY_EVERY_S", 0.05)
    one = Watched(tmp_path)
    yield one
    one.sampler.finish(120)
    one.job.end()


def roles(window):
    """How many there are of each."""
    return sorted(member.role for member in window.tree)


def test_a_rank_and_its_workers_are_known_and_measured(watched):
    """Shared pages count once: the sum is what they hold together."""
    watched.start(sys.executable, "-c", FORKS, "60", "2")
    until(lambda: ["rank", "worker", "worker"] == sorted(m.role for m in watched.sampler._tree), "the tree")
    until(lambda: watched.sampler.facts().get("tree_pss_mib", 0) > 120, "their memory")
    (window,) = watched.finish()
    facts = watched.sampler.facts()

    assert ["rank", "worker", "worker"] == roles(window)
    assert 120 < facts["tree_pss_mib"] < 200
    assert 30 < facts["worker_pss_mib"] < 90
    assert facts["tree_peak_mib"] >= facts["tree_pss_mib"] - 1
    assert {"load", "disk_free_mib", "shm_free_mib", "memory_share", "open_files"} <= facts.keys()
    assert [] == watched.posted


def test_series_of_others_stand_beside_ours_by_their_names(watched):
    """What is no number does not."""
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    until(lambda: watched.sampler._tree, "the tree")
    watched.sampler.give({"gpu.0.used_mib": 512.0, "gpu.1.used_mib": float("nan")})
    until(lambda: watched.sampler._window and watched.sampler._window.span("gpu.0.used_mib"), "a sample of it")
    (window,) = watched.finish()

    assert 512.0 == window.span("gpu.0.used_mib").last
    assert window.span("gpu.1.used_mib") is None


def test_another_guardian_goes_on_in_the_same_file(watched):
    """What the first one saw still counts: who was who, and the most that was ever held."""
    watched.start(sys.executable, "-c", FORKS, "60", "1")
    until(lambda: watched.sampler.facts().get("worker_pss_mib"), "the worker's memory")
    watched.finish()
    first = watched.sampler.facts()
    watched.watch()
    until(lambda: watched.sampler._tree, "the tree")
    windows = watched.finish()

    assert 2 == len(windows)
    assert watched.sampler.facts()["tree_peak_mib"] >= first["tree_peak_mib"] - 1
    assert watched.sampler.same_cgroup
    assert "machine_oom_kills" in first
    assert "machine_oom_kills" not in watched.sampler.facts()


def test_a_job_that_died_with_its_guardian_is_judged_by_their_last_window(watched):
    """Nothing of it lives, and the file tells what it held."""
    watched.start(sys.executable, "-c", FORKS, "60", "1")
    until(lambda: watched.sampler.facts().get("worker_pss_mib"), "the worker's memory")
    watched.finish()
    watched.job.end()
    watched.watch()
    watched.finish()

    assert watched.sampler.facts()["tree_pss_mib"] > 60


def test_counters_of_another_cgroup_do_not_count(watched):
    """A container that was started anew begins at zero: that says nothing of what killed the one before."""
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    until(lambda: watched.sampler._tree, "the tree")
    watched.finish()
    assert watched.sampler.same_cgroup
    path = watched.job.folder / metricsfile.NAME
    path.write_text(re.sub('"cgroup":"[0-9:]+"', '"cgroup":"1:1"', path.read_text()))
    watched.watch()
    watched.finish()

    assert not watched.sampler.same_cgroup


def test_a_last_window_long_before_the_jobs_last_word_says_nothing_of_its_end(watched):
    """It trained on for hours while no guardian lived."""
    watched.start(sys.executable, "-c", FORKS, "60", "0")
    until(lambda: watched.sampler.facts().get("tree_pss_mib"), "the memory")
    watched.finish()
    watched.job.end()
    later = time.time() + 3600
    os.utime(watched.job.folder / "job.log", (later, later))
    watched.watch()
    watched.finish()

    assert {"tree_peak_mib"} == watched.sampler.facts().keys() - {"machine_oom_kills"}


def test_a_worker_that_somebody_kills_is_no_victim_of_the_kernel(watched):
    """It has gone, and no counter rose."""
    watched.start(sys.executable, "-c", FORKS, "1", "1")
    until(lambda: ["rank", "worker"] == sorted(m.role for m in watched.sampler._tree), "the tree")
    worker = next(m for m in watched.sampler._tree if m.role == "worker")
    processes.send(processes.Identity(worker.pid, worker.ticks), signal.SIGKILL)
    until(lambda: ["rank"] == [m.role for m in watched.sampler._tree], "it is gone")
    watched.finish()

    assert watched.sampler.victim(by_sigkill=False) is None


def test_what_breaks_in_it_is_said_once_and_troubles_nobody(watched):
    """A view that fails, as by a slip of ours: the job goes on."""
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    watched.job.said("rank")
    watched.finish()
    watched.view = lambda: 1 / 0
    watched.watch()
    until(lambda: watched.posted, "a word of it")
    assert watched.sampler.finish(120)

    (lost,) = watched.posted
    assert isinstance(lost, ev.SourceLost)
    assert ("figures of the host", 1) == (lost.source, lost.attempt)
    assert "ZeroDivisionError" in lost.why
    assert watched.job.tree()


def test_a_look_that_does_not_come_back_is_said_once_while_the_job_lives(watched, monkeypatch):
    """As one at a process whose memory the kernel does not let go: nobody waits for it, and it is told."""
    monkeypatch.setattr(sampling, "SILENT_S", 0.2)
    gate = threading.Event()
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    watched.job.said("rank")
    watched.finish()
    watched.view = lambda: gate.wait(600) and View(watched.job.mark, None, frozenset())
    watched.watch()
    until(lambda: watched.sampler.miss() or watched.posted, "a word of it")
    for _ in range(2 * sampling.MISSES):
        watched.sampler.miss()
    gate.set()

    (lost,) = watched.posted
    assert isinstance(lost, ev.SourceLost)
    assert ("figures of the host", True) == (lost.source, "has not come back" in lost.why)


def test_looks_that_come_are_not_missed(watched, monkeypatch):
    """However seldom they are asked for, or long ago."""
    monkeypatch.setattr(sampling, "SILENT_S", 0.0)
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    seen = []
    until(lambda: seen.append(watched.sampler.miss()) or watched.sampler._looks > 3, "some looks")
    watched.finish()
    for _ in range(2 * sampling.MISSES):
        watched.sampler.miss()

    assert [] == watched.posted


def test_a_next_save_that_finds_no_room_is_told_once(watched):
    """The newest whole checkpoint is larger than what is free: told before it is tried."""
    saved = watched.job.folder / "checkpoint-10" / "global_step10"
    saved.mkdir(parents=True)
    (saved / "weights").touch()
    os.truncate(saved / "weights", 1 << 42)  # a hole: it has the size and takes no room
    watched.view = lambda: View(watched.job.mark, watched.job.keeper.identity, frozenset(), saved=str(saved.parent))
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    until(lambda: watched.posted, "a word of it")
    watched.finish()

    (noted,) = watched.posted
    assert noted.text.startswith("the next save may find no room: ")
    assert noted.text.endswith("and the last checkpoint has 4096.0 GiB")


def test_a_file_that_cannot_be_written_is_said_once(watched, monkeypatch):
    """As on a full disk; figures are kept for the end all the same."""
    monkeypatch.setattr("guardian.core.hostfacts.WINDOW_S", 0.1)
    (watched.job.folder / metricsfile.NAME).mkdir()
    watched.start(sys.executable, "-c", FORKS, "1", "0")
    until(lambda: watched.posted, "a word of it")
    until(lambda: watched.sampler.facts().get("tree_pss_mib"), "the memory")
    watched.finish()

    assert ["metrics.jsonl cannot be written (Is a directory)"] == [lost.why for lost in watched.posted]
