"""The same faults in poorer surroundings: no pidfd, no capabilities, no inotify, guardian as PID 1 of a namespace."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.harness import PATIENCE_S, TINY, Guarded, marked

SUITE = ("test_recovery.py", "test_exits.py", "test_startup.py", "test_stops.py", "test_evidence.py")
NO_INOTIFY = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
SURROUNDINGS = {
    "no pidfd": ([], {"GUARDIAN_NO_PIDFD": "1"}),
    "no capabilities": (["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"], {}),
    "no inotify": (["unshare", "--user", "--map-root-user", "sh", "-c", NO_INOTIFY, "sh"], {}),
}
PID_1 = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")


def possible(words):
    """Whether these surroundings can be had on this machine."""
    return shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    """The fault suite in each of the surroundings that can be had, all begun at once: they mostly wait."""
    here = Path(__file__).parent
    begun = {}
    for name, (words, names) in SURROUNDINGS.items():
        if words and not possible(words):
            continue
        base = tmp_path_factory.mktemp(name.replace(" ", "-"))
        with (base / "output").open("wb") as output:
            begun[name] = base / "output", subprocess.Popen(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(base / "tmp")]
                + [str(here / one) for one in SUITE],
                env=os.environ | names | {"GUARDIAN_TEST_WRAPPER": json.dumps(words)},
                cwd=here.parent.parent, stdout=output, stderr=output,
            )  # fmt: skip
    yield begun
    for _, process in begun.values():
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_fault_suite_passes_in(name, suites):
    """Each test of it, with every guardian in these surroundings."""
    if name not in suites:
        pytest.skip(f"{name}: not to be had here ({SURROUNDINGS[name][0][0]} refuses)")
    output, process = suites[name]

    assert 0 == process.wait(), output.read_text("utf-8", "replace")[-8000:]


@pytest.fixture(params=[12])
def first_process(tmp_path, monkeypatch, request):
    """A run of so many steps whose guardian is PID 1 of a pid namespace, as in a container."""
    if not possible(PID_1):
        pytest.skip("pid namespaces are not to be had here")
    guarded = Guarded(tmp_path, *TINY, "--output_dir", "out", "--max_steps", str(request.param), "--save_steps", "3")
    monkeypatch.setattr("tests.faults.harness.WRAPPER", list(PID_1))
    guarded.start()
    monkeypatch.setattr("tests.faults.harness.WRAPPER", [])
    yield guarded
    guarded.clean_up()


def guardian_itself(guarded):
    """The pid, seen from here, of the guardian below `unshare`."""
    children = Path(f"/proc/{guarded.process.pid}/task/{guarded.process.pid}/children").read_text().split()
    return int(children[0])


def trainer(guarded):
    """The pid, seen from here, of the job; its own number is another one inside."""
    run = guarded.story().created.run
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for pid in marked(run):
            if b"guardian.trainer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        time.sleep(0.1)
    raise AssertionError("no trainer")


def test_as_pid_1_a_killed_trainer_is_resumed(first_process):
    """Pids in heartbeats and journal are those of the namespace; the run finishes and is proved."""
    first_process.until_step(5, attempt=1)
    os.kill(trainer(first_process), signal.SIGKILL)

    assert 0 == first_process.wait(), first_process.shown()[-4000:]
    report = first_process.report()
    assert ("finished", 12, 2) == (report["outcome"], report["steps_done"], len(report["attempts"]))
    assert "proved" == report["certificate"]["verdict"]


@pytest.mark.parametrize("first_process", [600], indirect=True)
def test_as_pid_1_it_hears_sigterm_and_saves(first_process):
    """`docker stop` sends TERM to PID 1, which has no default action for it."""
    first_process.until_step(2, attempt=1)
    os.kill(guardian_itself(first_process), signal.SIGTERM)

    assert 75 == first_process.wait(), first_process.shown()[-4000:]
    assert [a.path for a in first_process.story().attempts[0].checkpoints]
