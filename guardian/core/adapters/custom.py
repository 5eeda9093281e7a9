"""A command of no family, described by its user: a file says what each setting is called.

    [knobs]
    device_batch = "--bs"
    accumulation = "--accum"
    resume_from = "--resume"
    output_dir = "--out"

    [values]
    accumulation = 1    # what counts where the command says nothing

GUARDIAN_COMMAND_FILE names it. Options are `--name`, or `name=` for programs that read pairs. What the file does not
name is neither read nor edited; a checkpoint is what transformers' Trainer writes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from guardian.core import commandline
from guardian.core.adapters import hf, launchers, writing
from guardian.core.adapters.about import About
from guardian.core.adapters.launchers import Command
from guardian.core.adapters.words import Words
from guardian.core.adapters.writing import Settings, Tongue, Written
from guardian.core.events import Edit
from guardian.core.job import KNOBS, SETTABLE, Finding, JobSpec, ReadConfig, Value
from guardian.core.values import dataclass
from guardian.errors import UserError

Argv = tuple[str, ...]

FAMILY = "described"
ENV_FILE = "GUARDIAN_COMMAND_FILE"
NAMEABLE = (SETTABLE | set(KNOBS)) - {"world_size", "deepspeed"}

ABOUT = About(
    title="Any other program, described in a small file",
    example="python train.py --bs 4",
    started="`GUARDIAN_COMMAND_FILE=FILE guardian run -- ...`; the file says what each setting is called.",
    fills_in="What the file gives under `[values]`.",
    resumes="The option that the file names; without one the command is started again as it is.",
    dry=("everything: it depends on the program",),
)


@dataclass(frozen=True, slots=True)
class Described:
    """A command whose user has said what its settings are called."""

    spec: JobSpec
    command: Command
    names: tuple[tuple[str, str], ...]
    dashed: bool

    @property
    def family(self) -> str:
        """The name that the run's record keeps."""
        return FAMILY

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names."""
        name = dict(self.names).get("output_dir")
        given = self._words(argv).text(name) if name else None
        known = self.spec.knob("output_dir")
        return given or (str(known) if known is not None else None)

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """The user's command; variables in front of it need `env`."""
        del python
        return commandline.launchable(argv)

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command from a checkpoint on, as far as the file has words for it."""
        names, words = dict(self.names), self._words(argv)
        home = output_dir or (hf.home_of(checkpoint) if checkpoint else None)
        edits = []
        for knob, new in (("resume_from", checkpoint), ("output_dir", home)):
            old = words.text(names[knob]) if knob in names else None
            if knob not in names or new == old or (new is None and knob == "output_dir"):
                continue
            if knob == "output_dir" and new is not None and hf.same_folder(self.output_dir(argv), new):
                continue
            words = words.put(new, names[knob]) if new is not None else words.without(names[knob]) or words
            edits.append(Edit(knob, old, new, "resume"))
        return (*self.command.head, *words.rest), tuple(edits)

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs."""
        tongue = Tongue(tuple((knob, name) for knob, name in self.names if knob in SETTABLE), warmup_steps=False)
        return writing.write(self.command.head, self._words(argv), self.spec, settings, tongue)

    def _words(self, argv: Argv) -> Words:
        return Words(argv[len(self.command.head) :], dashed=self.dashed)


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> Described | None:
    """The adapter, or None where no file describes the command. Raises UserError where the file is wrong."""
    path = env.get(ENV_FILE)
    command = launchers.take_apart(argv) if path else None
    if path is None or command is None:
        return None
    content = read_config(path)
    names, dashed = _names(path, content.get("knobs"))
    filled = _values(path, content.get("values", {}))
    findings: list[Finding] = []
    words = Words(command.rest, dashed=dashed)
    world = launchers.ranks(command, command.environment(env), read_config, findings)
    values, absent = hf.read(words, names, world, findings, world_given=command.launcher != "python")
    spec = hf.job(
        FAMILY, argv, words, values, absent, filled, findings,
        launcher=command.launcher, interpreter=command.interpreter,
    )  # fmt: skip
    return Described(spec, command, tuple(names.items()), dashed)


def _names(path: str, table: object) -> tuple[dict[str, str], bool]:
    """Each knob's option without its dashes, and whether they are dashed."""
    if not isinstance(table, Mapping) or not table:
        raise UserError(f'{path}: needs a table [knobs], such as device_batch = "--bs"')
    options = {_known(path, "knobs", knob): option for knob, option in table.items()}
    if all(isinstance(option, str) and option.startswith("--") and len(option) > 2 for option in options.values()):
        return {knob: str(option)[2:] for knob, option in options.items()}, True
    if all(isinstance(option, str) and option.endswith("=") and len(option) > 1 for option in options.values()):
        return {knob: str(option)[:-1] for knob, option in options.items()}, False
    raise UserError(f'{path}: [knobs] are all written "--name", or all "name="')


def _values(path: str, table: object) -> dict[str, Value]:
    if not isinstance(table, Mapping):
        raise UserError(f"{path}: [values] is a table of settings and their values")
    wrong = next((knob for knob, value in table.items() if not isinstance(value, int | float | str)), None)
    if wrong is not None:
        raise UserError(f"{path}: [values] {wrong}: is neither a number nor a word")
    return {_known(path, "values", knob): value for knob, value in table.items()}


def _known(path: str, table: str, knob: object) -> str:
    if knob in NAMEABLE:
        return str(knob)
    near = difflib.get_close_matches(str(knob), NAMEABLE, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(NAMEABLE))}"
    raise UserError(f"{path}: [{table}] {knob}: there is no such setting{hint}")
