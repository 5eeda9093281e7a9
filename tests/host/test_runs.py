"""Run folders: made, found, refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.errors import HostError, UserError
from guardian.host import runs
from guardian.host.journal import Journal


def begun(base, name, *, wall=1000.0, outcome=None):
    """A run that was started, and finished where an outcome is given."""
    folder = runs.create(base, name)
    journal = Journal.create(folder.journal)
    events = [ev.RunCreated("u", name, ("true",), "/", None, True, "{}", "0", os.getuid())]
    if outcome is not None:
        events.append(ev.RunFinished(outcome, 0, "done"))
    for event in events:
        journal.append(ev.Record(ev.Stamp(wall, 0.0, "boot", "node", 1), event))
    journal.close()
    return folder


def test_a_run_folder_is_its_owners_alone(tmp_path):
    """However generous the umask is: logs hold what a job prints, secrets too."""
    before = os.umask(0)
    try:
        folder = runs.create(tmp_path / "guardian_runs", "r1")
        attempt = folder.make_attempt_dir(3)
    finally:
        os.umask(before)

    assert (0o700, 0o700) == (folder.path.stat().st_mode & 0o777, attempt.stat().st_mode & 0o777)
    assert folder.path == tmp_path / "guardian_runs/r1"
    assert attempt == folder.attempt_dir(3) == folder.path / "attempts/0003"
    assert ("r1", folder.path / "journal.jsonl", folder.path / "pins") == (folder.name, folder.journal, folder.pins)


def test_a_path_that_is_relative_is_made_absolute(tmp_path, monkeypatch):
    """The job may change its folder; guardian's files stay where they are."""
    monkeypatch.chdir(tmp_path)

    assert tmp_path / "guardian_runs/r1" == runs.create(Path("guardian_runs"), "r1").path
    begun(Path("guardian_runs"), "r2")
    assert tmp_path / "guardian_runs/r2" == runs.find(Path("guardian_runs"), "r2").path


def test_a_run_without_a_name_gets_one_that_says_when_and_what(tmp_path):
    """Twenty starts at once get twenty folders."""
    code = "import sys; from pathlib import Path; from guardian.host import runs;"
    code += "[print(runs.create(Path(sys.argv[1]), None, hint='My Job.py').name) for _ in range(5)]"
    command = [sys.executable, "-c", code, tmp_path]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    names = [name for start in starts for name in start.communicate()[0].split()]

    assert 20 == len(set(names))
    assert all(re.fullmatch(r"\d{8}-\d{4}-my-job-py(-\d+)?", name) for name in names)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path, name):
    """It becomes a folder's name, and people type it."""
    with pytest.raises(UserError, match="a name has 1 to 64 of"):
        runs.create(tmp_path, name)
    assert [] == list(tmp_path.iterdir())


def test_a_name_that_a_living_guardian_uses_is_refused_by_its_holder(tmp_path):
    """Before and after its first record."""
    folder = runs.create(tmp_path, "r1")
    journal = Journal.create(folder.journal)
    with pytest.raises(HostError, match=f"^run r1 is in use by guardian pid {os.getpid()} on ") as refusal:
        runs.create(tmp_path, "r1")
    journal.close()

    assert 3 == refusal.value.exit_code


@pytest.mark.parametrize(
    "outcome, next_step",
    [
        (ev.Outcome.FINISHED, "has finished: choose another --name"),
        (ev.Outcome.STOPPED, "can go on: guardian resume r1, or another --name"),
        (None, "can go on: guardian resume r1, or another --name"),
    ],
)
def test_a_name_that_is_used_up_is_refused_with_the_next_step(tmp_path, outcome, next_step):
    """A story is never written over."""
    begun(tmp_path, "r1", outcome=outcome)

    with pytest.raises(UserError, match=f"^the name r1 is used by a run that {next_step}$"):
        runs.create(tmp_path, "r1")


def test_what_a_refused_start_left_behind_is_no_obstacle(tmp_path):
    """A start that was refused for another reason had made its folder already."""
    (runs.create(tmp_path, "r1").path / "guardian.lock").touch()

    assert "r1" == runs.create(tmp_path, "r1").name


def test_a_strangers_things_are_not_taken_for_a_run(tmp_path):
    """A folder with something in it, a file, a link: each is one line."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/data").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")

    for name, why in (("full", "is not a run folder"), ("file", "is not a folder"), ("link", "is a link")):
        with pytest.raises((UserError, HostError), match=f"{name} (exists already and )?{why}"):
            runs.create(tmp_path, name)
        with pytest.raises((UserError, HostError), match=f"{name} {why}"):
            runs.find(tmp_path, name)


def test_runs_are_found_by_name_by_path_and_the_newest_first(tmp_path, monkeypatch):
    """What was begun last is the newest, whatever its name, and whoever touched the folder since."""
    for name, wall in (("b", 2000.0), ("c", 3000.0), ("a", 1000.0)):
        begun(tmp_path, name, wall=wall)
    runs.create(tmp_path, "empty")

    assert ["c", "b", "a"] == [one.name for one in runs.list_runs(tmp_path)]
    assert tmp_path / "c" == runs.find(tmp_path, None).path
    assert tmp_path / "a" == runs.find(tmp_path, "a").path
    assert tmp_path / "a" == runs.find(Path("nowhere"), str(tmp_path / "a")).path
    monkeypatch.chdir(tmp_path / "b")
    assert tmp_path / "b" == runs.find(Path("nowhere"), ".").path
    assert tmp_path / "a" == runs.find(Path("nowhere"), "../a").path
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "a" == runs.find(Path("nowhere"), "a").path


def test_a_run_that_is_not_there_is_said_with_the_nearest(tmp_path):
    """One line, exit code 2."""
    begun(tmp_path, "night1")
    with pytest.raises(UserError, match=r"^there is no run nihgt1 in .*; did you mean night1\?$"):
        runs.find(tmp_path, "nihgt1")
    with pytest.raises(UserError, match=r"^there is no run in "):
        runs.find(tmp_path / "nowhere", None)
    with pytest.raises(UserError, match=r"empty is not a run folder: it has no journal\.jsonl"):
        runs.find(tmp_path, runs.create(tmp_path, "empty").name)


def test_a_run_with_a_damaged_journal_is_still_listed(tmp_path):
    """Its owner wants to know what is wrong with it, not to miss it."""
    begun(tmp_path, "r1").journal.write_bytes(b"damage\n")

    assert ["r1"] == [one.name for one in runs.list_runs(tmp_path)]


AS_NOBODY = """
import os, sys
from pathlib import Path
from guardian.errors import GuardianError
from guardian.host import runs
from guardian.host.journal import Journal
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
for act in (
    lambda: runs.create(Path(sys.argv[1]) / "closed", "r1"),
    lambda: runs.create(Path(sys.argv[1]) / "closed" / "deeper", "r1"),
    lambda: runs.find(Path(sys.argv[1]), "readonly"),
    lambda: Journal.open(Path(sys.argv[1]) / "readonly" / "journal.jsonl"),
):
    try:
        print(act())
    except GuardianError as error:
        print(error.exit_code, error)
"""


@pytest.fixture
def open_path(tmp_path):
    """A folder that another user may walk into; pytest's own are closed to him."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for closed in folder.iterdir():
        closed.chmod(0o700)
    shutil.rmtree(folder)


def test_an_ordinary_user_is_told_in_one_line_what_he_may_not(open_path):
    """As a user who is not root, for whom permissions count: a base that cannot be written, a run that is not his."""
    (open_path / "closed").mkdir(mode=0o555)
    begun(open_path, "readonly")
    (open_path / "readonly").chmod(0o555)
    said = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, open_path], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.splitlines()

    assert [
        f"3 no run folder can be made in {open_path}/closed: Permission denied",
        f"3 no run folder can be made in {open_path}/closed/deeper: Permission denied",
    ] == said[:2]
    if os.getuid() == 0:
        assert f"3 {open_path}/readonly belongs to another user (uid 0)" == said[2]
        assert f"3 run readonly cannot be locked: {open_path}/readonly/guardian.lock: Permission denied" == said[3]
