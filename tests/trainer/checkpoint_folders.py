"""Checkpoint folders that look as the frameworks write them, made without a framework."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path


def whole_checkpoint(output_dir: Path, *, step: int, world: int = 1, **arguments) -> Path:
    folder = output_dir / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors({"w": 16}))
    ranks = [f"rng_state_{rank}.pth" for rank in range(world)] if world > 1 else ["rng_state.pth"]
    for name in ("optimizer.pt", "scheduler.pt", *ranks):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data", b"0" * 64)
    (folder / "args.json").write_text(json.dumps({"world_size": world, **arguments}))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 100}))
    return folder


def safetensors(sizes: dict[str, int]) -> bytes:
    header, place = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\1" * place
