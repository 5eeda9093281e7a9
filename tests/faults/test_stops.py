"""Asked to stop, in every state: heard at once, done within its bounds, nothing of the job left, and it can go on.

Most jobs here are small programs of the standard library (tests/jobs/worded.py); the embedded trainer serves where a
save matters.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from guardian.core import events as ev
from guardian.core import run as stands
from guardian.host import journal
from tests.faults.harness import JOBS, TINY, Guarded, harm, marked

HEARD_S = 2.0
TRIES = 3
"""The machine may be busy with something else: the best of three counts."""
WORDED = (sys.executable, str(JOBS / "worded.py"))
FOR_EVER = 3600


@pytest.fixture
def guard(tmp_path):
    """Starts runs, each in a folder of its own; nothing of them outlives the test."""
    started = []

    def start(*words, policy="", env=None, command=WORDED):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        (folder / "policy.toml").write_text(policy)
        guarded = Guarded(folder, *command, *words, options=("--policy", "policy.toml"), env=env)
        started.append(guarded)
        return guarded.start()

    yield start
    for guarded in started:
        guarded.clean_up()


# --- what is asked -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """Something that a person or a machine asks of a living guardian."""

    send: object
    kind: type
    exit_code: int | None
    """None: it asks for no end."""


def signalled(number):
    """Send a signal to guardian alone."""
    return lambda guarded: guarded.process.send_signal(number)


def stop_command(guarded):
    """`guardian stop` from another shell."""
    done = guarded.call("stop", guarded.name)
    assert 0 == done.returncode, done.stderr


REQUESTS = {
    "ctrl-c": Request(signalled(signal.SIGINT), ev.StopRequested, 130),
    "sigterm": Request(signalled(signal.SIGTERM), ev.StopRequested, 75),
    "guardian stop": Request(stop_command, ev.StopRequested, 75),
    "sighup": Request(signalled(signal.SIGHUP), ev.TerminalLost, None),
}


def heard_after(guarded, request):
    """Seconds from sending a request to its stamp in the journal."""

    def stamps():
        read = journal.read_records(guarded.run_folder.journal)
        return [record.stamp.wall for record in read if isinstance(record.event, request.kind)]

    before = len(stamps())
    sent = time.time()
    request.send(guarded)
    deadline = time.monotonic() + 60
    while len(stamps()) == before:
        assert time.monotonic() < deadline, f"never heard:\n{guarded.shown()[-4000:]}"
        time.sleep(0.02)
    return stamps()[-1] - sent


# --- states in which it is asked -------------------------------------------------------------------------------


def in_state(guarded, kind):
    """Wait until the run stands there."""
    guarded.until(kind.__name__, lambda run: isinstance(run.state, kind))


def go(guarded):
    """Let the job leave."""
    (guarded.folder / "go").touch()


def unblock(fifo):
    """Let whoever reads a FIFO of the checkpoint go on, and nobody else wait for it."""

    def write(guarded):
        path = guarded.folder / "out" / "checkpoint-5" / fifo
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        path.unlink()
        os.close(writer)

    return write


@pytest.fixture
def trainer_like(guard, tmp_path):
    """As `guard`, for a command that guardian takes for the embedded trainer: it looks for checkpoints, and resumes."""

    def start(policy="", **words):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "python"
        script.write_text(f"#!/bin/sh\nexec {WORDED[0]} {WORDED[1]}\n")
        script.chmod(0o755)
        command = (str(script), "-m", "guardian.trainer", "--output_dir", "out")
        return guard(command=command, policy=policy, env=words)

    return start


def starting(guard, _):
    """The job runs and has not made a step."""
    guarded = guard("touch:ready", "wait:go")
    guarded.until("ready", lambda _: (guarded.folder / "ready").exists())
    return guarded, go


def running(guard, _):
    """The line about the module is seen after the bar and is journalled: then the step is known too."""
    guarded = guard("bar:3/60", "say:ModuleNotFoundError:_none", "wait:go")
    guarded.until("its lines are read", lambda run: run.attempts[0].hits)
    return guarded, go


def stopping(guard, _):
    """The job was asked to end, and does not."""
    guarded = guard("ignore_term", "touch:ready", "wait:go", policy=f"[stop]\nterm_wait_s = {FOR_EVER}")
    guarded.until("ready", lambda _: (guarded.folder / "ready").exists())
    guarded.process.terminate()
    guarded.until("TERM was sent", lambda run: run.attempts[0].signalled)
    return guarded, go


def backing_off(guard, _):
    """The next attempt waits for its time."""
    guarded = guard("kill", policy=f"[budget]\nbackoff_s = [{FOR_EVER}]")
    guarded.until("the second attempt waits", lambda run: len(run.attempts) == 2)
    in_state(guarded, stands.Paused)
    return guarded, stop_command


def pinning(_, trainer_like):
    """A FIFO in the checkpoint holds up whoever copies it."""
    guarded = trainer_like(WORDS_1="save:5 fifo:out/checkpoint-5/notes kill", WORDS_2="bar:5/5")
    in_state(guarded, stands.Checking)
    return guarded, unblock("notes")


def draining(_, trainer_like):
    """A FIFO in the checkpoint holds up whoever looks into it."""
    guarded = trainer_like(WORDS_1="save:5 fifo:out/checkpoint-5/more.pt kill", WORDS_2="bar:5/5")
    in_state(guarded, stands.Ending)
    return guarded, unblock("more.pt")


STATES = (starting, running, stopping, backing_off, pinning, draining)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_request_is_heard_within_two_seconds_in_every_state(state, name, guard, trainer_like):
    """And followed: stopped with its exit code, or gone on with where only the terminal was lost."""
    request = REQUESTS[name]
    late = []
    while not late or (min(late) > HEARD_S and len(late) < TRIES):
        guarded, let_go = state(guard, trainer_like)
        late.append(heard_after(guarded, request))
        ended_as_asked(state, request, guarded, let_go)

    assert min(late) <= HEARD_S


def ended_as_asked(state, request, guarded, let_go):
    """The exit code that the request asks for, else the one of a run that nobody stopped."""
    expected = request.exit_code
    if expected is None:
        assert guarded.process.poll() is None
        expected = 75 if state in (stopping, backing_off) else 0
        let_go(guarded)
    elif state in (stopping, draining):
        let_go(guarded)
    assert expected == guarded.wait(), guarded.shown()[-4000:]
    assert {} == marked(guarded.story().created.run)


# --- how far a stop goes ---------------------------------------------------------------------------------------


def test_a_job_that_ignores_sigterm_is_killed_with_its_children_after_the_policys_time(guard):
    """Nothing of its tree is left, in whatever session it was started."""
    guarded = guard("ignore_term", "child", "touch:ready", "wait:go", policy="[stop]\nterm_wait_s = 1")
    guarded.until("ready", lambda _: (guarded.folder / "ready").exists())
    guarded.process.terminate()

    assert 75 == guarded.wait()

    term, kill = guarded.story().attempts[0].signalled[:2]
    assert (signal.SIGTERM, signal.SIGKILL) == (term[1].signal, kill[1].signal)
    assert 1 <= kill[0] - term[0]
    assert 3 == term[1].processes
    assert {} == marked(guarded.story().created.run)


def test_the_third_request_kills_at_once(guard):
    """Whoever asks three times does not want to wait for the policy's time."""
    guarded, _ = stopping(guard, None)
    guarded.process.send_signal(signal.SIGINT)
    guarded.until("the second was heard", lambda run: len(run.stop_requests) == 2)
    stop_command(guarded)

    assert 75 == guarded.wait()
    assert [signal.SIGTERM, signal.SIGKILL] == [sent.signal for sent in guarded.events(ev.Signalled)]


def test_the_third_request_ends_the_reading_too(trainer_like):
    """A file system that does not answer holds up nobody who insists."""
    guarded, _ = draining(None, trainer_like)
    for _ in range(3):
        guarded.process.send_signal(signal.SIGINT)
        time.sleep(0.2)  # signals that are pending together are one

    assert 130 == guarded.wait()
    assert any("not read" in text for text in guarded.report()["blind"])


def test_a_second_request_while_the_job_saves_ends_the_wait_for_the_save(guard):
    """The trainer hangs in the middle of a step: its save never comes."""
    held = harm({"do": "hold", "step": 3})
    job = (*TINY, "--output_dir", "out", "--max_steps", "8")
    guarded = guard(command=job, env=held, policy=f"[stop]\nsave_wait_s = {FOR_EVER}\nterm_wait_s = 5")
    guarded.until_held(1)
    stop_command(guarded)
    guarded.until("a save was asked for", lambda run: run.attempts[0].save_asked)
    stop_command(guarded)

    assert 75 == guarded.wait()
    assert signal.SIGTERM == guarded.events(ev.Signalled)[0].signal
    assert {} == marked(guarded.story().created.run)
