"""Our settings as transformers' TrainingArguments, in the words of the installed version."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from guardian.errors import UserError

from .argument import Value
from .launch import free_port
from .settings import Settings


def training_arguments(settings: Settings, dtype: str) -> Any:
    from transformers import TrainingArguments

    on_cpu = not _has_accelerator()
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    values: dict[str, Any] = settings.framework_values() | {
        "output_dir": str(settings.output_dir),
        "deepspeed": settings.deepspeed,
        "disable_tqdm": True,  # our log lines say it; a bar is noise in a file
    }
    values |= _warm_up(values, ratio_known="warmup_ratio" in known)
    values |= _precision(values, dtype, on_cpu=on_cpu)
    values |= _device(values, on_cpu=on_cpu, several=settings.world_size > 1)
    values.setdefault("gradient_checkpointing_kwargs", {"use_reentrant": False})
    if settings.deepspeed is not None:
        _alone_under_deepspeed(on_cpu=on_cpu)
    try:
        arguments = TrainingArguments(**{name: _listed(value) for name, value in values.items() if name in known})
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"transformers refuses the arguments: {str(error).strip().splitlines()[0]}") from error
    _one_device(arguments)
    if arguments.world_size != settings.world_size:
        raise UserError(
            f"asked for {settings.world_size} ranks and got a group of {arguments.world_size}; check the launcher"
        )
    return arguments


def _has_accelerator() -> bool:
    accelerator = getattr(torch, "accelerator", None)  # there since torch 2.6
    return accelerator.is_available() if accelerator else torch.cuda.is_available()


def _warm_up(values: dict[str, Any], *, ratio_known: bool) -> dict[str, Any]:
    """Transformers 5 has one argument for both: a `warmup_steps` below 1 is a share of the steps."""
    ratio, steps = values.get("warmup_ratio") or 0.0, values.get("warmup_steps") or 0
    if not ratio_known:
        return {"warmup_steps": ratio or steps}
    return (
        {"warmup_ratio": steps, "warmup_steps": 0}
        if 0 < steps < 1
        else {"warmup_ratio": ratio, "warmup_steps": int(steps)}
    )


def _precision(values: dict[str, Any], dtype: str, *, on_cpu: bool) -> dict[str, Any]:
    if "bf16" in values or "fp16" in values:
        return {}
    return {"bf16": dtype == "bfloat16", "fp16": dtype == "float16" and not on_cpu}


def _device(values: dict[str, Any], *, on_cpu: bool, several: bool) -> dict[str, Any]:
    """Without a GPU, ranks that are not told so form no group: each trains alone and writes the same folder."""
    if not on_cpu and not values.get("use_cpu"):
        return {}
    found: dict[str, Any] = {"use_cpu": True, "dataloader_pin_memory": False}
    return found | ({"ddp_backend": values.get("ddp_backend") or "gloo"} if several else {})


def _alone_under_deepspeed(*, on_cpu: bool) -> None:
    """DeepSpeed wants a launcher's environment even for one rank."""
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "LOCAL_RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update({**alone, "MASTER_PORT": os.environ.get("MASTER_PORT") or str(free_port())})


def _one_device(arguments: Any) -> None:
    """One process uses one GPU: torch's DataParallel over several would multiply the effective batch unsaid."""
    _ = arguments.device  # finds the devices
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # noqa: SLF001 - the field has no setter, and Trainer reads nothing else


def _listed(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
