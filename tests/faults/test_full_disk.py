"""A disk that fills up under a living run, for real: a small tmpfs in a mount namespace of its own."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.host import processes
from guardian.host.journal import read_records
from tests.faults.harness import Guarded

PRINTING = Path(__file__).parents[1] / "jobs" / "printing.py"
COUNTING = Path(__file__).parents[1] / "jobs" / "counting.py"
NAMESPACE = ("unshare", "-Urm")


def namespaces():
    """Whether this user may make a mount namespace."""
    made = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    return made.returncode == 0


ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size={size_mib}m none {disk}
cd {folder}
code=0
{python} -m guardian run --run-dir {disk}/runs --name r1 --policy {folder}/policy.toml -- {job} >{folder}/screen.txt 2>&1 || code=$?
ls -la {disk}/runs/r1 >{folder}/ls.txt
cp -r {disk}/runs/r1 {folder}/run
exit $code
"""


def run_on_a_small_disk(folder, *, ballast_mib, lines):
    """A run whose folder lies on a tmpfs of 16 MiB that the job fills; the exit code."""
    disk = folder / "disk"
    disk.mkdir()
    (folder / "policy.toml").write_text(
        f"[disk]\nminimum_free_mib = 1\nballast_mib = {ballast_mib}\n[budget]\nbackoff_s = [0]\nrestarts = 0\n"
    )
    job = f"{sys.executable} {PRINTING} --fill {disk}/fill --lines {lines} --done {folder}/done"
    script = ON_A_SMALL_DISK.format(size_mib=16, disk=disk, folder=folder, python=sys.executable, job=job)
    return subprocess.run([*NAMESPACE, "sh", "-c", script], check=False, timeout=200).returncode


needs_namespaces = pytest.mark.skipif(not namespaces(), reason="this user may not make a mount namespace")


@needs_namespaces
def test_a_job_that_prints_into_a_full_disk_lives_on_the_ballast(tmp_path):
    """It prints on while it and everybody else has no room; guardian says so, and the story has no gap."""
    code = run_on_a_small_disk(tmp_path, ballast_mib=4, lines=700)
    shown = (tmp_path / "screen.txt").read_text()

    assert "all printed" == (tmp_path / "done").read_text(), shown
    assert 0 == code, shown
    assert "the disk of the run folder is full: ballast is given back" in shown
    assert 700 == (tmp_path / "run/attempts/0001/job.log").read_text().count("line ")
    assert isinstance(tuple(read_records(tmp_path / "run/journal.jsonl"))[-1].event, ev.RunFinished)
    assert "ballast" not in (tmp_path / "ls.txt").read_text()


@needs_namespaces
def test_without_a_ballast_the_same_job_dies(tmp_path):
    """The counter-proof: it is the ballast that keeps it alive."""
    code = run_on_a_small_disk(tmp_path, ballast_mib=0, lines=700)

    assert 0 != code
    assert "No space left on device" in (tmp_path / "done").read_text()


def counting(folder):
    """A run whose job counts for half a minute, in silence: the limit below holds for what is shown as well."""
    (folder / "policy.toml").write_text("[disk]\nminimum_free_mib = 1\nballast_mib = 1\n[budget]\nbackoff_s = [0]\n")
    job = (sys.executable, str(COUNTING), "--state", "count", "--upto", "300", "--every-s", "0.1", "--quiet")
    return Guarded(folder, *job, options=("--policy", "policy.toml")).start()


def no_more_room(guarded):
    """From now on guardian's journal cannot grow; its size."""
    guarded.until("the job counts", lambda run: run.attempt.job and int((guarded.folder / "count").read_text()) > 3)
    size = guarded.run_folder.journal.stat().st_size
    resource.prlimit(guarded.process.pid, resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
    return size


def test_a_journal_that_cannot_grow_makes_guardian_a_spectator_until_it_can(tmp_path):
    """The job is killed and not started again while that cannot be written down; then the run goes on by itself."""
    guarded = counting(tmp_path)
    try:
        size = no_more_room(guarded)
        os.kill(guarded.story().attempt.job.pid, signal.SIGKILL)
        guarded.until("guardian says it is blind", lambda _: "cannot see journal" in guarded.shown())
        assert size == guarded.run_folder.journal.stat().st_size
        resource.prlimit(guarded.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        guarded.until("the run goes on", lambda run: len(run.attempts) == 2)
        run = guarded.story()
        assert signal.SIGKILL == run.attempts[0].ended.signal
        assert ["journal"] == [lost.source for lost in run.lost]
        assert 1 == guarded.shown().count("cannot see journal")
        assert "the journal can be written again" in guarded.shown()
        assert 0 == guarded.call("stop", guarded.name).returncode
        assert 75 == guarded.wait()
    finally:
        guarded.clean_up()


def test_who_insists_on_an_end_that_cannot_be_written_down_gets_one_of_guardian_alone(tmp_path):
    """Three times Ctrl-C: guardian leaves in one line, and does nothing to the job; another one can stop it later."""
    guarded = counting(tmp_path)
    try:
        no_more_room(guarded)
        job = guarded.story().attempt.job
        for number in (1, 2, 3):
            guarded.process.send_signal(signal.SIGINT)
            guarded.until(f"{number} are heard", lambda _, n=number: guarded.shown().count("Ctrl-C:") >= n or n == 3)
        assert 3 == guarded.wait()
        assert "is left alone; make room, then guardian stop r1" in guarded.shown()
        assert processes.alive(processes.Identity(job.pid, job.ticks))
        assert 0 == guarded.call("stop", guarded.name).returncode
        assert not processes.alive(processes.Identity(job.pid, job.ticks))
    finally:
        guarded.clean_up()


TALKING = """
import time
for number in range(1, 8001):
    print(f"line {number} " + "." * 1000)
time.sleep(12)
print("now", flush=True)
time.sleep(4)
print("the last one")
"""


def test_a_log_beyond_its_cap_is_shortened_while_the_job_writes_it(tmp_path):
    """All of it is shown, the last lines keep their numbers, and the oldest part is off the disk."""
    (tmp_path / "policy.toml").write_text("[disk]\nminimum_free_mib = 1\nballast_mib = 1\njoblog_cap_mib = 2\n")
    (tmp_path / "talking.py").write_text(TALKING)
    guarded = Guarded(tmp_path, sys.executable, "talking.py", options=("--policy", "policy.toml"))
    try:
        assert 0 == guarded.run(), guarded.shown()[-3000:]
        log = guarded.run_folder.attempt_dir(1) / "job.log"
        assert log.stat().st_blocks * 512 < 3 * 2**20 < 8 * 10**6 < log.stat().st_size
        assert (8002, "the last one") == (
            guarded.events(ev.Ended)[0].tail[-1].number,
            guarded.events(ev.Ended)[0].tail[-1].text,
        )
        assert all(f"line {number} ." in guarded.shown() for number in (1, 4000, 8000))
        assert 1 == guarded.shown().count("is longer than 2 MiB")
    finally:
        guarded.clean_up()
