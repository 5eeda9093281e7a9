"""The probe that reads the GPUs, against a stub of NVML that is loaded through the real binding."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guardian.host import gpuprobe
from tests.stubs.nvml.stub import Cards, build

PATIENCE_S = 60
PROBE = Path(gpuprobe.__file__)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The stub, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def cards(tmp_path, library):
    """One card that is idle."""
    return Cards(tmp_path, library)


class Probe:
    """The probe as a process, its lines as they come."""

    def __init__(self, env, *options):
        argv = [sys.executable, "-E", str(PROBE), "--every", "0.2", *options]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=dict(os.environ) | env)
        self._rest = b""

    def line(self, within_s=PATIENCE_S):
        """The next line; None: none came, or it has ended."""
        end = time.monotonic() + within_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            block = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not block:
                return None
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def until(self, kind, holds=lambda _: True):
        """The first line of a kind for which this holds."""
        while (line := self.line()) is not None:
            if line["ev"] == kind and holds(line):
                return line
        raise AssertionError(f"no {kind} line came")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def probe(cards):
    """Starts probes and ends them."""
    started = []

    def start(*options, env=None):
        started.append(Probe(cards.env if env is None else env, *options))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_it_says_what_the_cards_say(cards, probe):
    """In the units of their names; the driver's bits as words."""
    cards.say(used=1000, reserved=500, gpu=30, memory=5, power=90500, reasons=5, sm=1410, remapped=1, failure=1)
    one = probe().until("seen")["cards"][0]

    assert (1000.0, 23076.0, 24576.0) == (one["used_mib"], one["free_mib"], one["total_mib"])
    assert (30, 5, 90.5, 35, 1410) == tuple(
        one[n] for n in ("utilisation", "memory_traffic", "power_w", "temperature_c", "sm_mhz")
    )
    assert (["idle", "power cap"], 0, 1, True) == tuple(
        one[n] for n in ("slowed", "ecc_uncorrected", "remapped_rows", "remap_failed")
    )


def test_what_a_card_does_not_tell_is_unknown_and_not_zero(cards, probe):
    """Under MIG there is no utilisation of the whole card."""
    cards.say(gpu=None, mig=1)
    one = probe().until("seen")["cards"][0]

    assert (None, None, True) == (one["utilisation"], one["memory_traffic"], one["mig"])
    assert one["ecc_corrected"] is None


def test_a_process_is_ours_by_the_mark_in_its_environment(cards, probe):
    """Others are named; memory that is not told stays unknown."""
    if not gpuprobe.in_host_namespace():
        pytest.skip("pids of the driver name nobody here: this is not the host's pid namespace")
    ours = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"GUARDIAN_MARK": "r-1/2"})
    try:
        cards.hold((ours.pid, 900), (os.getpid(), -1))
        both = probe("--run", "r-1").until("seen", lambda s: any(p["ours"] for p in s["cards"][0]["processes"]))
    finally:
        ours.communicate()
    found = {one["pid"]: one for one in both["cards"][0]["processes"]}

    assert (True, 900.0) == (found[ours.pid]["ours"], found[ours.pid]["used_mib"])
    assert (False, None) == (found[os.getpid()]["ours"], found[os.getpid()]["used_mib"])
    assert found[os.getpid()]["name"]


def test_an_xid_is_told_when_it_comes(cards, probe):
    """By the event, with its card, once."""
    cards.head[0] = "cards 2"
    cards.readings[1], cards.processes[1] = dict(cards.readings[0]), []
    cards.write()
    running = probe()
    running.until("seen")
    cards.xid(79, card=1)
    told = running.until("xid")

    assert (1, 79, "nvml") == (told["card"], told["xid"], told["from"])


def test_a_lost_card_is_told_and_the_others_go_on(cards, probe):
    """It answers nothing any more but that."""
    cards.head[0] = "cards 2"
    cards.readings[1], cards.processes[1] = dict(cards.readings[0]), []
    cards.write()
    running = probe()
    assert running.until("seen")["cards"][1]["lost"] is None
    cards.lose(1)
    seen = running.until("seen", lambda s: s["cards"][1]["lost"])["cards"]

    assert "GPU is lost" == seen[1]["lost"]
    assert "used_mib" not in seen[1]
    assert 400.0 == seen[0]["used_mib"]


def test_without_the_library_it_says_so_and_ends(probe, tmp_path):
    """Nothing else is tried."""
    running = probe(env={"LD_LIBRARY_PATH": str(tmp_path)})
    told = running.line()
    if told["ev"] == "hello":
        pytest.skip("this machine has NVML")

    assert "none" == told["ev"]
    assert "NVML" in told["why"]
    assert 0 == running.process.wait(PATIENCE_S)


def test_a_driver_that_refuses_is_no_crash(cards, probe):
    """Driver and library of different versions (NVML_ERROR_LIB_RM_VERSION_MISMATCH)."""
    cards.head.append("init 18")
    cards.write()

    assert "none" == probe().line()["ev"]


def test_it_ends_when_nobody_reads(probe):
    """The supervisor may be killed at any moment."""
    running = probe()
    running.until("seen")
    running.process.stdout.close()
    ended = running.process.wait(PATIENCE_S)
    running.process.stdout = open(os.devnull)  # noqa: SIM115 - for close()

    assert 0 == ended


@pytest.mark.long
def test_a_call_that_never_returns_is_silence(cards, probe):
    """The process stands; it can be ended from outside."""
    running = probe()
    running.until("seen")
    cards.stick("nvmlDeviceGetMemoryInfo_v2")
    while running.line(within_s=3) is not None:
        pass

    assert running.process.poll() is None
    running.process.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == running.process.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "record, found",
    [
        (
            b"3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=2031, name=python3, GPU has fallen off the bus.",
            ("0000:3b:00", 79),
        ),
        (b"4,1,2,-;NVRM: Xid (PCI:00000001:C1:00): 31, pid=7, MMU Fault", ("0001:c1:00", 31)),
        (b"6,1,2,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module", None),
    ],
)
def test_the_kernel_logs_words_are_read(record, found):
    """With the card's place on the bus, as NVML gives it too."""
    assert found == gpuprobe.parse_xid(record)


def test_new_lines_of_the_kernel_log_are_read_where_they_may_be(tmp_path):
    """What was there before is not told; a log that cannot be opened tells nothing."""
    log = tmp_path / "kmsg"
    log.write_bytes(b"3,1,2,-;NVRM: Xid (PCI:0000:3b:00): 48, pid=1\n")
    kernel = gpuprobe.KernelLog(str(log))
    assert [] == list(kernel.xids([]))
    with log.open("ab") as stream:
        stream.write(b"3,2,3,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1\n")

    assert [(0, 79)] == [(one["card"], one["xid"]) for one in kernel.xids(["0000:3b:00"])]
    assert [] == list(gpuprobe.KernelLog(str(tmp_path / "none")).xids([]))
