"""A script whose arguments are written in it: what starts it says nothing of the training.

WHAT (a JSON object in the environment) is for what one would write here otherwise: `deepspeed` a configuration,
`loader` a data loader of the script's own, `folders` a new output folder at each start, `parser` reads the batch from a
command line by a parser that knows little, `arguments` other values.
"""

import argparse
import json
import os
import time

import torch
from hf_script import Rows, part
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

WHAT = json.loads(os.environ.get("WHAT", "{}"))


class OwnLoader(Trainer):
    """Its batches are its own affair."""

    def get_train_dataloader(self):
        return self.accelerator.prepare(torch.utils.data.DataLoader(self.train_dataset, batch_size=4))


def given():
    """What a command line can say of it."""
    if "parser" not in WHAT:
        return {"output_dir": "out", "per_device_train_batch_size": 4}
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--per_device_train_batch_size", type=int, required=True)
    parser.add_argument("--num_train_epochs", type=int, default=1)
    return {**vars(parser.parse_args())}


def main():
    own = given()
    if "folders" in WHAT:
        own["output_dir"] += f"/{time.time_ns()}"
    ranks = {"ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else {}
    if "deepspeed" in WHAT:
        ranks["deepspeed"] = WHAT["deepspeed"]
    written = {"max_steps": 8, "save_steps": 3, "learning_rate": 0.01, **WHAT.get("arguments", {})}
    args = TrainingArguments(logging_steps=1, use_cpu=True, report_to="none", **written, **ranks, **own)
    torch.manual_seed(args.seed)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=16, n_embd=16, n_layer=1, n_head=2, **quiet))
    (OwnLoader if "loader" in WHAT else Trainer)(model=model, args=args, train_dataset=Rows(64)).train()
    part()


if __name__ == "__main__":
    main()
