"""The command line of the trainer that guardian brings: ms-swift's argument names, ms-swift's rules.

`sft ...`, the same with the verb left out, or `python -m guardian.trainer ...`. A JSON or YAML file may come first;
its keys stand for `--key value`, and what the command line says wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from guardian.core import commandline
from guardian.core.adapters import deepspeed, writing
from guardian.core.adapters import words as reading
from guardian.core.adapters.about import About
from guardian.core.adapters.words import Pairs, Words
from guardian.core.adapters.writing import WRITTEN, Settings, Tongue, Written
from guardian.core.events import Edit
from guardian.core.job import KNOBS, Finding, JobSpec, ReadConfig, Value, effective_batch
from guardian.core.values import dataclass

Argv = tuple[str, ...]

FAMILY = "embedded"
MODULE = "guardian.trainer"
VERB = "sft"
WANTED_BATCH = 16
"""With accumulation left out, as many micro steps as make at least this many rows per optimizer step."""

NAMES = {
    "device_batch": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "workers": "dataloader_num_workers",
    "prefetch": "dataloader_prefetch_factor",
    "pin_memory": "dataloader_pin_memory",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup_ratio",
    "dtype": "torch_dtype",
    "max_length": "max_length",
    "eval_batch": "per_device_eval_batch_size",
    "gradient_checkpointing": "gradient_checkpointing",
    "save_steps": "save_steps",
    "output_dir": "output_dir",
    "resume_from": "resume_from_checkpoint",
    "deepspeed": "deepspeed",
}
"""What each knob is called on the command line; the number of ranks comes from the environment."""
TONGUE = Tongue(
    names=tuple({**WRITTEN, **{knob: NAMES[knob] for knob in ("warmup_ratio", "max_length", "dtype")}}.items()),
    persistent_matters=False,
)

# The trainer's own defaults; a test holds them to its tables.
DEFAULTS: dict[str, Value] = {
    "device_batch": 1,
    "workers": 0,
    "pin_memory": True,
    "warmup_ratio": 0.0,
    "dtype": "auto",
    "eval_batch": 1,
    "gradient_checkpointing": True,
    "save_steps": 500,
}
DEMO_MODEL = "demo"
DEMO_DEFAULTS: dict[str, Value] = {
    "device_batch": 4,
    "learning_rate": 3e-3,
    "dtype": "float32",
    "max_length": 512,
    "gradient_checkpointing": False,
    "save_steps": 20,
}
LEARNING_RATES = {"full": 1e-5, "lora": 1e-4}
"""Where neither the command nor the model `demo` says."""

_PYTHON = re.compile(r"(.*/)?(python|pypy)[\d.]*")
# Options of the interpreter that take the next word as their value (python --help); -m ends them.
_PYTHON_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})

ABOUT = About(
    title="The embedded trainer",
    example="sft --model m --dataset d.jsonl",
    started="`sft ...`, the flags alone, `python -m guardian.trainer ...`; a JSON or YAML file may come first.",
    fills_in="Accumulation: as many micro steps as make 16 rows or more per step over all ranks.",
    resumes="The checkpoint, the folder that the job named, and no new version of it.",
    proved=("transformers 4.57 and 5.19, one process and two gloo ranks (tests/faults, tests/trainer)",),
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A command of our own trainer."""

    spec: JobSpec
    config: Pairs | None = ()
    """What the configuration file gives, as words; None: it could not be read."""
    deepspeed: deepspeed.Overlaid | None = None
    """The DeepSpeed file that the command names."""

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names or leaves to the trainer; relative to where it runs."""
        _, rest = _split(argv) or ((), argv)
        words = Words(rest, self.config)
        return words.text("output_dir") or (None if self.config is None else _default_output(words.text("model")))

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """What is executed: the user's Python where the command names one, else guardian's."""
        head, rest = _split(argv) or ((), argv)
        front, starts = _front(head)
        if starts and starts[0] != VERB:
            return commandline.launchable(argv)
        return commandline.launchable((*front, python, "-m", MODULE, VERB, *rest))

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command from a checkpoint on, saving into the folder that it lies in unless the job named another."""
        head, rest = _split(argv) or ((), argv)
        home = (checkpoint or "").rstrip("/").rpartition("/")[0] or "/"
        wanted = (
            # Empty: from the beginning, whatever the command or its file says.
            ("resume_from", "resume_from_checkpoint", checkpoint or ""),
            ("output_dir", "output_dir", output_dir or home),
            # Otherwise every start makes a new folder v<N>-<time>, and the run's checkpoints lie scattered.
            ("add_version", "add_version", "false"),
        )
        words, edits = Words(rest, self.config), []
        for knob, name, new in wanted:
            if not new and not words.text(name):
                continue
            old = words.text(name)
            words = words.put(new, name)
            if old != new:
                edits.append(Edit(knob, old, new, "resume"))
        return (*head, *words.rest), tuple(edits)

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs."""
        head, rest = _split(argv) or ((), argv)
        return writing.write(head, Words(rest, self.config), self.spec, settings, TONGUE, self.deepspeed)


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> Embedded | None:
    """The adapter, or None where the command is not one of our trainer."""
    parts = _split(argv)
    if parts is None:
        return None
    head, rest = parts
    front, starts = _front(head)
    findings: list[Finding] = []
    words = Words(rest, reading.config(rest, read_config, findings))
    asked = {**words.environment(), **env, **dict(word.split("=", 1) for word in front)}
    values, implicit = _read(words, asked, findings)
    file = deepspeed.read(words.text("deepspeed"), read_config, findings)
    spec = JobSpec(
        family=FAMILY,
        launcher="torchrun" if {"NPROC_PER_NODE", "NNODES"} & asked.keys() else "python",
        interpreter=starts[0] if starts and starts[0] != VERB else None,
        argv=argv,
        knobs=tuple((name, values.get(name)) for name in KNOBS),
        implicit=tuple(name for name in KNOBS if name in implicit),
        effective_batch=effective_batch(values["device_batch"], values["accumulation"], values["world_size"]),
        findings=tuple(findings),
    )
    return Embedded(spec, words.config, file)


def _front(argv: Argv) -> tuple[Argv, Argv]:
    """The variables that the command begins with, and the rest."""
    at = next((at for at, word in enumerate(argv) if not commandline.VARIABLE.fullmatch(word)), len(argv))
    return argv[:at], argv[at:]


def _split(argv: Argv) -> tuple[Argv, Argv] | None:
    """What starts the trainer and what it is told, or None where the command starts something else."""
    front, command = _front(argv)
    parts = _started(command)
    return ((*front, *parts[0]), parts[1]) if parts is not None else None


def _started(argv: Argv) -> tuple[Argv, Argv] | None:
    """The same, behind the variables."""
    if not argv:
        return None
    if argv[0] == VERB:
        return argv[:1], argv[1:]
    if argv[0].startswith("--"):
        return (), argv
    if not _PYTHON.fullmatch(argv[0]):
        return None
    at = 1
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-m":
        at += 2 if argv[at] in _PYTHON_WITH_VALUE else 1
    if argv[at : at + 2] != ("-m", MODULE):
        return None
    at += 2
    at += argv[at : at + 1] == (VERB,)
    return argv[:at], argv[at:]


# --- what the words mean -------------------------------------------------------------------------------------


def _read(words: Words, env: Mapping[str, str], findings: list[Finding]) -> tuple[dict[str, Value], set[str]]:
    """Each knob's value, and the names of those that nobody gave."""
    texts = {knob: words.text(name) for knob, name in NAMES.items()}
    values: dict[str, Value] = {
        knob: reading.value(knob, text, findings, name=NAMES[knob]) for knob, text in texts.items() if text is not None
    }
    absent = {knob for knob, text in texts.items() if text is None}
    values["world_size"] = _world_size(env, findings)
    if words.config is None:
        # What the command line leaves to a file that nobody could read is unknown.
        return {**dict.fromkeys(absent), **values}, set()
    defaults = _defaults(words, values)
    implicit = absent if "NPROC_PER_NODE" in env else absent | {"world_size"}
    return {**{knob: defaults.get(knob) for knob in absent}, **values}, implicit


def _defaults(words: Words, given: dict[str, Value]) -> dict[str, Value]:
    """What the trainer takes where nothing is given."""
    model = words.text("model")
    tuner = words.text("tuner_type", "train_type") or "lora"
    defaults = {
        "learning_rate": LEARNING_RATES.get(tuner),
        **DEFAULTS,
        **(DEMO_DEFAULTS if model == DEMO_MODEL else {}),
    }
    defaults["output_dir"] = _default_output(model)
    device_batch = given.get("device_batch", defaults["device_batch"])
    return {**defaults, "accumulation": _accumulation(device_batch, given["world_size"])}


def _default_output(model: str | None) -> str | None:
    return f"output/{model.rstrip('/').rpartition('/')[2]}" if model else None


def _accumulation(device_batch: Value, world_size: Value) -> int | None:
    if not isinstance(device_batch, int) or not isinstance(world_size, int) or device_batch < 1 or world_size < 1:
        return None
    return max(1, math.ceil(WANTED_BATCH / (device_batch * world_size)))


def _world_size(env: Mapping[str, str], findings: list[Finding]) -> int | None:
    world = 1
    for name in ("NPROC_PER_NODE", "NNODES"):
        text = env.get(name, "1")
        if not re.fullmatch(r"[1-9]\d{0,5}", text):
            findings.append(Finding("world-size", "warning", f"{name}={text}: the number of ranks is unknown"))
            return None
        world *= int(text)
    return world
