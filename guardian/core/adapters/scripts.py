"""A user's own script with transformers' TrainingArguments, however it is started.

It is not run to find out: it is known by the arguments that only TrainingArguments has. `trl sft` and the like, which
parse the same way, count among them. A file behind `--config` (TrlParser) gives what the command does not. A JSON file
alone, as HfArgumentParser takes it, becomes flags once it is edited: beside a flag it would not be read.
"""

from __future__ import annotations

import json
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
from guardian.errors import UserError

Argv = tuple[str, ...]

FAMILY = "transformers"
TRL = "trl"
TELLING = frozenset({
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_train_epochs",
    "save_total_limit", "resume_from_checkpoint", "dataloader_num_workers", "lr_scheduler_type", "logging_steps",
})  # fmt: skip
"""Names of TrainingArguments that hardly anybody else uses. `output_dir` alone tells nothing."""
TRL_VERBS = frozenset({"sft", "dpo", "kto", "reward", "rloo", "grpo"})
TRL_DEFAULTS: dict[str, Value] = {"learning_rate": None, "gradient_checkpointing": None, "dtype": None}
"""Those of TRL's own that differ by version and by verb: unknown here, told by the job itself."""
GENERATING = ("num_generations", "generation_batch_size", "steps_per_generation")
LENGTHS = ("max_seq_length", "max_length", "model_max_length", "block_size", "cutoff_len")
PRECISIONS = (("bf16", "bfloat16"), ("fp16", "float16"))

ABOUT = About(
    title="Scripts with TrainingArguments",
    example="torchrun train.py --output_dir out --per_device_train_batch_size 8 --gradient_accumulation_steps 2",
    started=(
        "By `python`, `python -m`, `torchrun`, `accelerate launch`, `deepspeed`, behind `env`, `conda run`, `uv run`; "
        "known by arguments that only TrainingArguments has; one JSON file alone, or `--config` with a file."
    ),
    fills_in="TrainingArguments' own defaults; a script with others is believed once it runs.",
    resumes=(
        "`--resume_from_checkpoint`; where the script does not hand it to `train()`, the companion does. A parser of "
        "the script's own, which does not know that option, gets no new words: changed and resumed from inside (below)."
    ),
    proved=(
        "transformers 5.19: `python`; `torchrun` and `accelerate launch` with two gloo ranks",
        "DeepSpeed on two CPU ranks: ZeRO-1 under `torchrun`, with the numbers in its file, of which a copy follows",
        "DeepSpeed's own launcher: ZeRO-2, `auto` in its file",
        "two ranks: killed with the newest checkpoint damaged, then out of memory, then a loss that is no number",
    ),
    dry=("several nodes, FSDP, ZeRO-3, transformers 4",),
    refused=(
        "the batch under `auto_find_batch_size`, which sets it by itself, and where `split_batches` shares it out",
        "the batch of GRPO, RLOO, PPO and KTO, and where the trainer says that arguments do not make it (see below)",
        "a warm-up share or a length that the command does not name: the script may not know it",
    ),
)
ABOUT_TRL = About(
    title="TRL's command",
    example="trl sft --per_device_train_batch_size 2 --gradient_accumulation_steps 8 --num_processes 2",
    started="`trl sft`, `dpo`, `kto`, `reward`, `grpo`, `rloo`, with `--config` or flags.",
    fills_in="What is TRL's own differs by version and method: unknown until the job tells it.",
    resumes="`--resume_from_checkpoint`, which TRL's scripts read and do not hand to `train()`: the companion does.",
    proved=(
        "0.29.1 with transformers 5.19: `trl sft` with one process",
        "its script on two gloo ranks under `torchrun` and under `accelerate launch`",
        "each: killed with the newest checkpoint damaged, then out of memory, then a loss that is no number",
    ),
    dry=("the other methods",),
    refused=("the batch of `grpo` and `rloo`, tied to the answers per prompt, and of `kto`",),
)


@dataclass(frozen=True, slots=True)
class Script:
    """A command that runs such a script."""

    spec: JobSpec
    command: Command
    config: reading.Pairs | None = ()
    alone: bool = False
    """The configuration file is all that the command says."""
    tongue: Tongue = Tongue(())
    deepspeed: deepspeed.Overlaid | None = None

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return self.spec.family or FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names, or TrainingArguments' own."""
        named = self._words(argv).text("output_dir")
        return named or (None if self.config is None else str(hf.DEFAULTS["output_dir"]))

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """The user's command; variables in front of it need `env`."""
        del python
        return commandline.launchable(argv)

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command from a checkpoint on; it goes on in the same folder by itself, if that is where it saved."""
        words = self._words(argv)
        home = output_dir or (hf.home_of(checkpoint) if checkpoint else None)
        given = words.text("output_dir") or str(hf.DEFAULTS["output_dir"])
        move = () if home is None or hf.same_folder(given, home) else (("output_dir", "output_dir", home),)
        words, edits = hf.go_on(self._expanded(words), checkpoint, move)
        return ((*self.command.head, *words.rest), edits) if edits else (argv, ())

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs."""
        words = self._words(argv)
        new = writing.write(self.command.head, self._expanded(words), self.spec, settings, self.tongue, self.deepspeed)
        return new if new.edits else Written(argv, refused=new.refused)

    def _words(self, argv: Argv) -> Words:
        rest = argv[len(self.command.head) :]
        return Words(rest, () if self.alone and _lone_file(rest) is None else self.config)

    def _expanded(self, words: Words) -> Words:
        """With flags in the place of a file that stands alone."""
        if not self.alone or _lone_file(words.rest) is None:
            return words
        flags = (token for name, values in words.config or () for token in (f"--{name}", *values))
        return Words((*flags, *(word for word in words.rest if word != _lone_file(words.rest))))


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> Script | None:
    """The adapter, or None where nothing tells of TrainingArguments."""
    command = launchers.take_apart(argv)
    if command is None or command.name in ("swift", "megatron", "llamafactory-cli", "lmf"):
        return None
    trl = (command.name == "trl" or command.program == "trl") and command.rest[:1] and command.rest[0] in TRL_VERBS
    findings: list[Finding] = []
    if trl:
        command = Command(
            command.variables, command.launcher, command.interpreter, command.program, command.is_module,
            argv[: len(command.head) + 1], command.rest[1:], command.options,
        )  # fmt: skip
    elif command.launcher == "direct" and not command.name.endswith(".py"):
        return None
    words = _given(command, read_config, findings if trl else [])
    if not trl and not _tells(words):
        return None
    return _understood(argv, command, words, env, read_config, findings, trl=bool(trl))


def _understood(
    argv: Argv,
    command: Command,
    words: Words,
    env: Mapping[str, str],
    read_config: ReadConfig,
    findings: list[Finding],
    *,
    trl: bool,
) -> Script:
    asked = command.environment(env)
    length = next((name for name in LENGTHS if words.text(name) is not None), "max_length" if trl else None)
    names = {**hf.NAMES, **({"max_length": length} if length else {})}
    world = _trl_ranks(words) if trl else launchers.ranks(command, asked, read_config, findings)
    values, absent = hf.read(words, names, world, findings, world_given=command.launcher != "python")
    dtype = _dtype(words)
    if dtype is not None:
        values["dtype"] = dtype
        absent.discard("dtype")
    several = _several_devices(command, asked)
    findings += several
    split = _split_batches(words, read_config)
    if several or split:
        # Nobody knows here what the trainer makes of the batch; it tells once it runs.
        values["world_size"] = None
    file = deepspeed.read(words.text("deepspeed"), read_config, findings)
    defaults = {**hf.DEFAULTS, **(TRL_DEFAULTS if trl else {})}
    spec = hf.job(
        TRL if trl else FAMILY, argv, words, values, absent, defaults, findings,
        launcher="accelerate" if trl else command.launcher, interpreter=command.interpreter, file=file,
    )  # fmt: skip
    tied = _OWN_ACCUMULATION if launchers.own_accumulation(command, asked, read_config) else None
    own = split or _tied(words, command, trl=trl)
    tied = tied or own or deepspeed.why_fixed(file, spec.knob("accumulation"), findings)
    tongue = _tongue(words, length, tied or hf.without_own_search(words))
    return Script(spec, command, words.config, _lone_file(words.rest) is not None, tongue, file)


def _given(command: Command, read_config: ReadConfig, findings: list[Finding]) -> Words:
    """What is said, and in which file; what a script calls its configuration need not be for TrainingArguments."""
    path = _lone_file(command.rest) or Words(command.rest).text("config")
    if path is None or not path.endswith(reading.CONFIG_SUFFIXES):
        return Words(command.rest)
    return Words(command.rest, reading.read_pairs(path, read_config, findings))


def _lone_file(rest: Argv) -> str | None:
    """The JSON file that is all there is, beside the rank that old launchers append."""
    own = [word for word in rest if not re.fullmatch(r"--local[-_]rank=\d+", word)]
    return own[0] if len(own) == 1 and own[0].endswith(".json") else None


def _tells(words: Words) -> bool:
    given = sum(words.text(name) is not None for name in TELLING)
    return given >= 2 or (given == 1 and words.text("output_dir") is not None)


_OWN_ACCUMULATION = "accelerate's DeepSpeed settings repeat the batch; write auto there"


def _tongue(words: Words, length: str | None, fixed: str | None) -> Tongue:
    names = {**WRITTEN, "dtype": "bf16", **({"max_length": length} if length else {})}
    if words.text("warmup_ratio") is not None:
        # transformers 5 has lost the option; where it stands, it is known.
        names["warmup_ratio"] = "warmup_ratio"
    return Tongue(tuple(names.items()), fixed=hf.fixed_batch(fixed), dtype=tuple(p[0] for p in PRECISIONS))


def _tied(words: Words, command: Command, *, trl: bool) -> str | None:
    """Why another split of the batch would be another training."""
    method = command.head[-1] if trl else words.text("rlhf_type")
    if method == "kto":
        return hf.KTO
    generated = method in ("grpo", "rloo", "ppo") or any(words.text(name) is not None for name in GENERATING)
    return hf.GENERATED if generated else None


def _split_batches(words: Words, read_config: ReadConfig) -> str | None:
    """Why the batch must stay, where it is that of all ranks; accelerate's settings are a file or JSON."""
    given = words.text("accelerator_config") or "{}"
    try:
        asked = json.loads(given) if given.lstrip().startswith("{") else read_config(given)
    except (UserError, ValueError):
        asked = {}
    on = hf.is_on(words, "split_batches") or (isinstance(asked, Mapping) and asked.get("split_batches") is True)
    return "the batch is split over the ranks (split_batches)" if on else None


def _dtype(words: Words) -> str | None:
    return next((dtype for name, dtype in PRECISIONS if hf.is_on(words, name)), None)


def _trl_ranks(words: Words) -> int | None:
    """`trl` hands what it does not know to `accelerate launch`, which takes all devices where nothing is said."""
    text = words.text("num_processes")
    return int(text) if text is not None and re.fullmatch(r"[1-9]\d{0,5}", text) else None


def _several_devices(command: Command, env: Mapping[str, str]) -> list[Finding]:
    devices = [d for d in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    if command.launcher != "python" or len(devices) < 2:
        return []
    what = f"one process and {len(devices)} devices: the trainer splits each batch over them, and multiplies it"
    return [Finding("data-parallel", "warning", what, "start it by torchrun, or show it one device")]
