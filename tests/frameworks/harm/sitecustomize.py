"""Harm done inside any training by transformers' Trainer, whatever framework is around it.

Python runs this file at its start where the folder is on PYTHONPATH. HARM is a JSON object: `do` (kill, memory),
`step` (the one that is being made) and `rank`; `kill` happens in the first attempt alone, `memory` wherever a
micro-batch has more than `rows` rows. Ranks that trained to the end leave their group together, which frameworks leave
out: one that exits while gloo still talks to it can abort (torch 2.13), and guardian rightly runs it again.
"""

import atexit
import json
import os
import sys

TRAINER = "transformers.trainer"


class Finder:
    """Lets the other finders find the module, and changes its class once it is loaded."""

    searching = False

    def find_spec(self, name, path=None, target=None):
        if name != TRAINER or self.searching:
            return None
        from importlib import util

        self.searching = True
        spec = util.find_spec(name)
        self.searching = False
        load = spec.loader.exec_module

        def changed(module):
            load(module)
            harm(module.Trainer, json.loads(os.environ["HARM"]))

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


def harm(trainer_class, wanted):
    teach_torch_the_cpu()
    leave_together(trainer_class)
    original = trainer_class.training_step

    def harmed(self, model, inputs, *args, **options):
        here = self.state.global_step + 1 == wanted["step"] and int(os.environ.get("RANK", "0")) == wanted["rank"]
        if wanted["do"] == "kill" and here and os.environ.get("GUARDIAN_MARK", "/1").endswith("/1"):
            os.kill(os.getpid(), 9)
        if wanted["do"] == "memory" and here and len(inputs["input_ids"]) > wanted["rows"]:
            import torch

            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.00 GiB is free."
            )
        return original(self, model, inputs, *args, **options)

    trainer_class.training_step = harmed


if "HARM" in os.environ:
    sys.meta_path.insert(0, Finder())
