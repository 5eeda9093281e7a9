"""Runs without a terminal, made of a small job that counts and resumes."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from guardian.core import events as ev
from guardian.core.run import Finished
from guardian.host import control, journal
from tests.faults.harness import PATIENCE_S, Guarded

COUNTING = Path(__file__).parents[1] / "jobs" / "counting.py"
POLICY = "[budget]\nbackoff_s = [0]\n[disk]\nminimum_free_mib = 1\n[stop]\nsave_wait_s = 1\n"
FOR_EVER = 1_000_000


class Behind(Guarded):
    """A run that is started with -d in a folder of its own."""

    def __init__(self, folder, *words, upto, name="r1", gated=False):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policy.toml").write_text(POLICY)
        command = (sys.executable, str(COUNTING), "--state", "count", "--upto", str(upto), *words)
        if gated:
            # Each attempt says so and waits: what is tested has begun before the job goes on.
            command = ("sh", "-c", 'echo waiting; while [ ! -e go ]; do sleep 0.1; done; exec "$@"', "sh", *command)
        super().__init__(folder, *command, name=name, options=("--policy", "policy.toml"))

    def detach(self, **how):
        """`guardian run -d`; its finished process."""
        return self.call("run", "-d", "--name", self.name, *self.options, "--", *self.command, **how)

    def go(self):
        """Let a gated job go on, now and after each relaunch."""
        (self.folder / "go").touch()

    def until(self, what, condition):
        """As of Guarded, but nobody's process is ours to look at."""
        eventually(what, lambda: condition(self.story()))

    def until_finished(self):
        """Wait for the end of the run and of its guardian; how it ended."""
        self.until("finished", lambda run: isinstance(run.state, Finished))
        eventually("guardian is gone", lambda: not control.lives(os.getuid(), self.uuid))
        return self.story().state

    def until_counted(self, number):
        eventually(f"counted to {number}", lambda: int((self.folder / "count").read_text()) >= number)

    @property
    def uuid(self):
        return self.events(ev.RunCreated)[0].run

    @property
    def guardian_pid(self):
        """Of whoever wrote to the journal last."""
        return journal.last_record(self.run_folder.journal).stamp.pid

    def open(self, *guardian_command, **options):
        """Another guardian command, which may go on while the test does."""
        return subprocess.Popen(
            [sys.executable, "-m", "guardian", *guardian_command],
            cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip

    def on_a_terminal(self, *guardian_command):
        """A command on a terminal of its own that is closed when the command has ended; its exit code."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "guardian", *guardian_command],
            cwd=self.folder, env=self.env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while os.read(master, 65536):
                pass
        os.close(master)
        return process.wait(PATIENCE_S)

    def clean_up(self):
        """End what is left: the guardian first, or it would start the job again."""
        with contextlib.suppress(Exception):  # it never began, or is gone
            if control.lives(os.getuid(), self.uuid):
                os.kill(self.guardian_pid, signal.SIGKILL)
        super().clean_up()


def eventually(what, condition):
    """Wait until it holds; an exception in it counts as not yet."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # what is looked at is being made
            if condition():
                return
        time.sleep(0.1)
    raise AssertionError(f"never {what}")
