"""The arguments handed to transformers' TrainingArguments under their own names, with ms-swift's defaults.

A default of None leaves the framework's own. `majors` says which versions of transformers know the name.
"""

from __future__ import annotations

from .argument import Argument, Group

_OLD, _NEW = (4,), (5,)

_BATCH = Group(
    "Batch and length of the run",
    (
        Argument("per_device_train_batch_size", "int", 1, "rows per rank and micro step", at_least=1),
        Argument(
            "gradient_accumulation_steps",
            "int",
            help="micro steps per optimizer step; default: as many as make 16 rows or more per step",
            at_least=1,
        ),
        Argument("num_train_epochs", "float", 3.0, at_least=0),
        Argument("max_steps", "int", -1, "optimizer steps; overrides the epochs", at_least=-1),
        Argument(
            "auto_find_batch_size", "bool", help="shrinks the batch, and the effective batch, when memory runs out"
        ),
        Argument("train_sampling_strategy", "str", majors=_NEW),
        Argument("group_by_length", "bool", majors=_OLD),
        Argument("length_column_name", "str"),
        Argument("average_tokens_across_devices", "bool", default=True),
    ),
)
_OPTIMIZER = Group(
    "Optimizer and schedule",
    (
        Argument("learning_rate", "float", help="default 1e-4 for adapters, 1e-5 for all weights", at_least=0),
        Argument(
            "lr_scheduler_type",
            "str",
            "cosine",
            choices=(
                *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"),
                *("inverse_sqrt", "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr"),
                *("warmup_stable_decay", "greedy"),
            ),
        ),
        Argument("lr_scheduler_kwargs", "json"),
        Argument("warmup_ratio", "float", 0.0, "share of the steps", at_least=0),
        Argument("warmup_steps", "float", 0, "steps, or below 1 a share of them", at_least=0),
        Argument("weight_decay", "float", 0.1),
        Argument("max_grad_norm", "float", 1.0, "0 turns clipping off"),
        Argument("optim", "str", "adamw_torch_fused"),
        Argument("optim_args", "str"),
        Argument("optim_target_modules", "words"),
        Argument("adafactor", "bool", majors=_OLD),
        Argument("adam_beta1", "float", 0.9),
        Argument("adam_beta2", "float", 0.95),
        Argument("adam_epsilon", "float", 1e-8),
        Argument("label_smoothing_factor", "float"),
        Argument("neftune_noise_alpha", "float"),
    ),
)
_SAVING = Group(
    "Saving and evaluating",
    (
        Argument("save_strategy", "str", "steps", choices=("no", "steps", "epoch", "best")),
        Argument("save_steps", "float", 500, "below 1: a share of the run"),
        Argument("save_total_limit", "int", help="newest checkpoints to keep; default: all"),
        Argument(
            "save_only_model",
            "bool",
            default=False,
            help="smaller checkpoints, from which no run can be resumed exactly",
        ),
        Argument("save_on_each_node", "bool"),
        Argument("save_safetensors", "bool", majors=_OLD),
        Argument("enable_jit_checkpoint", "bool", majors=_NEW, help="save when told to end by SIGTERM"),
        Argument("restore_callback_states_from_checkpoint", "bool"),
        Argument("eval_strategy", "str", help="default: as save_strategy where there are rows to evaluate on"),
        Argument("eval_steps", "float", help="default: as save_steps"),
        Argument("eval_delay", "float"),
        Argument("eval_on_start", "bool"),
        Argument("per_device_eval_batch_size", "int", 1, "rows per rank when evaluating", at_least=1),
        Argument("load_best_model_at_end", "bool", default=False),
        Argument("metric_for_best_model", "str", "loss"),
        Argument("greater_is_better", "bool", default=False),
        Argument("prediction_loss_only", "bool", default=True),
        Argument("eval_accumulation_steps", "int"),
        Argument("eval_do_concat_batches", "bool"),
        Argument("eval_use_gather_object", "bool"),
        Argument("batch_eval_metrics", "bool"),
        Argument("include_for_metrics", "words"),
        Argument("include_inputs_for_metrics", "bool", majors=_OLD),
        Argument("use_legacy_prediction_loop", "bool", majors=_OLD),
        Argument("do_train", "bool", help="training is what this program does; changes nothing"),
        Argument("do_eval", "bool"),
        Argument("do_predict", "bool"),
    ),
)
_LOGGING = Group(
    "Logging",
    (
        Argument("logging_steps", "float", 5, "below 1: a share of the run"),
        Argument("logging_first_step", "bool", default=True),
        Argument("logging_strategy", "str", "steps", choices=("no", "steps", "epoch")),
        Argument("logging_nan_inf_filter", "bool", default=True),
        Argument("logging_dir", "str", majors=_OLD),
        Argument("report_to", "words", ("none",), "trackers, such as tensorboard or wandb"),
        Argument("run_name", "str"),
        Argument("project", "str"),
        Argument("trackio_space_id", "str"),
        Argument("trackio_bucket_id", "str", majors=_NEW),
        Argument("trackio_static_space_id", "str", majors=_NEW),
        Argument("log_level", "str"),
        Argument("log_level_replica", "str"),
        Argument("log_on_each_node", "bool"),
        Argument("disable_tqdm", "bool", help="there is no bar here: each log is a line of its own"),
        Argument("include_num_input_tokens_seen", "str"),
        Argument("include_tokens_per_second", "bool", majors=_OLD),
        Argument("skip_memory_metrics", "bool"),
    ),
)
_MEMORY = Group(
    "Precision and memory",
    (
        Argument("gradient_checkpointing", "bool", default=True, help="recompute activations: less memory, more time"),
        Argument("gradient_checkpointing_kwargs", "json"),
        Argument("bf16", "bool", help="mixed precision; default: true with torch_dtype bfloat16"),
        Argument("fp16", "bool", help="mixed precision; default: true with torch_dtype float16 on a GPU"),
        Argument("bf16_full_eval", "bool"),
        Argument("fp16_full_eval", "bool"),
        Argument("tf32", "bool"),
        Argument("half_precision_backend", "str", majors=_OLD),
        Argument("fp16_backend", "str", majors=_OLD),
        Argument("fp16_opt_level", "str", majors=_OLD),
        Argument("use_cache", "bool", majors=_NEW),
        Argument("use_liger_kernel", "bool"),
        Argument("liger_kernel_config", "json"),
        Argument("torch_empty_cache_steps", "int"),
        Argument("torch_compile", "bool"),
        Argument("torch_compile_backend", "str"),
        Argument("torch_compile_mode", "str"),
        Argument("torchdynamo", "str", majors=_OLD),
        Argument("jit_mode_eval", "bool", majors=_OLD),
    ),
)
_LOADING = Group(
    "Seeds and data loading",
    (
        Argument("seed", "int", 42),
        Argument("data_seed", "int", help="order of the rows, PATH#N and the split; default: as seed"),
        Argument("full_determinism", "bool"),
        Argument("ignore_data_skip", "bool", default=False, help="a resumed run begins its epoch again"),
        Argument(
            "dataloader_num_workers",
            "int",
            0,
            "processes that load rows; the rows are in memory as tokens, so 0 is the quickest start",
            at_least=0,
        ),
        Argument(
            "dataloader_prefetch_factor",
            "int",
            help="batches that each worker has ready; default: 2; counts only with workers",
            at_least=1,
        ),
        Argument("dataloader_persistent_workers", "bool", default=True, help="counts only with workers"),
        Argument("dataloader_pin_memory", "bool", default=True, help="counts only with a GPU"),
        Argument("dataloader_drop_last", "bool", default=False),
        Argument("dataloader_in_order", "bool", majors=_NEW),
        Argument("dataloader_multiprocessing_context", "str", majors=_NEW),
        Argument("remove_unused_columns", "bool"),
        Argument("label_names", "words"),
    ),
)
_RANKS = Group(
    "Several ranks (NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT in the environment)",
    (
        Argument("ddp_backend", "str", help="default: gloo without a GPU"),
        Argument("ddp_timeout", "int", 18_000_000, "seconds that a rank waits for the others"),
        Argument(
            "ddp_find_unused_parameters",
            "bool",
            default=False,
            help="true for mixtures of experts, some of which may see no token in a step",
        ),
        Argument("ddp_bucket_cap_mb", "int"),
        Argument("ddp_broadcast_buffers", "bool"),
        Argument("ddp_static_graph", "bool", majors=_NEW),
        Argument("fsdp", "str"),
        Argument("fsdp_config", "json"),
        Argument("fsdp_min_num_params", "int", majors=_OLD),
        Argument("fsdp_transformer_layer_cls_to_wrap", "str", majors=_OLD),
        Argument("accelerator_config", "json"),
        Argument("use_cpu", "bool", help="default: true without a GPU"),
        Argument("no_cuda", "bool", majors=_OLD),
        Argument("use_mps_device", "bool", majors=_OLD),
        Argument("local_rank", "int", help="set by launchers; the environment decides"),
        Argument("tpu_num_cores", "int", majors=_OLD),
        Argument("tpu_metrics_debug", "bool", majors=_OLD),
        Argument("ray_scope", "str", majors=_OLD),
        Argument("debug", "str"),
        Argument("per_gpu_train_batch_size", "int", majors=_OLD),
        Argument("per_gpu_eval_batch_size", "int", majors=_OLD),
    ),
)

FRAMEWORK_GROUPS = (_BATCH, _OPTIMIZER, _SAVING, _LOGGING, _MEMORY, _LOADING, _RANKS)
# Ours: the table offers them in every version and translates (see framework_settings).
TRANSLATED = frozenset({"warmup_ratio"})
