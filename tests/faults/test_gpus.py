"""GPUs under a real guardian, its real probe and the real binding; only the driver's library is a stub of ours."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guardian.core import events as ev
from guardian.core.run import Draining
from guardian.host import gpuprobe, gpus
from tests.faults.harness import JOBS, PATIENCE_S, TINY, Guarded, harm
from tests.stubs.nvml.stub import Cards, build

POLICY = "[budget]\nbackoff_s = [0]\n[disk]\nminimum_free_mib = 1\nballast_mib = 1\n[gpu]\n"


@pytest.fixture
def cards(tmp_path):
    """One card that is idle."""
    (tmp_path / "lib").mkdir()
    return Cards(tmp_path, build(tmp_path / "lib"))


@pytest.fixture
def guarded(tmp_path, cards):
    """Starts a job of the standard library that does what its words say."""
    started = []

    def start(*words, policy="", command=None, env=None, **attempts):
        (tmp_path / "policy.toml").write_text(POLICY + policy)
        told = {f"WORDS_{number[1:]}": text for number, text in attempts.items()}
        job = command or (sys.executable, str(JOBS / "worded.py"), *words)
        one = Guarded(tmp_path, *job, options=("--policy", "policy.toml"), env=cards.guardians | (env or {}) | told)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        one.clean_up()


def ready(guarded):
    """Wait until the first look at the cards is written down."""
    guarded.until("a first look at the cards", lambda run: run.gpu_baseline)


def looked(guarded, cards):
    """Wait until the cards as they are now have been read: readings leave no trace, two harmless Xids after them do."""
    for number in (63, 92):
        cards.xid(number)
        guarded.until(f"Xid {number}", lambda run, n=number: n in [f.xid for f in run.attempts[-1].gpu_faults])


def touch(guarded, name):
    """What the job waits for."""
    (guarded.folder / name).touch()


def test_a_lost_gpu_is_the_cause_although_the_job_says_nothing_of_it(guarded, cards):
    """It is named, and not tried again."""
    one = guarded("wait:go", "exit:1")
    ready(one)
    cards.xid(79)
    cards.lose()
    one.until("both reports", lambda run: len(run.attempts[-1].gpu_faults) == 2)
    touch(one, "go")

    assert 4 == one.wait()
    cause = one.report()["attempts"][0]["cause"]
    assert ("gpu_hardware", "lost") == (cause["class"], cause["variant"])
    assert "Xid 79: the card has fallen off the bus" in one.shown()


def test_a_call_that_never_returns_is_told_and_holds_nobody(guarded, cards):
    """The job goes on, and guardian sees its end as ever."""
    one = guarded("wait:go", "exit:0", policy="silent_s = 2\n")
    ready(one)
    cards.stick("nvmlDeviceGetMemoryInfo_v2")
    one.until("the probe is missed", lambda run: any(lost.source == "the GPUs" for lost in run.lost))
    touch(one, "go")

    assert 0 == one.wait()
    assert 1 == one.shown().count("cannot see the GPUs: a reading has not come back for 2 s")


def test_held_memory_is_waited_for_before_a_relaunch_and_its_holder_is_named(guarded, cards):
    """Visible all the while; launched when it is free."""
    one = guarded(_1="wait:go exit:1", _2="exit:0", policy=f"drain_wait_s = {PATIENCE_S}\n")
    ready(one)
    cards.say(used=9000)
    cards.hold((1, 8000))
    touch(one, "go")
    one.until("it waits", lambda run: isinstance(run.state, Draining))
    states = [run["state"] for run in json.loads(one.call("status", "--json").stdout)["runs"]]
    cards.say(used=400)
    cards.hold()

    assert ["draining"] == states
    assert 0 == one.wait()
    assert "GPU 0 holds 8600 MiB more than at the first launch" in one.shown()
    assert "the GPUs are free again" in one.shown()


@pytest.mark.long
def test_a_probe_that_hangs_goes_with_a_guardian_that_is_killed(guarded, cards):
    """It would hear of it only when its call returned."""
    one = guarded("wait:go", "exit:0")
    ready(one)
    inside = [pid for task in Path(f"/proc/{one.process.pid}/task").iterdir() for pid in children(task)]
    assert probes(inside)
    cards.stick("nvmlDeviceGetMemoryInfo_v2")
    time.sleep(2)  # until it hangs; where it does not yet, it ends all the same
    one.process.kill()
    one.process.wait()
    deadline = time.monotonic() + PATIENCE_S
    while probes(inside) and time.monotonic() < deadline:
        time.sleep(0.1)

    assert not probes(inside)


def children(task):
    """The processes that a thread started."""
    return (task / "children").read_text().split()


def probes(pids):
    """Those of them that are probes and live."""
    found = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    return [path for path in found if path.exists() and b"gpuprobe" in path.read_bytes()]


@pytest.mark.long
def test_the_wait_for_memory_has_an_end(guarded, cards):
    """Then the launch is made: what is held may be none of what the job needs."""
    one = guarded(_1="wait:go exit:1", _2="exit:0", policy="drain_wait_s = 1\n")
    ready(one)
    cards.say(used=9000)
    touch(one, "go")

    assert 0 == one.wait()
    assert "is waited for no longer: GPU 0 holds 8600 MiB more" in one.shown()


@pytest.mark.long
def test_a_stop_is_heard_while_memory_is_waited_for(guarded, cards):
    """As in every other state."""
    one = guarded(_1="wait:go exit:1", _2="exit:0", policy=f"drain_wait_s = {PATIENCE_S}\n")
    ready(one)
    cards.say(used=9000)
    touch(one, "go")
    one.until("it waits", lambda run: isinstance(run.state, Draining))
    one.call("stop", one.name)

    assert 75 == one.wait()


@pytest.mark.long
def test_a_guardian_that_is_killed_while_it_waits_is_followed_by_one_that_waits(guarded, cards):
    """It looks for itself, with what the first look of the run was."""
    one = guarded(_1="wait:go exit:1", _2="exit:0", policy=f"drain_wait_s = {PATIENCE_S}\n")
    ready(one)
    cards.say(used=9000)
    touch(one, "go")
    one.until("it waits", lambda run: isinstance(run.state, Draining))
    one.process.kill()
    one.process.wait()
    one.start("resume", one.name)
    looked(one, cards)
    state = one.story().state
    cards.say(used=400)

    assert isinstance(state, Draining)
    assert 0 == one.wait()
    assert "the GPUs are free again" in one.shown()


@pytest.mark.long
def test_what_an_earlier_attempt_left_on_a_gpu_is_ended(guarded, cards):
    """By the run's mark; a stranger beside it is left alone, and what holds no memory there."""
    one = guarded(_1="wait:go exit:1", _2="exit:0", policy=f"drain_wait_s = {PATIENCE_S}\n")
    ready(one)
    run = one.events(ev.RunCreated)[0].run
    idle = [sys.executable, "-c", "input()"]
    # An attempt's number that never was: a process of attempt 1 would keep that attempt alive.
    left = subprocess.Popen(idle, stdin=subprocess.PIPE, env={"GUARDIAN_MARK": f"{run}/0"})
    other = subprocess.Popen(idle, stdin=subprocess.PIPE)
    sends = subprocess.Popen(idle, stdin=subprocess.PIPE, env={"GUARDIAN_MARK": f"{run}/0"})
    try:
        cards.say(used=9000)
        cards.hold((left.pid, 8000), (other.pid, 600))
        touch(one, "go")
        left.wait(PATIENCE_S)
        alive = (other.poll(), sends.poll() if gpuprobe.in_host_namespace() else None)
        cards.say(used=400)
        cards.hold()
        code = one.wait()
    finally:
        for process in (left, other, sends):
            process.kill()
            process.communicate()

    assert ((None, None), 0) == (alive, code)
    assert "SIGTERM is sent to what an earlier attempt of this run left behind" in one.shown()


@pytest.mark.long
def test_without_nvml_nothing_is_read_and_nothing_said(tmp_path):
    """On a machine that has none the job is watched as ever."""
    one = Guarded(tmp_path, sys.executable, "-c", "pass", env={"CUDA_VISIBLE_DEVICES": ""})

    assert 0 == one.run()
    assert not one.events(ev.GpuBaseline | ev.GpuFault | ev.SourceLost)


@pytest.mark.long
def test_a_job_that_trains_on_cuda_where_nobody_can_look_is_told(tmp_path):
    """Once; it goes on as ever."""
    if gpus.expected({}):
        pytest.skip("this machine has NVML")
    hello = {
        "v": 1, "ev": "hello", "t": 1.0, "pid": 1, "rank": 0, "world": 1, "step": 0, "max_steps": 9, "device_batch": 1,
        "accumulation": 1, "data_parallel": 1, "effective_batch": 1, "output_dir": "/out", "trainer": "Trainer",
        "versions": {}, "device": "cuda",
    }  # fmt: skip
    code = f"import os, time\nopen(os.environ['GUARDIAN_DIR'] + '/heartbeat.0.jsonl', 'w').write({json.dumps(hello)!r} + '\\n')"
    one = Guarded(tmp_path, sys.executable, "-c", code)

    assert 0 == one.run()
    assert 1 == one.shown().count("cannot see the GPUs: the job trains on cuda, and no library of NVML is found here")


@pytest.mark.long
def test_a_job_that_hangs_on_a_lost_gpu_is_ended(guarded, cards):
    """It printed nothing, and would wait for ever."""
    one = guarded("wait:never", policy="[pending]\nsettle_s = 1\n")
    ready(one)
    cards.lose()

    assert 4 == one.wait()
    assert ("gpu_hardware", "lost") == tuple(one.report()["attempts"][0]["cause"][k] for k in ("class", "variant"))


@pytest.mark.long
def test_memory_that_a_stranger_holds_is_waited_for_after_an_oom(guarded, cards):
    """The message names nobody; the batch is not at fault."""
    oom = "say:torch.OutOfMemoryError:_CUDA_out_of_memory._Tried_to_allocate_512.00_MiB."
    one = guarded(_1=f"wait:go {oom} exit:1", _2="exit:0", policy="drain_wait_s = 0\n")
    ready(one)
    job = one.story().attempts[0].job.pid
    cards.say(used=24000)
    cards.hold((job, 4000), (1, 20000))
    looked(one, cards)
    touch(one, "go")
    one.until("it waits", lambda run: len(run.attempts) == 2 and run.attempts[1].plan.awaits)
    looked(one, cards)
    launched = one.story().attempts[1].launched
    cards.say(used=400)
    cards.hold()

    assert (None, 0) == (launched, one.wait())
    assert ("cuda_oom", "leftover") == tuple(one.report()["attempts"][0]["cause"][k] for k in ("class", "variant"))


@pytest.mark.long
def test_a_leak_is_met_by_a_save_and_a_new_start_before_the_memory_is_full(guarded, cards):
    """No step is lost, the batch stays, and the run finishes."""
    words = ("--max_steps", "800", "--save_steps", "1000", "--output_dir", "out")
    nearly_full = harm({"do": "await the ask", "attempt": 1, "step": 380})
    one = guarded(command=(*TINY, *words), env=nearly_full)
    ready(one)
    cards.say(used=1000)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and one.process.poll() is None:
        attempt = one.story().attempt
        if attempt.number > 1:
            break
        pid, step = (attempt.hello.pid if attempt.hello else 1), attempt.last_step or 0
        cards.say(used=1000 + 60 * step)
        cards.hold((pid, 60 * step))
        time.sleep(0.2)
    cards.say(used=400)
    cards.hold()

    assert 0 == one.wait()
    report = one.report()
    assert ("cuda_oom", "leak") == tuple(report["attempts"][0]["cause"][k] for k in ("class", "variant"))
    assert [0, 0] == [attempt["lost_steps"] for attempt in report["attempts"]]
    assert "proved" == report["certificate"]["verdict"]
    assert "gpu0_power_w" in (one.run_folder.attempt_dir(1) / "metrics.jsonl").read_text()
    assert not [e for e in report["attempts"][1]["edits"] if e["kind"] != "resume"]
