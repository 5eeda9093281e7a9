"""What cannot be done is one line that says what and where, a documented exit code, and nothing lost."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from guardian.host import journal
from tests.cli.calling import complaint, complaints, guardian

TRUE = ("--", "true")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no command is given; guardian --help lists them"),
        (("rnu", *TRUE), "there is no command 'rnu'; did you mean 'run'?; see guardian --help"),
        (("x" * 9,), "there is no command 'xxxxxxxxx'; see guardian --help"),
        (("r\x1b[2Jun",), "there is no command 'r\\x1b[2Jun'; did you mean 'run'?; see guardian --help"),
        (("run", "--nmae", "x", *TRUE), "there is no option --nmae; did you mean --name?; see guardian run --help"),
        (("stop", "--jsn=1"), "there is no option --jsn=1; did you mean --json?; see guardian stop --help"),
        (("report", "a", "b\x1b[2J"), "too much: b\\x1b[2J; see guardian report --help"),
        (("run", "--name"), "argument --name: expected one argument; see guardian run --help"),
        (("run",), "no command to run: guardian run [options] -- COMMAND ..."),
        (("run", "--name", "r1", "--"), "no command to run: guardian run [options] -- COMMAND ..."),
        (("run", "sleep", "5 s"), "put -- before the command: guardian run [options] -- sleep '5 s'"),
        (("run", "--json", *TRUE), "--json goes with --dry-run here; for a run's story: guardian report --json"),
        (
            ("run", "--name", "../r1", *TRUE),
            "--name '../r1': a name has 1 to 64 of A-Z a-z 0-9 . _ - and does not begin with a dot",
        ),
        (("run", "--policy", "no\x1b.toml", *TRUE), "no\\x1b.toml: No such file or directory"),
        (("run", "--policy", ".", *TRUE), ".: is not a file"),
        (("run", "--rules", "none", *TRUE), "none: is not a folder with rules"),
        (("report", "r1"), "there is no run r1 in guardian_runs"),
        (("stop",), "there is no run in guardian_runs"),
        (("resume", "--run-dir", "other"), "there is no run in other"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_one_line_and_leaves_nothing(arguments, said, tmp_path):
    """Exit 2; what is near is named; what a stranger wrote cannot drive the terminal."""
    assert said == complaint(guardian(*arguments, cwd=tmp_path), 2)
    assert [] == list(tmp_path.iterdir())


def test_a_wrong_policy_names_file_line_and_key_of_each_complaint(tmp_path):
    """A line for each, before anything is made."""
    (tmp_path / "p.toml").write_text("[budget]\nrestarts = -1\n\n[stop]\nterm_wait = 5\n")

    said = complaints(guardian("run", "--policy", "p.toml", *TRUE, cwd=tmp_path), 2)

    assert [
        "p.toml:2: budget.restarts: must be a whole number, not negative",
        "p.toml:5: stop.term_wait: there is no key 'term_wait' in [stop]; did you mean 'term_wait_s'?",
    ] == said
    assert not (tmp_path / "guardian_runs").exists()


def test_a_policy_that_is_not_toml_names_its_line(tmp_path):
    """As the parser says it."""
    (tmp_path / "p.toml").write_text("[budget]\nrestarts = \n")

    assert complaint(guardian("run", "--policy", "p.toml", *TRUE, cwd=tmp_path), 2).startswith(
        "p.toml:2: is not TOML: "
    )


@pytest.mark.parametrize("command", [("run", *TRUE), ("run", "-d", *TRUE)])
def test_a_broken_rule_of_ones_own_is_told_before_anything_is_started(command, tmp_path):
    """It would be needed in the night, when nobody is there to mend it."""
    rules = tmp_path / "config/guardian/rules"
    rules.mkdir(parents=True)
    (rules / "mine.toml").write_text('id = "mine\n')
    env = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config")}

    said = complaint(guardian(*command, cwd=tmp_path, env=env), 2)

    assert said.startswith(f"{rules}/mine.toml:1: is not TOML: ")
    assert not (tmp_path / "guardian_runs").exists()


# --- the run's folder --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run r1 that has finished."""
    folder = tmp_path_factory.mktemp("finished")
    done = guardian("run", "--name", "r1", *TRUE, cwd=folder)
    assert 0 == done.returncode, done.stderr
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it, to be spoilt: the folder of the run."""
    shutil.copytree(finished / "guardian_runs", tmp_path / "guardian_runs")
    return tmp_path / "guardian_runs" / "r1"


def test_the_name_of_a_run_that_has_finished_is_not_used_again(copied):
    """Its story stays."""
    before = (copied / "journal.jsonl").read_bytes()

    said = complaint(guardian("run", "--name", "r1", *TRUE, cwd=copied.parents[1]), 2)

    assert "the name r1 is used by a run that has finished: choose another --name" == said
    assert before == (copied / "journal.jsonl").read_bytes()


SUPERVISING = pytest.mark.parametrize("command", ["resume", "stop", "report"])


@SUPERVISING
def test_a_run_folder_that_is_a_link_is_refused(command, copied):
    """Whoever may set the link would decide what is run."""
    copied.rename(copied.with_name("real"))
    copied.symlink_to("real")

    said = complaint(guardian(command, "r1", cwd=copied.parents[1]), 3)

    assert f"{copied} is a link: a run folder is used under its own path only" == said


@SUPERVISING
@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_run_folder_that_others_may_write_is_refused(mode, command, copied):
    """The command that stands in its journal would be run as us."""
    copied.chmod(mode)

    said = complaint(guardian(command, "r1", cwd=copied.parents[1]), 3)

    path = "guardian_runs/r1"
    assert f"others may write in {path}: see that all is as you left it, then chmod go-w {path}" == said


def test_a_new_run_in_an_empty_folder_that_others_may_read_is_ours_alone(tmp_path):
    """Whatever it was before."""
    folder = tmp_path / "guardian_runs" / "r1"
    folder.mkdir(parents=True)
    folder.chmod(0o755)

    assert 0 == guardian("run", "--name", "r1", *TRUE, cwd=tmp_path).returncode
    assert 0o700 == folder.stat().st_mode & 0o777


AS_NOBODY = """
import encodings.ascii, os, sys
import shutil  # what a stranger may not read is read before
import guardian.cli.run, guardian.cli.session
from guardian.cli.main import main
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.chdir(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def test_a_folder_in_which_no_run_can_be_made_is_one_line():
    """As an ordinary user, for whom permissions count."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies below folders of its own that nobody else may enter
        Path(name).chmod(0o555)

        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, name, "run", *TRUE], capture_output=True, text=True, check=False
        )

        assert "no run folder can be made in guardian_runs: Permission denied" == complaint(done, 3)
        assert [] == os.listdir(name)
        Path(name).chmod(0o700)


# --- its journal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["resume", "report", "stop", "attach"])
def test_a_journal_that_is_damaged_in_the_middle_is_named_and_left_as_it_is(command, copied):
    """File and line; a person can look at what is left. What a snapshot covers is not read again."""
    (copied / "snapshot.json").unlink()
    path = copied / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"', b"'", 1)
    path.write_bytes(b"".join(lines))

    said = complaint(guardian(command, "r1", cwd=copied.parents[1]), 3)

    assert said.startswith(f"{path}, line 3, "), said
    assert b"".join(lines) == path.read_bytes()


def test_status_shows_a_damaged_run_beside_the_others(copied):
    """One that cannot be read hides no other."""
    shutil.copytree(copied, copied.with_name("good"))
    (copied / "journal.jsonl").write_bytes(b"{}\n")

    done = guardian("status", cwd=copied.parents[1])

    assert 0 == done.returncode, done.stderr
    shown = sorted(done.stdout.splitlines())
    assert shown[0].startswith("r1: ")
    assert shown[1].startswith(f"r1: unreadable: {copied / 'journal.jsonl'}, line 1, ")


def test_a_torn_last_line_of_the_journal_costs_nothing(copied):
    """It was never acted on: the report leaves it out, `resume` cuts it away and the rest stays."""
    path = copied / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-9])
    story = [*journal.read_records(path)]

    assert 0 == guardian("report", "r1", cwd=copied.parents[1]).returncode
    assert 0 == guardian("resume", "r1", cwd=copied.parents[1]).returncode

    assert story == [*journal.read_records(path)]
    assert whole == path.read_bytes()
