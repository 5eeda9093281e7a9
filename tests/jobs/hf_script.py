"""A script as users have them: transformers' Trainer and its own arguments, nothing of guardian's.

`python hf_script.py --output_dir out --max_steps 8 ...`; the model is a toy made on the spot, the rows are counted up.
"""

import os
import signal
from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel, HfArgumentParser, Trainer, TrainerCallback, TrainingArguments


@dataclass
class Mine:
    """What the script adds to TrainingArguments."""

    rows: int = 64
    kill_at: int = 0
    forgetful: bool = False
    """The checkpoint that the arguments name is not handed to train(), as in many a script."""
    killed: str = "killed"
    """A file: the kill happens once."""


class Rows(torch.utils.data.Dataset):
    """Row n counts from n on."""

    def __init__(self, many):
        self.many = many

    def __len__(self):
        return self.many

    def __getitem__(self, index):
        if index >= self.many:
            raise IndexError(index)
        tokens = torch.arange(index, index + 8 + index % 3) % 100
        tokens = torch.cat([tokens, torch.full((10 - len(tokens),), 99)])
        return {"input_ids": tokens, "labels": tokens}


class Kill(TrainerCallback):
    """The last rank dies at a step, once."""

    def __init__(self, mine):
        self.mine = mine

    def on_step_end(self, args, state, control, **kwargs):
        last = args.process_index == args.world_size - 1
        if state.global_step == self.mine.kill_at and last and not os.path.exists(self.mine.killed):
            with open(self.mine.killed, "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)


def main():
    mine, args = HfArgumentParser((Mine, TrainingArguments)).parse_args_into_dataclasses()
    torch.manual_seed(args.seed)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=16, n_embd=16, n_layer=1, n_head=2, **quiet))
    trainer = Trainer(model=model, args=args, train_dataset=Rows(mine.rows), callbacks=[Kill(mine)])
    trainer.train(**({} if mine.forgetful else {"resume_from_checkpoint": args.resume_from_checkpoint}))
    part()


MEETINGS = []
"""Never let go of: trainer/parting.py says why."""


def part():
    """Leave the group together: a rank that exits while gloo still talks to it can abort, and is rightly run again."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        MEETINGS.append(distributed.barrier(async_op=True))
        MEETINGS[-1].wait()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
