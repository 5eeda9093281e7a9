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
SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
ON_TIMEOUT = "TORCH_NCCL_DUMP_ON_TIMEOUT"
FILES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
NAMES = frozenset({*SIZES, ON_TIMEOUT, *FILES})
"""docs.pytorch.org/docs/2.4/torch_nccl_environment_variables.html has the TORCH_NCCL_ ones. Later versions prefer the
TORCH_FR_ names and still read the others (FlightRecorder.hpp and .cpp); 2.13 has both in libtorch_cpu.so."""


def variables(folder: str, spec: JobSpec, taken: Collection[str]) -> dict[str, str]:
    """What to add to the job's environment; `taken`: names that its caller's has.

    Not the new name of the size: where that is known, the recorder is on without being asked.
    """
    if not several(spec):
        return {}
    added = {}
    if not set(SIZES) & set(taken):
        added[SIZES[1]] = ENTRIES
    if ON_TIMEOUT not in taken:
        added[ON_TIMEOUT] = "1"
    if not set(FILES) & set(taken):
        added |= dict.fromkeys(FILES, f"{folder}/{DUMP}")
    return added


def several(spec: JobSpec) -> bool:
    """Whether more than one rank is expected; a launcher of which nobody knows how many it starts is taken to."""
    world = spec.knob("world_size")
    return world > 1 if isinstance(world, int) else spec.launcher == "torchrun"
