"""Pins: the checkpoint that is resumed from cannot vanish, and guardian deletes nothing but its own pins."""

import os
import shutil
from types import SimpleNamespace

import pytest

from guardian.host import checkpoints, pins
from tests.host.folders import checkpoint


def test_a_pinned_checkpoint_outlives_the_jobs_rotation(tmp_path):
    """The framework deletes the original; the pin is still a complete checkpoint."""
    source = checkpoint(tmp_path / "out", 10)

    pinned = pins.pin(2, str(source), str(tmp_path / "pins"))
    shutil.rmtree(source)

    assert pinned.how in ("reflink", "hard links", "copy")
    assert [(10, True)] == [(c.step, c.complete) for c in checkpoints.scan(str(tmp_path / "pins"))]


def test_a_newer_pin_takes_the_place_of_the_older(tmp_path):
    """Only one checkpoint is held, and the originals stay."""
    old, new = checkpoint(tmp_path / "out", 10), checkpoint(tmp_path / "out", 20)
    place = str(tmp_path / "pins")

    pins.pin(2, str(old), place)
    pins.pin(3, str(new), place)

    assert (str(tmp_path / "pins" / "checkpoint-20"),) == pins.held(place)
    assert old.is_dir()
    assert new.is_dir()


def test_pinning_again_keeps_what_is_there(tmp_path):
    """Two attempts in a row from one checkpoint cost one pin; the pin itself can be the source."""
    source = checkpoint(tmp_path / "out", 10)
    place = str(tmp_path / "pins")
    first = pins.pin(2, str(source), place)

    assert "kept" == pins.pin(3, str(source), place).how
    assert "kept" == pins.pin(4, first.pin, place).how


def test_a_checkpoint_saved_anew_under_the_same_name_is_pinned_anew(tmp_path):
    """After a restart from further back the same step is another state."""
    source = checkpoint(tmp_path / "out", 10)
    place = str(tmp_path / "pins")
    pins.pin(2, str(source), place)
    shutil.rmtree(source)
    source = checkpoint(tmp_path / "out", 10)
    os.utime(source / "trainer_state.json", (5, 5))

    assert pins.pin(3, str(source), place).how != "kept"


def test_a_half_made_pin_is_replaced(tmp_path):
    """A guardian killed while pinning leaves a hidden folder, which is never taken for a pin."""
    place = tmp_path / "pins"
    (place / ".checkpoint-5").mkdir(parents=True)
    assert () == pins.held(str(place))

    pins.pin(2, str(checkpoint(tmp_path / "out", 10)), str(place))

    assert ["checkpoint-10"] == [p.name for p in place.iterdir()]


def test_no_room_for_a_copy_means_no_pin_and_says_so(tmp_path, monkeypatch):
    """Links are refused across file systems; a copy that would fill the disk is not made."""
    source = checkpoint(tmp_path / "out", 10)
    monkeypatch.setattr(os, "link", _refuse)
    monkeypatch.setattr(pins, "_reflink", _refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))

    pinned = pins.pin(2, str(source), str(tmp_path / "pins"))

    assert (None, "none") == (pinned.pin, pinned.how)
    assert "room" in pinned.why


def saved_again(folder):
    """What torch.save does to a file that is there already: it is written in place."""
    (folder / "optimizer.pt").write_bytes(b"another save")


def test_a_save_in_place_writes_through_a_hard_link(tmp_path):
    """Why a pin that the job may write to must not be made of links."""
    source = checkpoint(tmp_path / "out", 10)
    pinned = pins.pin(2, str(source), str(tmp_path / "pins"))
    saved_again(source)

    changed = "damaged" == checkpoints.glance(pinned.pin, 10).verdict
    assert changed == (pinned.how == "hard links")


@pytest.mark.parametrize("pinned_before", [False, True])
def test_an_exclusive_pin_survives_a_save_in_place(tmp_path, pinned_before):
    """Also where an earlier pin of the same checkpoint was made of links."""
    source = checkpoint(tmp_path / "out", 10)
    place = str(tmp_path / "pins")
    if pinned_before:
        pins.pin(2, str(source), place)

    pinned = pins.pin(3, str(source), place, exclusive=True)
    saved_again(source)

    assert pinned.how in ("reflink", "copy")
    assert "sound" == checkpoints.glance(pinned.pin, 10).verdict
    assert "kept" == pins.pin(4, pinned.pin, place, exclusive=True).how


def test_a_pin_that_is_its_own_source_can_be_made_exclusive(tmp_path):
    """The run resumes from its pin while the original, which shares the files, is still there."""
    source = checkpoint(tmp_path / "out", 10)
    place = str(tmp_path / "pins")
    linked = pins.pin(2, str(source), place)

    pinned = pins.pin(3, linked.pin, place, exclusive=True)
    saved_again(source)

    assert "sound" == checkpoints.glance(pinned.pin, 10).verdict
    assert (linked.pin,) == pins.held(place)


def test_no_room_for_an_exclusive_pin_leaves_the_one_of_links(tmp_path, monkeypatch):
    """It is said; the links still hold against the job's rotation."""
    source = checkpoint(tmp_path / "out", 10)
    place = str(tmp_path / "pins")
    linked = pins.pin(2, str(source), place)
    monkeypatch.setattr(pins, "_reflink", _refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))

    assert "none" == pins.pin(3, str(source), place, exclusive=True).how
    assert (linked.pin,) == pins.held(place)


def test_a_pin_holds_the_folders_inside_and_keeps_the_name(tmp_path):
    """Shards of DeepSpeed lie one deeper; trainers read the step from the name."""
    source = checkpoint(tmp_path / "out", 10)
    (source / "global_step10").mkdir()
    (source / "global_step10" / "shard.pt").write_bytes(b"x")

    pinned = pins.pin(2, str(source), str(tmp_path / "pins"))

    assert str(tmp_path / "pins" / "checkpoint-10") == pinned.pin
    assert b"x" == (tmp_path / "pins" / "checkpoint-10" / "global_step10" / "shard.pt").read_bytes()


def test_a_folder_inside_that_cannot_be_listed_means_no_pin(tmp_path, monkeypatch):
    """Half a pin would look whole."""
    source = checkpoint(tmp_path / "out", 10)
    (source / "global_step10").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("out/checkpoint-10/global_step10"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    pinned = pins.pin(2, str(source), str(tmp_path / "pins"))

    assert (None, "none") == (pinned.pin, pinned.how)
    assert "Permission denied" in pinned.why


def _refuse(*_):
    raise OSError(18, "Invalid cross-device link")


def test_a_source_that_is_gone_is_an_answer_not_an_error(tmp_path):
    """The relaunch goes on and says that the checkpoint is not held."""
    pinned = pins.pin(2, str(tmp_path / "checkpoint-10"), str(tmp_path / "pins"))

    assert (None, "none") == (pinned.pin, pinned.how)


def test_release_removes_the_pins_and_nothing_else(tmp_path):
    """At the end of a finished run."""
    source = checkpoint(tmp_path / "out", 10)
    pins.pin(2, str(source), str(tmp_path / "pins"))

    pins.release(str(tmp_path / "pins"))

    assert not (tmp_path / "pins").exists()
    assert (source / "model.safetensors").is_file()
