"""DeepSpeed configurations by name, as ms-swift has them; "auto" is filled in from the training arguments."""

from __future__ import annotations

from typing import Any

NAMES = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")


def preset(name: str) -> dict[str, Any]:
    stage = int(name[4])
    return {
        "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
        "bf16": {"enabled": "auto"},
        "zero_optimization": _zero(stage, offload=name.endswith("_offload")),
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "steps_per_print": 2000,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "wall_clock_breakdown": False,
    }


def _zero(stage: int, *, offload: bool) -> dict[str, Any]:
    target = {"device": "cpu" if offload else "none", "pin_memory": True}
    common: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if stage == 2:
        common |= {
            "offload_optimizer": target,
            "allgather_partitions": True,
            "allgather_bucket_size": 200_000_000,
            "reduce_scatter": True,
            "reduce_bucket_size": 200_000_000,
        }
    if stage == 3:
        common |= {
            "offload_optimizer": target,
            "offload_param": target,
            "sub_group_size": 1_000_000_000,
            "reduce_bucket_size": "auto",
            "zero_quantized_weights": False,
            "zero_quantized_gradients": False,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return common
