"""A training job on transformers' Trainer that knows nothing of the guardian: `job.py PLAN.json`.

The plan is a list of trainings to run one after the other in this process. What really happened is written beside
the plan, in truth.<rank>.jsonl, measured without the trainer's help: rows in the model's own forward, the learning
rates in a hook of the optimizer, the weights themselves.
"""

import contextlib
import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import ClassVar

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
    """Notes every row that it learns from; may fail in a chosen micro-batch, in an evaluation, when it is saved."""

    rows, lr, lrs, forwards = (), None, (), 0
    faults: ClassVar = {}  # by the place where one strikes; a micro-batch's is its number within the step

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        place = "evaluation"
        if self.training and torch.is_grad_enabled():
            pairs = zip(input_ids, attention_mask, strict=True)
            CountedModel.rows += tuple(" ".join(map(str, row[mask.bool()].tolist())) for row, mask in pairs)
            place = CountedModel.forwards
            CountedModel.forwards += 1
        self.strike(place)
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)

    def save_pretrained(self, *args, **kwargs):
        self.strike("save")
        return super().save_pretrained(*args, **kwargs)

    @staticmethod
    def strike(place):
        if place in CountedModel.faults:
            CountedModel.faults.pop(place)()


class Witness(TrainerCallback):
    """Writes the truth of each step down, and does what the plan wants done at a step."""

    def __init__(self, plan):
        self.plan = plan
        self.asked_to_stop = False

    def on_train_begin(self, *_, **__):
        CountedModel.rows = ()

    def on_step_begin(self, args, state, _control, **_):
        CountedModel.forwards = 0
        if state.global_step == self.plan.get("fault_after") and args.process_index in self.plan.get("ranks", (0, 1)):
            CountedModel.faults = {self.plan.get("place", 0): FAULTS[self.plan.pop("fault", None)]}
            if "also" in self.plan:
                CountedModel.faults["save"] = FAULTS[self.plan["also"]]

    def on_optimizer_step(self, _args, _state, _control, **_):
        CountedModel.strike("optimizer")

    def on_step_end(self, _args, state, control, model=None, **_):
        if "room" in self.plan:
            return
        rows, CountedModel.rows = CountedModel.rows, ()
        hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
        tokens = sum(len(row.split()) for row in rows)
        weights = sum(float(one.detach().double().abs().sum()) for one in model.parameters())
        tell(name=self.plan["name"], step=state.global_step, rows=rows, tokens=tokens, hooks=hooks, weights=weights,
             lr=CountedModel.lr, lrs=CountedModel.lrs)  # fmt: skip
        if state.global_step == self.plan.get("signal_after"):
            os.kill(os.getpid(), signal.SIGTERM)
        control.should_training_stop |= self.asked_to_stop

    def on_log(self, _args, state, _control, logs=None, **_):
        if "loss" in logs and "room" not in self.plan:
            facts = {"loss": logs["loss"], "logged_lr": logs.get("learning_rate")}
            tell(name=self.plan["name"], step=state.global_step, **facts)

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


def no_memory():
    """The allocator's own words for it."""
    torch.empty(1 << 60)


def lost_device():
    """After this nothing on the device can be trusted."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def interrupted():
    """As Ctrl-C does."""
    raise KeyboardInterrupt


def full_disk():
    """While something is written."""
    raise OSError(errno.ENOSPC, "No space left on device")


def terminated():
    """As a launcher ends the ranks of a failed job."""
    os.kill(os.getpid(), signal.SIGTERM)


def worker_lost():
    """As torch watches over the processes of a data loader, and fails when one has died."""
    signal.signal(signal.SIGCHLD, missing_worker)
    raise ConnectionResetError("Connection reset by peer")


def missing_worker(_signum, _frame):
    raise RuntimeError("DataLoader worker is killed by signal: Bus error.")


def child_ended():
    """And the word of it comes late."""
    os.kill(os.getpid(), signal.SIGCHLD)


FAULTS = {
    None: lambda: None,
    "worker": worker_lost,
    "child": child_ended,
    "kill": killed,
    "raise": missing_column,
    "memory": out_of_memory,
    "allocator": no_memory,
    "device": lost_device,
    "interrupt": interrupted,
    "full": full_disk,
    "terminate": terminated,
}


def dataset(size):
    """The same rows of several lengths each time."""
    choose = torch.Generator().manual_seed(7)
    lengths = torch.randint(3, 9, (size,), generator=choose).tolist()
    return [torch.randint(1, 32, (length,), generator=choose).tolist() for length in lengths]


def padded(rows):
    """The collator."""
    CountedModel.strike("loader")
    width = max(map(len, rows))
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    ids = [row + [0] * (width - len(row)) for row in rows]
    labels = [row + [-100] * (width - len(row)) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def small_model(plan):
    """From a configuration, the same weights each time; with an adapter if the plan wants one."""
    torch.manual_seed(1)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    model = CountedModel(LlamaConfig(**shape, num_attention_heads=2, max_position_embeddings=64, pad_token_id=0,
                                     attention_dropout=plan.get("dropout", 0.0)))  # fmt: skip
    if plan.get("peft"):
        from peft import LoraConfig, get_peft_model

        model.enable_input_require_grads()  # transformers 4.x recomputes reentrantly
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    return model


def own_optimizer(model, rates):
    """A group of parameters for each rate."""
    parameters = list(model.parameters())
    groups = [{"params": parameters[number :: len(rates)], "lr": rate} for number, rate in enumerate(rates)]
    return torch.optim.AdamW(groups)


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
    if "rates" in plan:
        trainer.optimizer = own_optimizer(trainer.model, plan["rates"])
    trainer.restored = plan.get("restored_batch")
    with world(plan), contextlib.suppress(BaseException if plan.get("caught") else ()):
        trainer.train(resume_from_checkpoint=plan.get("resume"))
    CountedModel.faults = {}
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
        CountedModel.lrs = [group["lr"] for group in optimizer.param_groups]

    register_optimizer_step_pre_hook(note)
    for plan in json.loads(PLAN.read_text()):
        train(plan)
    part()


MEETINGS = []
"""Never let go of: trainer/parting.py says why."""


def part():
    """Leave the group together: a rank that exits while gloo still talks to it can abort, companion or not."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        MEETINGS.append(distributed.barrier(async_op=True))
        MEETINGS[-1].wait()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
