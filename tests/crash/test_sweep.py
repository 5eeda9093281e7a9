"""Guardian dies at every instruction that matters, once each; `resume` makes the same story of it."""

import itertools
import signal
import sys
from pathlib import Path

import pytest

from guardian.host.crash import SWITCH
from tests.faults.harness import Guarded

JOB = Path(__file__).parents[1] / "jobs" / "counting.py"
POLICY = "[budget]\nbackoff_s = [0]\n[disk]\nminimum_free_mib = 1\n"
MOST_POINTS = 400
RESUMES = 5


def counting(folder, *, every_s=0.05):
    """A run whose job dies twice on its way to 12."""
    (folder / "policy.toml").write_text(POLICY)
    command = (sys.executable, str(JOB), "--state", "count", "--upto", "12", "--die-at", "4", "--die-at", "8")
    command = (*command, "--every-s", str(every_s))
    return Guarded(folder, *command, options=("--policy", "policy.toml"))


def essence(guarded):
    """The report without its times, its paths and the restarts of guardian itself."""
    report = guarded.report()
    causes = [(a["number"], a["cause"] and (a["cause"]["class"], a["cause"]["variant"])) for a in report["attempts"]]
    return report["outcome"], report["exit_code"], causes


def clean(guarded):
    """No second job ever ran beside the first, and the count is whole."""
    assert not (guarded.folder / "count.doubled").exists(), (guarded.folder / "count.doubled").read_text()
    assert "12" == (guarded.folder / "count").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run, with a guardian that nobody kills."""
    guarded = counting(tmp_path_factory.mktemp("undisturbed"))
    assert 0 == guarded.run(), guarded.shown()
    return essence(guarded)


def crashed_at(number, folder):
    """The run whose guardian dies at its n-th point, resumed until it is over; None where there is no such point."""
    guarded = counting(folder)
    guarded.env[SWITCH] = str(number)
    code = guarded.run()
    del guarded.env[SWITCH]
    if code != -signal.SIGKILL:
        assert 0 == code, guarded.shown()
        return None
    go_on(guarded)
    return guarded


def go_on(guarded):
    """`resume`, or `run` again where the dead guardian had not begun its journal."""
    begun = guarded.call("status", "--json").stdout
    if '"attempt"' not in begun or "unreadable" in begun:
        code = guarded.run()
    else:
        guarded.start("resume", guarded.name)
        code = guarded.wait()
    assert 0 == code, guarded.shown()


def test_a_guardian_killed_at_every_point_loses_and_doubles_nothing(tmp_path, undisturbed):
    """Each journal append, fork, rename, hand-over and signal, before and after, n = 1, 2, 3 ... to the end."""
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        guarded = crashed_at(number, folder)
        if guarded is None:
            break
        clean(guarded)
        assert undisturbed == essence(guarded), f"point {number}\n{guarded.shown()}"
        assert number < MOST_POINTS
    assert number > 20, "the switch does not work"
