"""Ranks leave their process group together, and none stays behind in it."""

from __future__ import annotations

from typing import Any

_MEETINGS: list[Any] = []
"""Kept for the rest of the process."""


def leave_group() -> None:
    """Part from the other ranks; without a group nothing happens.

    A rank that exits while another still talks to it can end both with an abort, so all meet once more. That meeting is
    never let go of: were gloo's worker the last to do so, the worker would want Python's lock for it, while DDP's
    reducer, which is the last to hold the group and takes it down, keeps that lock and waits for the worker. With torch
    2.13 a rank in some hundred stood so for ever (of the kind that https://github.com/pytorch/pytorch/issues/56297
    lists).
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        _MEETINGS.append(distributed.barrier(async_op=True))
        _MEETINGS[-1].wait()
        distributed.destroy_process_group()
