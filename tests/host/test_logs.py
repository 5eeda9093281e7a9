"""The followers of a living attempt, on real files that really grow."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.events import Line
from guardian.host import logs
from guardian.host.logs import BLOCK, Follower, Tail, tail_lines

PATIENCE_S = 60.0  # for what happens within a second on a quiet machine


class Heard:
    """Remembers what the handlers were given."""

    def __init__(self):
        self.blocks = []
        self.lines = []
        self.lost = []

    def on_log(self, block, offset, line):
        self.blocks.append((block, offset, line))

    def on_heartbeat(self, rank, line):
        self.lines.append((rank, line))

    def on_lost(self, source, why):
        self.lost.append((source, why))

    @property
    def text(self):
        return b"".join(block for block, _, _ in self.blocks)

    def follow(self, folder, **begin):
        follower = Follower(folder, on_log=self.on_log, on_heartbeat=self.on_heartbeat, on_lost=self.on_lost, **begin)
        follower.start()
        return follower


def until(true):
    """Wait for what another thread does; not a measure of speed."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def append(path, data):
    """As a job writes: to the end, at once."""
    with path.open("ab", buffering=0) as file:
        file.write(data)


# --- a tail ------------------------------------------------------------------------------------------------------


def test_a_tail_waits_for_its_file_and_reads_on(tmp_path):
    """Before the job has written anything there is nothing to read, and that is no failure."""
    tail = Tail(tmp_path / "job.log")
    assert b"" == tail.read(100)
    append(tail.path, b"one\ntwo\nthr")

    assert (b"one\nt", 5, 1) == (tail.read(5), tail.offset, tail.lines)
    assert (b"wo\nthr", 11, 2) == (tail.read(100), tail.offset, tail.lines)
    assert b"" == tail.read(100)
    append(tail.path, b"ee\n")
    assert (b"ee\n", 14, 3) == (tail.read(100), tail.offset, tail.lines)
    tail.close()


def test_a_file_that_was_cut_is_said_and_read_on(tmp_path):
    """Silence for ever would look like a job that says nothing."""
    tail = Tail(tmp_path / "job.log")
    append(tail.path, b"one\ntwo\nthree\n")
    tail.read(100)
    os.truncate(tail.path, 4)
    with pytest.raises(OSError, match="was cut from outside by 10 bytes"):
        tail.read(100)
    append(tail.path, b"new\n")

    assert (b"new\n", 8, 2) == (tail.read(100), tail.offset, tail.lines)
    tail.path.unlink()
    with pytest.raises(OSError, match="was removed"):
        tail.read(100)
    append(tail.path, b"afresh\n")
    assert (b"afresh\n", 7, 1) == (tail.read(100), tail.offset, tail.lines)
    tail.close()


def test_what_is_not_a_plain_file_is_not_read(tmp_path):
    """A link leads the reader anywhere, and a FIFO would hold it for ever."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")

    for name in ("fifo", "link"):
        with pytest.raises(OSError, match=r"plain file|symbolic links"):
            Tail(tmp_path / name).read(100)
        assert () == tail_lines(tmp_path / name, 5)


# --- following ---------------------------------------------------------------------------------------------------


def test_a_living_log_is_given_once_in_whole_lines_with_their_places(tmp_path, monkeypatch):
    """Line numbers and offsets are those of the file, however the writes fell."""
    monkeypatch.setattr(logs, "QUIET_S", 3600)  # a busy machine may pause between two writes
    heard = Heard()
    follower = heard.follow(tmp_path)
    log = tmp_path / "job.log"
    whole = b""
    for number in range(30):
        line = b"step %d \xff\n" % number
        append(log, line[:4])
        append(log, line[4:])
        whole += line
        if number % 10 == 9:
            until(lambda: heard.text == whole)  # noqa: B023 - asked at once
    assert follower.finish(PATIENCE_S)

    assert whole == heard.text
    assert [] == heard.lost
    for block, offset, line in heard.blocks:
        assert (offset, line) == (whole.index(block), whole[:offset].count(b"\n") + 1)
        assert block.endswith(b"\n")


def test_the_last_line_is_given_though_it_has_no_end(tmp_path):
    """A job that dies in the middle of a line has said the most important thing there."""
    heard = Heard()
    append(tmp_path / "job.log", b"fine\nKilled")
    assert heard.follow(tmp_path).finish(PATIENCE_S)

    assert [(b"fine\n", 0, 1), (b"Killed", 5, 2)] == heard.blocks


def test_a_line_that_does_not_end_is_given_when_it_has_stood_for_a_while(tmp_path):
    """A prompt, or a bar that stands still, is news too; its rest continues the same line."""
    heard = Heard()
    append(tmp_path / "job.log", b"fine\nwaiting for lock ...")
    follower = heard.follow(tmp_path)
    until(lambda: len(heard.blocks) == 2)
    append(tmp_path / "job.log", b" done\nnext\n")
    assert follower.finish(PATIENCE_S)

    assert [(b"fine\n", 0, 1), (b"waiting for lock ...", 5, 2), (b" done\nnext\n", 25, 2)] == heard.blocks


def test_a_progress_bar_is_given_redraw_by_redraw(tmp_path):
    """It may go on for hours without a line feed, and never stand still for a second."""
    heard = Heard()
    append(tmp_path / "job.log", b"\rTrain: 25%|##  | 3/12\rTrain: 33%|### | 4/12\rTrain: 4")
    follower = heard.follow(tmp_path)
    until(lambda: heard.blocks)

    assert (b"\rTrain: 25%|##  | 3/12\rTrain: 33%|### | 4/12\r", 0, 1) == heard.blocks[0]
    assert follower.finish(PATIENCE_S)
    assert (b"Train: 4", 45, 1) == heard.blocks[1]


def test_a_big_log_comes_in_blocks(tmp_path):
    """Also where a block's worth of bytes holds no line's end; nothing is lost or doubled at the seams."""
    whole = (b"x" * 99 + b"\n") * 12000 + b"y" * (3 * BLOCK) + b"\nend\n"
    append(tmp_path / "job.log", whole)
    heard = Heard()
    assert heard.follow(tmp_path).finish(PATIENCE_S)

    assert whole == heard.text
    assert max(len(block) for block, _, _ in heard.blocks) <= BLOCK
    assert all(line == whole[:offset].count(b"\n") + 1 for _, offset, line in heard.blocks)


def test_following_begins_where_the_last_guardian_stopped(tmp_path):
    """Adoption: what was judged before is not judged again, and numbers go on."""
    append(tmp_path / "job.log", b"one\ntwo\nthree\n")
    append(tmp_path / "heartbeat.0.jsonl", b"{}\n[]\n")
    heard = Heard()
    assert heard.follow(tmp_path, offset=8, lines=2, heartbeat_offsets={0: 3}).finish(PATIENCE_S)

    assert [(b"three\n", 8, 3)] == heard.blocks
    assert [(0, b"[]\n")] == heard.lines


def test_ranks_that_come_later_are_heard_too(tmp_path):
    """Each whole line once, under its rank; what is not a rank's file is nobody's."""
    heard = Heard()
    follower = heard.follow(tmp_path)
    append(tmp_path / "heartbeat.0.jsonl", b'{"a":1}\n{"b"')
    until(lambda: heard.lines)
    append(tmp_path / "heartbeat.11.jsonl", b'{"c":1}\n')
    append(tmp_path / "heartbeat.0.jsonl", b':2}\n{"torn')
    append(tmp_path / "heartbeat.x.jsonl", b"{}\n")
    append(tmp_path / "heartbeat.01.jsonl", b"{}\n")
    until(lambda: len(heard.lines) == 3)
    assert follower.finish(PATIENCE_S)

    assert [(0, b'{"a":1}\n'), (0, b'{"b":2}\n')] == [one for one in heard.lines if one[0] == 0]
    assert [(11, b'{"c":1}\n')] == [one for one in heard.lines if one[0] == 11]


def test_an_endless_heartbeat_line_takes_no_memory_and_hides_nothing(tmp_path):
    """Whatever else it gives of such a line is longer than a line may be; what follows it is whole."""
    append(tmp_path / "heartbeat.0.jsonl", b"x" * 1_000_000 + b"\n{}\n")
    heard = Heard()
    assert heard.follow(tmp_path).finish(PATIENCE_S)

    (_, endless), last = heard.lines
    assert 64 * 1024 < len(endless) <= 3 * 64 * 1024
    assert (0, b"{}\n") == last


def test_a_source_that_cannot_be_read_is_told_once_and_the_others_go_on(tmp_path):
    """The log is a folder, one rank's heartbeat a link: both are said, the other rank is heard."""
    (tmp_path / "job.log").mkdir()
    (tmp_path / "heartbeat.0.jsonl").symlink_to("/dev/zero")
    heard = Heard()
    follower = heard.follow(tmp_path)
    until(lambda: len(heard.lost) == 2)
    append(tmp_path / "heartbeat.1.jsonl", b"{}\n")
    until(lambda: heard.lines)
    assert follower.finish(PATIENCE_S)

    assert ["heartbeat.0.jsonl", "job.log"] == sorted(source for source, _ in heard.lost)
    assert "Too many levels of symbolic links" in dict(heard.lost)["heartbeat.0.jsonl"]


def test_a_handler_that_fails_is_told_and_reading_goes_on(tmp_path):
    """A fault of ours in judging one block must not blind us for the rest of the night."""
    heard = Heard()

    def fails(block, offset, line):
        heard.on_log(block, offset, line)
        raise KeyError("rule")

    append(tmp_path / "job.log", b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 10000)
    follower = Follower(tmp_path, on_log=fails, on_heartbeat=heard.on_heartbeat, on_lost=heard.on_lost)
    follower.start()
    assert follower.finish(PATIENCE_S)

    assert 1_000_100 == len(heard.text)
    assert ("job.log", "block at byte 0: KeyError('rule')") == heard.lost[0]


def test_the_end_is_waited_for_no_longer_than_patience_lasts(tmp_path):
    """A handler that hangs cannot hold the supervisor; the thread is left behind."""
    append(tmp_path / "job.log", b"one\n")
    reached, released = threading.Event(), threading.Event()

    def hangs(*_):
        reached.set()
        released.wait()

    heard = Heard()
    follower = Follower(tmp_path, on_log=hangs, on_heartbeat=heard.on_heartbeat, on_lost=heard.on_lost)
    follower.start()
    assert reached.wait(PATIENCE_S)

    assert follower.finish(0.05) is False
    released.set()


# --- the end of a file -------------------------------------------------------------------------------------------


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    count=st.integers(1, 12),
    ended=st.booleans(),
)
def test_the_tail_holds_the_last_lines_with_their_numbers(tmp_path_factory, lines, count, ended):
    """Every byte of them, control characters and foreign ones included."""
    path = tmp_path_factory.mktemp("tail") / "job.log"
    whole = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    path.write_bytes(whole)
    expected = whole.removesuffix(b"\n").split(b"\n") if whole else []

    assert [(number, one) for number, one in enumerate(expected, start=1)][-count:] == [
        (line.number, line.text.encode("utf-8", "surrogateescape")) for line in tail_lines(path, count)
    ]


def test_the_tail_of_a_huge_file_is_quick_and_honest(tmp_path):
    """Numbers that would cost a read of the whole file are unknown, and an endless line shows its end only."""
    path = tmp_path / "job.log"
    path.touch()
    os.truncate(path, 200 * 1024 * 1024)  # a hole: no disk, and no line feed
    append(path, b"\nlast but one\nlast\n")
    endless, *rest = tail_lines(path, 3)

    assert [Line(None, "last but one"), Line(None, "last")] == rest
    assert (None, "\0" * 4096) == (endless.number, endless.text)


def test_numbers_are_counted_as_far_as_is_affordable(tmp_path, monkeypatch):
    """The same file, below the limit and above it."""
    path = tmp_path / "job.log"
    path.write_bytes(b"a line of text\n" * 40000)
    assert (Line(39999, "a line of text"), Line(40000, "a line of text")) == tail_lines(path, 2)
    monkeypatch.setattr(logs, "COUNTED_MOST", 1000)

    assert (Line(None, "a line of text"),) == tail_lines(path, 1)


def test_there_is_no_tail_of_nothing(tmp_path):
    """No file, an empty file."""
    (tmp_path / "job.log").touch()

    assert () == tail_lines(tmp_path / "job.log", 5)
    assert () == tail_lines(tmp_path / "missing", 5)
