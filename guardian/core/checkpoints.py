"""Say whether a checkpoint folder is whole, from what lies in it.

Pure: the host lists the folder and reads the small parts; here it is judged. The quick judgement sees a save that
was cut off or a file that was truncated; flipped bytes inside a tensor it cannot see.
"""

from __future__ import annotations

import json
import re

from guardian.core.events import Checkpoint
from guardian.core.values import dataclass

NAME = re.compile(r"checkpoint-(\d{1,12})")
STATE = "trainer_state.json"
INCOMPLETE_MARKER = "checkpoint-is-incomplete.txt"
"""Left inside while transformers 5's just-in-time checkpoint is being written."""
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TRAINING_STATE = ("optimizer.pt", "scheduler.pt")
"""Without either, transformers resumes and silently resets Adam and the schedule."""
HEADER_LENGTH = 8
"""A safetensors file opens with the length of its JSON header, 8 bytes, little-endian."""


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file of a checkpoint folder, with what was seen of its inside."""

    name: str
    size: int
    broken: str | None = None
    """What is wrong with its inside; None: nothing was found (or it is not a kind that is looked into)."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What lies in a checkpoint folder."""

    path: str
    step: int
    """From the folder's name."""
    files: tuple[FileFact, ...]
    state: str | None
    """The text of trainer_state.json."""
    folders: tuple[str, ...] = ()


def judge(facts: FolderFacts) -> Checkpoint:
    """The checkpoint with its verdict: complete, or what is missing first."""
    why = _missing(facts)
    return Checkpoint(path=facts.path, step=facts.step, complete=why is None, why=why)


def _missing(facts: FolderFacts) -> str | None:
    names = {f.name for f in facts.files}
    if INCOMPLETE_MARKER in names:
        return "its save did not finish"
    if facts.state is None:
        return f"no {STATE}: its save did not finish"
    problem = _state_problem(facts)
    if problem:
        return problem
    sharded = "latest" in names and any(f.startswith("global_step") for f in facts.folders)
    if not sharded and not names & set(WEIGHTS):
        return "no weights"
    absent = [n for n in TRAINING_STATE if n not in names and not (sharded and n == "optimizer.pt")]
    if absent and not sharded:
        return f"no {absent[0]}: a resume would reset the optimizer and the schedule"
    broken = next((f for f in facts.files if f.broken), None)
    if broken is not None:
        return f"{broken.name}: {broken.broken}"
    empty = next(
        (f.name for f in facts.files if f.size == 0 and f.name.endswith((".safetensors", ".pt", ".pth"))), None
    )
    return f"{empty} is empty" if empty else None


def _state_problem(facts: FolderFacts) -> str | None:
    try:
        state = json.loads(facts.state or "")
    except ValueError:
        return f"{STATE} is cut off"
    step = state.get("global_step") if isinstance(state, dict) else None
    if step != facts.step:
        return f"{STATE} says step {step}, the folder says {facts.step}"
    return None


def safetensors_problem(head: bytes, size: int) -> str | None:
    """Why a safetensors file is not whole, from its first bytes (length and JSON header) and its size, or None.

    Format: 8 bytes N, little-endian; N bytes of JSON with `data_offsets` per tensor; then the data
    (github.com/huggingface/safetensors, README "Format").
    """
    if size < HEADER_LENGTH or len(head) < HEADER_LENGTH:
        return "is cut off in its header"
    length = int.from_bytes(head[:HEADER_LENGTH], "little")
    if HEADER_LENGTH + length > size or len(head) < HEADER_LENGTH + length:
        return "is cut off in its header"
    try:
        header = json.loads(head[HEADER_LENGTH : HEADER_LENGTH + length])
        ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "has a damaged header"
    wanted = HEADER_LENGTH + length + max(ends, default=0)
    return None if wanted == size else f"has {size} bytes where its header promises {wanted}"
