"""What is written about a launch before it happens."""

import errno
import json
from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.host.launching import OVERLAYS, write_launch

PLANNED = ev.Planned(1, ("train", "--config", "x"), (("A", "1"),), None, None, (), 0.0, "first launch")


def test_the_command_is_kept_as_it_was_given_with_only_what_guardian_set(tmp_path):
    """The rest of the environment is the caller's, and may hold secrets."""
    write_launch(tmp_path, PLANNED)

    kept = json.loads((tmp_path / "launch.json").read_text())
    assert {"attempt": 1, "argv": ["train", "--config", "x"], "env": {"A": "1"}} == kept
    assert [tmp_path / "launch.json"] == list(tmp_path.iterdir())


def test_changed_configuration_files_stand_in_the_attempts_folder_for_their_owner_alone(tmp_path):
    """Byte for byte what was planned, also when the launch is repeated."""
    planned = replace(PLANNED, overlays=(("ds_zero2.json", '{"stage": 2}\n'), ("größe.yaml", "batch: 1\n")))
    write_launch(tmp_path, planned)
    write_launch(tmp_path, planned)

    place = tmp_path / OVERLAYS
    assert {"ds_zero2.json": b'{"stage": 2}\n', "größe.yaml": b"batch: 1\n"} == {
        file.name: file.read_bytes() for file in place.iterdir()
    }
    assert [0o40700, 0o100600, 0o100600] == [file.stat().st_mode for file in (place, *place.iterdir())]


@pytest.mark.parametrize("name", ["../launch.json", "/etc/motd", "..", ""])
def test_a_copy_is_not_written_outside_of_its_folder(tmp_path, name):
    """A name is one of a file in overlays/; and nothing is launched on half of what was planned."""
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is what is asked for
        write_launch(tmp_path / "here", replace(PLANNED, overlays=((name, "text"),)))

    assert errno.EINVAL == refused.value.errno
    assert not (tmp_path / "here").exists()
