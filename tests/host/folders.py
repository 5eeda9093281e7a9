"""Checkpoint folders as the HF Trainer writes them, small and real enough for every header check."""

import json
import struct
import zipfile
from pathlib import Path


def safetensors(path: Path, *, numbers: int = 4) -> None:
    """A real safetensors file of float32 zeros (format: github.com/huggingface/safetensors)."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * numbers))


def torch_file(path: Path) -> None:
    """A zip file, which is what torch.save writes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


def checkpoint(parent: Path, step: int) -> Path:
    """A whole checkpoint-<step>."""
    folder = parent / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    safetensors(folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch_file(folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 100}))
    return folder
