"""Heartbeat files of an ended attempt, read again."""

from __future__ import annotations

import json
import os

from guardian.core import events as ev
from guardian.host import heartbeats
from guardian.host.heartbeats import Replay, replay


def step(number):
    """A line that says a step, and its loss with it."""
    return json.dumps({"t": 1000.0 + number, "ev": "step", "step": number, "rows": 8, "loss": [number, 2.0]}) + "\n"


HELLO = json.dumps(
    {"t": 1.0, "ev": "hello", "pid": 9, "world": 2, "step": 0, "max_steps": 9, "device_batch": 4, "accumulation": 2}
    | {"data_parallel": 2, "effective_batch": 16, "output_dir": "/out", "trainer": "Trainer"}
) + "\n"  # fmt: skip


def write(folder, rank, *lines):
    """A rank's file with these lines."""
    (folder / f"heartbeat.{rank}.jsonl").write_text("".join(lines))


def told(folder):
    """(rank, step) of each step, in the order of the telling."""
    return [(one.rank, one.step) for one in replay(folder, 1) if isinstance(one, ev.StepDone)]


def test_the_ranks_are_told_step_by_step(tmp_path):
    """Not file after file: what the ranks did together stands together."""
    write(tmp_path, 0, HELLO, *map(step, range(1, 6)))
    write(tmp_path, 1, HELLO, *map(step, range(1, 4)))

    assert [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (0, 5)] == told(tmp_path)
    assert [0, 1] == [one.rank for one in replay(tmp_path, 1) if isinstance(one, ev.Hello)]
    assert 8 == sum(isinstance(one, ev.LossSeen) for one in replay(tmp_path, 1))


def test_a_second_training_loop_comes_after_the_first(tmp_path):
    """A script may train twice: its steps begin again, and a rank keeps its own order."""
    write(tmp_path, 0, HELLO, step(1), step(2), HELLO, step(1))
    write(tmp_path, 1, HELLO, step(1), step(2), HELLO, step(1))

    assert [(0, 1), (1, 1), (0, 2), (1, 2), (0, 1), (1, 1)] == told(tmp_path)


def test_a_torn_line_is_left_for_later(tmp_path):
    """The rank may still be writing it: whoever follows on begins with it."""
    write(tmp_path, 0, step(1), step(2), step(3)[:-1])
    again = Replay(tmp_path, 1)

    assert [1, 2] == [one.step for one in again if isinstance(one, ev.StepDone)]
    assert {0: len(step(1) + step(2))} == again.offsets


def test_garbage_between_the_lines_costs_nothing_else(tmp_path):
    """What a full disk tore, and a line without an end that hides an event in its middle."""
    endless = "x" * 64 * 1024 + step(7)
    write(tmp_path, 0, step(1), step(2)[:20], "\n", endless, step(3))

    assert [(0, 1), (0, 3)] == told(tmp_path)


def test_a_file_that_cannot_be_read_is_told_as_lost(tmp_path):
    """A FIFO would hold the reader for ever; the other rank is told all the same."""
    os.mkfifo(tmp_path / "heartbeat.0.jsonl")
    write(tmp_path, 1, step(1))
    (tmp_path / "heartbeat.1.jsonl.bak").write_text(step(2))
    events = list(replay(tmp_path, 3))

    assert [ev.SourceLost("heartbeat.0.jsonl", f"{tmp_path}/heartbeat.0.jsonl is not a plain file", 3)] == [
        one for one in events if isinstance(one, ev.SourceLost)
    ]
    assert [(1, 1)] == [(one.rank, one.step) for one in events if isinstance(one, ev.StepDone)]


def test_nothing_was_said_where_there_is_nothing(tmp_path):
    """An attempt whose command could not be started has no folder's content, or no folder."""
    assert [] == list(replay(tmp_path, 1))
    assert [] == list(replay(tmp_path / "missing", 1))
    (tmp_path / "file").touch()
    assert [ev.SourceLost("heartbeats", "Not a directory", 1)] == list(replay(tmp_path / "file", 1))


def test_it_is_read_as_it_is_told(tmp_path):
    """A million steps take no more memory than ten: after a step in the middle, the rest is still unread."""
    lines = [step(number) for number in range(1, 5001)]
    for rank in (0, 1):
        write(tmp_path, rank, *lines)
    again = Replay(tmp_path, 1)
    for one in again:
        if isinstance(one, ev.StepDone) and one.step == 2500:
            break

    size = len("".join(lines[:2501]))
    assert all(0 < read <= size for read in again.offsets.values())
    assert {0, 1} == set(heartbeats.files(tmp_path))
