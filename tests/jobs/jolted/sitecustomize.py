"""The weights are jolted once in the first attempt: a stand-in for what a bad batch or a bad step does to a large model.

Python runs this file at its start where the folder is on PYTHONPATH. JOLT is the number of the step that ends with it,
or two: before the second one begins the weights are put back, as a model comes back by itself. Everything else is
real: the losses, the gradients, the optimizer and the checkpoints that are saved meanwhile.
"""

import os
import sys

SIZE = 60.0


def jolt(trainer_class, at, back=None):
    original = trainer_class.training_step
    kept = []

    def jolted(self, model, *args, **options):
        import torch

        done = self.state.global_step
        with torch.no_grad():
            if done == at and not kept:
                head = model.get_output_embeddings().weight
                kept.append((head, head.clone()))
                head.add_(torch.randn(head.shape, generator=torch.Generator().manual_seed(1)) * SIZE)
            elif done + 1 == back and kept[0]:
                head, old = kept[0]
                head.copy_(old)
                kept[0] = ()
        return original(self, model, *args, **options)

    trainer_class.training_step = jolted


if "JOLT" in os.environ and os.environ.get("GUARDIAN_MARK", "").endswith("/1"):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from joining import change_trainer

    sys.path.pop(0)
    change_trainer(lambda trainer_class: jolt(trainer_class, *map(int, os.environ["JOLT"].split("-"))))
