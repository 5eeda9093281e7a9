"""All runs of a user are found from anywhere, by an index that nothing depends on."""

import json
import os
import shutil
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.host import registry, runs
from guardian.host.journal import Journal


def status(run, *arguments):
    """Names of the runs that `guardian status` lists from a folder."""
    done = run.call("status", "--json", *arguments)
    assert 0 == done.returncode, done.stderr
    return [row["run"] for row in json.loads(done.stdout)["runs"]]


def two(behind):
    """Two finished runs in two folders."""
    one, other = behind(upto=1, name="one"), behind(upto=1, name="other", folder="there")
    assert 0 == one.run() == other.run()
    return one, other


def test_status_lists_the_runs_of_all_folders(behind):
    """Those here first; those elsewhere with their folder."""
    one, other = two(behind)

    assert ["one", "other"] == status(one)
    assert ["other", "one"] == status(other)
    assert ["one"] == status(one, "--run-dir", "guardian_runs")
    assert f"({other.run_folder.path})" in one.call("status").stdout


def test_status_shows_the_run_that_is_named(behind):
    """By its name, from anywhere, or by its folder; a name that no run has is no empty list."""
    one, other = two(behind)

    assert ["other"] == status(one, "other") == status(one, str(other.run_folder.path))
    assert ["one", "other"] == status(one, "guardian_runs", "other", "one")
    asked = one.call("status", "onee")
    assert 2 == asked.returncode
    assert "did you mean one?" in asked.stderr


def test_a_run_is_found_by_its_name_from_another_folder(behind):
    """report, logs and attach; a name that two runs have is asked about."""
    one, other = two(behind)
    twin = behind(upto=1, name="other", folder="third")
    assert 0 == one.call("report", "other").returncode == one.call("attach", "other").returncode
    assert "1/1\n" == one.call("logs", "other").stdout

    assert 0 == twin.run()
    asked = one.call("logs", "other")
    assert 2 == asked.returncode
    assert str(other.run_folder.path) in asked.stderr
    assert str(twin.run_folder.path) in asked.stderr
    assert "1/1\n" == twin.call("logs", "other").stdout


def test_without_a_name_no_run_of_another_folder_is_meant(behind):
    """`guardian stop` in an empty folder stops nothing."""
    two(behind)
    empty = behind(folder="empty")
    asked = empty.call("stop")

    assert 2 == asked.returncode
    assert "guardian status" in asked.stderr


def test_a_deleted_registry_is_made_again_from_folders_that_are_named(behind):
    """By a folder of runs, or by one run's own."""
    one, other = two(behind)
    shutil.rmtree(one.env["XDG_STATE_HOME"])

    assert ["one"] == status(one)
    assert ["other", "one"] == status(one, str(other.folder / "guardian_runs"), str(one.run_folder.path))
    assert ["one", "other"] == status(one)


def test_an_entry_goes_with_its_folder(behind):
    """A run folder that was deleted is listed no more."""
    one, other = two(behind)
    shutil.rmtree(other.run_folder.path)

    assert ["one"] == status(one)
    assert 1 == len(os.listdir(Path(one.env["XDG_STATE_HOME"], "guardian")))


def test_a_registry_that_cannot_be_written_costs_a_line(behind):
    """Nothing depends on it."""
    run = behind(upto=1)
    Path(run.env["XDG_STATE_HOME"]).write_text("a file stands in the way")

    assert 0 == run.run()
    assert 1 == run.shown().count("cannot be written")
    assert ["r1"] == status(run)


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Enters a run folder, named by bytes, in a registry of its own; the folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def make(base=b"runs"):
        folder = runs.create(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + base)), "r1")
        created = ev.RunCreated("uuid", "r1", ("x",), "/", None, False, "{}", "0", os.getuid())
        journal = Journal.create(folder.journal)
        journal.append(ev.Record(ev.Stamp(1.0, 1.0, "b", "n", 1), created))
        journal.close()
        assert registry.enter(registry.Entry("uuid", folder, "r1", 1.0)) is None
        return folder

    return make


def test_a_path_that_is_no_text_survives(known):
    """Folder names are bytes."""
    folder = known(b"caf\xe9")

    assert [folder.path] == [entry.folder.path for entry in registry.entries()]
    assert 0o700 == registry.place().stat().st_mode & 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("given", ["run", "registry"])
def test_what_belongs_to_another_user_is_never_followed(known, given):
    """Neither his run folder, nor a registry that he made."""
    folder = known()
    assert 1 == len(registry.entries())
    os.chown(folder.path if given == "run" else registry.place(), 65534, 65534)

    assert () == registry.entries()


def test_a_link_in_place_of_a_run_folder_is_never_followed(known, tmp_path):
    """It may lead anywhere."""
    folder = known()
    folder.path.rename(tmp_path / "elsewhere")
    folder.path.symlink_to(tmp_path / "elsewhere")

    assert () == registry.entries()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"folder": 3}', '{"folder": "x", "name": "r", "started": 1}', "[" * 60000]
)
def test_an_entry_that_says_nothing_is_passed_over(known, text):
    """The others are listed."""
    known()
    (registry.place() / "broken").write_text(text)

    assert ["uuid"] == [entry.run for entry in registry.entries()]
