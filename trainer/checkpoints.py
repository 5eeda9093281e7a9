"""Checkpoint folders on the disk: which are whole, which is the newest, and how one appears and disappears.

A folder named checkpoint-<step> is either whole or was not written by us: we write under another name, flush to
the disk and rename; we rename before we delete. What a kill leaves behind begins with TEMPORARY and is cleared at
the next save. No framework is imported here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Not "checkpoint-<step>.tmp": the frameworks' rotation takes every folder that begins with "checkpoint-".
TEMPORARY = "guardian-tmp-"
STATE_FILE = "trainer_state.json"
ARGUMENTS_FILE = "args.json"

_UNFINISHED = "checkpoint-is-incomplete.txt"  # transformers 5, while it saves on SIGTERM
_NAME = re.compile(r"checkpoint-(?P<step>[0-9]+)")
_VERSION = re.compile(r"v[0-9]+-[0-9]{8}-[0-9]{6}")


def staging_folder(final: Path) -> Path:
    """Where the files of `final` are written until they are all there."""
    return final.parent / f"{TEMPORARY}{final.name}"


def clear_leftovers(output_dir: Path) -> None:
    """Delete what earlier saves or deletions of ours left unfinished; one process writes here at a time."""
    for folder in output_dir.glob(f"{TEMPORARY}*"):
        shutil.rmtree(folder, ignore_errors=True)


def publish(written: Path, final: Path) -> None:
    """Make a finished folder appear under its name at once, in place of one that stands there."""
    flush(written)
    if final.exists():
        _set_aside(final)
    written.rename(final)
    _flush_one(final.parent)
    clear_leftovers(final.parent)


def delete(folder: Path) -> None:
    """Make a checkpoint disappear at once, so that half of one never stands under its name."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    aside = folder.parent / f"{TEMPORARY}deleted-{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def flush(folder: Path) -> None:
    """Bring files and names to the disk: after a power cut a rename may survive without what it names."""
    for place, _, names in os.walk(folder):
        for name in names:
            _flush_one(Path(place, name))
        _flush_one(Path(place))


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(output_dir: Path, *, limit: int | None, protected: frozenset[Path]) -> list[Path]:
    """Delete all but the `limit` whole checkpoints completed last; those protected always stay.

    By the time of completion, not by number: after a resume from an early checkpoint the higher numbers are the
    older ones. Folders that are not whole are not counted and not touched: they cannot stand in for one that is.
    """
    if not limit or limit < 1:
        return []
    kept = {path.resolve() for path in protected}
    whole = sorted((folder for folder in _checkpoints(output_dir) if fault(folder) is None), key=_completed)
    candidates = [folder for folder in whole if folder.resolve() not in kept]
    surplus = len(whole) - max(limit, len(whole) - len(candidates))
    deleted = candidates[: max(0, surplus)]
    for folder in deleted:
        delete(folder)
    return deleted


def _completed(checkpoint: Path) -> tuple[int, int]:
    return (checkpoint / STATE_FILE).stat().st_mtime_ns, step_of(checkpoint)


def newest(output_dir: Path) -> Path | None:
    """The whole checkpoint with the highest step under `output_dir` and its versions; of equals the latest."""
    found = [folder for place in (output_dir, *_versions(output_dir)) for folder in _checkpoints(place)]
    for folder in sorted(found, key=lambda each: (step_of(each), each.stat().st_mtime_ns), reverse=True):
        if fault(folder) is None:
            return folder
    return None


def is_version(folder: Path) -> bool:
    return _VERSION.fullmatch(folder.name) is not None


def _versions(output_dir: Path) -> Iterator[Path]:
    return (folder for folder in _folders(output_dir) if is_version(folder))


def _checkpoints(output_dir: Path) -> Iterator[Path]:
    return (folder for folder in _folders(output_dir) if _NAME.fullmatch(folder.name))


def _folders(place: Path) -> list[Path]:
    return [each for each in place.iterdir() if each.is_dir()] if place.is_dir() else []


def step_of(checkpoint: Path) -> int:
    match = _NAME.fullmatch(checkpoint.name)
    return int(match["step"]) if match else -1


def recorded_step(checkpoint: Path) -> int:
    """The step of a folder of any name, such as a copy that somebody keeps."""
    state = _read_json(checkpoint / STATE_FILE)
    return int(state["global_step"]) if isinstance(state, dict) else -1


def recorded_arguments(checkpoint: Path) -> dict[str, Any]:
    """What args.json says of the run that wrote the folder; nothing where another program wrote it."""
    arguments = _read_json(checkpoint / ARGUMENTS_FILE)
    return arguments if isinstance(arguments, dict) else {}


def fault(checkpoint: Path) -> str | None:
    """Why no run can go on from this folder; None when one can."""
    if not checkpoint.is_dir():
        return "there is no such folder"
    if (checkpoint / _UNFINISHED).exists():
        return "its save did not finish"
    state = _read_json(checkpoint / STATE_FILE)
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        return f"{STATE_FILE} is missing or damaged"
    if _NAME.fullmatch(checkpoint.name) and state["global_step"] != step_of(checkpoint):
        return f"{STATE_FILE} is of step {state['global_step']}"
    return _weights_fault(checkpoint) or _progress_fault(checkpoint, recorded_arguments(checkpoint))


def _weights_fault(checkpoint: Path) -> str | None:
    for index in checkpoint.glob("*.safetensors.index.json"):
        content = _read_json(index)
        names = set(content["weight_map"].values()) if isinstance(content, dict) and "weight_map" in content else set()
        if not names:
            return f"{index.name} is damaged"
        return next((problem for name in sorted(names) if (problem := _safetensors_fault(checkpoint / name))), None)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (checkpoint / name).exists():
            return _safetensors_fault(checkpoint / name)
    if any((checkpoint / name).exists() for name in ("pytorch_model.bin", "adapter_model.bin", "latest")):
        return None
    return "the weights are missing"


def _safetensors_fault(path: Path) -> str | None:
    """Its header says how long the file must be: eight bytes, the header, then the tensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length < 100_000_000 else None
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if path.stat().st_size == 8 + length + end:
            return None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, IndexError):
        pass
    return f"{path.name} is missing or cut short"


def _progress_fault(checkpoint: Path, arguments: dict[str, Any]) -> str | None:
    """Optimizer, schedule and random state: without them a framework begins anew and says nothing."""
    if arguments.get("save_only_model"):
        return None
    if (checkpoint / "latest").exists():  # written by DeepSpeed: names the folder of its shards
        return _shards_fault(checkpoint)
    wanted = ["optimizer.pt", "scheduler.pt"]
    world = arguments.get("world_size")
    if isinstance(world, int):
        wanted += [f"rng_state_{rank}.pth" for rank in range(world)] if world > 1 else ["rng_state.pth"]
    if (checkpoint / "scaler.pt").exists():
        wanted.append("scaler.pt")
    return next((f"{name} is missing or cut short" for name in wanted if not _is_archive(checkpoint / name)), None)


def _shards_fault(checkpoint: Path) -> str | None:
    shards = checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip()
    whole = shards.is_dir() and any(shards.iterdir()) and all(_is_archive(shard) for shard in shards.glob("*.pt"))
    return None if whole else f"{shards.name} is missing or cut short"


def _is_archive(path: Path) -> bool:
    """Torch writes zip files, whose directory stands at the end."""
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
