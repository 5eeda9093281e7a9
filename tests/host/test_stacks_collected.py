"""Where a job stands is asked of real processes, of none that could be hurt by it, and within the time given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from guardian.core import stacks as core
from guardian.core import wire
from guardian.host import processes, stacks
from tests.companion.launching import COMPANION

ARM = f"import sys; sys.path.insert(0, {str(COMPANION)!r}); import guardian_stacks; guardian_stacks.arm()\n"
# Each says that it is ready in the line in which it then stays, with one write of its own.
SLEEPS = r"""
import os, time
def sleeps_here():
    os.write(1, b"ready\n") and time.sleep(600)
sleeps_here()
"""
FORKS = r"""
import os, time
def child_waits_here():
    os.write(1, b"ready\n") and time.sleep(600)
for _ in range(2):
    if not os.fork():
        child_waits_here()
os.write(1, b"ready\n") and os.wait()
"""
SPINS = r"""
import os
def spins_in_c():
    return os.write(1, b"ready\n") and sum(range(10**14))
spins_in_c()
"""
EXECS = r"""
import os, sys
if not os.fork():
    os.execv("/bin/sleep", ["sleep", "600"])
print("ready", flush=True)
os.wait()
"""
DEAF = r"""
import signal, time
def hears_nothing():
    signal.pthread_sigmask(signal.SIG_BLOCK, {guardian_stacks.SIGNAL})
    print("ready", flush=True)
    time.sleep(600)
hears_nothing()
"""
GENEROUS_S = 60.0
"""Nobody waits so long: a collection is over when all have answered."""


@pytest.fixture
def job():
    """Starts Python processes, each in a session of its own; waits until they say so; ends them with all they forked."""
    started = []

    def start(code, *, lines=1):
        words = [sys.executable, "-c", code]
        one = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(one)
        for _ in range(lines):
            assert one.stdout.readline().startswith("ready")
        return processes.find(processes.identify(one.pid))

    yield start
    for one in started:
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
        one.stdout.close()


def rank(number, process, *, armed=True, later=0):
    """What its hello made known; `later`: of the process that had this pid before."""
    return core.Rank(number, process.pid, process.start_ticks - later, armed)


def whole(*found):
    """The tree of these processes, with command lines, as the supervisor sees it."""
    below = processes.descendants(processes.snapshot(), [one.pid for one in found])
    return tuple(processes.with_cmdline(processes.look(pid)) for pid in sorted(below))


def by_pid(found):
    """Each stack under its process."""
    return {one.pid: one for one in found}


def inner(stack):
    """The function of the innermost call."""
    return stack.frames[0].function


def test_ranks_and_what_they_forked_tell_where_they_stand(job, tmp_path):
    """Each for itself; the children count to their rank, and the dumps are kept."""
    first, second = job(ARM + SLEEPS), job(ARM + FORKS, lines=3)
    found = stacks.collect(whole(first, second), [rank(0, first), rank(1, second)], tmp_path, GENEROUS_S)
    of = by_pid(found)

    assert ("rank", 0, "faulthandler", "sleeps_here") == (
        of[first.pid].kind,
        of[first.pid].rank,
        of[first.pid].source,
        inner(of[first.pid]),
    )
    assert ("rank", 1, "<module>") == (of[second.pid].kind, of[second.pid].rank, inner(of[second.pid]))
    children = [one for one in found if one.kind == "child"]
    assert [(1, "child_waits_here"), (1, "child_waits_here")] == [(one.rank, inner(one)) for one in children]
    assert children[0].digest == children[1].digest
    assert "sleeps_here" in (tmp_path / wire.STACKS_FILE.format(pid=first.pid)).read_text()
    assert first.pid == found[0].pid


def test_a_start_that_hangs_is_asked_before_any_rank_has_spoken(job, tmp_path):
    """What holds its own memory for stacks is armed; the other one is let be, and lives."""
    armed, other = job(ARM + SLEEPS), job(SLEEPS)
    found = by_pid(stacks.collect(whole(armed, other), [], tmp_path, GENEROUS_S))

    assert ("faulthandler", "sleeps_here") == (found[armed.pid].source, inner(found[armed.pid]))
    assert ("proc", ()) == (found[other.pid].source, found[other.pid].frames)
    assert processes.alive(other.identity)


def test_a_rank_that_has_not_spoken_is_asked_beside_those_that_have(job, tmp_path):
    """At the start, where the others wait for it: it holds its own memory for stacks."""
    heard, late = job(ARM + SLEEPS), job(ARM + SLEEPS)
    found = by_pid(stacks.collect(whole(heard, late), [rank(0, heard)], tmp_path, GENEROUS_S))

    assert ("process", "faulthandler", "sleeps_here") == (
        found[late.pid].kind, found[late.pid].source, inner(found[late.pid]),
    )  # fmt: skip


def test_a_rank_that_spins_in_c_and_holds_the_interpreter_tells_it(job, tmp_path):
    """In three looks it stands at the same place."""
    spinning = job(ARM + SPINS)
    samples = [stacks.collect(whole(spinning), [rank(0, spinning)], tmp_path, GENEROUS_S) for _ in range(3)]

    assert ["spins_in_c"] * 3 == [inner(one) for (one,) in samples]
    assert (0,) == core.same(*samples)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(ARM + SLEEPS, {"armed": False}, id="its hello did not say armed"),
        pytest.param(ARM + SLEEPS, {"later": 1}, id="it has another start time"),
        pytest.param(SLEEPS, {}, id="it said armed and is not"),
    ],
)
def test_a_process_that_might_be_hurt_is_not_signalled(job, tmp_path, monkeypatch, code, said):
    """It lives, it printed nothing, and what the kernel shows of it is all that is known."""
    sent = []
    monkeypatch.setattr(processes, "send", lambda *request: sent.append(request))
    process = job(code)
    (stack,) = stacks.collect(whole(process), [rank(0, process, **said)], tmp_path, 5.0)

    assert [] == sent
    assert ("proc", None) == (stack.source, stack.digest)
    assert processes.alive(process.identity)
    assert [] == list(tmp_path.iterdir())


def test_a_child_that_became_another_program_is_not_signalled(job, tmp_path):
    """The handler went with the exec: the request would end it."""
    parent = job(ARM + EXECS)
    deadline = time.monotonic() + 60
    while [] == [one for one in whole(parent) if one.name == "sleep"] and time.monotonic() < deadline:
        time.sleep(0.05)
    found = stacks.collect(whole(parent), [rank(0, parent)], tmp_path, GENEROUS_S)
    (child,) = (one for one in found if one.name == "sleep")

    assert ("child", "proc") == (child.kind, child.source)
    assert processes.alive(processes.Identity(child.pid, child.start_ticks))


def test_a_stopped_rank_is_seen_and_not_asked(job, tmp_path):
    """It stands still by its state; going on, it finds no request that waited for it."""
    process = job(ARM + SLEEPS)
    os.kill(process.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while not processes.look(process.pid).stopped and time.monotonic() < deadline:
        time.sleep(0.05)
    samples = [stacks.collect(whole(process), [rank(3, process)], tmp_path, 5.0) for _ in range(2)]
    os.kill(process.pid, signal.SIGCONT)
    (after,) = stacks.collect(whole(process), [rank(3, process)], tmp_path, GENEROUS_S)

    assert ["T", "T"] == [one.state for (one,) in samples]
    assert (3,) == core.same(*samples)
    assert "sleeps_here" == inner(after)
    assert 1 == (tmp_path / wire.STACKS_FILE.format(pid=process.pid)).read_text().count("most recent call first")


def test_one_that_does_not_answer_costs_no_more_than_the_time_given(job, tmp_path):
    """The others' stacks are had all the same."""
    deaf, other = job(ARM + DEAF), job(ARM + SLEEPS)
    began = time.monotonic()
    of = by_pid(stacks.collect(whole(deaf, other), [rank(0, deaf), rank(1, other)], tmp_path, 5.0))

    assert time.monotonic() - began < 60
    assert "proc" == of[deaf.pid].source
    assert "sleeps_here" == inner(of[other.pid])


def test_a_folder_that_cannot_be_written_costs_the_files_alone(job, tmp_path):
    """The stacks are had."""
    process = job(ARM + SLEEPS)
    (tmp_path / "attempt").touch()
    (stack,) = stacks.collect(whole(process), [rank(0, process)], tmp_path / "attempt", GENEROUS_S)

    assert "sleeps_here" == inner(stack)


SPY = """#!{python}
import json, sys
assert sys.argv[1:4] == ["dump", "--nonblocking", "--json"], sys.argv
print(json.dumps([{{"pid": int(sys.argv[5]), "thread_name": "MainThread", "frames": [
    {{"name": "sleeps_here", "filename": "<string>", "line": 5}}]}}]))
"""


def test_py_spy_is_asked_for_what_nothing_else_told(job, tmp_path, monkeypatch):
    """A stand-in on PATH that prints what the real one prints."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "py-spy"
    program.write_text(SPY.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    process = job(SLEEPS)
    (stack,) = stacks.collect(whole(process), [], tmp_path, GENEROUS_S)

    assert ("process", "py-spy", "sleeps_here") == (stack.kind, stack.source, inner(stack))


def test_what_the_flight_recorder_wrote_is_named(tmp_path):
    """And nothing else of the folder."""
    for name in ("job.log", "nccl_trace_rank_1", "nccl_trace_rank_0"):
        (tmp_path / name).touch()

    assert (f"{tmp_path}/nccl_trace_rank_0", f"{tmp_path}/nccl_trace_rank_1") == stacks.dumps(tmp_path)


def test_what_a_process_waits_in_is_told_by_the_kernel(job, tmp_path):
    """Where it lets us look at all."""
    process = job(SLEEPS)
    told = stacks.waits(process.pid)

    assert told is None or "sleep" in told or "select" in told
