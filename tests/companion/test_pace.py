"""A rank's own work in a step: between the micro-steps, and in forward; never what it waits for in backward."""

from __future__ import annotations

import pytest
import torch

from tests.companion.launching import companion_module

pace = companion_module().beside("guardian_pace")


class Wrapped(torch.nn.Module):
    """As DDP stands around a model."""

    def __init__(self):
        super().__init__()
        self.module = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.module(x)


class Clock:
    """The host's clock, moved by hand: what is measured is exact, however slow the machine is."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Event:
    """A CUDA event on a stream of our own; there is no GPU here."""

    happened = True

    def __init__(self, at):
        self.at = at

    def query(self):
        return self.happened

    def elapsed_time(self, later):
        return 1000 * (later.at - self.at)


@pytest.fixture
def clock(monkeypatch):
    """Time goes on only where a test says so."""
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def step(ours, model, clock, number, *, waits=7.0, before=0.25, micro_steps=2):
    """Each micro-step a quarter of a second after the one before, half a second in forward, and long in backward."""
    inner = model.module.register_forward_hook(lambda *_: setattr(clock, "now", clock.now + 0.5), prepend=True)
    for _ in range(micro_steps):
        clock.now += before
        hooks = ours.watch(model, model.register_forward_pre_hook(lambda *_: None))
        model(torch.ones(1, 2))
        clock.now += waits
        hooks.remove()
    inner.remove()
    ours.begins()
    return ours.told(number)


def test_own_work_is_what_lies_between_the_micro_steps_and_forward(clock):
    """Two of 0.25 s and 0.5 s each; the first step's beginning was not seen, so it is not told."""
    ours, model = pace.Pace(), Wrapped()

    assert {} == step(ours, model, clock, 1)
    assert {"own": [2, 1.5]} == step(ours, model, clock, 2)
    assert {"own": [3, 1.5]} == step(ours, model, clock, 3, waits=70.0)
    assert {"own": [4, 3.5]} == step(ours, model, clock, 4, before=1.25)


def test_a_step_after_an_evaluation_or_a_save_is_not_told(clock):
    """The time before it was no work of a step."""
    ours, model = pace.Pace(), Wrapped()
    step(ours, model, clock, 1)
    ours.interrupted()

    assert {} == step(ours, model, clock, 2)
    assert {"own": [3, 1.5]} == step(ours, model, clock, 3)


def test_on_a_gpu_a_step_is_told_with_the_next_one_and_never_waited_for(clock, monkeypatch):
    """Where its last event has not happened by then it is not told at all."""
    monkeypatch.setattr(pace, "moment", lambda _: Event(clock.now))
    ours, model = pace.Pace(), Wrapped()

    assert [{}, {}, {"own": [2, 1.5]}] == [step(ours, model, clock, number) for number in (1, 2, 3)]
    monkeypatch.setattr(Event, "happened", False)
    assert {} == step(ours, model, clock, 4)
    monkeypatch.setattr(Event, "happened", True)
    assert {"own": [4, 1.5]} == step(ours, model, clock, 5)


def test_nothing_is_left_in_the_model(clock):
    """Between the steps a job may copy or pickle it."""
    model = Wrapped()
    step(pace.Pace(), model, clock, 1)

    assert not model._forward_pre_hooks
    assert not model.module._forward_pre_hooks
    assert not model.module._forward_hooks


def test_a_model_without_a_wrapper_or_compiled_is_not_timed(clock):
    """Its forward may wait for the others, or would be traced with our hooks."""
    bare = torch.nn.Linear(2, 2)
    ours = pace.Pace()
    for number in (1, 2):
        hooks = ours.watch(bare, bare.register_forward_pre_hook(lambda *_: None))
        assert not bare._forward_hooks
        hooks.remove()
        assert {} == ours.told(number)
