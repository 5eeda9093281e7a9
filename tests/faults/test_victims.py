"""Whom the kernel kills decides what is tried: real memory cgroups, real kills, no line in the log that tells.

The job is a rank with one process below it, as a data loader has; guardian must say which of the two it was.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.host import metricsfile
from tests.faults.confined import memory_of
from tests.faults.harness import JOBS, Guarded

ORPHANED = (sys.executable, str(JOBS / "orphaned.py"))
ONCE = "[budget]\nrestarts = 0\nbackoff_s = [0]\n"
LIMIT, FIRST, MORE = 1000, 860, 400
"""MiB: near the limit the figures are written every two seconds."""
NO_KERNEL_LOG = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
HIDDEN = 'mount --bind /dev/null /dev/kmsg && exec "$@"'


@pytest.fixture
def ended(tmp_path):
    """Runs the job once; the facts of its end, its cause, and the run."""
    started = []

    def run(who, *, around=(), first=FIRST, meanwhile):
        (tmp_path / "policy.toml").write_text(ONCE)
        job = (*ORPHANED, who, str(first), str(MORE), str(tmp_path / "go"))
        options = ("--policy", "policy.toml")
        guarded = Guarded(tmp_path, *job, options=options, env={"LOCAL_RANK": "0"})
        guarded.around = around
        started.append(guarded)
        guarded.start()
        meanwhile(guarded)
        guarded.wait()
        print(guarded.shown())
        return dict(guarded.events(ev.Ended)[0].facts), guarded.story().attempts[0].diagnosed.cause

    yield run
    for guarded in started:
        guarded.clean_up()


def until_both_are_known(guarded):
    """Who is who stands in the figures, and what they hold."""

    def known(_):
        window = metricsfile.last(guarded.run_folder.attempt_dir(1) / metricsfile.NAME)
        measured = window.span("tree_pss_mib").last > FIRST
        return measured and {"rank", "worker"} == {member.role for member in window.tree}

    guarded.until("rank and worker are known", known)


def go_on_when_both_are_known(guarded):
    """Then there is not memory enough any more."""
    until_both_are_known(guarded)
    (guarded.folder / "go").touch()


@pytest.mark.long
@pytest.mark.parametrize("log", [(), (*NO_KERNEL_LOG, HIDDEN, "sh")], ids=["kernel log", "no kernel log"])
def test_a_worker_that_the_kernel_kills_is_named_although_no_line_does(ended, log):
    """The rank only says that a batch did not come. Without the kernel's log it is who had gone when the count rose."""
    with memory_of(LIMIT) as around:
        facts, cause = ended("worker", around=(*log, *around), meanwhile=go_on_when_both_are_known)

    assert ("worker", LIMIT) == (facts["oom_victim"], facts["memory_limit_mib"])
    assert facts["memory_share"] > 0.9
    assert ("host_oom", "worker") == (cause.id, cause.variant)
    assert "the kernel killed a worker for want of memory" in [line.text for line in cause.evidence]


def test_what_it_holds_is_shown_while_it_lives_and_a_worker_that_is_killed_is_named_afterwards(ended):
    """By status and by report, to people and to programs; its log does not tell."""
    rows = []

    def look(guarded):
        until_both_are_known(guarded)
        rows.extend(json.loads(guarded.call("status", "--json").stdout)["runs"])
        rows.append(guarded.call("status").stdout)
        (guarded.folder / "go").touch()
        guarded.wait()
        rows.append(guarded.report())
        rows.append(guarded.call("report").stdout)

    with memory_of(LIMIT) as around:
        facts, cause = ended("worker", around=around, meanwhile=look)
    row, line, report, screen = rows

    assert ("worker", "host_oom", "worker") == (facts["oom_victim"], cause.id, cause.variant)

    assert LIMIT == row["host"]["memory_limit_mib"]
    assert FIRST < row["host"]["tree_pss_mib"] < LIMIT
    assert {"at", "disk_free_mib", "shm_free_mib", "load"} <= row["host"].keys()
    assert re.search(r", memory \d{3} MiB, the limit is 1000 MiB", line)
    assert FIRST < report["attempts"][0]["host"]["tree_peak_mib"]
    assert re.search(r"memory +at most .*, the limit is 1000 MiB", screen)


@pytest.mark.long
@pytest.mark.parametrize("log", [(), (*NO_KERNEL_LOG, HIDDEN, "sh")], ids=["kernel log", "no kernel log"])
def test_a_rank_that_the_kernel_kills_is_named(ended, log):
    """Its worker is there and small: the batch is what is too large."""
    with memory_of(LIMIT) as around:
        facts, cause = ended("rank", around=(*log, *around), meanwhile=go_on_when_both_are_known)

    assert "rank" == facts["oom_victim"]
    assert ("host_oom", None) == (cause.id, cause.variant)


@pytest.mark.parametrize("whom", ["rank", pytest.param("worker", marks=pytest.mark.long)])
def test_somebodys_kill_is_not_want_of_memory(ended, whom):
    """SIGKILL from outside, with a limit, a counter that stands still and memory to spare."""

    def kill(guarded):
        guarded.until("the job runs", lambda run: run.attempt.job is not None)
        rank = guarded.seen_from_here(guarded.story().attempt.job.pid)
        children = Path(f"/proc/{rank}/task/{rank}/children")
        guarded.until("its worker runs", lambda _: children.read_text().split())
        os.kill(rank if whom == "rank" else int(children.read_text().split()[0]), signal.SIGKILL)

    with memory_of(LIMIT) as around:
        facts, cause = ended("nobody", around=around, meanwhile=kill)

    assert "oom_victim" not in facts
    expected = ("preempted_or_interrupted", "killed") if whom == "rank" else ("unknown", None)
    assert expected == (cause.id, cause.variant)
