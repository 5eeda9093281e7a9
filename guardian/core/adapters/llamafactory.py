"""LLaMA-Factory's command: `llamafactory-cli train x.yaml key=value ...`, or flags without a file.

Behind a file only `key=value` counts, and the last one wins. It goes on from the newest checkpoint of its output folder
by itself, half-written ones included; a path that is given overrules that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from guardian.core import commandline
from guardian.core.adapters import deepspeed, hf, launchers, writing
from guardian.core.adapters import words as reading
from guardian.core.adapters.about import About
from guardian.core.adapters.launchers import Command
from guardian.core.adapters.words import Words
from guardian.core.adapters.writing import WRITTEN, Settings, Tongue, Written
from guardian.core.events import Edit
from guardian.core.job import Finding, JobSpec, ReadConfig, Value
from guardian.core.values import dataclass

Argv = tuple[str, ...]

FAMILY = "llamafactory"
PROGRAMS = frozenset({"llamafactory-cli", "lmf", "llamafactory.cli"})
NAMES: hf.Names = {**hf.NAMES, "max_length": "cutoff_len"}
DEFAULTS: dict[str, Value] = {**hf.DEFAULTS, "gradient_checkpointing": True, "max_length": 2048}
TIED = {
    "ppo": "PPO ties the batch to the rows that it generates",
    "kto": hf.KTO,
    "rm": "a reward model's loss pairs the rows of a batch; whether it is the same in other splits is not measured",
}
"""Stages whose batch is not touched."""

ABOUT = About(
    title="LLaMA-Factory",
    example="llamafactory-cli train --stage sft --output_dir out",
    started="`llamafactory-cli train x.yaml key=value ...`, or flags and no file; `lmf`; `FORCE_TORCHRUN=1`.",
    fills_in="As transformers, but activations are recomputed unless `disable_gradient_checkpointing`.",
    resumes="The checkpoint; a path that is given overrules its own search for the newest.",
    proved=(
        "0.9.5 with transformers 5.6: LoRA, one process and two gloo ranks",
        "both: killed with the newest checkpoint damaged, then out of memory, then a loss that is no number",
    ),
    dry=("flags without a file, several nodes, `dpo`, `pt`",),
    refused=("device batch and accumulation of PPO, of KTO and of reward models",),
)


@dataclass(frozen=True, slots=True)
class LlamaFactory:
    """A command of LLaMA-Factory."""

    spec: JobSpec
    command: Command
    file: Argv
    """The word that names the configuration file, if there is one."""
    config: reading.Pairs | None = ()
    tongue: Tongue = Tongue(())
    deepspeed: deepspeed.Overlaid | None = None

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names; LLaMA-Factory asks for one."""
        return self._words(argv).text("output_dir")

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """The user's command; variables in front of it need `env`."""
        del python
        return commandline.launchable(argv)

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command from a checkpoint on; its own search for one is overruled by the path."""
        words = self._words(argv)
        home = output_dir or (hf.home_of(checkpoint) if checkpoint else None)
        stays = home is None or hf.same_folder(words.text("output_dir"), home)
        words, edits = hf.go_on(words, checkpoint, () if stays else (("output_dir", "output_dir", str(home)),))
        return (*self._head, *words.rest), edits

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs."""
        return writing.write(self._head, self._words(argv), self.spec, settings, self.tongue, self.deepspeed)

    @property
    def _head(self) -> Argv:
        return (*self.command.head, *self.file)

    def _words(self, argv: Argv) -> Words:
        return Words(argv[len(self._head) :], self.config, dashed=not self.file)


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> LlamaFactory | None:
    """The adapter, or None where the command is not a training by LLaMA-Factory."""
    command = launchers.take_apart(argv)
    if command is None or command.name not in PROGRAMS or command.rest[:1] != ("train",):
        return None
    command = Command(
        command.variables, command.launcher, command.interpreter, command.program, command.is_module,
        argv[: len(command.head) + 1], command.rest[1:], command.options,
    )  # fmt: skip
    findings: list[Finding] = []
    file = command.rest[:1] if command.rest and command.rest[0].endswith(reading.CONFIG_SUFFIXES) else ()
    words = Words(command.rest[len(file) :], reading.config(command.rest, read_config, findings), dashed=not file)
    if file:
        findings += _not_pairs(words.rest)
    asked = command.environment(env)
    world, given = _ranks(command, asked, read_config, findings)
    values, absent = hf.read(words, NAMES, world, findings, world_given=given)
    values["dtype"] = next((dtype for name, dtype in _PRECISIONS if hf.is_on(words, name)), None)
    absent.discard("dtype")
    if words.text(_NO_CHECKPOINTING) is not None:
        values["gradient_checkpointing"] = not hf.is_on(words, _NO_CHECKPOINTING)
        absent.discard("gradient_checkpointing")
    ds = deepspeed.read(words.text("deepspeed"), read_config, findings)
    spec = hf.job(
        FAMILY, argv, words, values, absent, {**DEFAULTS, "output_dir": None}, findings,
        launcher="torchrun" if world != 1 else "python", interpreter=command.interpreter, file=ds,
    )  # fmt: skip
    fixed = deepspeed.why_fixed(ds, spec.knob("accumulation"), findings)
    return LlamaFactory(spec, command, file, words.config, _tongue(words, fixed), ds)


_NO_CHECKPOINTING = "disable_gradient_checkpointing"
_PRECISIONS = (("pure_bf16", "bfloat16"), ("bf16", "bfloat16"), ("fp16", "float16"))


def _tongue(words: Words, fixed_by_file: str | None) -> Tongue:
    # Its own switch, the other way round, decides (model/model_utils/checkpointing.py).
    own = {"max_length": "cutoff_len", "gradient_checkpointing": _NO_CHECKPOINTING}
    names = {**WRITTEN, "dtype": "bf16", **own}
    if words.text("warmup_ratio") is not None:
        names["warmup_ratio"] = "warmup_ratio"
    tied = TIED.get(words.text("stage") or "")
    fixed = hf.fixed_batch(tied or hf.without_own_search(words) or fixed_by_file)
    if hf.is_on(words, "pure_bf16"):
        fixed += (("dtype", "--pure_bf16 holds the weights themselves in bfloat16"),)
    return Tongue(tuple(names.items()), fixed=fixed, dtype=("bf16", "fp16"), inverted=("gradient_checkpointing",))


def _not_pairs(rest: Argv) -> list[Finding]:
    """Words that OmegaConf does not read as they are meant."""
    wrong = [word for word in rest if word.startswith("--") or "=" not in word]
    if not wrong:
        return []
    what = f"{wrong[0]}: behind a file LLaMA-Factory reads only key=value"
    return [Finding("not-a-pair", "warning", what, "write it as name=value")]


def _ranks(
    command: Command, env: Mapping[str, str], read_config: ReadConfig, findings: list[Finding]
) -> tuple[int | None, bool]:
    """How many processes train, and whether the command says so."""
    if command.launcher not in ("direct", "python"):
        return launchers.ranks(command, env, read_config, findings), True
    devices = [d for d in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    forced = env.get("FORCE_TORCHRUN", "0").lower() in ("true", "1", "y")
    if not forced and len(devices) < 2:
        # With several GPUs it starts torchrun by itself; which it sees is the machine's.
        return 1, False
    texts = {"NPROC_PER_NODE": env.get("NPROC_PER_NODE", str(len(devices) or "all")), "NNODES": env.get("NNODES", "1")}
    world = 1
    for text in texts.values():
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            return None, True
        world *= int(text)
    return world, True
