"""Read the GPUs through NVML and print what they say, a JSON object a line: a process of its own.

A call into the driver may never return (a card that has fallen off its bus), and nothing ends a process that waits
there. So nothing else waits with it: who started this one hears no more lines, and goes on. It imports nothing of
guardian, changes nothing on any card, and ends when nobody reads what it prints.

What a card does not tell is null, never 0: under MIG there is no utilisation of the whole card, in a container there
may be no processes. Lines:
    {"ev": "hello", "driver": ..., "cards": 2, "host_pids": true}
    {"ev": "none", "why": ...}                                  there is nothing to read; it ends
    {"ev": "seen", "t": wall seconds, "cards": [{"index": 0, "uuid": ..., ...}]}
    {"ev": "xid", "t": ..., "card": 0, "xid": 79, "from": "nvml" | "kernel log"}
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
# Run by its path, so the folder of its siblings stands first: a module there must not be taken for another's.
sys.path[:] = [path for path in sys.path if path != HERE]

MIB = 1024 * 1024
INIT_PID_NAMESPACE = 0xEFFFFFFC
"""The inode of the host's own (include/linux/proc_ns.h, PROC_PID_INIT_INO): elsewhere NVML's pids name nobody here."""
XID = re.compile(rb"NVRM: Xid \(PCI:([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\): (\d{1,4})\b")
LOST = (15, 16)
"""NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED."""
MARK = b"GUARDIAN_MARK="
REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power cap", 0x8: "hardware slow-down", 0x10: "sync boost",
    0x20: "software thermal", 0x40: "hardware thermal", 0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
"""nvmlClocksEventReason*, nvml.h."""


class Lost(Exception):  # noqa: N818 - it names what the card is
    """The driver has lost the card, or it must be reset."""


class Reader:
    """The cards of this machine."""

    def __init__(self, nvml: Any, run: str | None) -> None:  # noqa: ANN401 - pynvml publishes no types
        self._nvml = nvml
        self._mark = MARK + run.encode() + b"/" if run else None
        self.host_pids = in_host_namespace()
        self.handles = [nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())]
        self.buses = [self._bus(handle) for handle in self.handles]
        self._names = [self._named(handle) for handle in self.handles]
        self._events = self._listen()

    def hello(self) -> dict[str, object]:
        driver = self._ask("nvmlSystemGetDriverVersion")
        return {"ev": "hello", "driver": driver, "cards": len(self.handles), "host_pids": self.host_pids}

    def seen(self) -> dict[str, object]:
        """All cards as they are now."""
        return {"ev": "seen", "t": time.time(), "cards": [self._card(at) for at in range(len(self.handles))]}

    def wait(self, seconds: float) -> Iterator[dict[str, object]]:
        """The Xids that come in this time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._events is None:
                time.sleep(left)
                return
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, max(1, int(left * 1000)))
            except self._nvml.NVMLError as error:
                if error.value != self._nvml.NVML_ERROR_TIMEOUT:
                    self._events = None  # a lost card answers at once, again and again
                continue
            if event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                yield _xid(self._place(event.device), int(event.eventData), "nvml")

    def _card(self, at: int) -> dict[str, object]:
        known: dict[str, object] = {"index": at, **self._names[at]}
        try:
            return {**known, **self._readings(self.handles[at]), "lost": None}
        except Lost as error:
            return {**known, "lost": str(error)}

    def _readings(self, handle: object) -> dict[str, object]:
        n = self._nvml
        memory = self._memory(handle)
        rates = self._ask("nvmlDeviceGetUtilizationRates", handle)
        rows = self._ask("nvmlDeviceGetRemappedRows", handle)
        mig = self._ask("nvmlDeviceGetMigMode", handle)
        return {
            "used_mib": memory.used / MIB if memory else None,
            "free_mib": memory.free / MIB if memory else None,
            "total_mib": memory.total / MIB if memory else None,
            "utilisation": rates.gpu if rates else None,
            "memory_traffic": rates.memory if rates else None,
            "power_w": _thousandth(self._ask("nvmlDeviceGetPowerUsage", handle)),
            "power_limit_w": _thousandth(self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", handle, n.NVML_TEMPERATURE_GPU),
            "sm_mhz": self._ask("nvmlDeviceGetClockInfo", handle, n.NVML_CLOCK_SM),
            "memory_mhz": self._ask("nvmlDeviceGetClockInfo", handle, n.NVML_CLOCK_MEM),
            "slowed": self._slowed(handle),
            "ecc_corrected": self._ecc(handle, n.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            "ecc_uncorrected": self._ecc(handle, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            "remapped_rows": rows[0] + rows[1] if rows else None,
            "remap_failed": bool(rows[3]) if rows else None,
            "mig": bool(mig[0]) if mig else None,
            "processes": self._processes(handle),
        }

    def _memory(self, handle: object) -> Any:  # noqa: ANN401 - as pynvml
        """Without what the driver keeps for itself, where it says how much that is."""
        newer = self._ask("nvmlDeviceGetMemoryInfo", handle, version=self._nvml.nvmlMemory_v2)
        return newer or self._ask("nvmlDeviceGetMemoryInfo", handle)

    def _slowed(self, handle: object) -> list[str] | None:
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # the older name of the same
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return None if bits is None else [name for bit, name in REASONS.items() if bits & bit]

    def _ecc(self, handle: object, kind: int) -> Any:  # noqa: ANN401 - as pynvml
        return self._ask("nvmlDeviceGetTotalEccErrors", handle, kind, self._nvml.NVML_VOLATILE_ECC)

    def _processes(self, handle: object) -> list[dict[str, object]] | None:
        """Who has memory on the card; a process that also draws is listed once."""
        listed = self._ask("nvmlDeviceGetComputeRunningProcesses", handle)
        if listed is None:
            return None
        drawing = self._ask("nvmlDeviceGetGraphicsRunningProcesses_v3", handle) or []
        found = {one.pid: one for one in (*drawing, *listed)}
        return [self._process(pid, one.usedGpuMemory) for pid, one in sorted(found.items())]

    def _process(self, pid: int, used: int | None) -> dict[str, object]:
        known = {"pid": pid, "used_mib": None if used is None else used / MIB}
        if not self.host_pids:
            return {**known, "ours": None, "name": ""}
        environment = _bytes(f"/proc/{pid}/environ").split(b"\0")
        ours = self._mark is not None and any(part.startswith(self._mark) for part in environment)
        return {**known, "ours": ours, "name": _bytes(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()[:64]}

    def _named(self, handle: object) -> dict[str, object]:
        try:
            uuid, name = self._ask("nvmlDeviceGetUUID", handle), self._ask("nvmlDeviceGetName", handle)
        except Lost:
            uuid, name = None, None
        return {"uuid": uuid or "", "name": name or ""}

    def _bus(self, handle: object) -> str:
        """As the kernel log writes it: domain, bus and device."""
        try:
            info = self._ask("nvmlDeviceGetPciInfo", handle)
        except Lost:
            return ""
        return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}" if info else ""

    def _listen(self) -> Any | None:  # noqa: ANN401 - as pynvml
        """The set of events to wait on; None: this driver, or these cards, tell of none."""
        try:
            events = self._nvml.nvmlEventSetCreate()
        except self._nvml.NVMLError:
            return None
        heard = False
        for handle in self.handles:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlDeviceRegisterEvents(handle, self._nvml.nvmlEventTypeXidCriticalError, events)
                heard = True
        return events if heard else None

    def _place(self, handle: object) -> int | None:
        address = getattr(handle, "contents", None)
        known = [getattr(one, "contents", None) for one in self.handles]
        at = [n for n, one in enumerate(known) if address is not None and _address(one) == _address(address)]
        return at[0] if at else None

    def _ask(self, name: str, *arguments: object, **more: object) -> Any:  # noqa: ANN401 - as pynvml
        """What the driver answers; None where it has no answer."""
        call: Callable[..., Any] = getattr(self._nvml, name)
        try:
            return call(*arguments, **more)
        except self._nvml.NVMLError as error:
            if error.value in LOST:
                raise Lost(str(error)) from error
            return None
        except (AttributeError, TypeError):  # an older binding
            return None


class KernelLog:
    """New lines of the kernel's log, where we may read it."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        try:
            self._fd: int | None = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = None

    def xids(self, buses: list[str]) -> Iterator[dict[str, object]]:
        """The Xids since the last look."""
        for _ in range(1000):
            try:
                record = os.read(self._fd, 8192) if self._fd is not None else b""
            except BlockingIOError:
                return
            except BrokenPipeError:  # records were overwritten before they were read: the next one follows
                continue
            except OSError:
                self._fd = None
                return
            if not record:
                return
            found = parse_xid(record)
            if found is not None:
                yield _xid(buses.index(found[0]) if found[0] in buses else None, found[1], "kernel log")


def parse_xid(record: bytes) -> tuple[str, int] | None:
    """The card's bus and the number of a record of the kernel log; None: it tells of none."""
    match = XID.search(record)
    if match is None:
        return None
    domain, bus, device = match[1].decode().lower().split(":")
    return f"{domain[-4:]}:{bus}:{device}", int(match[2])


def in_host_namespace() -> bool:
    """Whether pids mean the same here as to the driver."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == INIT_PID_NAMESPACE
    except OSError:
        return False


def _xid(card: int | None, number: int, source: str) -> dict[str, object]:
    return {"ev": "xid", "t": time.time(), "card": card, "xid": number, "from": source}


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1000


def _address(pointed: object) -> int:
    from ctypes import addressof  # noqa: PLC0415 - pynvml has imported it

    return addressof(pointed)  # type: ignore[arg-type]


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 20)
    except OSError:
        return b""


def say(line: dict[str, object]) -> None:
    """One write: whoever reads sees whole lines. Ends the process when nobody reads."""
    try:
        os.write(1, json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except OSError:
        os._exit(0)


def end_with(parent: int) -> None:
    """Have the kernel end this process with whoever started it (prctl(2), PR_SET_PDEATHSIG), stuck in a call or not."""
    with contextlib.suppress(OSError, AttributeError):
        from ctypes import CDLL  # noqa: PLC0415 - pynvml imports it anyway

        CDLL(None).prctl(1, int(signal.SIGKILL))
    if os.getppid() != parent:  # it was gone before
        os._exit(0)


def main() -> int:
    """Read and print until nobody listens."""
    options = argparse.ArgumentParser()
    options.add_argument("--run", help="whose processes are ours: the run's id in their mark")
    options.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    options.add_argument("--parent", type=int, help="the process that listens: it ends with it")
    chosen = options.parse_args()
    if chosen.parent is not None:
        end_with(chosen.parent)
    try:
        import pynvml  # noqa: PLC0415 - where it is missing, that is said

        pynvml.nvmlInit()
        reader = Reader(pynvml, chosen.run)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from reading is told, and nothing else follows
        say({"ev": "none", "why": f"NVML cannot be read: {error or type(error).__name__}"})
        return 0
    if not reader.handles:
        say({"ev": "none", "why": "NVML knows of no GPU here"})
        return 0
    kernel = KernelLog()
    say(reader.hello())
    while True:
        say(reader.seen())
        for line in (*reader.wait(chosen.every), *kernel.xids(reader.buses)):
            say(line)


if __name__ == "__main__":
    sys.exit(main())
