"""A checkpoint is whole or has a named fault; the newest whole one is found; rotation keeps what matters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from guardian.trainer import checkpoints

from tests.trainer.checkpoint_folders import whole_checkpoint


def halve(path: Path) -> None:
    """As a full disk or a kill leaves it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def completed_at(folder: Path, second: int) -> Path:
    """Let its last file be as old as that."""
    os.utime(folder / "trainer_state.json", (second, second))
    return folder


NEEDED = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "rng_state_1.pth",
    "trainer_state.json",
)


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("damage", [Path.unlink, halve])
def test_a_missing_or_halved_file_is_named(tmp_path, name, damage):
    """Each file that a run needs to go on exactly as it was."""
    folder = whole_checkpoint(tmp_path, step=5, world=2)
    assert checkpoints.fault(folder) is None

    damage(folder / name)
    assert name in (checkpoints.fault(folder) or "") or "weights" in (checkpoints.fault(folder) or "")


def test_what_the_arguments_say_decides_what_is_needed(tmp_path):
    """Weights alone are whole where only they were asked for; the step must be the name's."""
    light = whole_checkpoint(tmp_path / "a", step=5, save_only_model=True)
    (light / "optimizer.pt").unlink()
    renamed = whole_checkpoint(tmp_path / "b", step=5).rename(tmp_path / "checkpoint-7")
    copy = whole_checkpoint(tmp_path / "c", step=5).rename(tmp_path / "kept")

    assert (None, None) == (checkpoints.fault(light), checkpoints.fault(copy))
    assert "trainer_state.json is of step 5" == checkpoints.fault(renamed)


def test_the_newest_whole_checkpoint_is_found_in_versions_too(tmp_path):
    """A higher one that is damaged, or that is still being written, is passed over."""
    whole_checkpoint(tmp_path, step=3)
    sound = whole_checkpoint(tmp_path / "v0-20260101-000000", step=9)
    (whole_checkpoint(tmp_path / "v1-20260102-000000", step=12) / "optimizer.pt").unlink()
    whole_checkpoint(tmp_path / "guardian-tmp-checkpoint-15", step=15)

    assert sound == checkpoints.newest(tmp_path)
    assert checkpoints.newest(tmp_path / "none") is None


def test_rotation_goes_by_the_time_of_completion(tmp_path):
    """Resumed from 3 while 6 and 9 of the abandoned run lie there: 4 is the newest, not the lowest but one."""
    old = [completed_at(whole_checkpoint(tmp_path, step=step), second) for step, second in ((3, 10), (6, 20), (9, 30))]
    saved = completed_at(whole_checkpoint(tmp_path, step=4), 40)
    deleted = checkpoints.rotate(tmp_path, limit=2, protected=frozenset({saved}))

    assert (old[:2], [saved, old[2]]) == (deleted, sorted(tmp_path.iterdir()))


def test_rotation_keeps_the_protected_and_does_not_count_the_damaged(tmp_path):
    """A folder that no run can go on from neither stands in for a sound one nor is deleted."""
    best, older, saved = (completed_at(whole_checkpoint(tmp_path, step=step), step) for step in (1, 2, 3))
    damaged = whole_checkpoint(tmp_path, step=9)
    (damaged / "optimizer.pt").unlink()

    assert [] == checkpoints.rotate(tmp_path, limit=3, protected=frozenset({saved}))
    assert [older] == checkpoints.rotate(tmp_path, limit=1, protected=frozenset({saved, best}))
    assert {best, saved, damaged} == set(tmp_path.iterdir())


def test_publishing_replaces_what_stood_there_and_clears_only_our_leftovers(tmp_path):
    """A folder of somebody else with a similar name stays."""
    final = whole_checkpoint(tmp_path, step=5)
    (final / "old").touch()
    staging = checkpoints.staging_folder(final)
    written = whole_checkpoint(staging, step=5)
    for name in ("guardian-tmp-checkpoint-3", "checkpoint-7.tmp", "tmp-checkpoint-7"):
        (tmp_path / name).mkdir()
    checkpoints.publish(written, final)

    assert ["checkpoint-5", "checkpoint-7.tmp", "tmp-checkpoint-7"] == sorted(each.name for each in tmp_path.iterdir())
    assert (None, False) == (checkpoints.fault(final), (final / "old").exists())
