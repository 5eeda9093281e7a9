"""The trainer as a process of its own, and what it left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 240  # a busy machine is slow; no test is about speed
DEMO = ("--model", "demo", "--dataset", "demo#96", "--logging_steps", "1", "--add_version", "false")
_RANK_NAMES = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _RANK_NAMES}
    return inherited | {"HF_HUB_OFFLINE": "1"} | extra


def start(*arguments: str, cwd: Path, ranks: int = 1, python: str = sys.executable) -> subprocess.Popen[str]:
    extra = {"NPROC_PER_NODE": str(ranks)} if ranks > 1 else {}
    return subprocess.Popen(
        [python, "-m", "guardian.trainer", *arguments],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: str, cwd: Path, **how: int | str) -> str:
    """What a run that must succeed has printed; `how` is for `start`."""
    process = start(*arguments, cwd=cwd, **how)
    printed, _ = process.communicate(timeout=PATIENCE_S)
    assert 0 == process.returncode, printed
    return printed


def run_until_killed(*arguments: str, cwd: Path, step: int, python: str = sys.executable) -> None:
    """A run that is SIGKILLed when its log has reached `step`."""
    process = start(*arguments, cwd=cwd, python=python)
    try:
        wait_for(lambda: any(each >= step for each in losses(cwd / "out")) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def wait_for(condition, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def logged(output_dir: Path) -> list[dict]:
    """Every whole line of logging.jsonl."""
    log = output_dir / "logging.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


def losses(output_dir: Path) -> dict[int, float]:
    """Loss by step; of a step that ran twice the later one."""
    return {
        int(entry["global_step/max_steps"].split("/")[0]): entry["loss"]
        for entry in logged(output_dir)
        if "loss" in entry
    }
