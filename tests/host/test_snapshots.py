"""A story that is read from a snapshot on is the story that is read from its beginning."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields

import pytest

from guardian.core import events as ev
from guardian.core import records
from guardian.core.folding import as_journalled
from guardian.core.run import Run
from guardian.errors import HostError
from guardian.host import snapshots, standing, story
from guardian.host.journal import Journal
from tests.host.test_story import HISTORY, Living, planned, what_matters


def test_from_a_snapshot_at_any_moment_the_story_is_the_same_at_any_later_one(tmp_path):
    """Whatever attempt lives or has ended then: its steps come from the heartbeats as ever."""
    for at in range(2, len(HISTORY), 3):
        living = Living(tmp_path / str(at))
        for happening in HISTORY[:at]:
            living.live(happening)
        assert snapshots.write(living.folder.path, living.run, living.journal)
        for happening in (None, *HISTORY[at:]):
            if happening is not None:
                living.live(happening)
            told = story.tell(living.folder)
            assert "were in the snapshot" in told.snapshot
            assert what_matters(living.run) == what_matters(told.run), (at, happening)
        lines = living.folder.journal.read_bytes().count(b"\n")
        assert (lines, lines) == (told.lines, living.journal.lines)


def kept(folder):
    """A run in its second attempt, with a snapshot."""
    living = Living(folder)
    for happening in HISTORY[:30]:
        living.live(happening)
    assert snapshots.write(living.folder.path, living.run, living.journal)
    return living


def without(living):
    """The run as it is told without a snapshot."""
    (living.folder.path / snapshots.FILE).unlink()
    return what_matters(story.load(living.folder))


def test_any_flipped_bit_makes_a_snapshot_worthless_and_nothing_worse(tmp_path):
    """It is ignored, and the reason is told to who asks."""
    living = kept(tmp_path)
    path = living.folder.path / snapshots.FILE
    whole = path.read_bytes()
    expected = what_matters(living.run)
    for bit in range(0, 8 * len(whole), 211):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        told = story.tell(living.folder)
        assert "were in the snapshot" not in told.snapshot or bytes(flipped).rstrip() == whole.rstrip()
        assert expected == what_matters(told.run)
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in story.tell(living.folder).snapshot


def test_a_snapshot_of_another_journal_is_ignored(tmp_path):
    """Of another run, of a journal that lost its end, and of one that was then written on."""
    living, other = kept(tmp_path / "a"), kept(tmp_path / "b")
    theirs = json.loads((other.folder.path / snapshots.FILE).read_bytes())
    del theirs["crc"]
    theirs["last"][1] = "00000000"
    path = living.folder.path / snapshots.FILE
    mine = path.read_bytes()
    path.write_bytes(records.seal(theirs))
    assert "is of another journal" in story.tell(living.folder).snapshot
    path.write_bytes(mine)
    lines = living.folder.journal.read_bytes().splitlines(keepends=True)
    living.folder.journal.write_bytes(b"".join(lines[:-1]))
    assert "is of another journal" in story.tell(living.folder).snapshot
    changed = records.encode(ev.Record(ev.Stamp(1.0, 0.0, "b", "n", 1), ev.Noted("x")))
    living.folder.journal.write_bytes(b"".join([*lines[:-1], changed]))
    told = story.tell(living.folder)
    assert "is of another journal" in told.snapshot
    assert without(living) == what_matters(told.run)


@pytest.mark.parametrize(
    "key, value", [("version", "0.0.0"), ("format", 99), ("offset", -1), ("run", None), ("last", 3)]
)
def test_an_alien_snapshot_is_ignored(tmp_path, key, value):
    """Whole, with the right checksum, and not what this guardian writes."""
    living = kept(tmp_path)
    path = living.folder.path / snapshots.FILE
    body = json.loads(path.read_bytes())
    del body["crc"]
    path.write_bytes(records.seal(body | {key: value}))
    told = story.tell(living.folder)

    assert "were in the snapshot" not in told.snapshot
    assert what_matters(living.run) == what_matters(told.run)


def test_damage_that_a_snapshot_covers_is_named_by_its_line_all_the_same(tmp_path):
    """One bit, anywhere in what need not be read: whoever acts on the story is told; a glance at it is not held up."""
    living = kept(tmp_path)
    path = living.folder.journal
    whole = path.read_bytes()
    for at in range(5, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        line = whole[:at].count(b"\n") + 1
        with pytest.raises(HostError, match=f"line {line}, "):
            story.load(living.folder)
    begun = len(whole) // 3
    path.write_bytes(whole[:begun] + bytes([whole[begun] ^ 4]) + whole[begun + 1 :])
    assert living.run.created == standing.Onlooker.of(living.folder).run.created


def test_a_journal_that_is_gone_on_with_is_covered_from_its_first_byte(tmp_path):
    """What an earlier guardian wrote is in the new one's snapshots too, whether it was told from one or not."""
    living = kept(tmp_path)
    living.journal.close()
    for checked in (story.tell(living.folder).checked, (0, 0)):
        journal, _ = Journal.open(living.folder.journal)
        journal.checked(*checked)
        journal.append(ev.Record(ev.Stamp(1.0, 0.0, "b", "n", 1), ev.Noted("x")))
        assert zlib.crc32(living.folder.journal.read_bytes()) == journal.checksum()
        journal.close()


def test_damage_behind_a_snapshot_is_named_by_its_line(tmp_path):
    """Lines are counted from the beginning of the file."""
    living = kept(tmp_path)
    lines = living.folder.journal.read_bytes().count(b"\n")
    with living.folder.journal.open("ab") as file:
        file.write(b"damage\n")

    with pytest.raises(HostError, match=f"line {lines + 1}, is damaged"):
        story.load(living.folder)


def test_a_journal_whose_lines_nobody_counted_gets_no_snapshot(tmp_path):
    """A wrong line number would be worse than a slow start."""
    living = kept(tmp_path)
    living.journal.lines = None

    assert not snapshots.write(living.folder.path, living.run, living.journal)


def test_every_field_of_a_run_comes_back(tmp_path):
    """Also the rare ones: what is added to a Run is written without anybody thinking of it."""
    living = kept(tmp_path)
    for happening in (*planned(3), ev.StopRequested(ev.StopBy.CTRL_C), ev.ClockSet(9.5), ev.SourceLost("x", "y")):
        living.live(happening)
    snapshots.write(living.folder.path, living.run, living.journal)
    read = snapshots.read(living.folder.path, living.folder.journal).run
    expected = as_journalled(living.run)

    assert [getattr(expected, f.name) for f in fields(Run)] == [getattr(read, f.name) for f in fields(Run)]
