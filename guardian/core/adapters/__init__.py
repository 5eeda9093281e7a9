"""What guardian knows of each training framework's command line, one family per file.

A command that no adapter recognises is started, watched, explained and restarted as it is, never edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from guardian.core.adapters import embedded
from guardian.core.adapters.about import About
from guardian.core.adapters.writing import OVERLAYS, Settings, Written
from guardian.core.events import Edit
from guardian.core.job import JobSpec, ReadConfig

__all__ = ["OVERLAYS", "Adapter", "Settings", "Written", "abouts", "recognise"]

Argv = tuple[str, ...]


class Adapter(Protocol):
    """One framework's language. `argv` is always the user's command as given, or one that `resume` made of it."""

    @property
    def family(self) -> str:
        """The framework's name."""

    @property
    def spec(self) -> JobSpec:
        """What the command means."""

    def output_dir(self, argv: Argv) -> str | None:
        """The folder that the command names, or leaves to the framework; None: unknown."""

    def launch_argv(self, argv: Argv, python: str) -> Argv:
        """What is executed for the command; `python` runs what guardian brings itself."""

    def resume(self, argv: Argv, checkpoint: str | None, output_dir: str | None) -> tuple[Argv, tuple[Edit, ...]]:
        """The command that goes on from a checkpoint and saves beside it, and what was changed.

        `output_dir` is the folder to save into, as the job itself named it; None: it never said. Without a checkpoint
        the command begins from the beginning, saving there, whatever checkpoints lie elsewhere.
        """

    def write(self, argv: Argv, settings: Settings) -> Written:
        """The command with other values of its knobs, and what could not be written; a value of None leaves a knob.

        An accumulation that is not among the settings follows the device batch, so that the rows per step are held.
        """


def recognise(argv: Argv, env: Mapping[str, str], read_config: ReadConfig) -> Adapter | None:
    """The adapter that understands the command, or None."""
    adapter: Adapter | None = embedded.recognise(argv, env, read_config)
    if adapter is not None:
        return adapter
    # The job waits for imports; our own trainer needs none of these.
    from guardian.core.adapters import custom, llamafactory, megatron, scripts, swift  # noqa: PLC0415

    # What a user describes counts; a program known by its name comes before one known by its arguments.
    for family in (custom, swift, megatron, llamafactory, scripts):
        adapter = family.recognise(argv, env, read_config)
        if adapter is not None:
            return adapter
    return None


def abouts() -> tuple[About, ...]:
    """What docs/frameworks.md says of each family."""
    from guardian.core.adapters import custom, inside, llamafactory, megatron, scripts, swift  # noqa: PLC0415 - for docs alone

    by_name = (embedded.ABOUT, swift.ABOUT, megatron.ABOUT, llamafactory.ABOUT)
    return (*by_name, scripts.ABOUT, scripts.ABOUT_TRL, inside.ABOUT, custom.ABOUT)
