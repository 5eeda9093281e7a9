"""What is counted of a batch, on tensors of every shape that frameworks feed their models."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.companion.launching import companion_module

companion = companion_module()
counting = companion.beside("guardian_counting")

ROWS = [[5, 9, 2], [7, 7, 1, 4], [3, 8], [6, 6, 6, 6, 6]]
tokens = st.integers(0, 150_000)
rows_of_tokens = st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=6)


def padded(rows, labels=None, *, extra=0, left=False):
    """A batch as a collator makes it; `extra` columns of padding, on either side."""
    width = max(map(len, rows)) + extra

    def filled(row, value):
        gap = [value] * (width - len(row))
        return gap + list(row) if left else list(row) + gap

    return {
        "input_ids": torch.tensor([filled(row, 0) for row in rows]),
        "attention_mask": torch.tensor([filled([1] * len(row), 0) for row in rows]),
        "labels": torch.tensor([filled(row, -100) for row in labels or rows]),
    }


def packed(rows):
    """The same rows as one, without padding: only the positions tell them apart."""
    flat = torch.tensor([[token for row in rows for token in row]])
    places = torch.tensor([[place for row in rows for place in range(len(row))]])
    return {"input_ids": flat, "labels": flat.clone(), "position_ids": places}


def facts(*batches, fingerprinted=True):
    """What is told of a step with these micro-batches."""
    tally = counting.Tally()
    for batch in batches:
        tally.add(batch, fingerprinted)
    return tally.facts()


def reference(rows, labels=None):
    """The fingerprint of the same rows in plain integers, one at a time."""

    def wrapped(x):
        return (x + 2**63) % 2**64 - 2**63

    def mixed(x):
        x = wrapped(x * 0x9E3779B97F4A7C15)
        x = wrapped((x ^ (x >> 29)) * 0xBF58476D1CE4E5B9)
        return x ^ (x >> 32)

    total = 0
    for row, row_labels in zip(rows, labels or rows, strict=True):
        pairs = enumerate(zip(row, row_labels, strict=True), start=1)
        hashes = [mixed((token + (place << 32)) ^ ((label + 101) << 17)) for place, (token, label) in pairs]
        total += mixed(wrapped(sum(hashes)) + 1)
    return f"{total % 2**64:016x}"


@settings(max_examples=60)
@given(rows=rows_of_tokens, cut=st.integers(0, 6), extra=st.integers(0, 3), left=st.booleans())
def test_a_fingerprint_depends_on_the_rows_alone(rows, cut, extra, left):
    """Not on their order, nor on the split into batches, nor on padding; it is what plain integers give."""
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    whole = facts(padded(rows[::-1]))

    assert reference(rows) == whole["fp"]
    assert whole == facts(*[padded(part, extra=extra, left=left) for part in parts])
    assert whole["fp"] == facts(*[packed(part) for part in parts])["fp"]


@pytest.mark.parametrize(
    "rows, labels",
    [
        ([[5, 9, 3], *ROWS[1:]], None),
        ([[9, 5, 2], *ROWS[1:]], None),
        (ROWS[1:], None),
        ([*ROWS, ROWS[0]], None),
        ([[5, 9], [2, 7, 7, 1, 4], *ROWS[2:]], None),
        (ROWS, [[-100, 9, 2], *ROWS[1:]]),
    ],
    ids=["another token", "two swapped", "a row less", "a row twice", "another border", "another label"],
)
def test_a_fingerprint_tells_other_rows(rows, labels):
    """One changed token, place, border or label is another sample."""
    assert facts(padded(ROWS))["fp"] != facts(padded(rows, labels))["fp"]


def test_a_packed_row_may_begin_in_the_middle_of_a_sequence():
    """Positions that do not start at zero index nothing outside of the row."""
    batch = packed(ROWS)
    batch["position_ids"] += 4

    assert 16 == len(facts(batch)["fp"])


@pytest.mark.parametrize(
    "batch, rows, tokens",
    [
        ({"input_ids": torch.ones(3, 5, dtype=torch.long)}, 3, 15),
        ({"input_ids": torch.ones(3, 5), "attention_mask": torch.ones(3, 1, 5, 5)}, 3, 15),
        ({"input_ids": torch.ones(2, 4), "attention_mask": torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 0]])}, 2, 5),
        ({"labels": torch.ones(9), "inputs_embeds": torch.ones(2, 7, 16)}, 2, 14),
        ({"scale": torch.tensor(1.0), "pixel_values": torch.ones(6, 3, 8, 8)}, 6, 18),
        ({"values": torch.ones(5)}, 5, 5),
    ],
    ids=["ids", "four-dimensional mask", "float mask", "embeddings", "images", "one dimension"],
)
def test_rows_and_tokens_of_other_inputs(batch, rows, tokens):
    """The first dimension of what leads the batch; the real tokens where a plain mask tells them."""
    assert {"rows": rows, "tokens": tokens} == facts(batch, fingerprinted=False)


@pytest.mark.parametrize("turn", [1, -1])
def test_no_fingerprint_is_told_of_a_step_that_was_not_seen_whole(turn):
    """Text and a batch of embeddings, in either order: the sum of the parts would claim too much."""
    batches = [padded(ROWS), {"inputs_embeds": torch.ones(2, 7, 16)}]

    assert {"rows": 6, "tokens": 28} == facts(*batches[::turn])


@pytest.mark.parametrize(
    "batch, longest",
    [
        (padded(ROWS, extra=3), 5),
        (padded(ROWS, extra=3, left=True), 5),
        ({"input_ids": torch.ones(3, 7, dtype=torch.long)}, 7),
        ({"input_ids": torch.ones(3, 5), "attention_mask": torch.ones(3, 1, 5, 5)}, 5),
        (packed(ROWS), 14),
        ({"inputs_embeds": torch.ones(2, 7, 16)}, 7),
        ({"pixel_values": torch.ones(6, 3, 8, 8)}, None),
    ],
    ids=["padded right", "padded left", "no mask", "four-dimensional mask", "packed", "embeddings", "images"],
)
def test_the_longest_row_is_that_of_real_tokens(batch, longest):
    """What is no text has no length in tokens."""
    assert longest == counting.longest_row(batch, counting.leading(batch))


def test_a_length_is_not_waited_for_on_an_accelerator():
    """The padded width is known on the host; here the meta device stands for one: it has no values to read."""
    batch = {name: tensor.to("meta") for name, tensor in padded(ROWS, extra=3).items()}

    assert 8 == counting.longest_row(batch, batch["input_ids"])


def test_a_step_without_a_batch_tells_nothing():
    """Unknown, not zero."""
    assert {} == facts()
    assert {} == facts({"flag": True, "scale": torch.tensor(1.0)})


class Doubling(torch.nn.Module):
    """A model whose forward takes a batch by place or by name."""

    def forward(self, input_ids=None, **_):
        return input_ids * 2.0


def watching():
    """A companion within a training loop, and a trainer for it."""
    one = companion.Companion()
    one.loop = companion.Loop("out")
    return one, SimpleNamespace(optimizer=SimpleNamespace(param_groups=[{"lr": 0.5}]))


def test_only_a_forward_that_learns_is_counted():
    """Not one in evaluation, nor generation or a reference pass without gradients, nor one between the steps."""
    one, trainer = watching()
    model, batch = Doubling(), padded(ROWS)
    hook = one.enter_micro_step(trainer, model)
    with torch.no_grad():
        model(**batch)
    model.eval()(**batch)
    model.train()(**batch)
    hook.remove()
    model(**batch)

    assert {"rows": 4, "tokens": 14} == one.loop.tally.facts()


def test_a_batch_may_come_by_place():
    """As a tensor or as a mapping."""
    one, trainer = watching()
    model, hook = Doubling(), None
    hook = one.enter_micro_step(trainer, model)
    model(padded(ROWS)["input_ids"])
    hook.remove()
    one.forward_entered(model, (padded(ROWS),), {})

    assert {"rows": 8, "tokens": 20 + 14} == one.loop.tally.facts()


class Summing(torch.nn.Module):
    """A model to compile whole."""

    def forward(self, input_ids=None, **_):
        return input_ids.sum() * 2.0


def test_a_compiled_model_is_counted_and_its_graph_stays_whole():
    """The hook stands outside of what is compiled: nothing breaks, nothing is compiled again."""
    one, trainer = watching()
    graphs = []
    model = torch.compile(Summing(), backend=lambda graph, _: graphs.append(graph) or graph, fullgraph=True)
    for _ in range(3):
        hook = one.enter_micro_step(trainer, model)
        model(**padded(ROWS))
        hook.remove()

    assert {"rows": 12, "tokens": 42} == one.loop.tally.facts()
    assert 1 == len(graphs)


def test_a_model_compiled_in_place_is_left_alone():
    """Its hooks would be compiled along: better nothing known than a broken graph."""
    one, trainer = watching()
    model = Summing()
    model.compile(backend="eager", fullgraph=True)

    assert one.enter_micro_step(trainer, model) is None
    assert {} == one.failures


class Device:
    """A stand-in for torch on a GPU: numbers arrive when the test says so."""

    class Numbers:
        """A tensor on the device."""

        def __init__(self, values):
            self.values, self.is_cuda, self.device = values, True, "cuda:0"

        def to(self, *_, **__):
            return self

        def tolist(self):
            return self.values

    def __init__(self):
        self.arrived = True
        event = SimpleNamespace(record=lambda _stream: None, query=lambda: self.arrived, synchronize=lambda: None)
        self.cuda = SimpleNamespace(current_stream=lambda _device: "stream", Event=lambda: event)

    def stack(self, values):
        return self.Numbers(values)


def test_a_loss_on_an_accelerator_is_told_a_step_late(monkeypatch):
    """Reading it at once would make the host wait for the device; the last one comes with the end."""
    monkeypatch.setitem(sys.modules, "torch", Device())
    losses, told = counting.Losses(), []
    for step, loss in ((1, 2.5), (2, 2.25), (3, 2.0)):
        losses.sum = loss
        told.append(losses.told(step))

    assert [{}, {"loss": [1, 2.5]}, {"loss": [2, 2.25]}] == told
    assert {"loss": [3, 2.0]} == losses.last()
    assert {} == losses.last()


def test_a_loss_that_a_lost_device_holds_is_not_waited_for(monkeypatch):
    """After an exception the device may never answer."""
    device = Device()
    monkeypatch.setitem(sys.modules, "torch", device)
    losses = counting.Losses()
    losses.sum = 2.5
    losses.told(1)
    device.arrived = False

    assert {} == losses.last()
