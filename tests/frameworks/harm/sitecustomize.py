"""Harm done inside any training by transformers' Trainer, whatever framework is around it.

Python runs this file at its start where the folder is on PYTHONPATH. HARM is a JSON list of objects, or one: `do`,
`step` (the one that is being made), `rank` (without it, each) and `since` (not in earlier attempts):

    kill    in the first attempt alone; `cut` are patterns of files in the newest checkpoint that lose their second half
            before
    memory  the process may grow no more than by `room_mib`, and each row of a micro-batch takes `mib_per_row`: beyond
            it torch's allocator fails as on any full machine. With `rows` instead, a micro-batch of more is told in
            the words of CUDA that there is no memory for it
    nan     the weights are spoilt wherever the learning rate is above `above`: a stand-in for a model that runs away

DeepSpeed's ranks on CPUs meet by gloo: it would compile a way over shared memory first, for minutes, and no GPU has it.

Ranks that trained to the end leave their group together, which frameworks leave out: one that exits while gloo still
talks to it can abort (torch 2.13), and guardian rightly runs it again.
"""

import atexit
import json
import os
import sys

MIB = 2**20
ATTEMPT = int(os.environ.get("GUARDIAN_MARK", "/1").rpartition("/")[2])


class Finder:
    """Lets the other finders find a module, and changes it once it is loaded."""

    searching = False

    def find_spec(self, name, path=None, target=None):
        if name not in CHANGED or self.searching:
            return None
        from importlib import util

        self.searching = True
        spec = util.find_spec(name)
        self.searching = False
        load = spec.loader.exec_module

        def changed(module):
            load(module)
            CHANGED[name](module)

        spec.loader.exec_module = changed
        return spec


def teach_torch_the_cpu():
    """Transformers 4 loads the optimizer of several ranks onto the device by name, and torch knows no `cpu:0`.

    No resume on several CPU ranks can work there, guarded or not; on GPUs it does.
    """
    import torch

    def here(storage, location):
        return storage if location.startswith("cpu:") else None

    torch.serialization.register_package(0, lambda _: None, here)


MEETINGS = []
"""Never let go of: trainer/parting.py says why."""


def part():
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        MEETINGS.append(distributed.barrier(async_op=True))
        MEETINGS[-1].wait()
        distributed.destroy_process_group()


def leave_together(trainer_class):
    """Only after a train() that returned: a rank that failed must not wait for one that is in another collective."""
    original = trainer_class.train

    def train(self, *args, **options):
        result = original(self, *args, **options)
        atexit.unregister(part)
        atexit.register(part)
        return result

    trainer_class.train = train


def compile_nothing(module):
    module.build_shm_op = lambda: None


def harm(module):
    found = json.loads(os.environ["HARM"])
    wanted = found if isinstance(found, list) else [found]
    trainer_class = module.Trainer
    teach_torch_the_cpu()
    leave_together(trainer_class)
    original = trainer_class.training_step

    def harmed(self, model, inputs, *args, **options):
        rank = int(os.environ.get("RANK", "0"))
        for one in wanted:
            meant = one.get("rank", rank) == rank and one.get("since", 1) <= ATTEMPT
            if meant and self.state.global_step + 1 == one["step"]:
                DEEDS[one["do"]](self, len(inputs["input_ids"]), one)
        return original(self, model, inputs, *args, **options)

    trainer_class.training_step = harmed


def kill(trainer, rows, wanted):
    if ATTEMPT > 1:
        return
    for pattern in wanted.get("cut", ()):
        cut(trainer.args.output_dir, pattern)
    os.kill(os.getpid(), 9)


def cut(folder, pattern):
    """As a full disk or a killed save leaves it."""
    from pathlib import Path

    newest = max(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    files = [path for path in newest.glob(pattern) if path.is_file()]
    if not files:
        raise AssertionError(f"nothing in {newest} is {pattern}")
    for file in files:
        os.truncate(file, file.stat().st_size // 2)


def memory(trainer, rows, wanted):
    import resource

    import torch

    if rows > wanted.get("rows", rows):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.00 GiB is free."
        )
    if "rows" in wanted:
        return
    if "limited" not in wanted:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + wanted["room_mib"] * MIB, resource.RLIM_INFINITY))
        wanted["limited"] = True
    torch.full((rows * wanted["mib_per_row"] * MIB,), 1, dtype=torch.uint8)


def nan(trainer, rows, wanted):
    import torch

    if max(group.get("initial_lr", group["lr"]) for group in trainer.optimizer.param_groups) <= wanted["above"]:
        return
    with torch.no_grad():
        for weights in trainer.model.parameters():
            if weights.requires_grad:
                weights.fill_(float("nan"))


DEEDS = {"kill": kill, "memory": memory, "nan": nan}
CHANGED = {"transformers.trainer": harm, "deepspeed.comm.torch": compile_nothing}

if "HARM" in os.environ:
    sys.meta_path.insert(0, Finder())
