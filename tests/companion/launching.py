"""Starts the job beside this file with the companion on its path, and reads what it and the companion wrote."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COMPANION = HERE.parent.parent / "trainer" / "companion"


def environment(folder, **more):
    """What a launch under guardian adds, and nothing else of ours: one thread, no network."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **quiet, "PYTHONPATH": str(COMPANION), "GUARDIAN_DIR": str(folder), **more}


def plan(name, folder, split, steps, **more):
    """One training: `split` is device batch x accumulation; `arguments` are further training arguments."""
    device_batch, accumulation = split
    arguments = {
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": accumulation,
        **({} if steps is None else {"max_steps": steps}),
        **more.pop("arguments", {}),
    }
    return {"name": name, "out": str(folder / name), "arguments": arguments, **more}


@dataclass(frozen=True, slots=True)
class Ran:
    """A job that has ended, with its folder."""

    folder: Path
    codes: tuple[int, ...]
    output: str

    def heartbeat(self, rank=0):
        """The lines of the rank's file; the one that a full disk tore is left out."""
        lines = (self.folder / "attempt" / f"heartbeat.{rank}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def told(self, name, event, rank=0):
        """The events of one kind between the hello of the named training and the next hello."""
        found, inside = [], False
        for line in self.heartbeat(rank):
            if line["ev"] == "hello":
                inside = Path(line["output_dir"]).name == name
            if inside and line["ev"] == event:
                found.append(line)
        return found

    def steps(self, name, field, rank=0):
        """{step: field} of the named training, as the companion told it."""
        return {line["step"]: line.get(field) for line in self.told(name, "step", rank)}

    def truth(self, name, field, rank=0):
        """{step: field} of the named training, as the job itself measured it."""
        lines = [json.loads(line) for line in (self.folder / f"truth.{rank}.jsonl").read_text().splitlines()]
        return {
            line["step"]: line[field] for line in lines if line["name"] == name and field in line and "step" in line
        }

    def handlers(self, name):
        lines = [json.loads(line) for line in (self.folder / "truth.0.jsonl").read_text().splitlines()]
        return next(line["handlers"] for line in lines if line["name"] == name and "handlers" in line)


def run(folder, plans, *, spec, ranks=1, python=sys.executable, **more):
    """Run the job to its end, each rank in a process as a launcher would start it."""
    (folder / "attempt").mkdir()
    (folder / "plan.json").write_text(json.dumps(plans))
    argv = [python, str(HERE / "job.py"), str(folder / "plan.json")]
    common = environment(folder / "attempt", GUARDIAN_SPEC=json.dumps(spec), **more)
    where = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environments = [{**where, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(ranks)] if ranks > 1 else [{}]
    with (folder / "job.log").open("wb") as log:
        jobs = [subprocess.Popen(argv, env={**common, **one}, stdout=log, stderr=log) for one in environments]
        codes = tuple(job.wait(timeout=500) for job in jobs)
    return Ran(folder, codes, (folder / "job.log").read_text(errors="replace"))


def free_port():
    """A port of the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def companion_module(folder=COMPANION):
    """The companion's file as a module of its own, as its loader makes it."""
    spec = importlib.util.spec_from_file_location("guardian_companion", folder / "guardian_companion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
