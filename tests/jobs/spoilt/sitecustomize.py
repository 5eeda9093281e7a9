"""The rows of one optimizer step overflow, whatever the learning rate: a stand-in for rows that do so in fp16 on a GPU.

Python runs this file at its start where the folder is on PYTHONPATH. SPOILT is the number of that step, or one for each
attempt ("7,9": none in the third). From there on everything is real: the gradients, the weights that they spoil, the
checkpoints that are saved afterwards. RATE is a learning rate that a plugin sets before each step of the second attempt.
"""

import os
import sys


def spoil_as_asked(trainer_class):
    attempt = int(os.environ["GUARDIAN_MARK"].rpartition("/")[2])
    spoil(trainer_class, step_of(attempt))
    if attempt == 2 and "RATE" in os.environ:
        set_rate(trainer_class, float(os.environ["RATE"]))


def step_of(attempt):
    steps = [int(step) for step in os.environ["SPOILT"].split(",")]
    return steps[0] if len(steps) == 1 else dict(enumerate(steps, 1)).get(attempt)


def set_rate(trainer_class, rate):
    original = trainer_class.training_step

    def at_its_own_rate(self, *args, **options):
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return original(self, *args, **options)

    trainer_class.training_step = at_its_own_rate


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
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from joining import change_trainer

    sys.path.pop(0)
    change_trainer(spoil_as_asked)
