"""Two guardians want one run; and a run folder that nobody may write."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.host import processes
from tests.faults.harness import Guarded, marked

JOB = Path(__file__).parents[1] / "jobs" / "counting.py"
ROUNDS = 20
NOBODY = 65534


@pytest.fixture
def living(tmp_path):
    """A run whose job lives for minutes, and whose guardian was killed."""
    (tmp_path / "policy.toml").write_text("[disk]\nminimum_free_mib = 1\nballast_mib = 1\n")
    job = (sys.executable, str(JOB), "--state", "count", "--upto", "100000", "--every-s", "0.1")
    guarded = Guarded(tmp_path, *job, options=("--policy", "policy.toml"))
    guarded.start()
    guarded.until("the job counts", lambda run: run.attempt.job and int((tmp_path / "count").read_text()) > 1)
    guarded.process.kill()
    guarded.process.wait()
    yield guarded
    guarded.clean_up()


def rival(guarded):
    """A `guardian resume` with its own output."""
    return subprocess.Popen(
        [sys.executable, "-m", "guardian", "resume", guarded.name],
        cwd=guarded.folder, env=guarded.env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_of_two_that_resume_at_once_one_has_the_run_and_the_other_says_who(living):
    """Twenty times; the job is one and the same all along."""
    job = living.story().attempt.job
    for _ in range(ROUNDS):
        rivals = [rival(living), rival(living)]
        try:
            while all(one.poll() is None for one in rivals):
                a_moment(rivals[0])
            loser, winner = sorted(rivals, key=lambda one: one.poll() is None)
            assert winner.poll() is None, winner.communicate()[0]
            said = loser.stdout.read()
            assert (3, 1) == (loser.returncode, len(said.splitlines())), said
            assert re.fullmatch(rf"guardian: error: run r1 is in use by guardian pid {winner.pid} on \S+\n", said), said
            assert {1} == set(marked(living.events(ev.RunCreated)[0].run).values())
        finally:
            for one in rivals:
                one.kill()
                one.wait()
                one.stdout.close()
    assert processes.alive(processes.Identity(job.pid, job.ticks))
    assert not (living.folder / "count.doubled").exists()
    assert 1 == len(living.events(ev.Launched))


def a_moment(one):
    """A tenth of a second, or until it ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        one.wait(0.1)


READ_ONLY = """
import encodings.ascii, importlib, os, pkgutil, sys
import guardian.cli, guardian.core, guardian.host, guardian.ui
for package in (guardian.core, guardian.host, guardian.ui, guardian.cli):  # what a stranger may not read is read before
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".keeper"):
            importlib.import_module(module.name)
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.environ["HOME"] = os.environ["XDG_STATE_HOME"] = sys.argv[1]
os.chdir(sys.argv[1])
from guardian.cli.main import main
os.chmod("guardian_runs/r1", 0o500)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("command", ["resume", "stop"])
def test_a_run_folder_that_cannot_be_written_is_one_line_and_the_job_lives(command):
    """As an ordinary user, for whom permissions count."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        guarded = Guarded(folder, sys.executable, str(JOB), "--state", f"{name}/count", "--upto", "100000")
        guarded.start()
        try:
            guarded.until("the job counts", lambda run: run.attempt.job and (folder / "count").exists())
            job = guarded.story().attempt.job
            guarded.process.kill()
            guarded.process.wait()
            for path in (folder, *folder.rglob("*")):
                if os.getuid() == 0:
                    os.chown(path, NOBODY, NOBODY)
            done = subprocess.run(
                [sys.executable, "-c", READ_ONLY, name, command, "r1"],
                capture_output=True, text=True, check=False, timeout=200,
            )  # fmt: skip
            assert 3 == done.returncode, done.stdout + done.stderr
            assert 1 == len(done.stderr.splitlines()), done.stderr
            assert done.stderr.startswith("guardian: error: "), done.stderr
            assert "r1" in done.stderr
            assert "Permission denied" in done.stderr
            assert processes.alive(processes.Identity(job.pid, job.ticks))
        finally:
            (folder / "guardian_runs/r1").chmod(0o700)
            os.chown(folder / "guardian_runs/r1", os.getuid(), os.getgid())  # else it is a stranger's to the clean-up
            guarded.clean_up()
