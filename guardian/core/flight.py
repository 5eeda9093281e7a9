"""The flight recorder of torch's NCCL groups: what each rank's last collectives were, written when one times out.

Newer versions of torch record by default, and write into the user's cache; older ones have to be asked, and all of them
to write beside the attempt's log. Set only where several ranks are expected, and nothing that the user has set.

Its pipe, by which a dump can be asked for (TORCH_NCCL_DEBUG_INFO_PIPE_FILE), is left alone: where the pipe cannot be
made (a file system without them) the process group's constructor throws (DumpPipe in ProcessGroupNCCL.cpp), and that
would cost the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from guardian.core.job import JobSpec

DUMP = "nccl_trace_rank_"
"""Of an attempt's folder, with the rank's number behind it."""
ENTRIES = "2000"
"""Collectives that are kept: torch's own default since it has one (FlightRecorder.hpp)."""
ON_TIMEOUT = "TORCH_NCCL_DUMP_ON_TIMEOUT"
SIZES = ("TORCH_NCCL_TRACE_BUFFER_SIZE", "TORCH_FR_BUFFER_SIZE")
FILES = ("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", "TORCH_FR_DUMP_TEMP_FILE")
"""By the older name and by the newer one (github.com/pytorch/pytorch/pull/152563, torch 2.8). The newer versions read
the older names too, with a warning each; docs.pytorch.org/docs/2.4/torch_nccl_environment_variables.html has those."""
NAMES = frozenset({*SIZES, ON_TIMEOUT, *FILES})
RENAMED = (2, 8)


def variables(folder: str, spec: JobSpec, taken: Collection[str], torch: tuple[int, int] | None) -> dict[str, str]:
    """What to add to the job's environment; `taken`: names that its caller's has; `torch`: its version, where known."""
    if not several(spec):
        return {}
    known = slice(None) if torch is None else slice(1, 2) if torch >= RENAMED else slice(0, 1)
    added = {} if ON_TIMEOUT in taken else {ON_TIMEOUT: "1"}
    for names, value in ((SIZES, ENTRIES), (FILES, f"{folder}/{DUMP}")):
        if not set(names) & set(taken):
            added |= dict.fromkeys(names[known], value)
    return added


def several(spec: JobSpec) -> bool:
    """Whether more than one rank is expected; a launcher of which nobody knows how many it starts is taken to."""
    world = spec.knob("world_size")
    return world > 1 if isinstance(world, int) else spec.launcher == "torchrun"
