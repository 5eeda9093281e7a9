"""Megatron-SWIFT, versions 3 and 4: `megatron sft|pt|rlhf`. Read from their sources; no run has proved it.

The rows per step are fixed by `global_batch_size`; a smaller micro batch means more accumulation by itself. The two
versions have different names for much; which one it is shows in the names that the command uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from guardian.core import commandline
from guardian.core.adapters import hf, launchers, writing
from guardian.core.adapters import words as reading
from guardian.core.adapters.about import About
from guardian.core.adapters.launchers import Command
from guardian.core.adapters.words import Words
from guardian.core.adapters.writing import Settings, Tongue, Written
from guardian.core.events import Edit
from guardian.core.job import Finding, JobSpec, ReadConfig, Value
from guardian.core.values import dataclass

Argv = tuple[str, ...]

FAMILY = "megatron"
VERBS = frozenset({"sft", "pt", "rlhf"})
SHARING = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
"""Ranks that work on the same rows."""
COMMON = {
    "device_batch": "micro_batch_size",
    "learning_rate": "lr",
    "max_length": "max_length",
    "dtype": "torch_dtype",
}
BY_VERSION = {
    3: {"workers": "num_workers", "save_steps": "save_interval", "output_dir": "save"},
    4: {"workers": "dataloader_num_workers", "save_steps": "save_steps", "output_dir": "output_dir"},
}
ONLY_IN = {
    3: ("train_type", "save", "save_interval", "load", "adapter_load", "train_iters", "max_epochs", "log_interval",
        "num_workers"),
    4: ("tuner_type", "output_dir", "save_steps", "mcore_model", "mcore_adapter", "num_train_epochs", "logging_steps",
        "dataloader_num_workers"),
}  # fmt: skip
FOREIGN = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_ratio",
    "tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size", "tp", "pp", "ep",
)  # fmt: skip
"""Names of other frameworks' that people write here."""
GLOBAL_BATCH = 16
DEFAULTS: dict[str, Value] = {"device_batch": 1, "workers": 4, "save_steps": 500}

ABOUT = About(
    title="Megatron-SWIFT",
    example="megatron sft --model m --tuner_type lora --output_dir out",
    started="`megatron sft`, `megatron pt`, `megatron rlhf`, versions 3 and 4 told apart by the names they use.",
    fills_in="Accumulation follows from `global_batch_size` (16), the micro batch (1) and the ranks that read rows.",
    resumes="`--mcore_model` or `--mcore_adapter` with `--finetune false` (4); `--load` or `--adapter_load` (3).",
    dry=("everything: read from the sources of 3.12.6 and 4.6.0; its checkpoints are not inspected",),
    refused=("flags of a version that the command does not show",),
)


@dataclass(frozen=True, slots=True)
class Megatron:
    """A command of Megatron-SWIFT."""

    spec: JobSpec
    command: Command
    version: int | None
    config: reading.Pairs | None = ()
    tongue: Tongue = Tongue(())

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names; its versions lie below."""
        words = self._words(argv)
        return words.text("output_dir", "save")

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """The user's command; variables in front of it need `env`."""
        del python
        return commandline.launchable(argv)

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command from a checkpoint on, optimizer and iteration included: version 4 leaves them out unless told."""
        if self.version is None:
            return argv, ()
        words = self._words(argv)
        tuner = words.text("tuner_type", "train_type") or "full"
        model, adapter = ("mcore_model", "mcore_adapter") if self.version == 4 else ("load", "adapter_load")
        further: list[tuple[str, str, str]] = []
        if checkpoint is not None:
            further += [
                ("resume_from", model if tuner == "full" else adapter, checkpoint),
                ("finetune", "finetune", "false"),
            ]
        home = output_dir or (hf.home_of(checkpoint) if checkpoint else None)
        if home is not None:
            further += [
                ("output_dir", BY_VERSION[self.version]["output_dir"], home),
                ("add_version", "add_version", "false"),
            ]
        edits = []
        for knob, name, new in further:
            old = words.text(name)
            if old != new:
                words = words.put(new, name)
                edits.append(Edit(knob, old, new, "resume"))
        return (*self.command.head, *words.rest), tuple(edits)

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs; the accumulation follows the micro batch."""
        return writing.write(self.command.head, self._words(argv), self.spec, settings, self.tongue)

    def _words(self, argv: Argv) -> Words:
        return Words(argv[len(self.command.head) :], self.config)


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> Megatron | None:
    """The adapter, or None where the command is not a training by Megatron-SWIFT."""
    command = launchers.take_apart(argv)
    if command is None or command.name != "megatron" or not command.rest or command.rest[0] not in VERBS:
        return None
    command = Command(
        command.variables, command.launcher, command.interpreter, command.program, command.is_module,
        argv[: len(command.head) + 1], command.rest[1:], command.options,
    )  # fmt: skip
    findings: list[Finding] = []
    words = Words(command.rest, reading.config(command.rest, read_config, findings))
    asked = {**words.environment(), **command.environment(env)}
    version = next((v for v, names in ONLY_IN.items() if any(words.text(name) is not None for name in names)), None)
    names = {**COMMON, **BY_VERSION.get(version or 0, {})}
    world = _ranks(asked)
    values, absent = hf.read(words, names, world, findings, world_given="NPROC_PER_NODE" in asked)
    sharing = _product(words)
    tuner = words.text("tuner_type", "train_type") or "full"
    defaults = {**DEFAULTS, "learning_rate": 1e-5 if tuner == "full" else 1e-4}
    if words.config is not None:
        values["accumulation"] = _accumulation(words, values.get("device_batch", 1), world, sharing, findings)
    findings += (*_foreign(words), *_mixed(words))
    spec = hf.job(
        FAMILY, argv, words, values, absent, defaults, findings,
        launcher="torchrun" if {"NPROC_PER_NODE", "NNODES"} & asked.keys() else "python", ranks_per_row=sharing,
    )  # fmt: skip
    writable = {knob: name for knob, name in names.items() if knob in ("device_batch", "workers", "learning_rate")}
    tied = {"grpo": hf.GENERATED, "gkd": hf.GENERATED, "kto": hf.KTO}.get(words.text("rlhf_type") or "")
    tongue = Tongue(
        tuple({**writable, "max_length": "max_length"}.items()), fixed=hf.fixed_batch(tied), implied_accumulation=True
    )
    return Megatron(spec, command, version, words.config, tongue)


def _accumulation(words: Words, micro: Value, world: int | None, sharing: int, findings: list[Finding]) -> int | None:
    text = words.text("global_batch_size") or str(GLOBAL_BATCH)
    if not re.fullmatch(r"[1-9]\d{0,8}", text) or not isinstance(micro, int) or micro < 1 or world is None:
        return None
    rows = int(text)
    at_once = micro * max(1, world // sharing)
    if rows % at_once:
        what = f"global_batch_size {rows} is not a multiple of {at_once}, the rows of one micro step"
        findings.append(Finding("batch-does-not-divide", "error", what, "make it one"))
        return None
    return rows // at_once


def _foreign(words: Words) -> list[Finding]:
    wrong = [name for name in FOREIGN if words.text(name) is not None]
    if not wrong:
        return []
    names = ", ".join(f"--{name}" for name in wrong)
    verb = "is not" if len(wrong) == 1 else "are not"
    own = "micro_batch_size, global_batch_size, lr, lr_warmup_fraction, tensor_model_parallel_size"
    what = f"{names} {verb} megatron's: it has {own}"
    return [Finding("foreign-option", "warning", what, "use its own names")]


def _mixed(words: Words) -> list[Finding]:
    found = {v: next((name for name in names if words.text(name) is not None), None) for v, names in ONLY_IN.items()}
    if None in found.values():
        return []
    what = f"--{found[3]} is of version 3 and --{found[4]} of version 4: neither takes both"
    return [Finding("mixed-versions", "warning", what, "write it for the version that is installed")]


def _ranks(env: Mapping[str, str]) -> int | None:
    world = 1
    for name in ("NPROC_PER_NODE", "NNODES"):
        text = env.get(name, "1")
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            return None
        world *= int(text)
    return world


def _product(words: Words) -> int:
    product = 1
    for name in SHARING:
        text = words.text(name) or "1"
        product *= int(text) if re.fullmatch(r"[1-9]\d{0,5}", text) else 1
    return product
