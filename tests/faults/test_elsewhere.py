"""The same faults in poorer surroundings: no pidfd, no ptrace, no capabilities, no inotify, guardian as PID 1.

Each is the whole fault suite again. Its tests skip themselves, with their reason, where a thing is not possible there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from guardian.host.crash import STILL_SWITCH
from tests.faults.harness import TINY, Guarded, marked

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
SUITE = ("test_recovery.py", "test_exits.py", "test_startup.py", "test_stops.py", "test_evidence.py")
NOBODY = 65534
PID_1 = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
NO_CAPABILITIES = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")
NO_INOTIFY = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
WITHOUT_INOTIFY = ("unshare", "--user", "--map-root-user", "sh", "-c", NO_INOTIFY, "sh")
SURROUNDINGS = {
    "no pidfd, no inotify": (WITHOUT_INOTIFY, {"GUARDIAN_NO_PIDFD": "1"}),
    "no capabilities, no ptrace": ((*NO_CAPABILITIES, sys.executable, str(HERE / "denied.py")), {}),
    "PID 1": (PID_1, {}),
}
"""Words before guardian's own, and names in its environment. Two that have nothing to do with each other are one suite."""


def possible(words):
    """Whether these surroundings can be had on this machine."""
    if not words:
        return True
    return shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0


def suite(base, *, around=(), names=(), wrapper=()):
    """Run the fault suite; `around` is for all of it, `wrapper` for its guardians. What was not possible is printed."""
    words = [*around, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", str(base / "tmp")]
    output = base / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*words, *(str(HERE / one) for one in SUITE)],
            env=os.environ | dict(names) | {"GUARDIAN_TEST_WRAPPER": json.dumps(wrapper)},
            cwd=REPOSITORY, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        code = process.wait()
    finally:
        process.send_signal(signal.SIGINT)  # it ends its runs before it goes; long gone, as a rule
        process.wait()
    said = output.read_text("utf-8", "replace")
    print(*(line for line in said.splitlines() if line.startswith("SKIPPED")), said.splitlines()[-1], sep="\n")
    assert 0 == code, said[-8000:]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_fault_suite_passes_with(name, tmp_path):
    """Each test of it, with every guardian in these surroundings."""
    words, names = SURROUNDINGS[name]
    if not possible(words):
        pytest.skip(f"{name}: not to be had here ({words[0]} refuses)")
    suite(tmp_path, names=names, wrapper=words)


def test_without_inotify_a_run_that_saves_is_watched_all_the_same(tmp_path, monkeypatch):
    """Other programs have taken all instances: folders are looked at now and then."""
    if not possible(WITHOUT_INOTIFY):
        pytest.skip("the limit of inotify cannot be set here")
    guarded = Guarded(tmp_path, *TINY, "--output_dir", "out", "--max_steps", "4", "--save_steps", "2")
    monkeypatch.setattr("tests.faults.harness.WRAPPER", list(WITHOUT_INOTIFY))
    try:
        assert 0 == guarded.run(), guarded.shown()[-4000:]
        assert [2, 4] == [checkpoint.step for checkpoint in guarded.story().attempts[0].checkpoints]
    finally:
        guarded.clean_up()


# --- an ordinary user --------------------------------------------------------------------------------------------

LET_IN = """
places=$1 kept=$2 hidden=$3
shift 3
number=0
for place in $places; do
    number=$((number + 1))
    mkdir -p "$kept/$number" && mount --bind "$place" "$kept/$number" || exit 1
done
for top in $hidden; do mount -t tmpfs -o mode=755 none "$top" || exit 1; done
number=0
for place in $places; do
    number=$((number + 1))
    mkdir -p "$place" && mount --bind "$kept/$number" "$place" || exit 1
done
exec "$@"
"""
"""In a mount namespace of its own: what lies below a folder that strangers may not enter, shown in an open one."""


def hidden_above(place):
    """The topmost folder above a place that other users may not enter; None when the way is free."""
    return next((top for top in (*reversed(place.parents), place) if not top.stat().st_mode & 1), None)


def as_stranger(kept):
    """Words that run a command as another user without a capability, who can reach the interpreter and this checkout."""
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPOSITORY}
    hidden = {place: top for place in needed if (top := hidden_above(place))}
    let_in = ["unshare", "--mount", "--propagation", "private", "sh", "-c", LET_IN, "sh"]
    who = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    places = (" ".join(map(str, some)) for some in (hidden, set(hidden.values())))
    return [*let_in, next(places), str(kept), next(places), NO_CAPABILITIES[0], *who, *NO_CAPABILITIES[1:]]


@pytest.fixture
def strangers_folder():
    """A folder that another user owns and can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "kept").mkdir()
        (folder / "home").mkdir()
        for one in (folder, folder / "home"):
            os.chown(one, NOBODY, NOBODY)
        yield folder


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.geteuid() != 0, reason="this is an ordinary user already: the suite itself is this test")
def test_the_fault_suite_passes_as_an_ordinary_user(strangers_folder):
    """All of it, tests and guardians, under another user's number and without a single capability."""
    around = as_stranger(strangers_folder / "kept")
    if subprocess.run([*around, sys.executable, "-c", "import pytest"], check=False).returncode != 0:
        pytest.skip("another user cannot be given this interpreter here")
    suite(strangers_folder, around=around, names={"HOME": str(strangers_folder / "home")})


# --- PID 1 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[12])
def first_process(tmp_path, monkeypatch, request):
    """A run of so many steps whose guardian is PID 1 of a pid namespace, as in a container."""
    if not possible(PID_1):
        pytest.skip("pid namespaces are not to be had here")
    guarded = Guarded(tmp_path, *TINY, "--output_dir", "out", "--max_steps", str(request.param), "--save_steps", "3")
    monkeypatch.setattr("tests.faults.harness.WRAPPER", list(PID_1))
    monkeypatch.setattr("tests.faults.harness.AS_PID_1", True)
    yield guarded.start()
    guarded.clean_up()


def test_as_pid_1_a_killed_trainer_is_resumed(first_process):
    """Pids in heartbeats and journal are those of the namespace; the run finishes and is proved."""
    first_process.until_step(5, attempt=1)
    first_process.kill_rank(1)

    assert 0 == first_process.wait(), first_process.shown()[-4000:]
    report = first_process.report()
    assert ("finished", 12, 2) == (report["outcome"], report["steps_done"], len(report["attempts"]))
    assert "proved" == report["certificate"]["verdict"]


@pytest.mark.parametrize("first_process", [600], indirect=True)
def test_as_pid_1_it_hears_sigterm_and_saves(first_process):
    """`docker stop` sends TERM to PID 1, which has no default action for it."""
    first_process.until_step(2, attempt=1)
    first_process.process.terminate()

    assert 75 == first_process.wait(), first_process.shown()[-4000:]
    assert [a.path for a in first_process.story().attempts[0].checkpoints]


def test_as_pid_1_its_own_death_ends_the_job_and_another_container_goes_on(first_process):
    """What is on the volume is the promise: once lock and lease have stood still, the run is resumed and proved."""
    first_process.until_step(5, attempt=1)
    run = first_process.story().created.run
    pid = first_process.process.itself()
    # Held open, as nothing else may get its number: of a namespace that is surely gone no sign of life is waited for.
    with open(f"/proc/{pid}/ns/pid"):
        os.kill(pid, signal.SIGKILL)
        assert 0 != first_process.wait()
        another_container_goes_on(first_process, run)


def another_container_goes_on(first_process, run):
    """Nobody of the first one is left, and the run is finished elsewhere."""
    assert {} == marked(run)
    first_process.env |= {STILL_SWITCH: "1"}
    assert 0 == first_process.start("resume", first_process.name).wait(), first_process.shown()[-4000:]
    report = first_process.report()
    assert ("finished", 12, 2) == (report["outcome"], report["steps_done"], len(report["attempts"]))
    assert "proved" == report["certificate"]["verdict"]
    assert "which cannot be seen from here" in first_process.shown()
