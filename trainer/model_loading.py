"""Model and tokenizer, with or without adapters; what cannot be loaded is one line, not a traceback."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guardian.errors import UserError

from .data import DEMO
from .settings import Settings

_ADAPTER = "adapter_config.json"
_TINY_BYTES = 16 * 2**20  # weights for which a second thread costs more than it brings


def stay_local(settings: Settings) -> None:
    """Ask no hub where nothing can be there for us: a try costs seconds, and minutes without a network.

    It counts only before transformers is imported.
    """
    base = base_of(str(settings["model"]))
    if base == DEMO or Path(base).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def leave_out_optional_packages(settings: Settings) -> None:
    """The frameworks import these where they are installed, a second in all, and we use none of them unasked.

    None in sys.modules is Python's own way of saying that a module cannot be imported.
    """
    unused = ("datasets", "sklearn") if settings.deepspeed else ("datasets", "sklearn", "deepspeed")
    for name in unused:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def base_of(model: str) -> str:
    """The model itself, or the one that an adapter folder was trained on."""
    adapter = Path(model) / _ADAPTER
    if not is_adapter(model):
        return model
    try:
        return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError):
        raise UserError(f"--model {model}: {_ADAPTER} is damaged") from None


def is_adapter(model: str) -> bool:
    return (Path(model) / _ADAPTER).is_file()


def is_tiny(model: str) -> bool:
    base = base_of(model)
    weights = [file.stat().st_size for file in Path(base).glob("*.safetensors")] if base != DEMO else []
    return base == DEMO or 0 < sum(weights) < _TINY_BYTES


def load_tokenizer(settings: Settings) -> Any:
    from .demo_model import CHATML, demo_tokenizer

    model = str(settings["model"])
    if model == DEMO:
        return demo_tokenizer()
    from transformers import AutoTokenizer

    with _one_line(f"--model {model}: its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(model)
    if settings["template"] == "chatml":
        tokenizer.chat_template = CHATML
    if not tokenizer.chat_template:
        raise UserError(f"--model {model}: its tokenizer has no chat template; give --template chatml")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def dtype_of(settings: Settings) -> str:
    """float32, bfloat16 or float16: what was asked for, or what the model was saved in."""
    wanted, base = str(settings["torch_dtype"]), base_of(str(settings["model"]))
    if wanted != "auto":
        return wanted
    if base == DEMO:
        return "float32"
    from transformers import AutoConfig

    with _one_line(f"--model {base}: cannot be loaded"):
        config = AutoConfig.from_pretrained(base)
    found = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    return str(found or "float32").removeprefix("torch.")


def load_model(settings: Settings, tokenizer: Any, dtype: str) -> Any:
    import torch

    named, full = str(settings["model"]), settings["tuner_type"] == "full"
    if is_adapter(named) and full:
        raise UserError(f"--model {named}: is an adapter; give --tuner_type lora, or the model it was trained on")
    # Scaling float16 gradients needs float32 weights under them; adapters are float32 by themselves.
    kept = torch.float32 if full and dtype == "float16" else getattr(torch, dtype)
    model = _base_model(base_of(named), settings, tokenizer, kept)
    if full:
        return model
    from peft import PeftModel

    # What peft says at every save about a base that lies in no folder.
    warnings.filterwarnings("ignore", message="Could not find a config file in demo")

    if is_adapter(named):
        with _one_line(f"--model {named}: the adapter cannot be loaded"):
            return PeftModel.from_pretrained(model, named, is_trainable=True)
    return _with_adapter(model, settings)


def _base_model(base: str, settings: Settings, tokenizer: Any, dtype: Any) -> Any:
    if base == DEMO:
        from .demo_model import demo_model

        return demo_model(tokenizer).to(dtype)
    from transformers import AutoModelForCausalLM

    options = {"attn_implementation": settings["attn_impl"]} if settings["attn_impl"] else {}
    with _one_line(f"--model {base}: cannot be loaded"):
        return AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **options)


def _with_adapter(model: Any, settings: Settings) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = settings["target_modules"]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules="all-linear" if targets == ("all-linear",) else list(targets),
        modules_to_save=list(settings["modules_to_save"]) if settings["modules_to_save"] else None,
        bias=settings["lora_bias"],
        use_rslora=settings["use_rslora"],
        use_dora=settings["use_dora"],
    )
    with _one_line(f"--target_modules {' '.join(targets)}"):
        return get_peft_model(model, config)


@contextmanager
def _one_line(about: str) -> Iterator[None]:
    """The frameworks' refusals of a name or a folder, in one line that says which argument it was."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{about}: {lines[0][:300]}") from error
