"""What a command means: the numbers behind it, whoever gave them, and what could not be understood.

`None` for a knob means that its value is unknown or left to the machine; `implicit` names the knobs that neither the
command nor its configuration file gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from guardian.core.values import dataclass

Value = int | float | str | None
ReadConfig = Callable[[str], Mapping[str, object]]
"""Reads a configuration file that a command names. Raises UserError with the reason where it cannot."""

KNOBS = (
    "device_batch",
    "accumulation",
    "world_size",
    "workers",
    "prefetch",
    "pin_memory",
    "learning_rate",
    "warmup_ratio",
    "dtype",
    "max_length",
    "eval_batch",
    "gradient_checkpointing",
    "save_steps",
    "output_dir",
    "resume_from",
    "deepspeed",
)

SETTABLE = frozenset({
    "device_batch", "accumulation", "workers", "prefetch", "pin_memory", "eval_batch", "gradient_checkpointing",
    "learning_rate", "warmup_ratio", "max_length", "dtype", "save_total_limit", "ddp_find_unused_parameters",
    "ddp_timeout",
})  # fmt: skip
"""Knobs that a remedy may change; an adapter writes those that its framework has."""
PRESERVING = SETTABLE - {"learning_rate", "warmup_ratio", "max_length", "dtype"}
"""Those that leave the experiment what it is, as long as the effective batch is held."""

WEAKENS = "weakens-the-proof"
"""The finding of an option that a resumed run cannot be proved under as it is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a command that a person should know before it runs."""

    id: str
    severity: str
    """`error`, `warning` or `advice`."""
    message: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A command, understood as far as it can be."""

    family: str | None
    """The adapter that recognised it; None: it is started and restarted as it is."""
    launcher: str | None
    """What starts the ranks: `python` or `torchrun`."""
    interpreter: str | None
    """The Python that the command names; None: it names none."""
    argv: tuple[str, ...]
    knobs: tuple[tuple[str, Value], ...]
    """Every name of KNOBS, in that order."""
    implicit: tuple[str, ...]
    effective_batch: int | None
    findings: tuple[Finding, ...] = ()

    def knob(self, name: str) -> Value:
        """The value of one knob."""
        return dict(self.knobs)[name]

    def asked_ranks(self) -> int | None:
        """How many ranks the command asks for; None where it leaves that to others."""
        world = self.knob("world_size")
        return world if isinstance(world, int) and "world_size" not in self.implicit else None

    def weakened(self) -> tuple[str, ...]:
        """What the command asks for that the proof of a resume suffers from, each `--name: why`."""
        return tuple(one.message for one in self.findings if one.id == WEAKENS)


def unrecognised(argv: tuple[str, ...]) -> JobSpec:
    """A command of no known family: nothing about it is known, and nothing is edited."""
    return JobSpec(None, None, None, argv, tuple((name, None) for name in KNOBS), (), None)


def effective_batch(device_batch: Value, accumulation: Value, world_size: Value) -> int | None:
    """Rows per optimizer step; None where a factor is unknown."""
    factors = (device_batch, accumulation, world_size)
    if not all(isinstance(f, int) for f in factors):
        return None
    product = 1
    for factor in factors:
        product *= int(factor or 0)
    return product
