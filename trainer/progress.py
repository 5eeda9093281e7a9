"""What a run says while it goes: each log as one line on stdout and one JSON object in logging.jsonl."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

LOG_FILE = "logging.jsonl"


class ProgressLog(TrainerCallback):
    """Full numbers go to the file; four digits, as transformers 5 prints them, to the terminal."""

    def __init__(self) -> None:
        self._begun, self._first_step = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del args, control
        self._begun, self._first_step = time.monotonic(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        del control
        if not state.is_world_process_zero or not logs:
            return
        values = {name: value for name, value in logs.items() if name != "total_flos"} | self._progress(state)
        append(Path(args.output_dir), values)
        print({name: _printed(value) for name, value in values.items()}, flush=True)

    def _progress(self, state: Any) -> dict[str, Any]:
        elapsed, steps = time.monotonic() - self._begun, state.global_step - self._first_step
        pace = elapsed / steps if steps else 0.0
        return {
            "global_step/max_steps": f"{state.global_step}/{state.max_steps}",
            "elapsed_time": duration(elapsed),
            "remaining_time": duration(pace * (state.max_steps - state.global_step)),
            "train_speed(s/it)": round(pace, 6),
        }


def append(output_dir: Path, values: dict[str, Any]) -> None:
    with (output_dir / LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(values, default=str) + "\n")


def _printed(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def duration(seconds: float) -> str:
    """1h 2m 3s, leaving out what is zero before the first."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}h {minute}m {second}s" if hour else f"{minute}m {second}s" if minute else f"{second}s"
