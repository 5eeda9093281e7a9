"""ms-swift's own command, versions 3 and 4: `swift sft|pt|rlhf`, a file first (4) or behind --config (3), or flags.

Version 3 puts what the file says behind all flags, where it wins; so it becomes flags once the command is edited.
Its accumulation is filled in by a rule that rounds, so it is written out; its versioned folders are turned off at a
resume; the ranks come from the environment. The names that differ between the versions are only read, never written.
"""

from __future__ import annotations

import math
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

FAMILY = "swift"
VERBS = frozenset({"sft", "pt", "rlhf"})
WANTED_BATCH = 16
"""With accumulation left out, as many micro steps as make at least this many rows per step (trainers/arguments.py)."""
NAMES: hf.Names = {**hf.NAMES, "dtype": "torch_dtype", "max_length": "max_length"}
DEFAULTS: dict[str, Value] = {
    "device_batch": 1,
    "workers": 1,
    "prefetch": 2,
    "pin_memory": True,
    "warmup_ratio": 0.0,
    "eval_batch": 1,
    "gradient_checkpointing": True,
    "save_steps": 500,
}
LEARNING_RATES = {"full": 1e-5}
OTHER_LEARNING_RATE = 1e-4
"""For every tuner but `full`."""
SHARING = ("sequence_parallel_size", "deepspeed_autotp_size")
"""Ranks that work on the same rows."""
TIED = {
    **{("rlhf_type", method): f"--rlhf_type {method}: {hf.GENERATED}" for method in ("grpo", "ppo", "gkd")},
    ("rlhf_type", "kto"): hf.KTO,
    **{("task_type", task): hf.NEGATIVES for task in ("embedding", "reranker", "generative_reranker")},
}
"""Options under which the device batch is not to be changed, each with the reason."""

ABOUT = About(
    title="ms-swift",
    example="swift sft --model m --dataset d",
    started=(
        "`swift sft`, `swift pt`, `swift rlhf`, with `NAME=value` in front; a file first (version 4) or behind "
        "`--config` (version 3); `swift/cli/sft.py` under a launcher of yours."
    ),
    fills_in=(
        "Accumulation: `max(1, ceil(16 / batch / ranks))`, and 1 for GRPO; it is written out once the device batch is "
        "changed. Ranks that share rows (`sequence_parallel_size`) count once, but under GRPO, which accumulates more."
    ),
    resumes="The checkpoint, the versioned folder that the job named, and no new version of it (`add_version`).",
    proved=(
        "4.6.0 with transformers 5.19 and 3.12.6 with 4.57: LoRA on two gloo ranks, full in one process with a file",
        "DeepSpeed on two CPU ranks: 4.6.0 with LoRA and the preset `zero2`, 3.12.6 in full with a ZeRO-1 file",
        "each of these: killed with the newest checkpoint damaged, then out of memory, then a loss that is no number",
        "`guardian stop`, both versions: saved, and nothing left behind",
    ),
    dry=("`swift pt`, `swift rlhf`, sequence parallelism, other DeepSpeed presets, several nodes",),
    refused=(
        "device batch and accumulation of GRPO, PPO and GKD, which are tied to the answers generated per prompt",
        "those of KTO, embeddings and rerankers, whose loss is taken over the micro batch",
    ),
)


@dataclass(frozen=True, slots=True)
class Swift:
    """A command of ms-swift."""

    spec: JobSpec
    command: Command
    config: reading.Pairs | None = ()
    appended: Argv = ()
    """What version 3 makes of the file behind --config."""
    tongue: Tongue = Tongue(())
    deepspeed: deepspeed.Overlaid | None = None

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names or leaves to swift; its versions lie below."""
        return _output_dir(self._words(argv))

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """The user's command; variables in front of it need `env`."""
        del python
        return commandline.launchable(argv)

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command from a checkpoint on, saving into the folder that it lies in unless the job named another."""
        words = self._words(argv)
        further: tuple[tuple[str, str, str], ...] = ()
        home = output_dir or (hf.home_of(checkpoint) if checkpoint else None)
        if home is not None:
            # Otherwise every start makes a new folder v<N>-<time>, and the run's checkpoints lie scattered.
            further = (("output_dir", "output_dir", home), ("add_version", "add_version", "false"))
        words, edits = hf.go_on(words, checkpoint, further)
        return ((*self.command.head, *words.rest), edits) if edits else (argv, ())

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs."""
        new = writing.write(self.command.head, self._words(argv), self.spec, settings, self.tongue, self.deepspeed)
        return new if new.edits else Written(argv, refused=new.refused)

    def _words(self, argv: Argv) -> Words:
        rest = argv[len(self.command.head) :]
        return Words(_expanded(rest, self.appended), self.config)


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> Swift | None:
    """The adapter, or None where the command is not a training by swift."""
    command = launchers.take_apart(argv)
    command = _behind_verb(command, argv) if command else None
    if command is None:
        return None
    findings: list[Finding] = []
    config = reading.config(command.rest, read_config, findings)
    behind = commandline.value(command.rest, "config")
    pairs = reading.read_pairs(behind, read_config, findings) if behind else ()
    appended = tuple(token for name, values in pairs or () for token in (f"--{name}", *values))
    words = Words(_expanded(command.rest, appended), None if pairs is None else config)
    asked = {**words.environment(), **command.environment(env)}
    world = _ranks(command, asked, read_config, findings, unread=words.config is None)
    given = command.launcher not in ("direct", "python") or bool({"NPROC_PER_NODE", "NNODES"} & asked.keys())
    values, absent = hf.read(words, NAMES, world, findings, world_given=given)
    file = deepspeed.read(words.text("deepspeed"), read_config, findings)
    defaults = _defaults(words, values)
    if "accumulation" in absent and words.config is not None and not _grpo(words):
        findings += _rounded(values.get("device_batch", defaults["device_batch"]), defaults["accumulation"], world)
    if words.text("torch_dtype") == "float32" and words.text("fp16") is None and words.text("bf16") is None:
        what = "--torch_dtype float32 alone makes swift train in mixed precision, fp16"
        findings.append(Finding("float32-is-fp16", "advice", what, "add --fp16 false to train in float32"))
    spec = hf.job(
        FAMILY, argv, words, values, absent, defaults, findings,
        launcher="torchrun" if given else "python", interpreter=command.interpreter,
        ranks_per_row=_sharing(words), file=file,
    )  # fmt: skip
    tongue = Tongue(
        tuple({**WRITTEN, "warmup_ratio": "warmup_ratio", "max_length": "max_length", "dtype": "torch_dtype"}.items()),
        fixed=hf.fixed_batch(
            _tied(words)
            or hf.without_own_search(words)
            or deepspeed.why_fixed(file, spec.knob("accumulation"), findings)
        ),
        persistent_matters=False,
        dtype=("bf16", "fp16"),
    )
    return Swift(spec, command, words.config, appended, tongue, file)


def _expanded(rest: Argv, appended: Argv) -> Argv:
    return (*commandline.remove(rest, "config"), *appended) if appended and commandline.given(rest, "config") else rest


def _behind_verb(command: Command, argv: Argv) -> Command | None:
    """The command with the verb in its head: `swift sft`, or the program behind it under a launcher of the user's."""
    verb = command.rest[0].replace("_", "-") if command.rest else ""
    if command.name == "swift" and verb in VERBS:
        return Command(
            command.variables, command.launcher, command.interpreter, command.program, command.is_module,
            argv[: len(command.head) + 1], command.rest[1:], command.options,
        )  # fmt: skip
    program = command.program.removesuffix(".py").replace("/", ".")
    inside = re.search(r"(^|\.)swift\.cli\.(\w+)$", program)
    return command if inside and inside[2] in VERBS else None


def _ranks(
    command: Command, env: Mapping[str, str], read_config: ReadConfig, findings: list[Finding], *, unread: bool
) -> int | None:
    if command.launcher not in ("direct", "python") or "RANK" in env:
        return launchers.ranks(command, env, read_config, findings)
    if unread and not {"NPROC_PER_NODE", "NNODES"} & env.keys():
        return None  # its ENV may say how many
    world = 1
    for name in ("NPROC_PER_NODE", "NNODES"):
        text = env.get(name, "1")
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            what = f"{name}={text}: the number of ranks is unknown"
            findings.append(Finding("world-size", "warning", what, "give a whole number"))
            return None
        world *= int(text)
    return world


def _defaults(words: Words, given: Mapping[str, Value]) -> dict[str, Value]:
    """What swift takes where nothing is given."""
    tuner = words.text("tuner_type", "train_type") or "lora"
    device_batch = given.get("device_batch", DEFAULTS["device_batch"])
    filled = {
        **DEFAULTS,
        "learning_rate": LEARNING_RATES.get(tuner, OTHER_LEARNING_RATE),
        "output_dir": _output_dir(words),
        "accumulation": 1 if _grpo(words) else _accumulation(device_batch, given["world_size"]),
    }
    if given.get("workers", DEFAULTS["workers"]) == 0:
        del filled["prefetch"]
    return filled


def _accumulation(device_batch: Value, world_size: Value) -> int | None:
    if not isinstance(device_batch, int) or not isinstance(world_size, int) or device_batch < 1 or world_size < 1:
        return None
    return max(1, math.ceil(WANTED_BATCH / device_batch / world_size))


def _rounded(device_batch: Value, accumulation: Value, world: int | None) -> list[Finding]:
    """A batch that nobody asked for."""
    if not isinstance(device_batch, int) or not isinstance(accumulation, int) or world is None:
        return []
    rows = device_batch * accumulation * world
    if rows == WANTED_BATCH:
        return []
    what = f"accumulation is left to swift, which makes it {accumulation}: {rows} rows per step and not {WANTED_BATCH}"
    return [Finding("implicit-accumulation", "advice", what, "give --gradient_accumulation_steps")]


def _output_dir(words: Words) -> str | None:
    named, model = words.text("output_dir"), words.text("model")
    if named is not None or words.config is None:
        return named
    return f"output/{model.rstrip('/').rpartition('/')[2]}" if model else None


def _grpo(words: Words) -> bool:
    return words.text("rlhf_type") == "grpo"


def _sharing(words: Words) -> int:
    product = 1
    # GRPO accumulates as many times more as ranks share a row (grpo_trainer.py): the rows are those of all ranks.
    for name in SHARING[1:] if _grpo(words) else SHARING:
        text = words.text(name) or "1"
        product *= int(text) if re.fullmatch(r"[1-9]\d{0,5}", text) else 1
    return product


def _tied(words: Words) -> str | None:
    """Why the batch must stay as it is."""
    return next((why for (name, value), why in TIED.items() if words.text(name) == value), None)
