"""What a job itself logged, read again for whoever tells the run's story later.

Steps that only job.log shows are kept nowhere else: while the run is watched they are heard, and a run that is loaded
does not have them. Where a companion spoke its numbers are there already. Without a clock: nobody wrote down when a
line came.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import metrics, wire
from guardian.core.folding import fold
from guardian.host import heartbeats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from guardian.core.run import Run
    from guardian.host.runs import RunFolder

READ_MOST = 256 * 1024 * 1024
"""Bytes of a log; a curve of a screen's width misses nothing of what comes behind."""
LOGGED_MOST = 20_000
"""Numbers that are kept of an attempt."""
BLOCK = 1024 * 1024


def with_logged(run: Run, folder: RunFolder) -> Run:
    """The run with the numbers of the attempts in which no companion spoke; what cannot be read stays unknown."""
    stamp = ev.Stamp(run.heard_wall, 0.0, "", "", 0)
    for attempt in run.attempts:
        if attempt.hellos or attempt.logged or attempt.launched is None:
            continue
        for numbers in _numbers(folder.attempt_dir(attempt.number) / wire.JOB_LOG):
            run = fold(run, ev.Record(stamp, metrics.logged(numbers, attempt.number)))
    return run


def _numbers(path: Path) -> Iterator[metrics.Numbers]:
    told, size, held = 0, 0, b""
    try:
        with os.fdopen(heartbeats.open_file(path), "rb") as file:
            while told < LOGGED_MOST and size < READ_MOST and (data := file.read(BLOCK)):
                size += len(data)
                held += data
                end = held.rfind(b"\n") + 1 or (len(held) if len(held) > BLOCK else 0)
                block, held = held[:end], held[end:]
                for numbers in metrics.read(block)[: LOGGED_MOST - told]:
                    told += 1
                    yield numbers
    except OSError:
        return
    yield from metrics.read(held)
