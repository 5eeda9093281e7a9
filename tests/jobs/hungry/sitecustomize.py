"""A training job whose memory depends on its batch: real memory, taken in forward and given back after backward.

Python runs this file at its start where the folder is on PYTHONPATH (tests/jobs/hunger.py puts it there). HUNGRY is a
JSON object:

    mib_per_row   what each row of a micro-batch takes beyond what the model itself does, shared among its layers
    room_mib      the process may grow by this much over its size at the first forward: beyond it torch's allocator
                  fails as it does on any full machine. Without it nothing holds the job but the limits of whoever
                  started it: a cgroup's ends it without a word
    only          "train" or "eval": the other takes nothing
    longer_than   only micro-batches whose longest row has more tokens than this take anything
    on_rank       the other ranks take nothing
    caught        the job catches what the allocator says, prints it, skips the micro-batch and goes on
    worker_mib    what each data loader process takes beside; it is the first that the kernel kills
    worker_shm_mib  what each data loader process keeps in /dev/shm, as a file that is mapped: beyond what is there the
                  kernel ends it with SIGBUS
    from_batch    it takes that from its n-th batch on; the first are long through the model by then

The layers hold it as they hold activations: recomputing them (gradient checkpointing) saves all but one layer's. An
evaluation holds nothing from layer to layer: there each takes the whole and gives it back.
"""

import json
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
MIB = 2**20


def feed(trainer_class, wanted):
    original = trainer_class.__init__

    of_workers = {name: wanted.pop(name, 0) for name in ("worker_mib", "worker_shm_mib", "from_batch")}
    if wanted.pop("caught", False):
        catch(trainer_class)

    def fed(self, *args, **options):
        original(self, *args, **options)
        if any(of_workers.values()):
            self.data_collator = Pantry(self.data_collator, **of_workers)
        if wanted:
            Appetite(self.model, **wanted)

    trainer_class.__init__ = fed


def catch(trainer_class):
    """As jobs do that would rather lose a batch than end."""
    original = trainer_class.training_step

    def patient(self, *args, **options):
        import traceback

        import torch

        try:
            return original(self, *args, **options)
        except RuntimeError:
            traceback.print_exc()
            return torch.zeros(())

    trainer_class.training_step = patient


class Pantry:
    """A collator whose data loader processes fill their shelves."""

    def __init__(self, collate, worker_mib, worker_shm_mib, from_batch):
        self.collate, self.worker_mib, self.worker_shm_mib = collate, worker_mib, worker_shm_mib
        self.from_batch = from_batch
        self.batches = 0
        self.shelves = None

    def __call__(self, rows):
        from torch.utils.data import get_worker_info

        self.batches += 1
        if self.shelves is None and self.batches >= self.from_batch and get_worker_info() is not None:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")
            self.shelves = [bytearray(b"1") * int(self.worker_mib * MIB), self.in_shared_memory()]
        return self.collate(rows)

    def in_shared_memory(self):
        """Mapped and written to page by page: the kernel finds out only then that there is no room."""
        import mmap

        if not self.worker_shm_mib:
            return None
        path = f"/dev/shm/pantry-{os.getpid()}"
        with open(path, "wb+") as file:
            os.unlink(path)
            file.truncate(int(self.worker_shm_mib * MIB))
            shelf = mmap.mmap(file.fileno(), 0)
        shelf[:] = b"1" * len(shelf)
        return shelf


class Appetite:
    """What the micro-batch in forward takes, held by each layer until its backward."""

    def __init__(self, model, mib_per_row, room_mib=None, only=None, longer_than=0, on_rank=None):
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.mib_per_row, self.room_mib, self.only, self.longer_than = mib_per_row, room_mib, only, longer_than
        self.share = 0  # bytes
        if on_rank not in {None, int(os.environ.get("RANK", "0"))}:
            self.mib_per_row = 0
        self.layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
        around_forward(model, self.look)
        for layer in self.layers:
            around_forward(layer, self.eat)

    def look(self, forward, model, args, inputs):
        """Before the layers are reached: what this micro-batch is worth to each of them."""
        self.limit()
        rows, mask = inputs["input_ids"].shape[0], inputs["attention_mask"]
        counts = self.only in {None, "train" if model.training else "eval"}
        counts = counts and int(mask.sum(1).max()) > self.longer_than
        whole = int(rows * self.mib_per_row * MIB) if counts else 0
        self.share = whole // len(self.layers) if model.training else whole
        return forward(*args, **inputs)

    def limit(self):
        if self.room_mib is None:
            return
        import resource

        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + self.room_mib * MIB, resource.RLIM_INFINITY))
        self.room_mib = None  # from the first forward on it stands

    def eat(self, forward, layer, args, inputs):
        hidden = forward(*args, **inputs)
        if not self.share:
            return hidden
        if isinstance(hidden, tuple):  # transformers 4 returns one where attentions may follow
            return (held(hidden[0], self.share), *hidden[1:])
        return held(hidden, self.share)


def around_forward(module, what):
    import functools

    original = module.forward

    @functools.wraps(original)
    def forward(*args, **inputs):
        return what(original, module, args, inputs)

    module.forward = forward


def held(tensor, size):
    """The same values; whoever goes back through them keeps that many bytes more until then."""
    import torch

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(context, values):
            # full: each page is written to, or the kernel would not give it
            context.save_for_backward(torch.full((size,), 1, dtype=torch.uint8, device=values.device))
            return values.clone()

        @staticmethod
        def backward(context, gradient):
            del context
            return gradient

    return Held.apply(tensor)


def run_hidden():
    """Run the sitecustomize that this one hides, such as the one that does harm."""
    own = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401 - not this file: its folder has left sys.path
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if own is not None:
            sys.modules["sitecustomize"] = own


if "HUNGRY" in os.environ:
    sys.path.insert(0, os.path.dirname(FOLDER))
    from joining import change_trainer

    sys.path.pop(0)
    change_trainer(lambda trainer_class: feed(trainer_class, json.loads(os.environ["HUNGRY"])))
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != FOLDER]
run_hidden()
