"""The keeper with real jobs: what it tells, what it writes, and what it survives."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core import wire
from guardian.errors import HostError
from guardian.host import disk, keeper, keeping, processes
from tests.host.attempts import PATIENCE_S, Attempt, new_run, until

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's identity, or mounts")
NOBODY = 65534


@pytest.fixture
def attempt(tmp_path):
    """An attempt that leaves no process behind."""
    it = Attempt(tmp_path / "0001", run=new_run())
    yield it
    it.end()


# --- the story of a job ------------------------------------------------------------------------------------


def test_a_job_is_told_from_its_start_to_the_keepers_end(attempt):
    """Four messages, in order, with the exit code."""
    attempt.launch("sh", "-c", "echo ready; exit 3")

    assert ["Started", "LauncherExit", "TreeEnd", "KeeperGone"] == attempt.kinds()
    assert (3, None) == (attempt.told(keeping.LauncherExit).code, attempt.told(keeping.LauncherExit).signal)
    assert 0 == attempt.told(keeping.KeeperGone).code


def test_a_job_that_dies_of_a_signal_has_no_code(attempt):
    """A signal is not turned into a number that a program could have returned."""
    attempt.launch("sh", "-c", "kill -SEGV $$")

    assert (None, signal.SIGSEGV) == (
        attempt.told(keeping.LauncherExit).code,
        attempt.told(keeping.LauncherExit).signal,
    )


def test_the_started_message_names_the_process(attempt):
    """Pid and start time are those that the process itself sees."""
    attempt.launch("sleep", "1000")

    started = attempt.told(keeping.Started)
    assert processes.Identity(started.pid, started.start_ticks) == processes.identify(started.pid)
    assert started.orphans_kept


def test_the_end_is_on_the_disk_as_it_was_told(attempt):
    """Whoever comes after keeper and supervisor reads the same end."""
    attempt.launch("sh", "-c", "exit 7")
    attempt.told(keeping.KeeperGone)

    records = keeping.end_records(attempt.folder)
    assert (attempt.told(keeping.LauncherExit), attempt.told(keeping.TreeEnd)) == (records.launcher, records.tree_end)
    assert () == records.unreadable
    assert [] == list(attempt.folder.glob("*.tmp"))


def test_there_is_no_end_record_while_the_job_lives(attempt):
    """Nothing written is not an end."""
    attempt.launch("sleep", "1000").told(keeping.Started)

    assert keeping.EndRecords(None, None) == keeping.end_records(attempt.folder)


def test_a_damaged_end_record_is_named_and_not_taken_for_none(tmp_path):
    """Half a record, or another file's content, is "unreadable": unknown is never fine."""
    (tmp_path / wire.LAUNCHER_EXIT).write_text('{"ev": "launcher_exit", "code"')
    (tmp_path / wire.TREE_END).write_text('{"ev": "started", "pid": 1}')

    assert keeping.EndRecords(None, None, (wire.LAUNCHER_EXIT, wire.TREE_END)) == keeping.end_records(tmp_path)


def test_a_hundred_quick_jobs_lose_no_last_line_and_no_code(tmp_path):
    """The exit never overtakes the output: it is whole when the end is told."""
    run = new_run()
    for number in range(1, 101):
        attempt = Attempt(tmp_path / f"{number:04}", run=run, number=number)
        attempt.launch("sh", "-c", f"echo first; echo last {number} >&2; exit {number}")
        attempt.told(keeping.TreeEnd)
        log = attempt.log

        assert f"first\nlast {number}\n" == log
        assert number == attempt.told(keeping.LauncherExit).code
        attempt.told(keeping.KeeperGone)


# --- what the job gets ---------------------------------------------------------------------------------------


def test_the_job_gets_no_descriptor_of_ours(attempt):
    """Not even one that somebody in the supervisor made inheritable."""
    loose, other = os.pipe()
    os.set_inheritable(loose, True)
    os.set_inheritable(other, True)
    attempt.launch("sh", "-c", "readlink /proc/$$/fd/*")
    attempt.told(keeping.TreeEnd)
    os.close(loose)
    os.close(other)

    log = attempt.folder / wire.JOB_LOG
    assert ["/dev/null", str(log), str(log)] == attempt.log.splitlines()


def test_the_job_gets_every_signal_as_the_kernel_gives_it(attempt):
    """Nothing ignored, nothing blocked, although Python, the keeper and this test do both.

    Signals 32 and 33 are the C library's own: its posix_spawn leaves them ignored, and it sets them when it needs them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGHUP})
    try:
        attempt.launch("cat", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1, signal.SIGHUP})
    attempt.told(keeping.TreeEnd)

    status = dict(line.split(":\t", 1) for line in attempt.log.splitlines())
    own = 1 << 31 | 1 << 32
    assert [0, 0] == [int(status[field], 16) & ~own for field in ("SigBlk", "SigIgn")]


def test_the_job_is_born_with_the_supervisors_oom_score(attempt):
    """The keeper spares itself, where it may, and never the job."""
    attempt.launch("cat", "/proc/self/oom_score_adj").told(keeping.TreeEnd)

    assert Path("/proc/self/oom_score_adj").read_text() == attempt.log


def test_the_keeper_is_spared_by_the_memory_killer_where_that_may_be_asked(attempt):
    """Of a whole cgroup that is ended for lack of memory, the witness is left."""
    code = "import os; os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000')"
    refused = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode != 0
    attempt.launch("sleep", "1000").told(keeping.Started)

    expected = Path("/proc/self/oom_score_adj").read_text() if refused else "-1000\n"
    score = Path(f"/proc/{attempt.keeper.pid}/oom_score_adj")
    assert until(lambda: score.read_text() == expected)


def test_the_job_cannot_signal_us_by_signalling_its_group(attempt):
    """`kill 0` is common in launch scripts; the keeper lives to tell of it."""
    attempt.launch("sh", "-c", "kill -KILL 0")

    assert ["Started", "LauncherExit", "TreeEnd", "KeeperGone"] == attempt.kinds()
    assert signal.SIGKILL == attempt.told(keeping.LauncherExit).signal


def test_bytes_that_are_no_text_reach_the_job_as_they_are(tmp_path):
    """File names are bytes: argument, environment and folder keep theirs."""
    odd = os.fsdecode(b"caf\xe9 \xff \xf0\x9f\x98\x80")
    attempt = Attempt(tmp_path / "0001", run=new_run())
    (tmp_path / odd).mkdir()
    attempt.launch("sh", "-c", 'printf "%s\\n" "$1" "$ODD"; pwd', "sh", odd, env={"ODD": odd}, cwd=tmp_path / odd)
    attempt.told(keeping.TreeEnd)

    whole = os.fsencode(odd)
    log = (attempt.folder / wire.JOB_LOG).read_bytes()
    assert [whole, whole, os.fsencode(tmp_path) + b"/" + whole] == log.splitlines()


def test_a_path_means_the_same_bytes_under_any_locale(monkeypatch):
    """Python decodes what it got by the locale; the keeper, which may see another one, gets UTF-8 or surrogates."""
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1"))

    assert b"caf\xe9" == keeper.encoded(keeping.portable("café"))


@given(st.lists(st.binary().filter(lambda b: b"\0" not in b)), st.binary(min_size=1))
def test_no_byte_of_a_command_line_is_lost_on_the_way(argv, value):
    """Whatever the system can hold in argv and environment arrives in the keeper as the same bytes."""
    job = keeping.Launch("run", 1, Path("/"), tuple(map(os.fsdecode, argv)), {"X": os.fsdecode(value)}, Path("/"))
    spec = json.loads(job.line())

    assert argv == keeper.encoded_list(spec["argv"])
    assert {b"X": value} == keeper.encoded_dict(spec["env"])
    assert 1 == job.line().count(b"\n")


def test_a_limit_is_raised_as_far_as_it_goes_before_the_job_starts(attempt):
    """Running out of open files is met without a privilege: the job's soft limit is its hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    try:
        attempt.launch(sys.executable, "-I", "-S", "-c", code, limits=(("nofile", "hard"),)).told(keeping.TreeEnd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert f"{hard} {hard}\n" == attempt.log


def test_a_limit_that_nobody_asked_for_stays(attempt):
    """The job runs under the limits that its caller has."""
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    attempt.launch(sys.executable, "-I", "-S", "-c", code).told(keeping.TreeEnd)

    assert "{} {}\n".format(*resource.getrlimit(resource.RLIMIT_NOFILE)) == attempt.log


def test_the_program_is_found_on_the_path_of_the_job(attempt, tmp_path):
    """Not on ours: the user's environment decides which torchrun runs."""
    program = tmp_path / "bin" / "train"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho trained $1\n")
    program.chmod(0o755)
    attempt.launch("train", "well", env={"PATH": f"/nonexistent:{program.parent}"}).told(keeping.TreeEnd)

    assert "trained well\n" == attempt.log


def test_a_script_without_an_interpreter_line_runs_as_in_a_shell(attempt, tmp_path):
    """People start ./train.sh without "#!" every day, and their shell lets them."""
    script = tmp_path / "train.sh"
    script.write_text('echo "$1"; exit 5\n')
    script.chmod(0o755)
    attempt.launch("./train.sh", "two words", cwd=tmp_path).told(keeping.TreeEnd)

    assert ("two words\n", 5) == (attempt.log, attempt.told(keeping.LauncherExit).code)


# --- a job that cannot be started ------------------------------------------------------------------------------


def refusal(attempt, *argv, **launch):
    """What is told about a job that cannot start, with the attempt's folder as `@`."""
    attempt.launch(*argv, **launch)
    assert ["StartFailed", "TreeEnd", "KeeperGone"] == attempt.kinds()
    failed = attempt.told(keeping.StartFailed)
    words = f"{failed.file}: {failed.error}"
    assert words == keeping.end_records(attempt.folder).tree_end.start_failed
    return words.replace(str(attempt.folder), "@")


def test_a_missing_command_is_a_failed_start_and_no_exit(attempt):
    """With the PATH that was searched, which is the job's."""
    assert "trian: command not found on PATH=/opt/bin:/bin" == refusal(attempt, "trian", env={"PATH": "/opt/bin:/bin"})


def test_a_file_that_is_not_executable_is_named(attempt):
    """Found on PATH and not allowed to run: the file, not the word."""
    (attempt.folder / "train").write_text("")

    assert "@/train: Permission denied" == refusal(attempt, "train", env={"PATH": f"{attempt.folder}:/bin"})


def test_a_missing_interpreter_is_told_from_a_missing_script(attempt):
    """The kernel says "No such file" about a file that is plainly there."""
    script = attempt.folder / "train.py"
    script.write_text("#!/venv/that/moved/bin/python -u\n")
    script.chmod(0o755)

    assert "./train.py: its interpreter was not found: #!/venv/that/moved/bin/python -u" == refusal(
        attempt, "./train.py"
    )


def test_a_limit_that_does_not_exist_is_named(attempt):
    """A remedy that cannot be carried out is no start that went well."""
    assert "nofiles: is no limit that is known here" == refusal(attempt, "true", limits=(("nofiles", "hard"),))


def test_a_missing_folder_to_run_in_is_named(attempt):
    """The program is not to blame."""
    assert "@/gone: cannot be the job's folder: No such file or directory" == refusal(
        attempt, "true", cwd=attempt.folder / "gone"
    )


def test_a_file_for_another_machine_is_not_given_to_the_shell(attempt):
    """A binary that this kernel cannot run would make sh print nonsense."""
    program = attempt.folder / "train"
    program.write_bytes(b"\x7fELF\0\0\0 for another machine\n")
    program.chmod(0o755)

    assert "./train: Exec format error" == refusal(attempt, "./train")


def test_a_log_that_is_a_link_is_refused(attempt, tmp_path):
    """Somebody else's file is not written to by way of our folder."""
    (tmp_path / "treasure").write_text("gold")
    (attempt.folder / wire.JOB_LOG).symlink_to(tmp_path / "treasure")

    assert "@/job.log: cannot be the job's log: Too many levels of symbolic links" == refusal(attempt, "echo", "lead")
    assert "gold" == (tmp_path / "treasure").read_text()


# --- the tree ---------------------------------------------------------------------------------------------------

# A launcher that leaves a grandchild without its mark, in a session of its own, as nobody's child, and waits.
ORPHAN_MAKER = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os._exit(0)
os.wait()
print("ready", flush=True)
time.sleep(1000)
"""


def test_the_launchers_death_is_not_the_end_while_a_grandchild_lives(attempt):
    """SIGKILL to the agent leaves the ranks: the tree has ended when they have, and the orphan is found until then."""
    attempt.launch(sys.executable, "-I", "-S", "-c", ORPHAN_MAKER).said("ready")
    os.kill(attempt.told(keeping.Started).pid, signal.SIGKILL)
    attempt.told(keeping.LauncherExit)

    (orphan,) = until(lambda: [process for process in attempt.tree() if process.cmdline == "sleep 1000"])
    assert attempt.keeper.identity.pid == orphan.ppid
    assert keeping.end_records(attempt.folder).tree_end is None
    assert not any(isinstance(message, keeping.TreeEnd) for message in attempt.heard)

    processes.send(orphan.identity, signal.SIGKILL)
    assert 2 == attempt.told(keeping.TreeEnd).reaped


def test_only_the_first_process_is_the_launcher(attempt):
    """An orphan that fails before it is a process of the tree, and not the job's answer."""
    attempt.launch("sh", "-c", "(sh -c 'echo $$; exit 9' &); read line < fifo; exit 5", cwd=fifo(attempt.folder))
    orphan = int(attempt.said("\n"))
    until(lambda: processes.look(orphan) is None, "the orphan's burial")
    open_fifo(attempt.folder)

    assert 5 == attempt.told(keeping.LauncherExit).code
    assert 2 == attempt.told(keeping.TreeEnd).reaped


def test_a_log_that_is_cut_while_the_job_writes_gets_no_hole(attempt):
    """Everybody appends: after a cut the next line stands at the beginning."""
    attempt.launch("sh", "-c", "echo first; read line < fifo; echo second", cwd=fifo(attempt.folder)).said("first")
    os.truncate(attempt.folder / wire.JOB_LOG, 0)
    open_fifo(attempt.folder)
    attempt.told(keeping.TreeEnd)

    assert "second\n" == attempt.log


def test_a_signal_to_the_keeper_ends_nothing(attempt):
    """What is meant for the supervisor, or sent by `kill` in haste, leaves keeper and job alone."""
    attempt.launch("sh", "-c", "read line < fifo; exit 9", cwd=fifo(attempt.folder)).told(keeping.Started)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        processes.send(attempt.keeper.identity, number)
    open_fifo(attempt.folder)

    assert 9 == attempt.told(keeping.LauncherExit).code


def fifo(folder: Path) -> Path:
    """A folder with a gate in it that a job can wait at."""
    os.mkfifo(folder / "fifo")
    return folder


def open_fifo(folder: Path) -> None:
    """Open the gate."""
    (folder / "fifo").write_text("go\n")


def test_the_lease_is_renewed_while_the_tree_lives(attempt, monkeypatch, tmp_path):
    """Another host can see by the file's time that the job trains, also when the launcher is gone."""
    monkeypatch.setattr(keeping, "SCRIPT", hurried(tmp_path, LEASE_S=0.05))
    attempt.launch("sh", "-c", "sleep 1000 & exit 0").told(keeping.LauncherExit)
    lease = attempt.folder / keeping.LEASE
    for _ in range(3):
        os.utime(lease, (0, 0))
        until(lambda: lease.stat().st_mtime > 0, "a renewal")


def hurried(folder: Path, **constants) -> Path:
    """The keeper with some of its constants changed."""
    script = folder / "hurried.py"
    lines = [f"keeper.{name} = {value!r}" for name, value in constants.items()]
    home = str(keeping.SCRIPT.parent)
    script.write_text("\n".join([f"import sys; sys.path.insert(0, {home!r}); import keeper", *lines, "keeper.main()"]))
    return script


# --- the supervisor dies ----------------------------------------------------------------------------------------

SUPERVISOR = """
import sys, time
from pathlib import Path
from guardian.host import keeping
folder, run = Path(sys.argv[1]), sys.argv[2]
argv = ("sh", "-c", "read line < fifo; for i in 1 2 3 4 5; do echo line $i; echo more $i >&2; done; exit 6")
keeper = keeping.Standby().launch(keeping.Launch(run, 1, folder, argv, {"PATH": "/usr/bin:/bin"}, folder))
for message in keeper.messages():
    print(type(message).__name__, flush=True)
"""


def killed_supervisor(attempt):
    """A supervisor of the attempt that is no more; its job waits at the gate."""
    fifo(attempt.folder)
    argv = [sys.executable, "-c", SUPERVISOR, str(attempt.folder), attempt.run]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as supervisor:
        assert "Started\n" == supervisor.stdout.readline()
        supervisor.kill()


def test_a_killed_supervisor_costs_the_job_nothing(attempt):
    """The job goes on, its output is whole, and its end is on the disk although nobody listened."""
    killed_supervisor(attempt)
    open_fifo(attempt.folder)
    until(lambda: keeping.end_records(attempt.folder).tree_end, "the end record")

    assert [f"{word} {i}" for i in range(1, 6) for word in ("line", "more")] == attempt.log.splitlines()
    assert 6 == keeping.end_records(attempt.folder).launcher.code


def test_an_end_that_is_heard_is_written_only_when_the_listener_had_time_to_act(attempt, monkeypatch, tmp_path):
    """His own writing does not wait behind it; until then who comes is told it, so nothing can be lost."""
    monkeypatch.setattr(keeping, "SCRIPT", hurried(tmp_path, LISTENERS_FIRST_S=1000.0))
    attempt.launch("sh", "-c", "exit 5").told(keeping.TreeEnd)

    late = Attempt(attempt.folder, run=attempt.run).adopt()
    assert late.told(keeping.TreeEnd) == attempt.told(keeping.TreeEnd)
    assert keeping.EndRecords(None, None) == keeping.end_records(attempt.folder)


def test_an_end_that_nobody_hears_is_written_at_once(attempt, monkeypatch, tmp_path):
    """There is nobody whose writing could come first."""
    monkeypatch.setattr(keeping, "SCRIPT", hurried(tmp_path, LISTENERS_FIRST_S=1000.0))
    attempt.launch("sh", "-c", "read line < fifo; exit 5", cwd=fifo(attempt.folder)).told(keeping.Started)
    attempt.keeper.close()
    open_fifo(attempt.folder)

    until(lambda: keeping.end_records(attempt.folder).tree_end, "the end record")
    assert 5 == keeping.end_records(attempt.folder).launcher.code


def test_the_next_supervisor_adopts_the_job_with_its_history(attempt):
    """It hears the beginning that it missed, and then the end."""
    killed_supervisor(attempt)
    attempt.adopt().told(keeping.Started)
    open_fifo(attempt.folder)

    assert ["Started", "LauncherExit", "TreeEnd", "KeeperGone"] == attempt.kinds()
    assert 6 == attempt.told(keeping.LauncherExit).code
    assert keeping.connect(os.getuid(), attempt.run, attempt.number) is None


def test_a_standby_leaves_when_its_supervisor_dies(tmp_path):
    """Nobody who waits for a job waits for ever."""
    code = "from guardian.host import keeping; import time; print(keeping.Standby().pid, flush=True); time.sleep(1000)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        standby = processes.identify(int(supervisor.stdout.readline()))
        assert processes.alive(standby)
        supervisor.kill()

    until(lambda: not processes.alive(standby), "the standby's leaving")


def test_a_standby_that_was_killed_is_replaced(attempt):
    """A relaunch does not fail because somebody cleaned up idle Python processes."""
    standby = keeping.Standby()
    os.kill(standby.pid, signal.SIGKILL)
    until(lambda: not processes.alive(processes.identify(standby.pid)))
    attempt.launch("sh", "-c", "exit 8", standby=standby)

    assert 8 == attempt.told(keeping.LauncherExit).code


def test_a_dismissed_standby_is_gone():
    """Dismissing waits: no process is left that a test or a service manager would count."""
    standby = keeping.Standby()
    identity = processes.identify(standby.pid)
    standby.dismiss()

    assert processes.Life.GONE == processes.life(identity)


# --- the keeper dies ----------------------------------------------------------------------------------------------


def test_a_killed_keeper_is_told_from_an_ended_job(attempt):
    """No `TreeEnd`, no record: the job lives, and whoever asks must look for it."""
    attempt.launch("sleep", "1000").told(keeping.Started)
    processes.send(attempt.keeper.identity, signal.SIGKILL)

    assert ["Started", "KeeperGone"] == attempt.kinds()
    assert -signal.SIGKILL == attempt.told(keeping.KeeperGone).code
    assert keeping.EndRecords(None, None) == keeping.end_records(attempt.folder)
    assert ["sleep 1000"] == [process.cmdline for process in attempt.tree()]


def test_the_keepers_own_mistake_is_written_beside_the_log(tmp_path):
    """A keeper that breaks leaves its traceback where the attempt's files are."""
    spec = json.dumps({"dir": str(tmp_path)}).encode() + b"\n"
    argv = [sys.executable, "-I", "-S", keeping.SCRIPT]
    done = subprocess.run(argv, input=spec, capture_output=True, check=False, timeout=PATIENCE_S)

    assert 1 == done.returncode
    assert "KeyError: 'socket'" in (tmp_path / "keeper.err").read_text()


# --- the socket -----------------------------------------------------------------------------------------------------


def test_an_attempt_is_kept_once(attempt, tmp_path):
    """The second keeper starts nothing, says that the attempt is held, and does not touch its files."""
    attempt.launch("sleep", "1000").told(keeping.Started)
    second = Attempt(tmp_path / "other", run=attempt.run)
    second.launch("sh", "-c", "echo twice")

    assert ["Refused", "KeeperGone"] == second.kinds()
    assert second.told(keeping.Refused).held
    assert keeper.EXIT_REFUSED == second.told(keeping.KeeperGone).code
    assert [] == list(second.folder.iterdir())


def test_nobody_keeps_an_attempt_that_never_was():
    """No socket, no keeper: `None`, and no error."""
    assert keeping.connect(os.getuid(), new_run(), 1) is None


def test_every_listener_hears_the_whole_story(attempt):
    """A second listener, `guardian attach` for one, takes nothing away from the first."""
    attempt.launch("sh", "-c", "read line < fifo", cwd=fifo(attempt.folder)).told(keeping.Started)
    second = Attempt(attempt.folder, run=attempt.run).adopt()
    second.told(keeping.Started)
    open_fifo(attempt.folder)

    attempt.told(keeping.KeeperGone)
    second.told(keeping.KeeperGone)
    assert attempt.heard[:3] == second.heard[:3]


def test_a_cut_line_to_a_living_keeper_is_mended_and_nothing_is_told_twice(attempt):
    """A listener that was dropped comes back by itself: the end of a stream alone is no death."""
    attempt.launch("sh", "-c", "read line < fifo", cwd=fifo(attempt.folder)).told(keeping.Started)
    attempt.keeper._link.shutdown(socket.SHUT_RDWR)
    open_fifo(attempt.folder)

    assert ["Started", "LauncherExit", "TreeEnd", "KeeperGone"] == attempt.kinds()


def test_a_closed_keeper_says_no_more_and_keeps_on(attempt):
    """Leaving is not ending: the job lives, and can be adopted."""
    attempt.launch("sleep", "1000").told(keeping.Started)
    reader = attempt.keeper.listen(lambda _: None)
    attempt.keeper.close()
    reader.join(PATIENCE_S)

    assert not reader.is_alive()
    assert ["Started"] == [type(message).__name__ for message in attempt.heard]
    assert keeping.connect(os.getuid(), attempt.run, attempt.number) is not None


def test_a_crowd_that_never_reads_delays_nobody(attempt):
    """Some are let in, the rest is sent away, and the end reaches the one who listens."""
    attempt.launch("sh", "-c", "read line < fifo; exit 2", cwd=fifo(attempt.folder)).told(keeping.Started)
    crowd = [keeping.reach(wire.socket_name(os.getuid(), attempt.run, 1))[0] for _ in range(keeper.MAX_CLIENTS + 5)]
    open_fifo(attempt.folder)

    assert 2 == attempt.told(keeping.LauncherExit).code
    attempt.told(keeping.KeeperGone)
    assert keeper.MAX_CLIENTS - 1 == sum(link.recv(1) == b"{" for link in crowd)
    for link in crowd:
        link.close()


def test_who_knocks_while_the_keeper_leaves_still_hears_the_story(tmp_path):
    """A connection that was taken by the kernel and not yet by the keeper is not forgotten at the end."""
    address = wire.socket_name(os.getuid(), new_run(), 1)
    story = keeper.Story()
    told = story.tell("tree_end", reaped=1)
    with keeper.hold(address[1:]) as lock:
        link, _ = keeping.reach(address)
        keeper.stay(lock, -1, story, keeper.Records(os.fsencode(tmp_path)))

    assert told == link.recv(4096)
    link.close()


def test_a_full_buffer_drops_the_listener_and_not_the_keeper():
    """Sending never waits, and a line is never left half sent to somebody who is still listening."""
    story = keeper.Story()
    ours, theirs = socket.socketpair()
    story.admit(ours)
    with theirs:
        for _ in range(100_000):
            if not story.clients:
                break
            story.tell("started", filler="x" * 4096)

    assert {} == story.clients


@ROOT_ONLY
def test_another_user_hears_nothing(attempt):
    """Abstract sockets have no permissions: the keeper asks the kernel who calls."""
    attempt.launch("sleep", "1000").told(keeping.Started)
    argv = as_nobody("s.connect(name); print(s.recv(100))", wire.socket_name(os.getuid(), attempt.run, 1))
    told = subprocess.run(argv, capture_output=True, check=True, timeout=PATIENCE_S)

    assert b"b''\n" == told.stdout


def as_nobody(code: str, address: str) -> list[str]:
    """A command that does something with a socket `s` and an abstract `name` as another user."""
    start = f"import os, socket, sys; os.setgid({NOBODY}); os.setuid({NOBODY}); name = chr(0) + sys.argv[1]"
    return [sys.executable, "-I", "-S", "-c", f"{start}; s = socket.socket(socket.AF_UNIX); {code}", address[1:]]


@ROOT_ONLY
def test_an_address_held_by_another_user_is_no_keeper():
    """A stranger who took the name first is not believed."""
    run = new_run()
    argv = as_nobody(
        "s.bind(name); s.listen(); print(1, flush=True); s.accept()", wire.socket_name(os.getuid(), run, 1)
    )
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as stranger:
        stranger.stdout.readline()
        with pytest.raises(HostError, match=r"held by a process .* of another user"):
            keeping.connect(os.getuid(), run, 1)


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_an_end_that_cannot_be_written_is_told_and_written_later(attempt):
    """No room for a file: the keeper stays with what it knows, answers who comes, and writes when there is room."""
    attempt.launch("sh", "-c", "read line < fifo; exit 4", cwd=fifo(attempt.folder)).told(keeping.Started)
    unlimited = resource.prlimit(attempt.keeper.identity.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(attempt.keeper.identity.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    open_fifo(attempt.folder)
    attempt.told(keeping.TreeEnd)

    assert keeping.EndRecords(None, None) == keeping.end_records(attempt.folder)
    late = Attempt(attempt.folder, run=attempt.run).adopt()
    assert 4 == late.told(keeping.LauncherExit).code

    resource.prlimit(attempt.keeper.identity.pid, resource.RLIMIT_FSIZE, unlimited)
    attempt.told(keeping.KeeperGone)
    assert 4 == keeping.end_records(attempt.folder).launcher.code
    assert keeping.end_records(attempt.folder).tree_end == late.told(keeping.TreeEnd)


def test_a_keeper_whose_folder_was_removed_does_not_wait_for_it(attempt):
    """What can never be written is not waited for."""
    fifo(attempt.folder)
    attempt.launch("sh", "-c", "read line < fifo", cwd=attempt.folder).told(keeping.Started)
    gate = os.open(attempt.folder / "fifo", os.O_RDWR)
    for file in attempt.folder.iterdir():
        file.unlink()
    attempt.folder.rmdir()
    os.write(gate, b"go\n")

    assert 0 == attempt.told(keeping.KeeperGone).code
    os.close(gate)


@pytest.fixture
def small_disk(tmp_path, request):
    """A file system of 64 KiB, or of the size that is asked for."""
    size = getattr(request, "param", "64k")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@ROOT_ONLY
def test_a_job_that_fills_the_disk_with_its_log_is_still_told_to_its_end(small_disk):
    """The log takes the last block; the end is told, and recorded once the log is cut."""
    attempt = Attempt(small_disk / "0001", run=new_run())
    attempt.launch("sh", "-c", "while echo 0123456789abcdef0123456789abcdef; do :; done 2>/dev/null; exit 1")
    attempt.told(keeping.TreeEnd)
    assert 1 == attempt.told(keeping.LauncherExit).code
    assert keeping.EndRecords(None, None) == keeping.end_records(attempt.folder)

    os.truncate(attempt.folder / wire.JOB_LOG, 0)
    attempt.told(keeping.KeeperGone)
    assert 1 == keeping.end_records(attempt.folder).launcher.code


@ROOT_ONLY
@pytest.mark.parametrize("small_disk", ["24m"], indirect=True)
def test_the_keeper_of_a_dead_guardian_gives_the_ballast_back(small_disk):
    """Others fill the disk: what the job prints then finds the room that guardian had reserved."""
    attempt = Attempt(small_disk / "attempts" / "0001", run=new_run())
    ballast = disk.Ballast(small_disk, 8)
    ballast.look()
    attempt.launch("sh", "-c", "read line < fifo; head -c 1500000 /dev/zero && exit 5", cwd=fifo(attempt.folder))
    attempt.told(keeping.Started)
    attempt.keeper.close()
    room = os.statvfs(small_disk)
    with (small_disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - disk.MIB)
    until(lambda: 0 < ballast.held < 8 * disk.MIB, "a part of it is given back")
    open_fifo(attempt.folder)
    until(lambda: keeping.end_records(attempt.folder).tree_end, "the end record")

    assert 5 == keeping.end_records(attempt.folder).launcher.code
    assert 1_500_000 == (attempt.folder / wire.JOB_LOG).stat().st_size


# --- what it is made of -------------------------------------------------------------------------------------------------


def test_the_keepers_names_are_those_of_the_wire():
    """It cannot import them, so they are compared."""
    assert (wire.LAUNCHER_EXIT, wire.TREE_END) == (keeper.LAUNCHER_EXIT, keeper.TREE_END)
    assert keeping.LEASE.encode() == keeper.LEASE
    ours = (keeper.BALLAST.decode(), keeper.PIECES, keeper.LOW, keeper.SCARCE, keeper.PAGE)
    assert (disk.FILE, disk.PIECES, disk.LOW, disk.SCARCE, disk.PAGE) == ours
    assert (disk.Watch.EVERY_S, disk.Watch.HURRIED_S) == (keeper.EVERY_S, keeper.HURRIED_S)


def test_the_keeper_loads_little():
    """It lives for days beside the job and starts before it: none of the heavy modules."""
    home = str(keeping.SCRIPT.parent)
    code = f"import sys; sys.path.insert(0, {home!r}); import keeper; print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", code]
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()

    heavy = {"argparse", "subprocess", "logging", "typing", "threading", "traceback", "tempfile", "pathlib", "site"}
    assert "keeper" in loaded
    assert set() == heavy & set(loaded)
    assert not any(name.split(".")[0] == "guardian" for name in loaded)


def test_the_keeper_does_not_answer_to_pkill_python(attempt):
    """Its name is its own, so that freeing a GPU by `pkill python` leaves the witness alive."""
    attempt.launch("sleep", "1000").told(keeping.Started)

    assert "guardian-keeper" == processes.look(attempt.keeper.identity.pid).name


def test_importing_the_keeper_does_nothing():
    """Its functions can be tested in this process: only running it as a script makes a keeper."""
    before = signal.getsignal(signal.SIGTERM)
    importlib.reload(keeper)

    assert before == signal.getsignal(signal.SIGTERM)
