"""A guardian under test: started as a user starts it, watched from outside, its story read from its folder."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.core.wire import ENV_MARK
from guardian.host import journal, runs, story

PATIENCE_S = 240
"""Generous: the machine may be slow, and no test is about speed."""
WRAPPER = json.loads(os.environ.get("GUARDIAN_TEST_WRAPPER", "[]"))
"""Words before guardian's own: another environment, made and exec'ed into (tests/faults/test_elsewhere.py)."""
AS_PID_1 = "--pid" in WRAPPER
"""Whether guardian is the first process of a pid namespace, as in a container."""
JOBS = Path(__file__).parent.parent / "jobs"
DEMO = ("sft", "--model", "demo", "--dataset", "demo#160", "--logging_steps", "1", "--add_version", "false")

TINY = (
    "sft",
    "--model",
    "demo",
    "--dataset",
    str(JOBS / "rows.jsonl"),
    "--logging_steps",
    "1",
    "--add_version",
    "false",
)
"""The same on 128 short rows: 8 steps of 16 rows are an epoch, and none takes long."""


def harm(*things):
    """The environment in which these things are done to the job from inside (tests/jobs/harm says what there is)."""
    path = os.pathsep.join(filter(None, (str(JOBS / "harm"), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "HARM": json.dumps(things)}


class Guardian(subprocess.Popen):
    """Guardian's process; where `unshare` waits for it, signals go to itself and not to `unshare`."""

    def itself(self):
        """Its pid as it is seen from here; None before it is there."""
        if not AS_PID_1:
            return self.pid
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def send_signal(self, sig):
        inside = self.itself() if AS_PID_1 and self.poll() is None else None
        if inside is None:
            super().send_signal(sig)
        else:
            os.kill(inside, sig)

    def kill(self):
        if AS_PID_1:
            pytest.skip("not possible as PID 1: with guardian the whole namespace dies, so its job outlives it nowhere")
        super().kill()


class Guarded:
    """One run of guardian in a folder of its own."""

    around = ()
    """Words before guardian's own wherever it supervises, and only there: limits that it and its job live under."""

    def __init__(self, folder: Path, *command: str, name="r1", options=(), env=None):
        self.folder = folder
        self.name = name
        self.command = command
        self.options = options
        home = {"XDG_STATE_HOME": str(folder / "state")}  # the registry: no test writes into the user's home
        self.env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | home | (env or {})
        self.screen = folder / "screen.txt"
        self.process = None

    def start(self, *guardian_command):
        """`guardian run`, or another command that supervises."""
        if not guardian_command:
            guardian_command = ("run", "--name", self.name, *self.options, "--", *self.command)
        with self.screen.open("ab") as out:
            self.process = Guardian(
                [*WRAPPER, *self.around, sys.executable, "-m", "guardian", *guardian_command],
                cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        return self

    def call(self, *guardian_command, **how):
        """Another guardian command in the same folder; its finished process."""
        return subprocess.run(
            [*WRAPPER, sys.executable, "-m", "guardian", *guardian_command],
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
            **how,
        )  # fmt: skip

    def wait(self):
        """The exit code; what it showed is in the failure otherwise."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"guardian does not end:\n{self.shown()[-6000:]}") from None

    def run(self):
        """Start and wait."""
        self.start()
        return self.wait()

    def shown(self):
        return self.screen.read_text("utf-8", "replace")

    @property
    def run_folder(self):
        return runs.find(self.folder / "guardian_runs", self.name)

    def story(self):
        """The run as any later reader folds it."""
        return story.load(self.run_folder)

    def report(self):
        """`guardian report --json`."""
        done = self.call("report", "--json", self.name)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def events(self, kind):
        """Journalled events of a kind, in order."""
        return [r.event for r in journal.read_records(self.run_folder.journal) if isinstance(r.event, kind)]

    def until(self, what, condition):
        """Wait until a condition of the folded run holds; an exception in it counts as not yet."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # the folder is being made
                if condition(self.story()):
                    return
            if self.process.poll() is not None:
                raise AssertionError(f"guardian ended before {what}:\n{self.shown()[-6000:]}")
            time.sleep(0.1)
        raise AssertionError(f"never {what}:\n{self.shown()[-6000:]}")

    def until_step(self, step, attempt):
        """Wait until an attempt has finished a step."""
        self.until(
            f"step {step} of attempt {attempt}",
            lambda run: len(run.attempts) >= attempt and (run.attempts[attempt - 1].last_step or 0) >= step,
        )

    @property
    def pid(self):
        """Guardian's pid as guardian itself knows it."""
        return 1 if AS_PID_1 else self.process.pid

    def seen_from_here(self, pid):
        """The pid of a process that guardian, or a process of its job, knows by this number."""
        if not AS_PID_1:
            return pid
        namespace = os.readlink(f"/proc/{self.process.itself()}/ns/pid")
        return next(one for one in marked(self.story().created.run) if (namespace, pid) == number_inside(one))

    def until_held(self, attempt):
        """Wait until an attempt is in the middle of the step that it was told to hold in; the pid of that process."""

        def held(_):
            return int((self.run_folder.attempt_dir(attempt) / "held").read_text())

        self.until(f"attempt {attempt} held", held)
        return self.seen_from_here(held(None))

    def kill_rank(self, attempt, rank=0, number=signal.SIGKILL):
        """Signal the process of a rank, as its own hello names it."""
        hello = next(h for h in self.story().attempts[attempt - 1].hellos if h.rank == rank)
        os.kill(self.seen_from_here(hello.pid), number)

    def clean_up(self):
        """End what is left of this run, by pid; only processes that carry its mark."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        try:
            uuid = self.events(ev.RunCreated)[0].run
        except Exception:  # noqa: BLE001 - it never got as far as a journal
            return
        for pid in marked(uuid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def number_inside(pid):
    """A process's innermost pid namespace and its number there; None when it has gone meanwhile."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        return os.readlink(f"/proc/{pid}/ns/pid"), int(numbers.split()[-1])
    except OSError:
        return None


def marked(run):
    """Living processes of a run: pid -> attempt, by the mark in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            state = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        for part in environment:
            if part.startswith(f"{ENV_MARK}={run}/".encode()) and state not in "ZX":
                found[int(entry.name)] = int(part.rpartition(b"/")[2])
    return found


class Sampler(threading.Thread):
    """Looks all along which attempts' processes live at the same time."""

    def __init__(self, guarded: Guarded):
        super().__init__(daemon=True)
        self._guarded = guarded
        self._end = threading.Event()
        self.together = set()

    def run(self):
        uuid = None
        while not self._end.wait(0.05):
            if uuid is None:
                with contextlib.suppress(Exception):  # the journal is being made
                    uuid = self._guarded.events(ev.RunCreated)[0].run
                continue
            self.together.add(frozenset(marked(uuid).values()))

    def stop(self):
        """The sets of attempts that were ever seen alive together."""
        self._end.set()
        self.join()
        assert self.together
        return {seen for seen in self.together if len(seen) > 1}

    @property
    def alone(self):
        """The attempts that were seen alive by themselves."""
        return {attempt for seen in self.together if len(seen) == 1 for attempt in seen}


def surviving(run):
    """Step -> Step of the line that survived: the last attempt that ran a step counts."""
    return {step.step: step for attempt in run.attempts for step in attempt.steps}
