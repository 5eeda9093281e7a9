"""Listen to the probe of the GPUs: a process of its own (gpuprobe.py), because a call into the driver may never return.

What it says is posted as events. When it falls silent, cannot read anything or ends, that is told once and nothing is
waited for: a process that is stuck in the driver cannot even be killed. It is started only where NVML is to be found,
never before the job, and never more than one at a time.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from guardian.core import events as ev
from guardian.core import probelines
from guardian.core.cards import Card
from guardian.host.userfiles import parse_toml

LIBRARY = "libnvidia-ml.so.1"
FOLDER = "GUARDIAN_NVML_FOLDER"
"""A folder with NVML's library that the loader does not know; for the probe alone."""
FOLDERS = (
    "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib",
    "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib",
)  # fmt: skip
"""Where distributions, the container toolkit, WSL and NixOS put it."""
DEVICES = ("/dev/nvidiactl", "/proc/driver/nvidia/version")
PROBE = Path(__file__).with_name("gpuprobe.py")
XIDS = Path(__file__).with_name("xid.toml")
EVERY_S = 1.0
SOURCE = "the GPUs"
LINE_MOST = 1 << 20

Post = Callable[[ev.Event], None]


def expected(environment: Mapping[str, str]) -> bool:
    """Whether a job may use a GPU that NVML knows: a few looks at files, nothing is loaded."""
    if environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    given = (environment.get(FOLDER, ""), *environment.get("LD_LIBRARY_PATH", "").split(":"))
    libraries = (f"{folder}/{LIBRARY}" for folder in (*given, *FOLDERS) if folder)
    return any(os.path.exists(path) for path in (*DEVICES, *libraries))


class Probe:
    """A running probe; `post` hears its readings, from a thread."""

    def __init__(self, run: str, post: Post, *, silent_s: float, environment: Mapping[str, str]) -> None:
        self._run = run
        self._post = post
        self._silent_s = silent_s
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._host_pids = False
        self._before: dict[int, Card] = {}
        self._looked = threading.Condition()
        self._last = 0.0
        self._closed = False
        self.over = False
        """It reads nothing any more."""
        threading.Thread(target=self._work, name="gpus", daemon=True).start()

    def look(self, within_s: float) -> bool:
        """Wait for a look that begins after now; False where none came in time."""
        since = time.time()
        with self._looked:
            return self._looked.wait_for(lambda: self.over or self._last > since, within_s) and not self.over

    def close(self) -> None:
        """End it, without waiting for it: it may hang in the driver."""
        self._closed = True
        self._kill()

    def _work(self) -> None:
        try:
            why = self._listen()
        except OSError as error:
            why = f"its reader cannot be started: {error.strerror}"
        self._kill()
        if not self._closed:
            self._post(ev.SourceLost(SOURCE, why))
        with self._looked:
            self.over = True
            self._looked.notify_all()

    def _listen(self) -> str:
        """Read the probe's lines until there are none any more; why."""
        self._process = process = self._started()
        assert process.stdout is not None
        rest = b""
        with selectors.DefaultSelector() as selector, process.stdout as stream:
            selector.register(stream, selectors.EVENT_READ)
            while not self._closed:
                if not selector.select(self._silent_s):
                    return f"a reading has not come back for {self._silent_s:.0f} s: the call hangs in the driver"
                block = os.read(stream.fileno(), 1 << 16)
                if not block:
                    return f"their reader ended ({_ended(process)})"
                *lines, rest = (rest + block)[-LINE_MOST:].split(b"\n")
                for line in lines:
                    said = probelines.parse(line)
                    if isinstance(said, probelines.Nothing):
                        return said.why
                    if said is not None:
                        self._tell(said)
        return "closed"

    def _started(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in self._environment.items() if name != "GUARDIAN_MARK"}
        folder = environment.get(FOLDER)
        if folder:
            known = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = f"{folder}:{known}" if known else folder
        return subprocess.Popen(
            # The kernel ends it with the thread that starts it, which is the one that listens.
            [
                sys.executable,
                "-E",
                str(PROBE),
                "--run",
                self._run,
                "--every",
                str(EVERY_S),
                "--parent",
                str(os.getpid()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,  # the terminal's Ctrl-C is not for it
        )

    def _tell(self, said: probelines.Said) -> None:
        match said:
            case probelines.Hello(host_pids=host_pids):
                self._host_pids = host_pids
            case probelines.Xid(card=card, number=number):
                kind, text = meaning(number)
                self._post(ev.GpuFault(0, card, kind, number, text, time.time()))
            case probelines.Seen(wall=wall, cards=seen):
                for one in seen:
                    for fault in faults(self._before.get(one.index), one, wall):
                        self._post(fault)
                    self._before[one.index] = one
                self._post(ev.GpusSeen(0, wall, self._host_pids, seen))
                with self._looked:
                    self._last = wall
                    self._looked.notify_all()

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)


def faults(before: Card | None, now: Card, wall: float) -> list[ev.GpuFault]:
    """What a card's readings say of a fault that they did not say the time before; `attempt` is for who hears it."""
    if now.lost is not None:
        new = before is None or before.lost is None
        text = f"that the driver cannot reach it: {now.lost}"
        return [ev.GpuFault(0, now.index, "lost", None, text, wall)] if new else []
    found = []
    old, new_count = before.ecc_uncorrected if before else None, now.ecc_uncorrected
    if old is not None and new_count is not None and new_count > old:
        text = f"{new_count - old:.0f} uncorrectable ECC error(s) of its memory"
        found.append(ev.GpuFault(0, now.index, "hardware", None, text, wall))
    if before is not None and before.remap_failed is False and now.remap_failed:
        found.append(ev.GpuFault(0, now.index, "hardware", None, "a row of memory that could not be replaced", wall))
    return found


def meaning(xid: int) -> tuple[str, str]:
    """The kind of an Xid (xid.toml has them) and what it says."""
    kind, says = _meanings().get(xid, ("note", "a number that guardian's table does not have"))
    return kind, says


@cache
def _meanings() -> dict[int, tuple[str, str]]:
    table = parse_toml(XIDS.read_text("utf-8"), str(XIDS))["xid"]
    assert isinstance(table, dict)
    return {int(number): (str(row["kind"]), str(row["says"])) for number, row in table.items()}


def _ended(process: subprocess.Popen[bytes]) -> str:
    try:
        return f"exit code {process.wait(1.0)}"
    except subprocess.TimeoutExpired:
        return "it closed its output"
