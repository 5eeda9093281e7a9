"""The folder of a run: its name, which all ranks must agree on, and the files that lie in it for the whole run."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guardian.errors import UserError

from . import checkpoints
from .arguments import ARGUMENTS
from .notes import say
from .settings import Settings

_VERSION_NUMBER = re.compile(r"v(?P<number>[0-9]+)-")


def make(folder: Path) -> None:
    """Before anything slow: a folder that cannot be written is the user's to know now."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: cannot be made: {error.strerror}") from None


def settle(settings: Settings) -> Path:
    """The folder to write into; with versions, rank 0's clock names it for all ranks."""
    folder = settings.output_dir
    if settings.versioned:
        folder = Path(_from_rank_0(str(folder / _version(folder)), settings.world_size))
    make(folder)
    return folder


def _version(output_dir: Path) -> str:
    numbers = [
        int(match["number"]) for entry in output_dir.glob("v*-*") if (match := _VERSION_NUMBER.match(entry.name))
    ]
    return f"v{max(numbers, default=-1) + 1}-{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}"


def _from_rank_0(text: str, world_size: int) -> str:
    if world_size == 1:
        return text
    from accelerate.utils import broadcast_object_list

    return str(broadcast_object_list([text])[0])


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, default=str) + "\n"
    (folder / checkpoints.ARGUMENTS_FILE).write_text(text, encoding="utf-8")


def record(settings: Settings, arguments: Any) -> dict[str, Any]:
    """What args.json holds: all that decided the run, by the names of the command line."""
    ours = {name: settings[name] for name in ARGUMENTS}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    return {
        **ours,
        **arguments.to_dict(),
        "resume_from_checkpoint": str(settings.resume_from) if settings.resume_from else None,
        "world_size": settings.world_size,
        "effective_batch": settings.effective_batch,
        "versions": versions,
    }


def conclude(output_dir: str, state: Any, reason: str | None) -> None:
    """The last lines of the log, and the last object of logging.jsonl."""
    from .progress import append

    last = checkpoints.newest(Path(output_dir))
    summary = {
        "last_model_checkpoint": str(last) if last else None,
        "best_model_checkpoint": state.best_model_checkpoint,
        "best_metric": state.best_metric,
        "global_step": state.global_step,
        "max_steps": state.max_steps,
        "stop_reason": reason,
    }
    append(Path(output_dir), summary)
    say(f"last_model_checkpoint: {summary['last_model_checkpoint']}")
    say(f"best_model_checkpoint: {summary['best_model_checkpoint']}")
    say(f"End time of running main: {dt.datetime.now().astimezone():%Y-%m-%d %H:%M:%S.%f}")
