"""On a real GPU: readings, a real out-of-memory, a leftover, a drain. Skipped where there is none.

Everything else about GPUs is tested against a stub of the driver's library (test_gpus.py, tests/host/test_gpuprobe.py);
what only a card can show stands here. Nothing on the card is changed, and only processes of these tests are ended.
"""

import json
import shutil
import subprocess
import sys

import pytest

from guardian.core.run import Draining
from guardian.host import gpuprobe
from tests.faults.harness import PATIENCE_S, Guarded

pytestmark = pytest.mark.long

HOLD = """
import sys, torch
held = torch.zeros(int(sys.argv[1]) << 20, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("held", flush=True)
sys.stdin.readline()
"""
"""Holds so many MiB until its input ends."""
TAKE_TOO_MUCH = """
import torch
held = []
while True:
    held.append(torch.zeros(1 << 30, dtype=torch.uint8, device="cuda"))
"""
FAIL_ONCE = """
import os, pathlib, time
if os.environ["GUARDIAN_MARK"].endswith("/1"):
    while not pathlib.Path("go").exists():
        time.sleep(0.1)
    raise SystemExit(1)
"""


@pytest.fixture(scope="module", autouse=True)
def _a_gpu():
    """Looked for once; torch in a process of its own, so that this one holds nothing on the card."""
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA GPU: there is no nvidia-smi")
    code = "import torch; print(torch.cuda.is_available())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if asked.stdout.strip() != "True":
        pytest.skip("no GPU that this environment's torch can use")


def smi(fields):
    """What nvidia-smi says of the first card."""
    argv = ["nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    return [one.strip() for one in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split(",")]


def first_card():
    """What the probe says of it."""
    argv = [sys.executable, "-E", gpuprobe.__file__]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as probe:
        seen = next(told for line in probe.stdout if (told := json.loads(line))["ev"] in ("seen", "none"))
        probe.kill()
    assert "seen" == seen["ev"], seen
    return seen["cards"][0]


class Holder:
    """A process that holds memory of the card."""

    def __init__(self, mib):
        argv = [sys.executable, "-c", HOLD, str(mib)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert "held" == self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()


@pytest.fixture
def guarded(tmp_path):
    """Starts a job that is a line of Python."""
    started = []

    def start(code):
        (tmp_path / "policy.toml").write_text(f"[budget]\nbackoff_s = [0]\n[gpu]\ndrain_wait_s = {PATIENCE_S}\n")
        one = Guarded(tmp_path, sys.executable, "-c", code, options=("--policy", "policy.toml"))
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.clean_up()


def test_the_readings_are_those_of_nvidia_smi():
    """The same card, the same memory, power and temperature, as far as they hold still between two looks."""
    uuid, total, used, temperature = smi("uuid,memory.total,memory.used,temperature.gpu")
    card = first_card()

    assert uuid == card["uuid"]
    assert card["total_mib"] == pytest.approx(float(total), abs=2)
    assert card["used_mib"] == pytest.approx(float(used), abs=700)  # what the driver reserves is in the one, or in both
    assert card["temperature_c"] == pytest.approx(float(temperature), abs=5)


def test_a_process_that_holds_memory_is_seen():
    """By the card's memory everywhere, by its pid where pids are the host's."""
    before = first_card()["used_mib"]
    with Holder(2048) as holder:
        card = first_card()
        pids = [one["pid"] for one in card["processes"] or []]

    assert card["used_mib"] - before >= 2000
    assert holder.process.pid in pids or not gpuprobe.in_host_namespace()


def test_a_real_out_of_memory_is_named(guarded):
    """By torch's own message, with the card's memory as NVML saw it."""
    one = guarded(TAKE_TOO_MUCH)
    one.wait()

    assert "cuda_oom" == one.report()["attempts"][0]["cause"]["class"]


def test_a_relaunch_waits_until_the_card_is_free(guarded):
    """A stranger takes 4 GiB while the job runs, and lets go."""
    one = guarded(FAIL_ONCE)
    one.until("a first look", lambda run: run.gpu_baseline)
    with Holder(4096):
        (one.folder / "go").touch()
        one.until("it waits", lambda run: isinstance(run.state, Draining))

    assert 0 == one.wait()
    assert "the GPUs are free again" in one.shown()
