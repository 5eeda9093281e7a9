"""A plain HF Trainer that saves in place, as most scripts do; then the same save again and again, killed midway.

    saving.py OUT KILLS SEED

Trains two steps and saves OUT/checkpoint-2. After that, forked copies of this process save into OUT-killed-<n>/, each
SIGKILLed by its parent at a random moment of the time that a save takes.
"""

import os
import random
import signal
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


def main(out: str, kills: int, seed: int) -> None:
    """Save once in peace, then die in the middle of each other save."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a fork has no threads but its own
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4)
    )
    rows = [{"input_ids": [i % 512] * 8, "labels": [i % 512] * 8} for i in range(16)]
    arguments = TrainingArguments(
        out, max_steps=2, per_device_train_batch_size=2, save_strategy="no", report_to=[], use_cpu=True, logging_steps=1
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    trainer._save_checkpoint(trainer.model, None)
    began = time.monotonic()
    trainer._save_checkpoint(trainer.model, None)  # over the first: that is how long one takes here
    took_s = time.monotonic() - began
    rng = random.Random(seed)
    for number in range(kills):
        _killed(trainer, f"{out}-killed-{number}", rng.uniform(0, 1.5 * took_s))


def _killed(trainer: Trainer, folder: str, after_s: float) -> None:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        trainer.args.output_dir = folder
        os.write(told, b".")
        trainer._save_checkpoint(trainer.model, None)
        signal.pause()
    os.read(ready, 1)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
