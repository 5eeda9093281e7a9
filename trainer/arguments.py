"""What can be asked of the trainer, as data: ms-swift's names and defaults, and why some names are refused.

No framework is imported here, so that --help and a mistyped argument answer at once. The arguments that go
straight to transformers' TrainingArguments stand in `framework_arguments`; a test holds both tables to the
fields of the installed version.
"""

from __future__ import annotations

from .argument import Argument, Group, Value
from .framework_arguments import FRAMEWORK_GROUPS

_MODEL = Group(
    "Model",
    (
        Argument("model", "str", help="folder, hub name, or 'demo': a small model made on the spot"),
        Argument(
            "torch_dtype",
            "str",
            "auto",
            "auto: what the model was saved in",
            choices=("auto", "float32", "bfloat16", "float16"),
        ),
        Argument("attn_impl", "str", help="attention implementation, such as sdpa or flash_attention_2"),
        Argument("template", "str", help="default: the tokenizer's own chat template", choices=("chatml",)),
    ),
)
_DATA = Group(
    "Data",
    (
        Argument(
            "dataset",
            "words",
            help="PATH.jsonl or PATH.json, several allowed; 'demo': questions made from the standard library's"
            " docstrings. PATH#500 takes 500 rows: the first 500 of a permutation made by --data_seed,"
            " going around again where the file has fewer",
        ),
        Argument("val_dataset", "words", help="the same, to evaluate on"),
        Argument(
            "split_dataset_ratio",
            "float",
            0.0,
            "share of the rows, chosen by --data_seed, that is kept out to evaluate on",
            at_least=0,
        ),
        Argument("columns", "json", help="""rename columns: '{"prompt": "query", "answer": "response"}'"""),
        Argument("system", "str", help="system message for the rows that bring none"),
        Argument("max_length", "int", help="longest row in tokens; default: what the model takes", at_least=1),
        Argument(
            "truncation_strategy",
            "str",
            "delete",
            "what to do with a longer row",
            choices=("delete", "left", "right"),
        ),
    ),
)
_TUNER = Group(
    "Tuner",
    (
        Argument(
            "tuner_type",
            "str",
            "lora",
            "what is trained: adapters, or all weights",
            choices=("lora", "full"),
            also=("train_type",),
        ),
        Argument("lora_rank", "int", 8, at_least=1),
        Argument("lora_alpha", "float", 32),
        Argument(
            "lora_dropout",
            "float",
            0.05,
            "0 lets a resumed run repeat its losses under another batch split",
            at_least=0,
        ),
        Argument("target_modules", "words", ("all-linear",), "layers that get an adapter"),
        Argument("modules_to_save", "words", help="layers trained whole beside the adapters"),
        Argument("lora_bias", "str", "none", choices=("none", "all", "lora_only")),
        Argument("use_rslora", "bool", default=False),
        Argument("use_dora", "bool", default=False),
    ),
)
_RUN = Group(
    "Run",
    (
        Argument("output_dir", "str", help="default output/<model>"),
        Argument(
            "add_version",
            "bool",
            default=True,
            help="write into OUTPUT_DIR/v<number>-<time>; unless given, a run that is resumed from a checkpoint"
            " under OUTPUT_DIR goes on in that checkpoint's folder",
        ),
        Argument(
            "resume_from_checkpoint",
            "str",
            help="a checkpoint folder, or 'true' for the newest complete one under OUTPUT_DIR and its versions",
        ),
        Argument(
            "early_stop_interval",
            "int",
            help="stop after that many evaluations without a better one; needs rows to evaluate on",
            at_least=1,
        ),
        Argument(
            "deepspeed",
            "str",
            help="a JSON file, or zero0, zero1, zero2, zero3, zero2_offload, zero3_offload",
        ),
    ),
)

GROUPS: tuple[Group, ...] = (_MODEL, _DATA, _TUNER, _RUN, *FRAMEWORK_GROUPS)
ARGUMENTS: dict[str, Argument] = {argument.name: argument for group in GROUPS for argument in group.arguments}
FRAMEWORK_NAMES = frozenset(argument.name for group in FRAMEWORK_GROUPS for argument in group.arguments)

# Accepted so that a command line of ms-swift runs here unchanged; the log says that they change nothing.
WITHOUT_EFFECT = frozenset(
    {
        "check_model",
        "dataset_num_proc",
        "lazy_tokenize",
        "load_from_cache_file",
        "model_author",
        "model_name",
        "model_type",
        "use_hf",
    }
)

# Fields of TrainingArguments that are not offered, each with what to do instead.
_UPLOAD = "this trainer writes to the disk only; upload a checkpoint afterwards"
REFUSED = {
    "hub_always_push": _UPLOAD,
    "hub_model_id": _UPLOAD,
    "hub_private_repo": _UPLOAD,
    "hub_revision": _UPLOAD,
    "hub_strategy": _UPLOAD,
    "hub_token": _UPLOAD,
    "mp_parameters": "it belongs to a launcher that this trainer does not know",
    "overwrite_output_dir": "nothing is overwritten; give another --output_dir or --resume_from_checkpoint",
    "parallelism_config": "it cannot be written on a command line; use --deepspeed or --fsdp",
    "past_index": "it is for models with a memory, not for causal language models",
    "push_to_hub": _UPLOAD,
    "push_to_hub_model_id": _UPLOAD,
    "push_to_hub_organization": _UPLOAD,
    "push_to_hub_token": _UPLOAD,
}

# What `--model demo` changes where the user gives nothing: a first run ends in a minute or two on two cores.
DEMO_DEFAULTS: dict[str, Value] = {
    "tuner_type": "full",
    "torch_dtype": "float32",
    "learning_rate": 3e-3,
    "max_length": 512,
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": False,
    "save_steps": 20,
}
DEMO_STEPS = 200  # where neither max_steps nor num_train_epochs is given
