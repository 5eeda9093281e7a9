"""Run by the job's own Python: read the torch files that standard input names, and say what in them is no number.

The standard library and torch alone, in the syntax of Python 3.8: guardian need not be installed there. `weights_only`
keeps torch from carrying out what a pickle says; a torch that does not know it (before 1.13) fails here.

    stdin   {"files": ["/out/checkpoint-8/pytorch_model.bin"]}
    stdout  a line per file: {"file": ..., "tainted": text or null, "unreadable": text or null}
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

PIECE = 1 << 24
"""Numbers at once, so that the masks of what is finite stay small."""


def main() -> None:
    """A line of JSON per file."""
    import torch  # noqa: PLC0415 - only where this is run, and after this file's folder has left sys.path

    for path in json.load(sys.stdin)["files"]:
        said = {"file": path, "tainted": None, "unreadable": None}
        try:
            said["tainted"] = tainted(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # noqa: BLE001 - torch raises of any kind; the reader of our output judges
            said["unreadable"] = f"{type(error).__name__}: {first_line(error)}"
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def first_line(error: Exception) -> str:
    """What it says, in short."""
    return str(error).split("\n")[0][:200]


def tainted(content: object) -> str | None:
    """Where the first number that is none lies."""
    found = infinite = None
    for name, tensor in tensors(content, ""):
        flat = tensor.detach().reshape(-1)
        for at in range(0, flat.numel(), PIECE):
            piece = flat[at : at + PIECE]
            if bool(piece.isnan().any()):
                found = found or "NaN in " + name
            elif "mask" not in name and bool(piece.isinf().any()):
                infinite = infinite or "infinite numbers in " + name
    return found or infinite


def tensors(content: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) for each tensor of floating-point numbers, however deep."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for place, value in enumerate(content):
            yield from tensors(value, f"{name}.{place}" if name else str(place))
    elif type(content).__module__.startswith("torch") and hasattr(content, "is_floating_point"):
        tensor = cast("torch.Tensor", content)
        if tensor.is_floating_point() or tensor.is_complex():
            yield name, tensor


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: its neighbours are no modules of the job
    main()
