"""The rows of one optimizer step overflow, whatever the learning rate: a stand-in for rows that do so in fp16 on a GPU.

Python runs this file at its start where the folder is on PYTHONPATH. SPOILT is the number of that step. From there on
everything is real: the gradients, the weights that they spoil, the checkpoints that are saved afterwards.
"""

import os
import sys

TRAINER = "guardian.trainer.saving_trainer"


class Finder:
    """Lets the other finders find the trainer's module, and changes its class once it is loaded."""

    searching = False

    def find_spec(self, name, path=None, target=None):
        if name != TRAINER or self.searching:
            return None
        from importlib import util

        self.searching = True
        spec = util.find_spec(name)
        load = spec.loader.exec_module

        def changed(module):
            load(module)
            spoil(module.SavingTrainer, int(os.environ["SPOILT"]))

        spec.loader.exec_module = changed
        return spec


def spoil(trainer_class, step):
    original = trainer_class.compute_loss

    def overflowing(self, *args, **options):
        result = original(self, *args, **options)
        if self.state.global_step + 1 != step:
            return result
        # What a half-precision overflow does: infinity forwards, and no number backwards.
        return (result[0] * float("inf"), *result[1:]) if isinstance(result, tuple) else result * float("inf")

    trainer_class.compute_loss = overflowing


if "SPOILT" in os.environ:
    sys.meta_path.insert(0, Finder())
