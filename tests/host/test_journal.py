"""The journal on a real disk: cut anywhere, damaged anywhere, full, read while written, wanted by two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.core.records import encode
from guardian.errors import HostError
from guardian.host import lock, processes
from guardian.host.journal import Journal, JournalFull, last_record, read_records

STAMP = ev.Stamp(wall=1795000000.25, mono=12.5, boot="b00t", node="host", pid=123)


def record(number: int) -> ev.Record:
    """A record unlike any other, with the bytes of some foreign job in it."""
    line = ev.Line(number, f"line {number} \udcff\u2028\x1b[0m\r\n end")
    return ev.Record(STAMP, ev.Hit(1, "cuda-oom", 0, number, line, (("asked", f"{number} GiB"),)))


RECORDS = tuple(record(number) for number in range(20))
LINES = tuple(encode(one) for one in RECORDS)


def written(folder: Path, content: bytes) -> Path:
    """A journal file with this content."""
    path = folder / "journal.jsonl"
    path.write_bytes(content)
    return path


def test_what_was_appended_is_read_back_after_a_reopening(tmp_path):
    """Two writers one after the other make one story, and the file is its owner's alone."""
    path = tmp_path / "journal.jsonl"
    journal = Journal.create(path)
    for one in RECORDS[:12]:
        journal.append(one, sync=one is RECORDS[0])
    journal.close()
    journal, so_far = Journal.open(path)
    assert RECORDS[:12] == tuple(so_far)
    for one in RECORDS[12:]:
        journal.append(one)
    journal.close()

    assert RECORDS == tuple(read_records(path))
    assert b"".join(LINES) == path.read_bytes()
    assert 0o600 == path.stat().st_mode & 0o777
    assert RECORDS[-1] == last_record(path)


def test_cut_at_any_byte_the_whole_lines_are_the_story(tmp_path):
    """Reading leaves a torn end out; writing cuts it off first, and what follows stands on a line of its own."""
    whole = b"".join(LINES[:10])
    more = record(99)
    for cut in range(len(whole) + 1):
        path = written(tmp_path, whole[:cut])
        kept = RECORDS[: whole[:cut].count(b"\n")]
        assert kept == tuple(read_records(path))
        assert (kept[-1] if kept else None) == last_record(path)
        journal, so_far = Journal.open(path)
        assert kept == tuple(so_far)
        journal.append(more, sync=False)
        journal.close()
        assert (*kept, more) == tuple(read_records(path))


def test_a_long_torn_end_is_cut_as_well(tmp_path):
    """An end may be longer than one look backwards; zeros are what a crash leaves on some file systems."""
    path = written(tmp_path, LINES[0] + b"\0" * 200_000)
    journal, so_far = Journal.open(path)
    journal.close()

    assert RECORDS[:1] == tuple(so_far)
    assert LINES[0] == path.read_bytes()


@pytest.mark.parametrize("damaged", [0, 7, 18, 19])
def test_damage_is_named_by_file_and_line(tmp_path, damaged):
    """What stands before it is given, nothing behind it; a whole last line is not excused, it was acted on."""
    lines = [line.replace(b"line", b"lime") if n == damaged else line for n, line in enumerate(LINES)]
    path = written(tmp_path, b"".join(lines))
    given = []

    with pytest.raises(HostError, match=f"journal.jsonl, line {damaged + 1}, is damaged") as refusal:
        given.extend(read_records(path))  # extend takes what comes before the failure
    assert str(path) in str(refusal.value)
    assert 3 == refusal.value.exit_code


def test_any_flipped_bit_is_named_and_nothing_is_changed(tmp_path):
    """Each bit of each line but its line feed; reading, opening and appending leave the bytes as they lie there."""
    lines = [encode(ev.Record(STAMP, ev.KeeperLost(number))) for number in range(1, 4)]
    path = tmp_path / "journal.jsonl"
    for at, line in enumerate(lines):
        for bit in range(8 * (len(line) - 1)):
            flipped = bytearray(line)
            flipped[bit // 8] ^= 1 << bit % 8
            content = b"".join([*lines[:at], bytes(flipped), *lines[at + 1 :]])
            path.write_bytes(content)
            with pytest.raises(HostError, match=rf"journal\.jsonl, line {at + 1}, is damaged"):
                list(read_records(path))
            if bit % 97 == 0:
                journal, so_far = Journal.open(path)
                journal.close()
                with pytest.raises(HostError, match=f"line {at + 1}, is damaged"):
                    list(so_far)
            assert content == path.read_bytes()


def test_a_newer_guardians_record_is_told_from_damage(tmp_path):
    """The reader's next step is an upgrade, not a repair."""
    rest = LINES[0][18:-1].replace(b'"event":"Hit"', b'"event":"Premonition"')
    path = written(tmp_path, b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest))

    with pytest.raises(HostError, match="line 1, was written by a newer guardian"):
        list(read_records(path))


def test_reading_begins_where_it_is_told_to(tmp_path):
    """Half of a long story may be known already; line numbers stay those of the file."""
    path = written(tmp_path, b"".join(LINES[:-1]) + b"damage\n")
    offset = len(b"".join(LINES[:17]))
    rest = read_records(path, offset=offset, line=18)

    assert RECORDS[17:19] == (next(rest), next(rest))
    with pytest.raises(HostError, match="line 20, is damaged"):
        next(rest)


def test_a_file_without_lines_is_not_cut(tmp_path):
    """Whatever it is, guardian did not write it."""
    path = tmp_path / "journal.jsonl"
    path.touch()
    os.truncate(path, 17 * 1024 * 1024)

    with pytest.raises(HostError, match="is damaged"):
        Journal.open(path)
    with pytest.raises(HostError, match="line 1, is damaged"):
        list(read_records(path))
    assert 17 * 1024 * 1024 == path.stat().st_size


@pytest.mark.parametrize("act", [Journal.create, Journal.open, lambda path: list(read_records(path))])
def test_a_link_is_not_followed(tmp_path, act):
    """Nobody makes guardian write into a file of his choice."""
    (tmp_path / "elsewhere").write_bytes(LINES[0])
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(HostError, match=r"journal\.jsonl"):
        act(tmp_path / "journal.jsonl")
    assert LINES[0] == (tmp_path / "elsewhere").read_bytes()
    assert lock.holder(tmp_path) is None  # a refused writer lets go of the run


# --- one writer --------------------------------------------------------------------------------------------------

HOLD = """
import sys
import zlib
from pathlib import Path
from guardian.host.journal import Journal
journal = Journal.create(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_in_use_is_refused_by_the_name_of_its_holder(tmp_path):
    """Another process holds it; when that is killed, the run is free at once."""
    run = tmp_path / "r1"
    run.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, run / "journal.jsonl"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert b"held\n" == other.stdout.readline()
        with pytest.raises(HostError, match=f"^run r1 is in use by guardian pid {other.pid} on {os.uname().nodename}$"):
            Journal.open(run / "journal.jsonl")
        found = lock.holder(run)
        assert (other.pid, processes.start_ticks(other.pid)) == (found.pid, found.start_ticks)
        other.send_signal(signal.SIGKILL)
    assert lock.holder(run) is None
    Journal.open(run / "journal.jsonl")[0].close()


def test_the_lock_file_says_who_on_which_boot_in_which_namespace(tmp_path):
    """A pid alone names nobody."""
    journal = Journal.create(tmp_path / "journal.jsonl")
    said = json.loads((tmp_path / lock.FILE).read_text())
    journal.close()

    assert {"host", "boot", "pid_namespace", "pid", "start_ticks", "network_namespace"} == set(said)
    assert os.getpid() == said["pid"]
    assert said["pid_namespace"] == Path("/proc/self/ns/pid").stat().st_ino


def test_a_spoilt_lock_file_still_locks(tmp_path):
    """The text only names; the lock is the kernel's."""
    journal = Journal.create(tmp_path / "journal.jsonl")
    (tmp_path / lock.FILE).write_bytes(b"\xff{")

    with pytest.raises(HostError, match="in use by another guardian"):
        Journal.open(tmp_path / "journal.jsonl")
    assert lock.holder(tmp_path) is not None
    journal.close()


def test_a_look_at_the_lock_does_not_keep_the_run(tmp_path):
    """`status` may look at any moment: a shared lock that goes away again is waited for."""
    looker = os.open(tmp_path / lock.FILE, os.O_RDWR | os.O_CREAT)
    script = "import fcntl, time; fcntl.flock(0, fcntl.LOCK_SH); print(1, flush=True); time.sleep(0.2)"
    with subprocess.Popen([sys.executable, "-c", script], stdin=looker, stdout=subprocess.PIPE) as looking:
        os.close(looker)
        looking.stdout.readline()
        Journal.create(tmp_path / "journal.jsonl").close()


# --- a disk that does not take it ----------------------------------------------------------------------------------

FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import record
from guardian.host.journal import Journal, JournalFull
journal = Journal.create(Path(sys.argv[1]))
for number in range(3):
    journal.append(record(number))
room = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size + room, resource.RLIM_INFINITY))
try:
    journal.append(record(3))
    print("appended")
except JournalFull as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(record(4))
"""


@pytest.mark.parametrize("room", [0, 1, 100, len(LINES[3]) - 1])
def test_a_full_disk_leaves_no_half_line(tmp_path, room):
    """The kernel takes a part and refuses the rest, as on a full file system; with room again the story goes on."""
    path = tmp_path / "journal.jsonl"
    command = [sys.executable, "-c", FILL, path, Path(__file__).parent, str(room)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert f"{path} cannot be written: File too large\n" == said
    assert (*RECORDS[:3], RECORDS[4]) == tuple(read_records(path))


def test_a_half_line_that_cannot_be_taken_back_is_taken_back_later(tmp_path, monkeypatch):
    """A disk may refuse the repair too; nothing is written behind the half line before it is gone."""
    path = tmp_path / "journal.jsonl"
    journal = Journal.create(path)
    journal.append(RECORDS[0])

    def refused(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "ftruncate", refused)
        broken.setattr(os, "fdatasync", refused)
        for _ in range(2):
            with pytest.raises(JournalFull, match="Input/output error"):
                journal.append(RECORDS[1])
        assert len(LINES[0] + LINES[1]) == path.stat().st_size
    journal.append(RECORDS[2])

    assert (RECORDS[0], RECORDS[2]) == tuple(read_records(path))


def test_a_journal_that_someone_else_touched_is_not_written(tmp_path):
    """Two hands in one file, or a run folder that was deleted: said at the next record, not in the morning."""
    path = tmp_path / "journal.jsonl"
    journal = Journal.create(path)
    journal.append(RECORDS[0])
    with path.open("ab") as other:
        other.write(b"note to self\n")
    with pytest.raises(JournalFull, match="was changed by someone else"):
        journal.append(RECORDS[1])
    os.truncate(path, journal.size)
    journal.append(RECORDS[1])
    path.unlink()

    with pytest.raises(JournalFull, match="was removed"):
        journal.append(RECORDS[2])


WRITE = """
import sys
import zlib
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_journal import record
from guardian.host.journal import Journal
journal = Journal.create(Path(sys.argv[1]))
print(flush=True)
for number in range(300):
    journal.append(record(number), sync=False)
"""


def test_it_can_be_read_while_it_is_written(tmp_path):
    """A reader sees whole lines, in order, and never complains of the one that is being written."""
    path = tmp_path / "journal.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITE, path, Path(__file__).parent], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        seen = ()
        while writer.poll() is None:
            seen = tuple(one.event.offset for one in read_records(path))
            assert tuple(range(len(seen))) == seen
    assert 0 == writer.returncode
    assert 300 == len(tuple(read_records(path)))


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    """The message names the run and the file."""
    with pytest.raises(HostError, match=r"run gone cannot be locked: .*guardian\.lock: No such file or directory"):
        Journal.create(tmp_path / "gone" / "journal.jsonl")
    with pytest.raises(HostError, match="No such file or directory"):
        list(read_records(tmp_path / "journal.jsonl"))
    assert last_record(tmp_path / "journal.jsonl") is None


def test_a_sync_makes_all_before_it_durable_and_the_name_of_the_file(tmp_path, monkeypatch):
    """A journal whose folder does not know it after a power cut is no journal: once, with the first sync."""
    synced = []
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda fd, name=name: synced.append((name, os.readlink(f"/proc/self/fd/{fd}"))))
    journal = Journal.create(tmp_path / "journal.jsonl")
    journal.append(RECORDS[0], sync=False)
    assert [] == synced
    for one in RECORDS[1:3]:
        journal.append(one)
    journal.close()

    content = ("fdatasync", str(tmp_path / "journal.jsonl"))
    assert [content, ("fsync", str(tmp_path)), content] == synced
