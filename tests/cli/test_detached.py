"""`-d`: the command returns when the job is started, and guardian goes on without it."""

import os
import re
import signal
import sys

from guardian.core import events as ev
from guardian.core.run import Finished
from guardian.host import session
from tests.faults.harness import marked


def test_closing_the_terminal_stops_nothing(behind):
    """The command returns, its terminal is closed, and the job is healed and finished all the same."""
    run = behind("--die-at", "4", upto=8, gated=True)

    assert 0 == run.on_a_terminal("run", "-d", "--name", "r1", *run.options, "--", *run.command)
    assert not isinstance(run.story().state, Finished)
    run.go()
    assert 0 == run.until_finished().exit_code
    assert "8" == (run.folder / "count").read_text()
    assert 2 == len(run.story().attempts)


def test_guardian_has_no_terminal_and_a_session_of_its_own(behind):
    """Nothing of the terminal stays open, or an ssh that waits for its last holder would wait for the run."""
    run = behind()
    ours, theirs = os.pipe()
    assert 0 == run.detach(pass_fds=[theirs]).returncode
    pid = run.guardian_pid
    files = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}

    assert pid == os.getsid(pid)
    assert "/dev/null" == os.readlink(f"/proc/{pid}/fd/0")
    assert str(run.run_folder.path / "guardian.log") == os.readlink(f"/proc/{pid}/fd/1")
    assert os.readlink(f"/proc/self/fd/{ours}") not in files
    os.close(theirs)
    assert b"" == os.read(ours, 1)
    os.close(ours)


def test_what_was_started_is_told_where_it_was_typed(behind):
    """The launch with all that was added to it, the name, and how to look at it."""
    told = behind().detach().stdout

    assert re.search(r"^guardian: attempt 1 starts: .*counting\.py", told, re.MULTILINE)
    assert "PYTHONUNBUFFERED=1" in told
    assert "guardian attach r1" in told


def test_guardians_own_lines_go_to_its_log_and_no_others(behind):
    """The job's output is in job.log; guardian.log is for its owner alone, and ends with the report."""
    run = behind(upto=3)
    run.detach()
    run.until_finished()
    log = run.run_folder.path / "guardian.log"

    assert 0o600 == log.stat().st_mode & 0o777
    assert "run r1 finished after" in log.read_text()
    assert "1/3" not in log.read_text().splitlines()
    assert b"1/3\n2/3\n3/3\n" == (run.run_folder.attempt_dir(1) / "job.log").read_bytes()


def test_a_start_that_fails_is_told_with_its_exit_code(behind):
    """A name in use and a program that is not there are seen where the command was typed, not in a log."""
    run = behind()
    assert 0 == run.detach().returncode
    again = run.detach()
    missing = run.call("run", "-d", "--name", "other", "--", "no-such-program")

    assert (3, "guardian: error: run r1 is in use by guardian") == (again.returncode, again.stderr.partition(" pid")[0])
    assert (4, True) == (missing.returncode, "could not be started" in missing.stdout)


def test_a_detached_run_is_stopped_and_resumed_detached(behind):
    """`guardian stop` reaches it; `resume -d` goes on from where the job was, and returns as well."""
    run = behind()
    run.detach()
    run.until_counted(3)

    assert 0 == run.call("stop", "r1").returncode
    assert ev.Outcome.STOPPED is run.until_finished().outcome
    assert {} == marked(run.uuid)
    resumed = run.call("resume", "-d", "r1")
    assert (0, "") == (resumed.returncode, resumed.stderr)
    run.until_counted(int((run.folder / "count").read_text()) + 1)
    assert 2 == len(run.story().attempts)
    assert not (run.folder / "count.doubled").exists()


def test_resume_in_the_background_adopts_a_living_job(behind):
    """Its guardian was killed; the job trained on and is not started twice."""
    run = behind(upto=5, gated=True)
    run.detach()
    os.kill(run.guardian_pid, signal.SIGKILL)

    resumed = run.call("resume", "-d", "r1")
    assert 0 == resumed.returncode, resumed.stderr
    assert "adopted" in resumed.stdout
    run.go()
    assert 0 == run.until_finished().exit_code
    assert 1 == len(run.story().attempts)
    assert not (run.folder / "count.doubled").exists()


def test_resume_in_the_background_of_a_finished_run_says_so(behind):
    """There is nothing to go on with."""
    run = behind(upto=2)
    run.detach()
    run.until_finished()
    resumed = run.call("resume", "-d", "r1")

    assert (0, True) == (resumed.returncode, "nothing to do" in resumed.stdout)


def test_arguments_that_are_no_text_reach_the_job(behind):
    """Bytes that are not UTF-8 survive the way into the background."""
    run = behind(name="bytes")
    run.command = (sys.executable, "-c", "import os, sys; print(os.fsencode(sys.argv[1]))", b"\xff\xfe")
    told = run.detach()
    run.until_finished()

    assert (0, "") == (told.returncode, told.stderr)
    assert rb"b'\xff\xfe'" in (run.run_folder.attempt_dir(1) / "job.log").read_bytes()


# Debian 12's logind.conf, shortened: the commented line is the default that systemd was built with.
DEBIAN = "[Login]\n#NAutoVTs=6\n#KillUserProcesses=no\n#KillOnlyUsers=\n#KillExcludeUsers=root\n#IdleAction=ignore\n"
UPSTREAM = DEBIAN.replace("KillUserProcesses=no", "KillUserProcesses=yes")
SESSION = "0::/user.slice/user-1000.slice/session-3.scope\n"
MANAGER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n"


def test_what_logging_out_ends_is_read_from_logind_as_it_is_configured():
    """The last word counts, a commented line is the default, and what nobody wrote is unknown."""
    ends = [
        session.parse_logind(texts).ends("ann")
        for texts in (
            (DEBIAN,),
            (UPSTREAM,),
            (DEBIAN, "[Login]\nKillUserProcesses=yes\n"),
            (UPSTREAM, "[Login]\nKillUserProcesses = no\n"),
            (UPSTREAM, "[Login]\nKillOnlyUsers=bob\n"),
            (UPSTREAM, "[Login]\nKillExcludeUsers=root ann\n"),
            (DEBIAN, "[Other]\nKillUserProcesses=yes\n"),
            ("",),
        )
    ]

    assert [False, True, True, False, False, False, False, False] == ends
    assert session.parse_logind([""]).kills is None


def test_logging_out_ends_a_session_or_the_users_services():
    """A scope by KillUserProcesses, the user's manager where it does not linger, anything else not at all."""
    kills, spares = session.parse_logind([UPSTREAM]), session.parse_logind([DEBIAN])

    assert ("session", "manager", None) == (
        session.unit_of(SESSION, 1000),
        session.unit_of(MANAGER, 1000),
        session.unit_of(SESSION, 1001),
    )
    assert "KillUserProcesses=yes" in session.by_log_out("session", kills, "ann", lingers=True)
    assert session.by_log_out("session", spares, "ann", lingers=False) is None
    assert "enable-linger ann" in session.by_log_out("manager", spares, "ann", lingers=False)
    assert session.by_log_out("manager", kills, "ann", lingers=True) is None
    assert session.by_log_out(None, kills, "ann", lingers=False) is None


def test_windows_and_containers_are_known_by_what_the_kernel_says():
    """WSL by the kernel's release, a container by its first process."""
    assert "WSL" in session.by_windows("5.15.167.4-microsoft-standard-WSL2\n")
    assert session.by_windows("6.1.0-28-amd64\n") is None
    assert "'bash'" in session.by_container("bash")
    assert session.by_container("systemd") is None
    assert session.by_container("") is None
