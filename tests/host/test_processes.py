"""The processes of an attempt, with real ones: found by every mark, and never one too many."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from guardian.core import wire
from guardian.host import keeping, processes
from guardian.host.processes import Identity, Life, Process
from tests.host.attempts import Attempt, new_run, until

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's identity")
NOBODY = 65534


@pytest.fixture
def attempt(tmp_path):
    """An attempt that leaves no process behind."""
    it = Attempt(tmp_path / "0001", run=new_run())
    yield it
    it.end()


@pytest.fixture
def start():
    """Starts processes that end with the test."""
    started = []

    def starter(*argv, **how):
        started.append(subprocess.Popen(argv, **how))
        return started[-1]

    yield starter
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def sleeper(start, **how) -> Process:
    """A process that only sleeps, once it does."""
    pid = start("sleep", "1000", **how).pid
    return until(lambda: (found := processes.look(pid)) and found.name == "sleep" and found)


@pytest.fixture(params=["pidfd", "plain kill"])
def way(request, monkeypatch):
    """Signals go as kernel and sandbox let them: both ways keep the same promises."""
    monkeypatch.setenv(processes.NO_PIDFD, "1" if request.param == "plain kill" else "")
    return request.param


# --- one process ------------------------------------------------------------------------------------------------


def test_a_name_of_blanks_and_parentheses_shifts_no_field():
    """The name is the program's, who may call itself anything; fields are counted from the last parenthesis."""
    line = b"77 (a) R 1 (b) S 12 34 56 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 12345 999 888\n"

    assert Process(
        pid=77, name="a) R 1 (b", state="S", ppid=12, group=34, session=56, threads=9, start_ticks=12345
    ) == processes.parse_stat(line)


def test_a_program_with_such_a_name_is_read_from_the_system(start, tmp_path):
    """The same with the kernel's own line."""
    program = shutil.copy(shutil.which("sleep"), tmp_path / ") S 1 (")
    pid = start(program, "1000").pid

    assert until(lambda: processes.look(pid).name == ") S 1 (")
    assert os.getpid() == processes.look(pid).ppid


def test_we_see_ourselves_as_the_system_does():
    """Every number that a signal or a tree depends on."""
    me = processes.look(os.getpid())

    assert (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)) == (me.pid, me.ppid, me.group, me.session)
    assert processes.start_ticks(os.getpid()) == me.start_ticks


def test_a_life_ends_as_a_zombie_and_then_is_gone(start):
    """A zombie does nothing any more, and its number is still taken: both are said."""
    process = start("sleep", "1000")
    identity = processes.identify(process.pid)
    assert (Life.ALIVE, True) == (processes.life(identity), processes.alive(identity))

    process.kill()
    until(lambda: processes.life(identity) is Life.ZOMBIE)
    assert not processes.alive(identity)

    process.wait()
    assert Life.GONE == processes.life(identity)


LEADER_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall({exit}, 0)
"""


@pytest.mark.skipif(os.uname().machine not in {"x86_64", "aarch64"}, reason="the number of exit(2) is not known here")
def test_a_process_whose_first_thread_ended_still_lives(start):
    """The kernel shows it as a zombie while its other threads compute and hold memory."""
    code = LEADER_ENDS.format(exit={"x86_64": 60, "aarch64": 93}[os.uname().machine])
    pid = start(sys.executable, "-I", "-S", "-c", code).pid
    process = until(lambda: (found := processes.look(pid)).state == "Z" and found)

    assert 1 < process.threads
    assert processes.alive(process.identity)


def test_another_start_time_is_another_process():
    """A recorded pid whose number has come round is gone, although somebody has it."""
    me = processes.identify(os.getpid())

    assert processes.alive(me)
    assert Life.GONE == processes.life(replace(me, start_ticks=me.start_ticks - 1))


# --- signals ----------------------------------------------------------------------------------------------------


def test_a_signal_reaches_the_process_it_names(start, way):
    """And is said to have been delivered."""
    process = start("sleep", "1000")

    assert processes.send(processes.identify(process.pid), signal.SIGINT)
    assert -signal.SIGINT == process.wait()


def test_a_process_that_got_the_number_is_not_signalled(start, way):
    """Pid reuse: right number, wrong start time, no signal."""
    found = sleeper(start)
    stale = replace(found.identity, start_ticks=found.start_ticks - 1)

    assert not processes.send(stale, signal.SIGKILL)
    assert processes.alive(found.identity)


def test_the_dead_are_not_signalled(start, way):
    """Neither the zombie, to whom the kernel would deliver, nor the one who is gone."""
    process = start("true")
    identity = processes.identify(process.pid)
    until(lambda: processes.life(identity) is Life.ZOMBIE)
    assert not processes.send(identity, signal.SIGTERM)

    process.wait()
    assert not processes.send(identity, signal.SIGTERM)


def test_a_stopped_process_is_seen_as_such_and_ends_once_it_is_continued(start, way):
    """SIGTERM alone waits for ever in a process that somebody has stopped."""
    process = start("sleep", "1000")
    identity = processes.identify(process.pid)
    processes.send(identity, signal.SIGSTOP)
    until(lambda: processes.find(identity).stopped)

    assert processes.send(identity, signal.SIGTERM)
    assert processes.find(identity).stopped
    assert processes.send(identity, signal.SIGCONT)
    assert -signal.SIGTERM == process.wait()


def test_a_process_that_ignores_term_is_ended_by_kill(start, way):
    """Delivered is not obeyed: only a look at the process tells."""
    process = start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done", stdout=subprocess.PIPE)
    process.stdout.readline()
    identity = processes.identify(process.pid)

    assert processes.send(identity, signal.SIGTERM)
    assert processes.alive(identity)
    (child,) = until(lambda: [p for p in processes.snapshot().values() if p.ppid == process.pid])
    assert processes.send(identity, signal.SIGKILL)
    assert -signal.SIGKILL == process.wait()
    processes.send(child.identity, signal.SIGKILL)


@ROOT_ONLY
def test_a_signal_that_is_not_allowed_was_not_delivered(start, way):
    """Another user's process: an answer, and no error."""
    found = sleeper(start)
    code = f"import sys, os; sys.path[:0] = {[p for p in sys.path if p]!r}; from guardian.host import processes as p; i = p.identify({found.pid}); os.setuid({NOBODY}); print(p.send(i, 15))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "False\n" == told.stdout


# --- the tree ---------------------------------------------------------------------------------------------------

# Everything a descendant can do to get away: a session of its own, no parent, no mark. Prints its pid.
ESCAPE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", "echo $$; exec sleep 1000"], {})
    os._exit(0)
time.sleep(1000)
"""


def escaped(attempt) -> Process:
    """The attempt's escaped grandchild, once it sleeps."""
    attempt.launch(sys.executable, "-I", "-S", "-c", ESCAPE)
    pid = int(attempt.said("\n"))
    return until(lambda: (found := processes.look(pid)) and found.name == "sleep" and found)


def test_an_escaped_grandchild_is_found_by_its_descent(attempt):
    """Own session, no living parent, no mark: the keeper is its parent now."""
    found = escaped(attempt)

    assert found.pid in {process.pid for process in attempt.tree()}
    assert [] == [entry for entry in processes.environment(found.pid) if entry.startswith(b"GUARDIAN")]


def test_the_tree_lists_the_job_and_neither_keeper_nor_caller(attempt):
    """Parents before children, each with what a person needs to know it again."""
    attempt.launch("sh", "-c", "sleep 1000 & wait")
    first, second = until(lambda: len(attempt.tree()) == 2 and attempt.tree()[1].name == "sleep" and attempt.tree())

    assert ["sh -c sleep 1000 & wait", "sleep 1000"] == [first.cmdline, second.cmdline]
    assert (attempt.keeper.pid, first.pid) == (first.ppid, second.ppid)
    assert {(first.pid, attempt.keeper.pid)} == {(process.group, process.session) for process in (first, second)}
    assert first.identity == processes.identify(attempt.told(keeping.Started).pid)


def lose_keeper(attempt) -> None:
    """The keeper is killed alone."""
    processes.send(attempt.keeper.identity, signal.SIGKILL)
    attempt.told(keeping.KeeperGone)


def test_without_a_keeper_the_mark_finds_the_job(attempt):
    """The keeper was killed, nothing else is known: the environment still tells, in every session."""
    attempt.launch("sh", "-c", "setsid sleep 1000 & sleep 2000").told(keeping.Started)
    until(lambda: {"sleep 1000", "sleep 2000"} <= {process.cmdline for process in attempt.tree()})
    lose_keeper(attempt)

    found = {process.cmdline for process in processes.tree(None, attempt.mark)}
    assert {"sh -c setsid sleep 1000 & sleep 2000", "sleep 1000", "sleep 2000"} == found


def test_without_keeper_and_mark_what_was_seen_is_still_known(attempt):
    """An escaped process is found by its recorded identity."""
    found = escaped(attempt)
    assert found.identity in {process.identity for process in attempt.tree()}
    lose_keeper(attempt)

    assert found.pid not in {process.pid for process in processes.tree(None, attempt.mark)}
    known = processes.tree(None, attempt.mark, frozenset({found.identity}))
    assert found.pid in {process.pid for process in known}


def test_the_session_of_a_dead_leader_still_tells(attempt):
    """Rank 0's main process is dead; its workers wiped their mark and share its session."""
    attempt.launch("setsid", "env", "-i", "sh", "-c", "echo $$; sleep 1000 & exec sleep 2000", env={"X": "1"})
    leader = processes.identify(int(attempt.said("\n")))
    until(lambda: {"sleep 1000", "sleep 2000"} == {process.cmdline for process in attempt.tree()})
    lose_keeper(attempt)
    processes.send(leader, signal.SIGKILL)
    until(lambda: not processes.alive(leader))

    assert ["sleep 1000"] == [p.cmdline for p in processes.tree(None, attempt.mark, frozenset({leader}))]


def test_a_number_that_came_round_leads_nobody_of_ours():
    """Somebody else leads a session of the same number now: it is his."""
    other = Process(
        pid=500, start_ticks=900, ppid=1, group=500, session=500, state="S", threads=1, name="sshd", cmdline=""
    )
    me = processes.look(os.getpid())
    everyone = {500: other, me.pid: replace(me, session=500)}

    assert set() == processes.led(everyone, {Identity(500, 100)})
    assert {me.pid} <= processes.led(everyone, {Identity(500, 900)})


def test_a_stale_keeper_is_nobodys_parent(start):
    """Its number belongs to another process, whose children are not to be ended."""
    other = start("sh", "-c", "sleep 1000 & echo $!; wait", stdout=subprocess.PIPE)
    child = int(other.stdout.readline())
    keeper = processes.identify(other.pid)

    assert [child] == [process.pid for process in processes.tree(keeper, "no such run/1")]
    assert () == processes.tree(replace(keeper, start_ticks=keeper.start_ticks - 1), "no such run/1")
    os.kill(child, signal.SIGKILL)


def test_the_caller_and_what_it_starts_are_not_the_jobs():
    """Not even when the caller carries the mark, or descends from who does: a job's script may ask about itself."""
    mark = wire.mark(new_run(), 1)
    code = f"""
import subprocess, sys
sys.path[:0] = {[place for place in sys.path if place]!r}
from guardian.host import processes
helper = subprocess.Popen(["sleep", "1000"], env={{}})
print(*(process.name for process in processes.tree(None, {mark!r})))
helper.kill()
"""
    argv = ["sh", "-c", '"$@"; exit 0', "sh", sys.executable, "-c", code]
    told = subprocess.run(argv, env={wire.ENV_MARK: mark}, capture_output=True, text=True, check=True)

    assert "sh\n" == told.stdout


def test_a_mark_is_the_whole_mark(start):
    """Attempt 1 is not attempt 11, and a mark inside another variable is none."""
    run = new_run()
    eleven = sleeper(start, env={wire.ENV_MARK: wire.mark(run, 11)})
    sleeper(start, env={"NOTE": f"{wire.ENV_MARK}={wire.mark(run, 1)}"})

    assert () == processes.tree(None, wire.mark(run, 1))
    assert [eleven.identity] == [process.identity for process in processes.tree(None, wire.mark(run, 11))]


def test_a_zombie_is_no_part_of_the_tree(start):
    """It cannot be ended, and holds nothing that the next attempt wants."""
    mark = wire.mark(new_run(), 1)
    found = sleeper(start, env={wire.ENV_MARK: mark})
    known = frozenset({found.identity})
    assert [found.pid] == [process.pid for process in processes.tree(None, mark, known)]

    processes.send(found.identity, signal.SIGKILL)
    until(lambda: processes.life(found.identity) is Life.ZOMBIE)
    assert () == processes.tree(None, mark, known)


@ROOT_ONLY
def test_another_users_process_belongs_by_descent_and_not_by_its_mark(attempt, start):
    """Anybody can write our mark into his environment; what our job started under another user is ours."""
    sleeper(start, user=NOBODY, env={wire.ENV_MARK: attempt.mark})
    drop = f"import os; os.setuid({NOBODY}); os.execv('/bin/sleep', ['sleep', '2000'])"
    attempt.launch(sys.executable, "-I", "-S", "-c", drop)

    assert ["sleep 2000"] == until(
        lambda: (found := [process.cmdline for process in attempt.tree()]) == ["sleep 2000"] and found
    )


def test_a_long_command_line_is_shortened(start):
    """It is for people."""
    mark = wire.mark(new_run(), 1)
    start("sleep", "1000", *["0"] * 1000, env={wire.ENV_MARK: mark})
    shown = until(lambda: [p.cmdline for p in processes.tree(None, mark) if p.cmdline.startswith("sleep 1000 0 0")])

    assert [processes.SHOWN_ARGUMENTS] == [len(words) for words in shown]


# --- where we are -----------------------------------------------------------------------------------------------


def test_the_boot_has_a_name():
    """As the kernel writes it: a random uuid."""
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", processes.boot_id())


def test_a_namespace_is_named_by_its_number():
    """The one in the link's text; a kind that this kernel does not have is unknown."""
    assert f"pid:[{processes.namespace_inode('pid')}]" == str(Path("/proc/self/ns/pid").readlink())
    assert processes.namespace_inode("no such kind") is None
