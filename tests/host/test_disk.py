"""Room in reserve, and long logs made short, on a real file system."""

import resource

import pytest

from guardian.core import events as ev
from guardian.host import disk, joblogs
from guardian.host.clock import StandingClock
from guardian.host.disk import MIB, Ballast, shorten
from guardian.host.journal import Journal, JournalFull, read_records
from guardian.host.ledger import HELD_MOST, Ledger
from guardian.host.logs import tail_lines


def occupied(path):
    """Bytes that a file really takes."""
    return path.stat().st_blocks * 512


def test_the_ballast_is_really_allocated_and_given_back_in_pieces(tmp_path):
    """A sparse file would reserve nothing; a killed guardian's is taken over as it is."""
    ballast = Ballast(tmp_path, 8)
    ballast.look()
    assert (8 * MIB, True) == (ballast.held, occupied(tmp_path / "ballast") >= 8 * MIB)
    assert ballast.give()
    assert 7 * MIB == Ballast(tmp_path, 8).held
    while ballast.give():
        pass
    assert 0 == occupied(tmp_path / "ballast")
    ballast.remove()
    assert not (tmp_path / "ballast").exists()


@pytest.mark.parametrize("free_mib, left_mib", [(100, 8), (15.9, 4), (2, 4), (1.9, 3), (0, 2)])
def test_the_ballast_follows_the_room_that_is_free(tmp_path, monkeypatch, free_mib, left_mib):
    """Little is a quarter of the ballast, plenty is as much as the ballast beside it; nothing happens in between."""
    ballast = Ballast(tmp_path, 8)
    ballast.look()
    for _ in range(4):
        ballast.give()
    monkeypatch.setattr(disk, "_free", lambda _: int(free_mib * MIB) if free_mib != 15.9 else 11 * MIB)
    ballast.look()

    assert left_mib * MIB == ballast.held


def long_log(folder, lines=6000):
    """A job.log of 1000 bytes a line."""
    path = folder / "job.log"
    path.write_bytes(b"".join(b"line %06d " % number + b"." * 987 + b"\n" for number in range(1, lines + 1)))
    return path


def test_a_long_log_is_shortened_by_what_was_read_and_its_offsets_stay(tmp_path):
    """The last MiB of what was read stays, so does what was not; line numbers are counted from a place that is known."""
    path = long_log(tmp_path)
    whole = path.read_bytes()
    known = ev.Positions(1, 5_000_000, 5000)
    assert not shorten(path, 5_000_000, 6 * MIB)
    assert shorten(path, 5_000_000, 2 * MIB)
    kept = path.read_bytes()

    assert len(whole) == len(kept)
    assert whole[5_000_000 - MIB :] == kept[5_000_000 - MIB :]
    assert occupied(path) < 2.2 * MIB
    assert [5999, 6000] == [line.number for line in tail_lines(path, 2, known)]
    assert [None, None] == [line.number for line in tail_lines(path, 2)]
    assert joblogs.begin(path) > 3_500_000
    assert not shorten(path, 5_000_000, 2 * MIB)


def test_a_log_that_is_being_written_has_room_behind_its_end(tmp_path):
    """Its size is what was printed; the blocks behind are there already, and more when it has grown."""
    log = tmp_path / "job.log"
    log.write_bytes(b"begins\n")
    watch = disk.Watch(Ballast(tmp_path, 8), 4096, lambda _: None)
    watch.close(5)
    watch.keep_ahead(log)
    watch._reserve()
    assert (7, True) == (log.stat().st_size, occupied(log) >= MIB)
    with log.open("ab") as file:
        file.write(b"." * MIB)
    watch._reserve()

    assert (7 + MIB, True) == (log.stat().st_size, occupied(log) >= 2 * MIB)


def test_what_nobody_has_read_is_never_taken(tmp_path):
    """However long the log is."""
    path = long_log(tmp_path)
    whole = path.read_bytes()

    assert not shorten(path, MIB, 1)
    assert whole == path.read_bytes()


class Refusing:
    """A journal on a disk that has room for so many more records."""

    def __init__(self, room):
        self.room = room
        self.records = []

    def append(self, record, *, sync):
        if not self.room:
            raise JournalFull("full") from OSError(28, "No space left on device")
        self.room -= 1
        self.records.append(record)


class Reserve:
    """A ballast of so many pieces, each of which is room for a record."""

    def __init__(self, journal, pieces):
        self.journal, self.pieces = journal, pieces

    def give(self):
        if not self.pieces:
            return False
        self.pieces -= 1
        self.journal.room += 1
        return True


def fact(number):
    """A record."""
    return ev.Record(ev.Stamp(float(number), 0.0, "b", "n", 1), ev.Noted(str(number)))


def test_a_record_that_finds_no_room_takes_the_ballasts(tmp_path):
    """At once, and as often as there is some left."""
    journal = Refusing(1)
    ledger = Ledger(journal, Reserve(journal, 2), StandingClock(0))

    assert [True, True, True, False] == [ledger.write(fact(n), intention=False) for n in range(4)]
    assert "full" == ledger.failing


def test_facts_are_held_and_intentions_refused_while_nothing_can_be_written():
    """With room again, and not before the next try is due, the facts come first and in order."""
    journal, clock = Refusing(0), StandingClock(0)
    ledger = Ledger(journal, Reserve(journal, 0), clock)
    assert [False, False, False] == [ledger.write(fact(n), intention=n == 1) for n in range(3)]
    journal.room = 9
    assert not ledger.write(fact(3), intention=False)
    clock.pass_by(6)
    assert ledger.write(fact(4), intention=True)

    assert ["0", "2", "3", "4"] == [record.event.text for record in journal.records]
    assert ledger.failing is None


def test_what_is_held_is_bounded():
    """A log that matches at each line does not fill the memory as well."""
    journal, clock = Refusing(0), StandingClock(0)
    ledger = Ledger(journal, Reserve(journal, 0), clock)
    for number in range(HELD_MOST + 5):
        ledger.write(fact(number), intention=False)
    ledger.write(ev.Record(fact(0).stamp, ev.Positions(1, 5, 5)), intention=False)

    assert 5 == ledger.dropped


@pytest.mark.parametrize("room", range(0, 700, 23))
def test_wherever_the_disk_is_full_the_journal_is_whole_lines_without_a_gap(tmp_path, room):
    """The kernel takes what fits and refuses the rest (RLIMIT_FSIZE): each place in each of the records."""
    journal = Journal.create(tmp_path / "journal.jsonl")
    clock = StandingClock(0)
    ledger = Ledger(journal, Ballast(tmp_path, 0), clock)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        written = [ledger.write(fact(number), intention=number == 2) for number in range(4)]
        seen = tuple(read_records(tmp_path / "journal.jsonl"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    clock.pass_by(6)
    assert ledger.write(fact(4), intention=True)
    journal.close()

    assert [fact(number) for number, done in enumerate(written) if done] == list(seen)
    expected = [fact(number) for number in range(5) if number != 2 or written[2]]
    assert expected == list(read_records(tmp_path / "journal.jsonl"))
