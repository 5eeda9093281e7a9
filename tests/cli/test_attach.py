"""`guardian attach`: another terminal sees the run, and cannot harm it."""

import os
import signal

from guardian.core.run import Finished
from guardian.host import control
from tests.cli.behind import PATIENCE_S, eventually


def test_it_shows_the_run_to_its_end_and_exits_with_its_code(behind):
    """The job's output, guardian's lines on the way, the report, the code."""
    run = behind("--die-at", "3", upto=5, gated=True)
    run.detach()
    attached = run.open("attach", "r1")
    assert b"waiting\n" == attached.stdout.readline()
    run.go()
    told, _ = attached.communicate(timeout=PATIENCE_S)

    assert 0 == attached.returncode
    assert b"\n5/5\n" in told
    assert b"guardian: attempt 2 starts from the beginning now\n" in told
    assert (
        told.index(b"\n3/5\n")
        < told.index(b"guardian: attempt 1: its first process was ended by SIGKILL")
        < told.index(b"\n4/5\n")
    )
    assert b"finished, 2 attempts" in told


def test_a_run_that_failed_gives_its_code_to_who_looks_on(behind):
    """4: no retry heals a program that is not there. It is over already, and still told."""
    run = behind()
    run.command = ("no-such-program",)
    run.run()
    attached = run.call("attach", "r1")

    assert 4 == attached.returncode
    assert "not_retryable" in attached.stdout or "cannot be started" in attached.stdout


def test_the_last_twenty_lines_come_first(behind):
    """What the job printed long ago is not told again."""
    run = behind(upto=40)
    run.run()
    told = run.call("attach", "r1").stdout.splitlines()

    assert [f"{number}/40" for number in range(21, 41)] == [line for line in told if line.endswith("/40")]


def test_ctrl_c_ends_only_the_looking(behind):
    """It says so; guardian and job are as they were."""
    run = behind()
    run.detach()
    attached = run.open("attach", "r1")
    assert b"/" in attached.stdout.readline()
    attached.send_signal(signal.SIGINT)
    told, _ = attached.communicate(timeout=PATIENCE_S)

    assert 130 == attached.returncode
    assert b"guardian: detached; run r1 is left as it is" in told
    assert control.lives(os.getuid(), run.uuid)
    assert not run.story().stop_requests


def test_a_reader_that_goes_away_ends_the_looking(behind):
    """`guardian attach | head` does not stay for ever."""
    run = behind()
    run.detach()
    attached = run.open("attach", "r1")
    attached.stdout.readline()
    attached.stdout.close()

    assert 130 == attached.wait(PATIENCE_S)
    assert not isinstance(run.story().state, Finished)


def test_it_says_that_a_run_has_no_guardian_and_shows_it_all_the_same(behind):
    """The journal and the log are all that it needs."""
    run = behind()
    run.detach()
    os.kill(run.guardian_pid, signal.SIGKILL)
    attached = run.open("attach", "r1")
    seen = []
    eventually(
        "unattended", lambda: seen.append(attached.stdout.readline()) or b"unattended: the job lives" in seen[-1]
    )
    at = int((run.folder / "count").read_text())
    eventually("shown on", lambda: int(attached.stdout.readline().split(b"/")[0]) > at)
    attached.send_signal(signal.SIGINT)
    attached.communicate(timeout=PATIENCE_S)
