"""Who is measured, and how each is started: guardian, torchrun in three settings, bash.

All run the same command in the same environment; what they print goes to /dev/null.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sys.executable).parent
JOBS = Path(__file__).resolve().parent / "jobs"
RETRIES = 100
GUARDIAN = "guardian"
POLICY = f"[budget]\nrestarts = {RETRIES}\nwithout_progress = {RETRIES}\nbackoff_s = [0]\n"

Command = tuple[str, ...]


@dataclass(frozen=True)
class Contestant:
    """A name for the table, and the command that runs a job under it."""

    name: str
    over: Callable[[Command], Command]


def guardian(folder: Path) -> Contestant:
    """As a user has it, but for the budget and the waits between attempts."""
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    start = (str(SCRIPTS / "guardian"), "run", "--run-dir", str(folder / "guardian_runs"), "--policy", str(policy))
    return Contestant(GUARDIAN, lambda job: (*start, "--", *job))


def torchrun(name: str, *options: str) -> Contestant:
    """One worker on one node; without --standalone the port must be free."""
    start = (str(SCRIPTS / "torchrun"), "--nproc-per-node", "1", "--max-restarts", str(RETRIES))
    return Contestant(name, lambda job: (*start, *options, *_place(options), "--no-python", *job))


TORCHRUN = torchrun("torchrun")
TORCHRUN_ALONE = torchrun("torchrun --standalone", "--standalone")
TORCHRUN_QUICK = torchrun("torchrun --monitor-interval 0.01", "--monitor-interval", "0.01")

BASH_LOOP = Contestant("bash loop", lambda job: ("bash", "-c", f"until {shlex.join(job)}; do :; done"))
BASH = Contestant("bash -c", lambda job: ("bash", "-c", f"{shlex.join(job)}; :"))
PYTHON = Contestant(
    "python -c pass, then the job, by bash", lambda job: ("bash", "-c", f"{_pass()}; {shlex.join(job)}")
)


def _pass() -> str:
    return shlex.join((sys.executable, "-c", "pass"))


def _place(options: tuple[str, ...]) -> Command:
    return () if "--standalone" in options else ("--master-port", str(free_port()))


def free_port() -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment() -> dict[str, str]:
    """The caller's, with compiled modules kept: what is measured is the second start, not the first."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def start(command: Command, folder: Path) -> subprocess.Popen[bytes]:
    """Start it in a folder."""
    null = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, env=environment(), stdin=null, stdout=null, stderr=null)


def finish(process: subprocess.Popen[bytes], patience_s: float) -> int:
    """Wait for its end; never leave one behind."""
    try:
        return process.wait(patience_s)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def child(folder: Path) -> Command:
    """The job that dies, compiled where there is a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    binary = folder / "child"
    for static in (("-static",), ()):
        build = [compiler or "", "-O2", *static, "-o", str(binary), str(JOBS / "child.c")]
        if compiler and subprocess.run(build, check=False, capture_output=True).returncode == 0:
            return (str(binary),)
    return (sys.executable, "-I", "-S", str(JOBS / "child.py"))


def ranks(folder: Path, seconds: float) -> Command:
    """The job that talks."""
    return (sys.executable, "-I", "-S", str(JOBS / "ranks.py"), str(folder), str(seconds))
