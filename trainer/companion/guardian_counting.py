"""What enters the model, counted on this rank: rows, tokens, a fingerprint of the samples; and the loss that comes out.

The host never waits for a device that is still at work: sums are asked for, and read at the end of the step.

In the syntax of Python 3.8, on the standard library and the job's torch; a failure here never reaches the job.
"""

import sys
from collections.abc import Mapping


class Late:
    """Numbers on their way from the device to the host; neither of the two stops for it."""

    def __init__(self, scalars):
        torch = sys.modules["torch"]
        self.numbers = torch.stack(scalars)
        self.event = None
        if self.numbers.is_cuda:
            stream = torch.cuda.current_stream(self.numbers.device)
            self.numbers = self.numbers.to("cpu", non_blocking=True)  # into pinned memory
            self.event = torch.cuda.Event()
            self.event.record(stream)

    def arrived(self):
        return self.event is None or self.event.query()

    def read(self):
        """Wait, if need be, until the device has come to where the numbers were asked for; not for what follows."""
        if self.event is not None:
            self.event.synchronize()
        return self.numbers.tolist()


class Tally:
    """What entered forward on this rank in one optimizer step."""

    def __init__(self):
        self.batches = 0
        self.rows = 0
        self.tokens = 0
        self.hashed = True  # each batch so far
        self.waiting = []

    def add(self, inputs, fingerprinted):
        batch = leading(inputs)
        if batch is None:
            return
        self.batches += 1
        self.rows += batch.shape[0]
        ids, mask = inputs.get("input_ids"), mask_of(inputs, batch)
        scalars = {}
        if mask is None:
            self.tokens += batch.shape[0] * (batch.shape[1] if batch.dim() > 1 else 1)
        else:
            scalars["tokens"] = mask.sum()
        self.hashed = self.hashed and fingerprinted and batch is ids and ids.dim() == 2
        if self.hashed:
            labels, positions = like(ids, inputs, "labels"), like(ids, inputs, "position_ids")
            scalars["fingerprint"] = fingerprint(ids, mask, labels, positions)
        if scalars:
            self.waiting.append((list(scalars), Late(list(scalars.values()))))

    def facts(self):
        """For the step's line; nothing where no batch was seen: unknown, which is not zero."""
        if not self.batches:
            return {}
        sums = {"tokens": self.tokens, "fingerprint": 0}
        for names, late in self.waiting:
            for name, number in zip(names, late.read()):
                sums[name] += number
        facts = {"rows": self.rows, "tokens": sums["tokens"]}
        if self.hashed:
            facts["fp"] = format(sums["fingerprint"] % 2**64, "016x")
        return facts


class Losses:
    """The loss of the step at hand, summed on the device over its micro-batches."""

    def __init__(self):
        self.sum = None
        self.late = None  # (step, Late) of the step before, where reading at once would make the host wait

    def add(self, loss):
        loss = loss.detach().to(sys.modules["torch"].float32, copy=True)
        self.sum = loss if self.sum is None else self.sum + loss

    def told(self, step):
        """What can be told of the loss at the end of this step, as a part of its line."""
        if self.sum is None:
            return {}
        own, self.sum = (step, Late([self.sum])), None
        if own[1].event is None:
            return read(own)
        before, self.late = self.late, own
        return read(before) if before else {}

    def last(self):
        """The loss of the last finished step where it was not told yet; not waited for: the device may be gone."""
        late, self.late = self.late, None
        return read(late) if late and late[1].arrived() else {}


def read(late):
    step, number = late
    return {"loss": [step, number.read()[0]]}


def named(args, kwargs):
    """The arguments of a forward by name; positional ones by their place."""
    inputs = {}
    for place, value in enumerate(args):
        inputs.update(value if isinstance(value, Mapping) else {place: value})
    inputs.update(kwargs)
    return inputs


def leading(inputs):
    """The tensor whose first dimension is the batch."""
    candidates = [inputs.get("input_ids"), inputs.get("inputs_embeds"), *inputs.values()]
    return next((value for value in candidates if is_tensor(value) and value.dim()), None)


def longest_row(inputs, batch):
    """Tokens of the longest row; None for what is no text. Never waits: on an accelerator it is the padded width."""
    ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if not ((batch is ids and ids.dim() == 2) or (batch is embeddings and embeddings.dim() == 3)):
        return None
    mask = mask_of(inputs, batch)
    if mask is None or mask.device.type != "cpu" or not batch.shape[0]:
        return batch.shape[1]
    return int(mask.sum(1).max())


def is_tensor(value):
    return isinstance(value, sys.modules["torch"].Tensor)


def mask_of(inputs, batch):
    """True at the real tokens, from a plain attention mask."""
    mask = inputs.get("attention_mask")
    return mask != 0 if is_tensor(mask) and mask.dim() == 2 and mask.shape == batch.shape[:2] else None


def like(ids, inputs, name):
    value = inputs.get(name)
    return value if is_tensor(value) and value.shape == ids.shape else None


def fingerprint(ids, mask, labels, positions):
    """The sum over the rows of a 64-bit hash, on the batch's device.

    Neither the order of the rows, nor how they are split into batches, nor padding and its side change it; one
    token, its place or its label does. Sums of batches and ranks add up modulo 2^64. In a batch without padding
    (one long row whose position_ids start again) each sequence counts as a row.
    """
    torch = sys.modules["torch"]
    integer = torch.int64
    packed = mask is None and positions is not None and ids.shape[0] == 1
    real = torch.ones_like(ids, dtype=integer) if mask is None else mask.to(integer)
    place = positions.to(integer) + 1 if packed else real.cumsum(1)
    tokens = ids.to(integer) + (place << 32)
    if labels is not None:
        tokens = tokens ^ ((labels.to(integer) + 101) << 17)
    hashes = mixed(tokens) * real
    if not packed:
        return mixed(hashes.sum(1) + 1).sum()
    # The number of sequences stays on the device: room for as many as there are tokens, the empty ones masked out.
    sequence = (positions[0] == 0).to(integer).cumsum(0).sub(1).clamp_(min=0)
    sums = torch.zeros_like(sequence).index_add_(0, sequence, hashes[0])
    filled = torch.arange(sequence.shape[0], device=ids.device) <= sequence[-1]
    return (mixed(sums + 1) * filled).sum()


def mixed(x):
    """A bijective scramble of 64 bits (constants of splitmix64); int64 wraps on every device."""
    x = x * -7046029254386353131
    x = x ^ (x >> 29)
    x = x * -4658895280553007687
    return x ^ (x >> 32)
