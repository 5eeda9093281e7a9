"""What a training loop says of itself as it begins, read off the trainer, its model and its data loader.

In the syntax of Python 3.8, on the standard library and what the job has loaded; a failure here never reaches the job.
"""

import os
import sys

from guardian_telling import known


def facts(trainer, args, state, model, loader):
    """For the hello, without the batch and what guardian handed in."""
    return {
        "rank": args.process_index,
        "local_rank": args.local_process_index,
        "world": args.world_size,
        "local_world": known(local_world, args),
        "step": state.global_step,
        "max_steps": state.max_steps,
        "steps_per_epoch": known(steps_per_epoch, loader, args.gradient_accumulation_steps),
        "save_steps": state.save_steps if args.save_strategy == "steps" else None,
        "logging_steps": state.logging_steps if args.logging_strategy == "steps" else None,
        "learning_rate": args.learning_rate,
        "trainer": type(trainer).__name__ if trainer is not None else None,
        "versions": versions(),
        "eval_batch": known(lambda: args.per_device_eval_batch_size),
        "optimizer": known(lambda: str(getattr(args.optim, "value", args.optim))),
        **(known(model_facts, model) or {}),
        "weakening": known(weakening, trainer, args) or [],
        "precision": known(precision, trainer, args, model),
        **(known(loader_facts, loader) or {}),
    }


def local_world(args):
    """Ranks on this machine; None where the launcher does not say (torchrun and accelerate, DeepSpeed)."""
    told = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    return int(told) if told else 1 if args.world_size == 1 else None


def model_facts(model):
    """Where the model is, and whether it computes activations again instead of keeping them."""
    device = next(model.parameters()).device.type
    switches = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
    switches = [bool(one) for one in switches if one is not None]
    return {"device": device, "gradient_checkpointing": any(switches) if switches else None}


def precision(trainer, args, model):
    """The narrowest floats in which the model computes; mixed precision may be accelerate's own affair."""
    mixed = getattr(getattr(trainer, "accelerator", None), "mixed_precision", None)
    if args.bf16 or mixed == "bf16":
        return "bfloat16"
    if args.fp16 or mixed == "fp16":
        return "float16"
    if mixed == "fp8":
        return "float8"
    # A quantised model's whole numbers say nothing of what is computed with.
    floats = {one.dtype for one in model.parameters() if one.dtype.is_floating_point}
    return str(min(floats, key=lambda one: (one.itemsize, str(one)))).rpartition(".")[2] if floats else None


def weakening(trainer, args):
    """What the proof of a resume suffers from, whoever asked for it; the names are those of the arguments."""
    switches = ("save_only_model", "ignore_data_skip", "group_by_length", "packing", "auto_find_batch_size")
    found = [name for name in switches if getattr(args, name, False) is True]
    if getattr(args, "train_sampling_strategy", None) in ("group_by_length", "batch_rebalance"):
        found.append("group_by_length")
    if any(getattr(one, "padding_free", False) is True for one in (args, trainer, getattr(trainer, "template", None))):
        found.append("padding_free")
    torch = sys.modules.get("torch")
    rows = getattr(trainer, "train_dataset", None)
    if torch is not None and isinstance(rows, torch.utils.data.IterableDataset):
        found.append("streaming")
    return found


def loader_facts(loader):
    """The loader's processes as it has them, not as they were asked for; dispatching loaders wrap the real one."""
    loader = getattr(loader, "base_dataloader", loader)
    return {
        "workers": getattr(loader, "num_workers", None),
        "prefetch": getattr(loader, "prefetch_factor", None),
        "pin_memory": getattr(loader, "pin_memory", None),
    }


def steps_per_epoch(loader, accumulation):
    return max(-(-len(loader) // accumulation), 1)


def versions():
    """Of what is loaded: importing or looking up more would cost the job time."""
    names = ("torch", "transformers", "peft", "accelerate", "deepspeed")
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return dict({"python": sys.version.split()[0]}, **{name: str(one) for name, one in found.items() if one})
