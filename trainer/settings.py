"""What will be done, with every default filled in: from the values given, the environment and the checkpoints.

No framework is imported: a contradiction is found here, before anything slow begins.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from guardian.errors import UserError

from . import checkpoints, deepspeed_presets
from .argument import Value
from .arguments import ARGUMENTS, DEMO_DEFAULTS, DEMO_STEPS, FRAMEWORK_NAMES, WITHOUT_EFFECT
from .data import DEMO, DataRequest
from .launch import Group

_LEAST_ROWS_PER_STEP = 16  # ms-swift's rule for an accumulation that was not given
_RATES = {"lora": 1e-4, "full": 1e-5}


@dataclass(frozen=True, slots=True)
class Settings:
    """One run, decided."""

    values: Mapping[str, Value]  # every argument of ours and of the framework that has a value
    data: DataRequest
    world_size: int
    output_dir: Path
    versioned: bool  # a new folder v<number>-<time> is made under output_dir
    resume_from: Path | None
    deepspeed: dict[str, Any] | str | None
    demo_defaults: Mapping[str, Value]  # those that the user did not give
    without_effect: tuple[str, ...]

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    @property
    def effective_batch(self) -> int:
        return self["per_device_train_batch_size"] * self["gradient_accumulation_steps"] * self.world_size

    def framework_values(self) -> dict[str, Value]:
        return {name: value for name, value in self.values.items() if name in FRAMEWORK_NAMES and value is not None}


def decide(given: Mapping[str, Value], group: Group) -> Settings:
    """Fill in what was not given; refuse what contradicts itself."""
    demo = _demo_defaults(given)
    values: dict[str, Value] = {name: argument.default for name, argument in ARGUMENTS.items()}
    values |= {**demo, **{name: value for name, value in given.items() if name not in WITHOUT_EFFECT}}
    _need(values)
    _fill(values, group.world_size)
    _check_together(values, given)
    data = _data(values)
    output_dir = Path(str(values["output_dir"]))
    resume = _resume(values["resume_from_checkpoint"], output_dir)
    versioned = bool(values["add_version"])
    if resume is not None and "add_version" not in given and (home := _home_of(resume, output_dir)):
        output_dir, versioned = home, False
    return Settings(
        values=MappingProxyType(values),
        data=data,
        world_size=group.world_size,
        output_dir=output_dir,
        versioned=versioned,
        resume_from=resume,
        deepspeed=_deepspeed(values["deepspeed"]),
        demo_defaults=demo,
        without_effect=tuple(name for name in given if name in WITHOUT_EFFECT),
    )


def _demo_defaults(given: Mapping[str, Value]) -> dict[str, Value]:
    if given.get("model") != DEMO:
        return {}
    defaults = {name: value for name, value in DEMO_DEFAULTS.items() if name not in given}
    if "max_steps" not in given and "num_train_epochs" not in given:
        defaults["max_steps"] = DEMO_STEPS
    return defaults


def _need(values: Mapping[str, Value]) -> None:
    if not values["model"]:
        raise UserError("--model: needed: a folder, a hub name, or demo")
    if not values["dataset"]:
        raise UserError("--dataset: needed: a .jsonl or .json file, or demo")
    model = str(values["model"])
    if model != DEMO:
        _need_model(model)


def _need_model(model: str) -> None:
    folder = Path(model)
    if not folder.is_dir():
        if _looks_like_path(model):
            raise UserError(f"--model {model}: no such folder")
        return  # a hub name
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"--model {model}: holds no config.json and no adapter_config.json; it is no model folder")


def _looks_like_path(model: str) -> bool:
    """A hub name is `name` or `owner/name`; anything else that names no folder is a slip."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith("/")


def _fill(values: dict[str, Value], world_size: int) -> None:
    if values["learning_rate"] is None:
        values["learning_rate"] = _RATES[str(values["tuner_type"])]
    if values["gradient_accumulation_steps"] is None:
        rows = cast("int", values["per_device_train_batch_size"]) * world_size
        values["gradient_accumulation_steps"] = max(1, math.ceil(_LEAST_ROWS_PER_STEP / rows))
    if values["data_seed"] is None:
        values["data_seed"] = values["seed"]
    if values["output_dir"] is None:
        values["output_dir"] = f"output/{Path(str(values['model'])).name}"
    if values["eval_strategy"] is None:
        values["eval_strategy"] = values["save_strategy"] if _evaluates(values) else "no"
    if values["eval_strategy"] == "best":
        values["eval_strategy"] = "steps"
    if values["eval_steps"] is None:
        values["eval_steps"] = values["save_steps"]
    if values["early_stop_interval"] and values["restore_callback_states_from_checkpoint"] is None:
        values["restore_callback_states_from_checkpoint"] = True  # a resumed run goes on counting
    if not values["dataloader_num_workers"]:  # whoever takes the workers away need not know what else goes with them
        values["dataloader_persistent_workers"], values["dataloader_prefetch_factor"] = False, None


def _evaluates(values: Mapping[str, Value]) -> bool:
    return bool(values["val_dataset"]) or cast("float", values["split_dataset_ratio"]) > 0


def _check_together(values: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    if values["warmup_ratio"] and values["warmup_steps"]:
        raise UserError("--warmup_ratio and --warmup_steps: give one of them")
    if cast("float", values["warmup_ratio"]) >= 1:
        raise UserError(f"--warmup_ratio {values['warmup_ratio']}: is a share of the steps, below 1")
    if cast("float", values["split_dataset_ratio"]) >= 1:
        raise UserError(f"--split_dataset_ratio {values['split_dataset_ratio']}: is a share of the rows, below 1")
    if values["deepspeed"] and given.get("fsdp"):
        raise UserError("--deepspeed and --fsdp: give one of them")
    _check_evaluation(values)


def _check_evaluation(values: Mapping[str, Value]) -> None:
    wanted = "--val_dataset or --split_dataset_ratio"
    if values["eval_strategy"] != "no" and not _evaluates(values):
        raise UserError(f"--eval_strategy {values['eval_strategy']}: there are no rows for it; give {wanted}")
    needing = [name for name in ("early_stop_interval", "load_best_model_at_end") if values[name]]
    needing += ["save_strategy best"] if values["save_strategy"] == "best" else []
    if needing and values["eval_strategy"] == "no":
        raise UserError(f"--{needing[0]}: needs rows to evaluate on; give {wanted}")


def _data(values: Mapping[str, Value]) -> DataRequest:
    columns = values["columns"]
    if columns is not None and not (
        isinstance(columns, dict) and all(isinstance(new, str) for new in columns.values())
    ):
        raise UserError("""--columns: must be an object of column names: '{"yours": "query", "theirs": "response"}'""")
    return DataRequest(
        sources=cast("tuple[str, ...]", values["dataset"]),
        evaluation_sources=cast("tuple[str, ...]", values["val_dataset"] or ()),
        split_ratio=cast("float", values["split_dataset_ratio"]),
        seed=cast("int", values["data_seed"]),
        columns=cast("dict[str, str] | None", columns),
        system=cast("str | None", values["system"]),
    )


def _resume(wanted: Value, output_dir: Path) -> Path | None:
    """The checkpoint to go on from, looked at file by file; never a silent fresh start."""
    if wanted is None or str(wanted).lower() in {"false", "none", ""}:
        return None
    if str(wanted).lower() == "true":
        found = checkpoints.newest(output_dir)
        if found is None:
            raise UserError(
                f"--resume_from_checkpoint true: no complete checkpoint under {output_dir}; leave it out to begin"
            )
        return found
    checkpoint = Path(str(wanted))
    if problem := checkpoints.fault(checkpoint):
        raise UserError(f"--resume_from_checkpoint {checkpoint}: {problem}; choose a complete checkpoint")
    return checkpoint


def _home_of(checkpoint: Path, output_dir: Path) -> Path | None:
    """The folder that a resumed run goes on in: where its checkpoint lies, if that is under the output folder."""
    home = checkpoint.resolve().parent
    if home == output_dir.resolve():
        return output_dir
    if home.parent == output_dir.resolve() and checkpoints.is_version(home):
        return output_dir / home.name
    return None


def _deepspeed(wanted: Value) -> dict[str, Any] | str | None:
    if wanted is None:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("--deepspeed: is not installed; install training-guardian[train]")
    name = str(wanted)
    if name in deepspeed_presets.NAMES:
        return deepspeed_presets.preset(name)
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--deepspeed {name}: no such file; give one, or {', '.join(deepspeed_presets.NAMES)}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--deepspeed {name}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"--deepspeed {name}: must hold a JSON object")
    return content
