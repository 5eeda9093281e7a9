"""The commands that people start from (tests/data/commands.toml): what is read, filled in, found and changed."""

import shlex
import sys
from pathlib import Path

import pytest

from guardian.core.adapters import recognise
from guardian.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMANDS = tomllib.loads((Path(__file__).parent.parent / "data/commands.toml").read_text())


@pytest.fixture(params=COMMANDS)
def known(request):
    """One of them: what it is meant to be, its words, and what understands it."""
    meant = COMMANDS[request.param]
    argv = tuple(shlex.split(meant["command"]))
    return meant, argv, recognise(argv, meant.get("env", {}), no_file)


def no_file(path):
    """None of them names a file."""
    raise UserError(f"{path} was not to be read")


def test_every_knob_is_known_and_who_gave_it(known):
    """What the framework fills in is told apart from what the command says."""
    meant, _, adapter = known
    values = {knob: value for knob, value in adapter.spec.knobs if value is not None}

    assert meant["family"] == adapter.family
    assert meant["given"] == {k: v for k, v in values.items() if k not in adapter.spec.implicit}
    assert meant["filled_in"] == {k: v for k, v in values.items() if k in adapter.spec.implicit}


def test_the_rows_of_a_step_are_known(known):
    """Over all ranks; those that share a row count once."""
    meant, _, adapter = known

    assert meant["effective_batch"] == adapter.spec.effective_batch


def test_what_a_person_should_know_is_found(known):
    """And nothing else is."""
    meant, _, adapter = known

    assert meant["findings"] == [f"{one.id}: {one.message}" for one in adapter.spec.findings]


def test_half_the_batch_and_two_workers_keep_the_rows_of_a_step(known):
    """What is changed is told, and read back from the new command."""
    meant, argv, adapter = known
    half = max(1, adapter.spec.knob("device_batch") // 2)
    new = adapter.write(argv, {"device_batch": half, "workers": 2})
    after = recognise(new.argv, meant.get("env", {}), no_file).spec

    assert meant["edits"] == [f"{edit.knob} {edit.old} -> {edit.new}" for edit in new.edits]
    assert (half, 2, meant["effective_batch"]) == (
        after.knob("device_batch"),
        after.knob("workers"),
        after.effective_batch,
    )


def test_a_resume_names_the_checkpoint_and_the_folder(known):
    """Each in its family's words."""
    meant, argv, adapter = known
    after, edits = adapter.resume(argv, "/w/out/checkpoint-5", "/w/out")

    assert meant["resume"] == [edit.knob for edit in edits]
    assert "/w/out/checkpoint-5" in after
