"""Asked to stop, in every state: heard at once, done within its bounds, nothing of the job left, and it can go on.

Most jobs here are small programs of the standard library (tests/jobs/worded.py); the embedded trainer serves where a
save matters.
"""

import fcntl
import os
import platform
import pty
import shutil
import signal
import sys
import termios
import time
from dataclasses import dataclass, replace

import pytest

from guardian.core import events as ev
from guardian.core import records
from guardian.core import run as stands
from guardian.host import journal
from tests.faults.harness import AS_PID_1, JOBS, TINY, WRAPPER, Guarded, Guardian, harm, marked, surviving

HEARD_S = 2.0
TRIES = 3
"""The machine may be busy with something else: the best of three counts."""
WORDED = (sys.executable, str(JOBS / "worded.py"))
FOR_EVER = 3600
AT_ONCE = "[budget]\nbackoff_s = [0]"


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
        with path.open("wb"):  # comes back when somebody has it open to read
            path.unlink()

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


# --- a stop that saves, and what goes on from it -----------------------------------------------------------------

STEPS = 12
TRAINING = (*TINY, "--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "100")
SLOW_AT_FIRST = harm({"attempt": 1, "do": "be slow"})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same training, with nobody near it."""
    guarded = Guarded(tmp_path_factory.mktemp("undisturbed"), *TRAINING)
    assert 0 == guarded.run(), guarded.shown()[-4000:]
    return surviving(guarded.story())


@pytest.mark.parametrize("name", ["ctrl-c", pytest.param("guardian stop", marks=pytest.mark.long)])
def test_a_training_that_was_stopped_saved_its_last_step_and_ends_the_same(name, guard, undisturbed):
    """No finished step is lost: it saves at a step ahead, and `guardian resume` goes on from there to the end."""
    guarded = guard(command=TRAINING, env=SLOW_AT_FIRST)
    guarded.until_step(2, attempt=1)
    REQUESTS[name].send(guarded)
    assert REQUESTS[name].exit_code == guarded.wait(), guarded.shown()[-4000:]

    assert 0 == guarded.start("resume", guarded.name).wait(), guarded.shown()[-4000:]

    (asked,) = guarded.events(ev.SaveAsked)
    report = guarded.report()
    first, second = report["attempts"]
    assert asked.save_at == first["last_step"] == second["resume_step"] < STEPS
    assert 0 == first["lost_steps"]
    assert ("finished", "proved") == (report["outcome"], report["certificate"]["verdict"])
    same_training(guarded, undisturbed)


def same_training(guarded, undisturbed):
    """The same samples at each step, and the same loss within 1e-4 x max(1, |loss|)."""
    ours = surviving(guarded.story())
    assert list(range(1, STEPS + 1)) == sorted(ours) == sorted(undisturbed)
    for number, step in undisturbed.items():
        assert (16, step.fingerprint) == (ours[number].rows, ours[number].fingerprint)
        assert abs(ours[number].loss - step.loss) <= 1e-4 * max(1, abs(step.loss)), f"step {number}"


def test_a_run_that_has_finished_is_not_begun_again(guard):
    """`guardian resume` says so, and exits as the run did."""
    guarded = guard("exit:0")
    assert 0 == guarded.wait()

    done = guarded.call("resume", guarded.name)

    assert (0, "guardian: run r1 is over: finished; there is nothing to do\n", "") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )
    assert 1 == len(starts(guarded))


def starts(guarded):
    """Attempts, as often as the job was started."""
    return [int(line.split()[0]) for line in (guarded.folder / "starts").read_text().splitlines()]


def test_a_checkpoint_that_was_removed_meanwhile_is_not_resumed_from(trainer_like):
    """Between a stop and `guardian resume` lies a night: what is there is looked at again."""
    guarded = trainer_like(WORDS_1="save:5 save:6 touch:ready wait:never", WORDS_2="bar:9/9")
    guarded.until("ready", lambda _: (guarded.folder / "ready").exists())
    guarded.process.terminate()
    assert 75 == guarded.wait()
    shutil.rmtree(guarded.folder / "out" / "checkpoint-6")

    assert 0 == guarded.start("resume", guarded.name).wait(), guarded.shown()[-4000:]

    assert 5 == guarded.story().attempts[1].plan.resume_step


@pytest.mark.parametrize("trouble", ["save:6 link:out/checkpoint-6/gone", "loop:out"], ids=["a part", "the folder"])
def test_what_cannot_be_looked_at_costs_no_checkpoint_that_is_known(trouble, trainer_like):
    """A link that leads nowhere in a later checkpoint, or a folder that does not open, is no reason to begin again."""
    guarded = trainer_like(WORDS_1="save:5 kill", WORDS_2=f"{trouble} kill", WORDS_3="bar:9/9", policy=AT_ONCE)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]

    assert [None, 5, 5] == [attempt.plan.resume_step for attempt in guarded.story().attempts]
    assert "none" != guarded.events(ev.Pinned)[-1].how


# --- guardian itself is gone -------------------------------------------------------------------------------------


def killed_guardian(guard, *words):
    """A run whose guardian was killed while the job runs."""
    guarded = guard(*words)
    guarded.until("ready", lambda run: run.attempts[0].job and (guarded.folder / "ready").exists())
    guarded.process.kill()
    guarded.process.wait()
    return guarded


def test_a_job_whose_guardian_was_killed_is_adopted_and_never_started_twice(guard):
    """`guardian resume` finds it, and hears it end as if nothing had been."""
    guarded = killed_guardian(guard, "touch:ready", "wait:go", "say:done", "exit:0")

    guarded.start("resume", guarded.name)
    guarded.until("adopted", lambda run: len(run.supervisors) == 2)
    go(guarded)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]
    assert [1] == starts(guarded)
    assert "\ndone\n" in guarded.shown()


def test_guardian_stop_ends_a_job_whose_guardian_was_killed(guard):
    """Nobody is left to be asked, so the command does it itself."""
    guarded = killed_guardian(guard, "touch:ready", "wait:never")

    done = guarded.call("stop", guarded.name)

    assert 0 == done.returncode, done.stderr
    assert {} == marked(guarded.story().created.run)
    assert (ev.Outcome.STOPPED, 75) == (guarded.story().state.outcome, guarded.story().state.exit_code)


def test_a_pin_that_an_earlier_guardian_began_gets_its_time_again(trainer_like):
    """The time in which nobody was there is not what a slow copy is given up for."""
    guarded, unblock_it = pinning(None, trainer_like)
    guarded.process.kill()
    guarded.process.wait()
    set_back(guarded.run_folder.journal, 3600)
    guarded.start("resume", guarded.name)
    guarded.until("taken over", lambda run: len(run.supervisors) == 2)
    unblock_it(guarded)

    assert 0 == guarded.wait(), guarded.shown()[-4000:]
    assert "none" != guarded.events(ev.Pinned)[-1].how


def set_back(path, seconds):
    """Let everything in a journal have happened earlier."""
    told = [*journal.read_records(path)]
    earlier = [replace(r, stamp=replace(r.stamp, wall=r.stamp.wall - seconds)) for r in told]
    path.write_bytes(b"".join(records.encode(record) for record in earlier))


@pytest.mark.parametrize("command", [("resume", "r1"), ("run", "--name", "r1", "--", "true")], ids=["resume", "run"])
def test_the_second_guardian_of_a_run_says_who_has_it(command, guard):
    """One line, exit 3, and the first one is not disturbed."""
    guarded, let_go = starting(guard, None)

    done = guarded.call(*command)

    who = f"guardian: error: run r1 is in use by guardian pid {guarded.pid} on {platform.node()}\n"
    assert (3, "", who) == (done.returncode, done.stdout, done.stderr)
    let_go(guarded)
    assert 0 == guarded.wait()
    assert [1] == starts(guarded)


# --- at a terminal -----------------------------------------------------------------------------------------------


@pytest.fixture
def at_terminal(guard, tmp_path):
    """Starts a run as the leader of a terminal's session; the terminal's other end is a descriptor."""
    if AS_PID_1:
        pytest.skip("not possible as PID 1 here: `unshare`, which waits for it, would be the terminal's leader")
    started = []

    def start(*words):
        master, slave = pty.openpty()
        terminal = os.fdopen(master, "r+b", buffering=0)
        guarded = Guarded(tmp_path, *WORDED, *words)
        started.append((guarded, terminal))
        guarded.process = Guardian(
            [*WRAPPER, sys.executable, "-m", "guardian", "run", "--name", guarded.name, "--", *guarded.command],
            cwd=tmp_path, env=guarded.env, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        guarded.screen.touch()
        guarded.until("ready", lambda _: (tmp_path / "ready").exists())
        return guarded, terminal

    yield start
    for guarded, terminal in started:
        terminal.close()
        guarded.clean_up()


def test_a_terminal_that_is_closed_ends_nothing(at_terminal):
    """The kernel sends SIGHUP, writing fails: the supervisor goes on without, and the report is in the run's folder."""
    guarded, terminal = at_terminal("touch:ready", "wait:go", "say:done", "exit:0")
    terminal.close()
    guarded.until("the loss was heard", lambda _: guarded.events(ev.TerminalLost))
    go(guarded)

    assert 0 == guarded.wait()
    assert "FINISHED" in (guarded.run_folder.path / "report.md").read_text().upper()


def test_ctrl_c_at_the_terminal_reaches_guardian_alone(at_terminal):
    """The job is ended by guardian, in its own time and manner, and not by the key."""
    guarded, terminal = at_terminal("touch:ready", "wait:never")
    terminal.write(b"\x03")

    assert 130 == guarded.wait()
    assert signal.SIGTERM == guarded.story().attempts[0].launcher.signal


# --- while guardian itself begins and ends -----------------------------------------------------------------------


@pytest.fixture
def held_up(guard):
    """Starts a run whose guardian waits where it loads a module, and sends it a signal there."""

    def start(module, number, *words):
        guarded = guard(*words, env={"HOLD": module, "PYTHONPATH": str(JOBS / "hold")})
        while not (guarded.folder / "held").exists():
            assert guarded.process.poll() is None, guarded.shown()
            time.sleep(0.02)
        guarded.process.send_signal(number)
        return guarded

    return start


STOPS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])


@STOPS
def test_before_anything_has_begun_a_signal_ends_guardian_without_a_word(number, code, held_up):
    """No traceback for somebody who has thought better of it, and no run."""
    if AS_PID_1 and number == signal.SIGTERM:
        pytest.skip("not possible as PID 1: the kernel gives it no signal that it has no handler for yet")
    guarded = held_up("guardian.cli.run", number, "touch:ready")

    assert guarded.wait() == (code if number == signal.SIGINT else -number)
    assert "" == guarded.shown()
    assert not (guarded.folder / "guardian_runs").exists()


@STOPS
def test_a_stop_before_the_first_launch_stops_the_run_and_launches_nothing(number, code, held_up):
    """The run is in its journal; it can go on later."""
    guarded = held_up("guardian.cli.session", number, "touch:ready")
    go(guarded)

    assert code == guarded.wait(), guarded.shown()
    assert () == guarded.story().attempts
    assert 0 == guarded.start("resume", guarded.name).wait(), guarded.shown()
    assert (guarded.folder / "ready").exists()


@STOPS
def test_a_signal_while_the_report_is_made_changes_nothing(number, code, held_up):
    """The run has finished: it exits as it finished, with its report."""
    guarded = held_up("guardian.ui.report", number, "exit:0")
    go(guarded)

    assert 0 == guarded.wait(), guarded.shown()
    assert "FINISHED" in guarded.shown()
