"""The codec of the journal: what is written is read back, and what is not whole is refused."""

from __future__ import annotations

import os
import typing
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core import events as ev
from guardian.core.records import Damaged, Newer, decode, encode

STAMP = ev.Stamp(wall=1795000000.25, mono=12.5, boot="b00t", node="host", pid=123)
KINDS = typing.get_args(ev.Journalled)
# Text as a system hands it over: any bytes, those that are not UTF-8 as surrogates.
texts = st.text() | st.binary().map(os.fsdecode)
st.register_type_strategy(str, texts)


def line_of(event) -> bytes:
    """The line that a journal holds for an event."""
    return encode(ev.Record(STAMP, event))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_event_comes_back_as_it_was(kind, data):
    """Whatever the fields hold: foreign bytes, numbers without end, nothing. repr, because nan is not itself."""
    record = data.draw(st.builds(ev.Record, st.from_type(ev.Stamp), st.from_type(kind)))
    line = encode(record)

    assert repr(record) == repr(decode(line))
    assert line.isascii()
    assert [b""] == line.split(b"\n")[1:]


def test_a_line_is_json_that_anyone_can_read():
    """Other programs read journals: one object, the event by its name, the checksum first and in eight digits."""
    assert (
        b'{"crc":"5510d7e3","v":1,"event":"Diagnosed","of":{"attempt":2,"cause":null},'
        b'"at":{"wall":1795000000.25,"mono":12.5,"boot":"b00t","node":"host","pid":123}}\n'
    ) == line_of(ev.Diagnosed(attempt=2, cause=None))


def test_a_flipped_bit_is_seen_wherever_it_is():
    """A checksum covers the line, and its own digits are compared as they are written."""
    line = line_of(ev.JobStarted(attempt=1, pid=4711, ticks=88))

    for place in range(len(line)):
        for bit in range(8):
            broken = bytearray(line)
            broken[place] ^= 1 << bit
            with pytest.raises(Damaged):
                decode(bytes(broken))


def test_a_line_cut_short_is_seen():
    """Every true beginning of a line is refused, but for the one that lacks nothing except the line feed."""
    line = line_of(ev.KeeperLost(attempt=1))

    for length in range(len(line) - 1):
        with pytest.raises(Damaged):
            decode(line[:length])
    assert decode(line) == decode(line[:-1])


@given(st.binary())
def test_foreign_bytes_are_damage_and_nothing_else(noise):
    """No other exception leaves the decoder."""
    with pytest.raises(Damaged):
        decode(noise)


def rewritten(line: bytes, old: bytes, new: bytes) -> bytes:
    """The line with other content under a checksum that is right."""
    checked = line.rstrip(b"\n")[18:].replace(old, new)
    assert checked != line.rstrip(b"\n")[18:]
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(checked), checked)


@pytest.mark.parametrize(
    "old, new",
    [
        (b'"KeeperLost"', b'"KeeperReborn"'),
        (b'"attempt":1', b'"attempt":1,"mood":"fine"'),
        (b'"v":1', b'"v":2'),
    ],
)
def test_what_only_a_newer_guardian_knows_is_said_so(old, new):
    """An older guardian must not go on with half of the story."""
    line = rewritten(line_of(ev.KeeperLost(attempt=1)), old, new)

    with pytest.raises(Newer, match="was written by a newer guardian"):
        decode(line)


@pytest.mark.parametrize(
    "old, new",
    [
        (b'"attempt":1', b'"attempt":"1"'),
        (b'"attempt":1', b'"attempt":true'),
        (b'"attempt":1', b'"attempt":null'),
        (b'{"attempt":1}', b"{}"),
        (b'{"attempt":1}', b"[1]"),
        (b'"wall":1795000000.25', b'"wall":"soon"'),
        (b'"event":"KeeperLost"', b'"event":null'),
        (b'"of":{"attempt":1},', b""),
    ],
)
def test_a_line_of_the_wrong_shape_is_damage(old, new):
    """The checksum is no proof that the writer was sane."""
    with pytest.raises(Damaged, match="is damaged"):
        decode(rewritten(line_of(ev.KeeperLost(attempt=1)), old, new))


def test_a_field_that_came_later_takes_its_default():
    """A journal of an older guardian is read on."""
    line = line_of(ev.TreeEnded(attempt=1))

    assert ev.TreeEnded(attempt=1) == decode(rewritten(line, b',"left_alone":[]', b"")).event


@pytest.mark.parametrize(
    "event",
    [
        ev.LossSeen(attempt=1, rank=0, step=1, loss=2.0),
        ev.KeeperLost(attempt="1"),
        ev.KeeperLost(attempt=True),
        ev.TreeEnded(attempt=1, left_alone=["tracker"]),
        ev.Diagnosed(attempt=1, cause=ev.KeeperLost(attempt=1)),
        replace(ev.StopRequested(ev.StopBy.CTRL_C), by="ctrl-c"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(event):
    """A heartbeat's event has its own file; a value of the wrong type would make the journal unreadable."""
    with pytest.raises(TypeError):
        line_of(event)
