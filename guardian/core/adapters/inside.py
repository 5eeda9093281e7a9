"""A training whose command does not say what it trains: `bash train.sh`, a script with its arguments written in it.

Nothing is known before the trainer itself has told what it is made of (the companion's hello). From then on its
arguments are changed inside the process, as `Trainer.__init__` gets them, and the checkpoint is handed to `train()`;
the command stays as it is, word by word. A script that is known by its flags, but reads them with a parser of its own,
is treated so too: a flag that it does not know would end it.
"""

from __future__ import annotations

import json

from guardian.core import commandline
from guardian.core.adapters import scripts, writing
from guardian.core.adapters.about import About
from guardian.core.adapters.words import Words, spelt
from guardian.core.adapters.writing import WRITTEN, Settings, Tongue, Written
from guardian.core.events import Edit, Hello
from guardian.core.job import KNOBS, JobSpec, Value
from guardian.core.values import dataclass

Argv = tuple[str, ...]

FAMILY = "inside"
MADE_BEFORE = {
    "dtype": "mixed precision is set up with the arguments, before the trainer is made",
    "ddp_timeout": "the ranks have met before the trainer is made",
    "max_length": "the rows have their length before the trainer is made",
}
"""What is no longer asked for when `Trainer.__init__` gets its arguments."""
NAMES = {knob: name for knob, name in WRITTEN.items() if knob not in MADE_BEFORE} | {"warmup_ratio": "warmup_ratio"}

ABOUT = About(
    title="`bash train.sh`, and scripts whose arguments are written in them",
    example="bash train.sh",
    started=(
        "Any command in which transformers' Trainer runs: known once it trains, by what the trainer itself is made of. "
        "Until then it is watched, explained and started again as it is. A script that is known by its flags and reads "
        "them with a parser of its own is treated so too."
    ),
    fills_in="Nothing: the arguments of the trainer are read as they are.",
    resumes="The checkpoint is handed to `train()`, whatever the script gives it; the command stays word by word.",
    proved=(
        "transformers 5.19 and 4.57: `bash train.sh` with torchrun, two gloo ranks and arguments written in the script",
        "both: killed with the newest checkpoint damaged, then out of memory, then a loss that is no number",
        "ms-swift 4.6.0 and 3.12.6 in `train.sh` on two gloo ranks: the folder's version is a new one at each start",
        "LLaMA-Factory 0.9.5 in `train.sh`, one process, out of memory",
        "out of memory, in each of these: the device batch halved, the accumulation doubled, the same rows per step",
        "a script that makes a new output folder at each start; a script with an argparse parser of its own",
        "DeepSpeed ZeRO-1 on two CPU ranks with `auto` in its configuration",
    ),
    dry=("several trainings in one command: the checkpoint goes to the one that made it", "FSDP, several nodes"),
    refused=(
        "the batch, where the trainer has a data loader of its own or DeepSpeed's configuration gives numbers",
        "the batch under `auto_find_batch_size` and `split_batches`, and of GRPO, KTO, embeddings and rerankers",
        "`dtype`, `max_length`, `ddp_timeout`: settled before the trainer is made",
        "everything, without the companion or without transformers' Trainer: watched and started again only",
    ),
)


@dataclass(frozen=True, slots=True)
class Inside:
    """A command whose training has spoken."""

    spec: JobSpec
    hello: Hello
    own_folders: tuple[str, ...]
    """Where the job saved by itself: it may make a new folder at each start, and goes on there."""

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return self.spec.family or FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the job named."""
        del argv
        return self.hello.output_dir

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """The user's command; variables in front of it need `env`."""
        del python
        return commandline.launchable(argv)

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The same command; what is said here the companion does."""
        edits = () if checkpoint is None else (Edit("resume_from", None, checkpoint, "resume"),)
        if output_dir is not None and output_dir not in self.own_folders:
            edits = (*edits, Edit("output_dir", self.hello.output_dir, output_dir, "resume"))
        return argv, edits

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The arguments that the companion is to give the trainer, by the rules for the words of a command."""
        fixed = {**MADE_BEFORE, **dict(self.hello.fixed)}
        tongue = Tongue(tuple((NAMES | {knob: knob for knob in MADE_BEFORE}).items()), fixed=tuple(fixed.items()))
        new = writing.write((), self._words(), self.spec, settings, tongue)
        told = [(NAMES[edit.knob], json.loads(edit.new)) for edit in new.edits if edit.new and edit.knob in NAMES]
        return Written(argv, new.edits, refused=new.refused, inside=tuple(told))

    def asked(self, written: Written, edits: tuple[Edit, ...], checkpoint: str | None) -> dict[str, object]:
        """What the companion's environment says for this: nothing where nothing is asked."""
        moved = {edit.knob: edit.new for edit in edits if edit.knob == "output_dir"}
        arguments = {**dict(written.inside), **moved}
        asked: dict[str, object] = {"training": self.hello.training} if checkpoint is not None or moved else {}
        if checkpoint is None and moved:
            # A script that looks for the newest checkpoint itself would find what is gone back behind.
            asked["afresh"] = list(self.own_folders)
        if arguments:
            asked["arguments"] = {"set": arguments, "where": self._where()}
        return asked

    def _where(self) -> dict[str, Value]:
        """By what the companion knows the trainer: a script may make others."""
        given = self.hello.batch_argument if self.hello.batch_argument is not None else self.hello.device_batch
        return {WRITTEN["device_batch"]: given, WRITTEN["accumulation"]: self.hello.accumulation}

    def _words(self) -> Words:
        """As a command would say it."""
        known = {NAMES[knob]: value for knob, value in self.spec.knobs if knob in NAMES and value is not None}
        known |= {} if self.hello.save_total_limit is None else {"save_total_limit": self.hello.save_total_limit}
        return Words(tuple(word for name, value in known.items() for word in (f"--{name}", spelt(value))))


def understood(
    argv: Argv, family: str | None, hellos: tuple[Hello, ...], own_folders: tuple[str, ...]
) -> Inside | None:
    """What the first training of a run to speak has told of itself; None: nothing that can be used."""
    hello = hellos[0] if hellos else None
    if hello is None or hello.takes_resume is None or (family == scripts.FAMILY and hello.takes_resume):
        return None
    told: dict[str, Value] = {
        **{knob: getattr(hello, knob, None) for knob in KNOBS},
        "world_size": hello.data_parallel,
        "save_steps": hello.save_steps,
    }
    spec = JobSpec(
        family=family or FAMILY,
        launcher=hello.launcher,
        interpreter=None,
        argv=argv,
        knobs=tuple((name, told[name]) for name in KNOBS),
        implicit=(),
        effective_batch=hello.effective_batch,
    )
    return Inside(spec, hello, own_folders)
