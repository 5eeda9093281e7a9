"""A training job on transformers' Trainer that knows nothing of the guardian: `job.py PLAN.json`.

The plan is a list of trainings to run one after the other in this process. What really happened is written beside
the plan, in truth.<rank>.jsonl, measured without the trainer's help: rows in the model's own forward, the learning
rate in a hook of the optimizer.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import (
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

PLAN = Path(sys.argv[1])
TRUTH = PLAN.parent / f"truth.{os.environ.get('RANK', '0')}.jsonl"


def tell(**facts):
    """A line of the truth."""
    with TRUTH.open("a") as file:
        file.write(json.dumps(facts) + "\n")


class CountedModel(LlamaForCausalLM):
    """Notes every row that it learns from; may fail in a chosen micro-batch."""

    rows, lr, fault = (), None, None

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        if self.training and torch.is_grad_enabled():
            pairs = zip(input_ids, attention_mask, strict=True)
            CountedModel.rows += tuple(" ".join(map(str, row[mask.bool()].tolist())) for row, mask in pairs)
            if CountedModel.fault is not None:
                CountedModel.fault()
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)


class Witness(TrainerCallback):
    """Writes the truth of each step down, and does what the plan wants done at a step."""

    def __init__(self, plan):
        self.plan = plan
        self.asked_to_stop = False

    def on_train_begin(self, *_, **__):
        CountedModel.rows = ()

    def on_step_begin(self, _args, state, _control, **_):
        fault = self.plan.pop("fault", None) if state.global_step == self.plan.get("fault_after") else None
        CountedModel.fault = {"kill": killed, "raise": missing_column, "memory": out_of_memory, None: None}[fault]

    def on_step_end(self, _args, state, control, model=None, **_):
        if "room" in self.plan:
            return
        rows, CountedModel.rows = CountedModel.rows, ()
        hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
        tokens = sum(len(row.split()) for row in rows)
        tell(name=self.plan["name"], step=state.global_step, rows=rows, tokens=tokens, lr=CountedModel.lr, hooks=hooks)
        if state.global_step == self.plan.get("signal_after"):
            os.kill(os.getpid(), signal.SIGTERM)
        control.should_training_stop |= self.asked_to_stop

    def on_log(self, _args, state, _control, logs=None, **_):
        if "loss" in logs and "room" not in self.plan:
            tell(name=self.plan["name"], step=state.global_step, loss=logs["loss"])

    def stop_gracefully(self, _signum, _frame):
        self.asked_to_stop = True


class RestoringTrainer(Trainer):
    """Does what train() of transformers 4.x does after it has read trainer_state.json."""

    restored = None

    def train(self, *args, **kwargs):
        self._train_batch_size = self.restored
        return super().train(*args, **kwargs)


def killed():
    """As the kernel ends a process: nothing of it runs any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_memory():
    """In the words by which accelerate knows it."""
    raise RuntimeError("CUDA out of memory.")


def missing_column():
    """A fault of the job's own."""
    raise KeyError("input_ids")


def dataset(size):
    """The same rows of several lengths each time."""
    choose = torch.Generator().manual_seed(7)
    lengths = torch.randint(3, 9, (size,), generator=choose).tolist()
    return [torch.randint(1, 32, (length,), generator=choose).tolist() for length in lengths]


def padded(rows):
    """The collator."""
    width = max(map(len, rows))
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    ids = [row + [0] * (width - len(row)) for row in rows]
    labels = [row + [-100] * (width - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def small_model(plan):
    """From a configuration, the same weights each time; with an adapter if the plan wants one."""
    torch.manual_seed(1)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = CountedModel(LlamaConfig(**shape, num_attention_heads=2, max_position_embeddings=64, pad_token_id=0))
    if plan.get("peft"):
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()  # transformers 4.x recomputes reentrantly
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    return model


def train(plan):
    """One training, and an evaluation outside of it."""
    common = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    args = TrainingArguments(output_dir=plan["out"], remove_unused_columns=False, **{**common, **plan["arguments"]})
    witness = Witness(plan)
    callbacks = [witness] + [EarlyStoppingCallback(early_stopping_patience=1)] * bool(plan.get("early_stopping"))
    if "signal_after" in plan:
        signal.signal(signal.SIGTERM, witness.stop_gracefully)
    if plan.get("spawn"):
        torch.multiprocessing.set_start_method("spawn", force=True)
    trainer = (RestoringTrainer if "restored_batch" in plan else Trainer)(
        model=small_model(plan),
        args=args,
        data_collator=padded,
        train_dataset=dataset(plan.get("rows", 64)),
        eval_dataset=dataset(8),
        callbacks=callbacks,
    )
    trainer.restored = plan.get("restored_batch")
    with world(plan):
        trainer.train(resume_from_checkpoint=plan.get("resume"))
    trainer.evaluate()  # outside of a training loop
    handlers = [
        getattr(signal.getsignal(one), "__name__", None) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    ]
    tell(name=plan["name"], handlers=handlers)


@contextlib.contextmanager
def world(plan):
    """The folder of the heartbeat as the plan wants it during one training."""
    folder = Path(os.environ["GUARDIAN_DIR"])
    if "control" in plan:
        (folder / "control.json").write_text(json.dumps(plan["control"]))
    if "room" in plan:  # bytes by which the heartbeat may still grow
        room = (folder / "heartbeat.0.jsonl").stat().st_size + plan["room"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    if plan.get("hidden"):
        folder.rename(folder.with_name("gone"))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if plan.get("hidden"):
        folder.with_name("gone").rename(folder)
    (folder / "control.json").unlink(missing_ok=True)


def main():
    """The plan, with a witness at every step of an optimizer."""

    def note(optimizer, _args, _kwargs):
        CountedModel.lr = optimizer.param_groups[0]["lr"]

    register_optimizer_step_pre_hook(note)
    for plan in json.loads(PLAN.read_text()):
        train(plan)
    part()


def part():
    """Leave the group together: a rank that exits while gloo still talks to it can abort, companion or not."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
