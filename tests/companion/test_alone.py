"""The companion's parts by themselves: what they write, what they obey, and that no failure leaves them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from guardian.core import wire
from tests.companion.launching import COMPANION, companion_module

companion = companion_module()
telling = companion.beside("guardian_telling")
signals_of_the_job = companion.beside("guardian_signals")
ARGS = SimpleNamespace(
    process_index=0,
    local_process_index=0,
    world_size=1,
    output_dir="out",
    max_steps=9,
    per_device_train_batch_size=4,
    train_batch_size=4,
    gradient_accumulation_steps=2,
    save_strategy="no",
    logging_strategy="no",
    learning_rate=1e-4,
)


@pytest.fixture
def callback(tmp_path):
    """A companion within a training loop that no trainer runs, as in trainers with loops of their own."""
    one = companion.Companion()
    one.heartbeat = companion.Heartbeat(str(tmp_path))
    one.on_train_begin(ARGS, state(0), control())
    yield one
    one.leave()


def state(step):
    """The trainer's state after so many steps."""
    return SimpleNamespace(global_step=step, max_steps=9)


def control():
    """What the callbacks of a trainer may ask for."""
    return SimpleNamespace(should_save=False, should_training_stop=False)


def told(folder, event):
    """The lines of one kind."""
    lines = (folder / "heartbeat.0.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["ev"] == event]


@pytest.mark.parametrize("name", ["ENV_DIR", "ENV_SPEC", "WIRE_VERSION", "CONTROL", "COMPANION_KNOBS"])
def test_the_companion_carries_the_constants_of_the_wire(name):
    """It cannot import them: it runs where guardian is not installed."""
    assert getattr(wire, name) == getattr(companion, name)
    assert wire.HEARTBEAT == telling.HEARTBEAT


def test_a_loop_of_its_own_is_told_with_what_the_arguments_say(callback, tmp_path):
    """A trainer that overrides the whole loop still calls the callbacks."""
    callback.on_step_end(ARGS, state(1), control())
    (hello,) = told(tmp_path, "hello")
    (step,) = told(tmp_path, "step")

    assert (4, 2, 1, 8, None) == tuple(
        hello[name] for name in ("device_batch", "accumulation", "data_parallel", "effective_batch", "trainer")
    )
    assert {"t": step["t"], "ev": "step", "step": 1} == step
    assert [] == told(tmp_path, "error")


def test_a_failure_inside_is_told_and_the_third_turns_the_piece_off(callback, tmp_path):
    """Where, what and since when; the callbacks around it go on."""
    for step in (1, 2, 3, 4):
        callback.loop.tally = 3
        callback.on_step_end(ARGS, state(step), control())
    errors = told(tmp_path, "error")

    assert [False, False, True] == [line["off"] for line in errors]
    assert {"step_done"} == {line["where"] for line in errors}
    assert errors[0]["err"].startswith("AttributeError: 'int' object has no attribute 'facts' (guardian_companion.py:")


@pytest.mark.parametrize(
    "part, where",
    [
        ("guardian_hello", "begin"),
        ("guardian_batch", "begin"),
        ("guardian_counting", "leave_micro_step"),
        ("guardian_signals", "look_for_handlers"),
        ("guardian_control", "obey"),
    ],
)
def test_a_part_that_cannot_be_loaded_is_told_and_the_others_go_on(tmp_path, monkeypatch, part, where):
    """The steps, the exception and the end are told without it."""
    copy = tmp_path / "copy"
    shutil.copytree(COMPANION, copy)
    (copy / f"{part}.py").write_text("import of_nothing")
    monkeypatch.delitem(sys.modules, part, raising=False)
    one = companion_module(copy).Companion()
    one.heartbeat = telling.Heartbeat(str(tmp_path))
    one.on_train_begin(ARGS, state(0), control())
    one.leave_micro_step(torch.tensor(2.5))
    one.trainer = SimpleNamespace(state=state(1))
    one.on_step_end(ARGS, state(1), control())
    one.failed(ValueError("the job's own"))
    one.on_train_end(ARGS, state(1), control())

    assert {where} == {line["where"] for line in told(tmp_path, "error")}
    assert "No module named 'of_nothing'" in told(tmp_path, "error")[0]["err"]
    assert [1, 1, 1] == [told(tmp_path, event)[0]["step"] for event in ("step", "exc", "end")]


def test_a_failure_that_cannot_be_described_stays_inside_too(callback, tmp_path):
    """Exceptions of frameworks may fail in their own text."""

    class Nameless(Exception):  # noqa: N818 - it is no error of ours
        def __str__(self):
            raise ValueError

    callback.trainer = SimpleNamespace(state=state(3))
    callback.failed(Nameless())
    (exc,) = told(tmp_path, "exc")

    assert (3, "Nameless", None) == (exc["step"], exc["type"], exc["text"])


def test_nothing_is_written_before_a_training_loop_begins(tmp_path, monkeypatch):
    """A loader's worker that imports the job again carries the same rank. A bad spec is told when the loop begins."""
    monkeypatch.setenv("GUARDIAN_SPEC", "[")
    heartbeat = companion.Heartbeat(str(tmp_path))
    knobs = companion.knobs(heartbeat)
    before = list(tmp_path.iterdir())
    heartbeat.open(0)
    heartbeat.tell("hello")

    assert {} == knobs
    assert [] == before
    assert ["knobs"] == [line["where"] for line in told(tmp_path, "error")]
    assert 1 == len(told(tmp_path, "hello"))


def test_unknown_knobs_are_ignored(tmp_path, monkeypatch):
    """Either side may be older than the other."""
    monkeypatch.setenv("GUARDIAN_SPEC", '{"fingerprint": true, "restore_batch": false, "of tomorrow": 3}')

    assert {"fingerprint": True} == companion.knobs(companion.Heartbeat(str(tmp_path)))


def test_a_link_in_the_place_of_the_heartbeat_is_not_followed(tmp_path):
    """Whoever can write in the folder must not choose what the job appends to."""
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / "heartbeat.0.jsonl").symlink_to(victim)
    heartbeat = companion.Heartbeat(str(tmp_path))
    heartbeat.open(0)
    heartbeat.tell("hello")

    assert b"" == victim.read_bytes()


def test_numbers_of_numpy_are_logged_and_objects_are_not(callback, tmp_path):
    """What a log may hold on the wire: numbers and strings."""
    import numpy as np

    logs = {"loss": np.float32(0.5), "n": np.int64(3), "nan": float("nan"), "note": "x", "list": [1]}
    callback.on_log(ARGS, state(1), control(), logs=logs)
    (line,) = told(tmp_path, "log")

    assert str({"loss": 0.5, "n": 3, "nan": float("nan"), "note": "x"}) == str(line["logs"])


def order(folder, text):
    """A control file, by rename."""
    (folder / "control.tmp").write_text(text)
    (folder / "control.tmp").rename(folder / "control.json")


def test_a_newer_order_replaces_an_older_one(callback, tmp_path):
    """The file is read again when it has changed, and acknowledged once."""
    orders = {1: '{"id": 1, "save_at": 3, "stop": true}', 2: '{"id": 2, "save_at": 4, "stop": false}'}
    obeyed = []
    for step in range(1, 6):
        if step in orders:
            order(tmp_path, orders[step])
        wanted = control()
        callback.on_step_end(ARGS, state(step), wanted)
        obeyed.append((wanted.should_save, wanted.should_training_stop))

    assert [(False, False)] * 3 + [(True, False), (False, False)] == obeyed
    assert [(1, 1, 3), (2, 2, 4)] == [(one["id"], one["step"], one["save_at"]) for one in told(tmp_path, "ack")]


@pytest.mark.parametrize("text", ["{", "[3]"])
def test_an_unreadable_order_is_told_once_and_the_next_is_obeyed(callback, tmp_path, text):
    """A control file is written by rename; what cannot be read is not read again and again."""
    order(tmp_path, text)
    for step in (1, 2):
        callback.on_step_end(ARGS, state(step), control())
    order(tmp_path, '{"id": 2, "save_at": 3, "stop": true}')
    wanted = control()
    callback.on_step_end(ARGS, state(3), wanted)

    assert ["obey"] == [line["where"] for line in told(tmp_path, "error")]
    assert wanted.should_training_stop


def test_a_step_that_takes_long_tells_of_its_micro_steps_now_and_then(callback, tmp_path, monkeypatch):
    """And one that is quick does not: it tells of itself."""
    clock = iter(range(0, 1000, 4))  # four seconds from look to look
    monkeypatch.setattr(companion.time, "monotonic", lambda: next(clock))
    callback.loop.alive_told = 0
    for _ in range(7):
        callback.micro_step_done()
    long_one = [line["batch"] for line in told(tmp_path, "batch")]
    for step in range(1, 9):
        callback.micro_step_done()
        callback.on_step_end(ARGS, state(step), control())

    assert [4, 7] == long_one
    assert long_one == [line["batch"] for line in told(tmp_path, "batch")]


def test_an_evaluation_tells_of_its_batches_now_and_then_and_only_within_a_training(callback, tmp_path, monkeypatch):
    """Its begin at once, so that whoever listens knows that it will."""
    clock = iter(range(1000))
    monkeypatch.setattr(companion.time, "monotonic", lambda: next(clock))
    callback.on_prediction_step(ARGS, state(0), control())
    callback.enter("eval", state(0))
    callback.batches_begin()
    for _ in range(5):
        callback.on_prediction_step(ARGS, state(0), control())
    callback.leave()
    callback.batches_begin()

    assert [0, 2, 4] == [line["batch"] for line in told(tmp_path, "batch")]


@pytest.fixture
def own_handler():
    """A handler for SIGUSR1 as a job sets one; what stood before comes back."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda signum, _frame: heard.append(signum))
    yield heard
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_noted_and_the_jobs_handler_runs(own_handler):
    """And the handler is the job's again afterwards."""
    handler, signals = signal.getsignal(signal.SIGUSR1), signals_of_the_job.Signals()
    signals.look()
    signal.raise_signal(signal.SIGUSR1)
    signals.leave()

    assert signals.heard
    assert [signal.SIGUSR1] == own_handler
    assert handler is signal.getsignal(signal.SIGUSR1)


def test_defaults_stay_in_place():
    """A default that is replaced by anything changes how a job ends."""
    before = {signum: signal.getsignal(signum) for signum in signals_of_the_job.Signals.WATCHED}
    signals = signals_of_the_job.Signals()
    signals.look()

    assert before == {signum: signal.getsignal(signum) for signum in signals_of_the_job.Signals.WATCHED}
    assert {} == signals.wrapped


def test_a_handler_set_by_the_job_during_the_training_is_not_undone(own_handler):
    """Giving back what stood before would take the job's newer one away."""
    signals = signals_of_the_job.Signals()
    signals.look()
    newer = lambda _signum, _frame: None  # noqa: E731 - told apart by identity
    signal.signal(signal.SIGUSR1, newer)
    signals.leave()

    assert newer is signal.getsignal(signal.SIGUSR1)


def test_handlers_are_looked_for_a_few_times_only(own_handler):
    """Two parties that wrap each other's handler at every step would never end."""
    signals = signals_of_the_job.Signals()
    for _ in range(50):
        signals.look()
        theirs = signal.getsignal(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda signum, frame, inner=theirs: inner(signum, frame))
    signal.raise_signal(signal.SIGUSR1)

    assert signals.LOOKS == signals.looks
    assert 1 == len(own_handler)


def test_a_training_in_another_thread_leaves_handlers_alone(own_handler):
    """Python allows signal handlers to the main thread only."""
    handler, signals = signal.getsignal(signal.SIGUSR1), signals_of_the_job.Signals()
    thread = threading.Thread(target=lambda: (signals.look(), signals.leave()))
    thread.start()
    thread.join()

    assert handler is signal.getsignal(signal.SIGUSR1)
