"""The rungs of a rule's ladder: what to try, as values. What an operation comes to is worked out elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from guardian.core.values import dataclass

Fact = float | str
Facts = Mapping[str, "Fact | None"]
"""What is known; a name that is missing, or None: unknown."""
Repeat = int | str | None
"""How often a rung is tried: so often, `UNTIL_FLOOR`, or None: as the policy's budget allows."""

UNTIL_FLOOR = "until-floor"
"""As often as it still changes something."""
OPERATORS = ("==", "!=", "<=", ">=", "<", ">")
RESUMES = ("newest", "previous", "scratch")
BEFORE = "before:"
BEFORE_FACTS = ("first_bad_step", "runaway_step")
COLLECTS = ("stacks",)
LIMITS = ("nofile",)
HARD = "hard"

# What a literal for each knob looks like; its names are those of job.SETTABLE (a test holds them together).
KNOB_KINDS = {
    "accumulation": "whole",
    "ddp_find_unused_parameters": "flag",
    "ddp_timeout": "whole",
    "device_batch": "whole",
    "dtype": "text",
    "eval_batch": "whole",
    "gradient_checkpointing": "flag",
    "learning_rate": "number",
    "max_length": "whole",
    "pin_memory": "flag",
    "prefetch": "whole",
    "save_total_limit": "whole",
    "warmup_ratio": "number",
    "workers": "whole",
}
NAMED_OPERATIONS = {
    "keep-effective-batch": "accumulation",
    "fit-shm": "workers",
    "lower-or-safe": "learning_rate",
    "ten-starts": "ddp_timeout",
}
"""Operations with a meaning of their own, and the one knob that each is for."""

VARIABLES = frozenset({
    "CUDA_LAUNCH_BLOCKING", "GLOO_SOCKET_IFNAME", "GUARDIAN_SHARING_STRATEGY", "HF_DATASETS_OFFLINE",
    "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_OFFLINE", "MASTER_PORT", "NCCL_DEBUG",
    "NCCL_DEBUG_SUBSYS", "NCCL_IB_DISABLE", "NCCL_IB_RETRY_CNT", "NCCL_IB_TIMEOUT", "NCCL_P2P_DISABLE",
    "NCCL_SHM_DISABLE", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM", "TORCH_DISTRIBUTED_DEBUG", "TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "TORCH_NCCL_BLOCKING_WAIT", "TORCH_NCCL_DESYNC_DEBUG", "TORCH_NCCL_DUMP_ON_TIMEOUT",
    "TORCH_NCCL_ENABLE_MONITORING", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "TORCH_NCCL_TRACE_BUFFER_SIZE",
    "TORCH_SHOW_CPP_STACKTRACES", "TRANSFORMERS_OFFLINE", "WANDB_MODE",
})  # fmt: skip
"""Variables that a remedy may set. None of them names a file, a program or a library to load."""
FOLDERS = frozenset({"TORCH_EXTENSIONS_DIR"})
"""Those that name a folder: the only value is `OWN`, one of the run that nothing else uses."""
OWN = "own"

_TIMES = re.compile(r"x\s*(\d{1,9}(?:\.\d{1,9})?)")
_AT_LEAST = re.compile(r"at-least\s+(\d{1,9}(?:\.\d{1,9})?)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A fact compared with a number, a text or another fact; what is unknown makes it not true."""

    fact: str
    operator: str
    value: Fact
    other: bool = False
    """Whether `value` is the name of another fact."""

    def holds(self, facts: Facts) -> bool:
        return self.answer(facts) is True

    def answer(self, facts: Facts) -> bool | None:
        """None: a fact that it asks for is unknown."""
        left, right = facts.get(self.fact), facts.get(str(self.value)) if self.other else self.value
        if left is None or right is None:
            return None
        a, b = _number(left), _number(right)
        if a is None or b is None:
            return (str(left) == str(right)) is (self.operator == "==")
        signs = {"==": a == b, "!=": a != b, "<": a < b, ">": a > b}
        return signs[self.operator] if self.operator in signs else signs[self.operator[0]] or a == b

    def unknown(self, facts: Facts) -> tuple[str, ...]:
        """The facts that it asks for and that are unknown."""
        asked = (self.fact, str(self.value)) if self.other else (self.fact,)
        return tuple(name for name in asked if facts.get(name) is None)


@dataclass(frozen=True, slots=True)
class When:
    """Facts that must hold: each comparison of at least one of the alternatives; none given: always."""

    alternatives: tuple[tuple[Comparison, ...], ...] = ()

    def holds(self, facts: Facts) -> bool:
        return not self.alternatives or any(all(one.holds(facts) for one in each) for each in self.alternatives)

    def unknown(self, facts: Facts) -> tuple[str, ...]:
        """The unknown facts that keep it from being true; a comparison that is plainly false does so by itself."""
        if self.holds(facts):
            return ()
        open_ones = [each for each in self.alternatives if all(one.answer(facts) is not False for one in each)]
        return tuple(dict.fromkeys(name for each in open_ones for one in each for name in one.unknown(facts)))


@dataclass(frozen=True, slots=True)
class Operation:
    """What to make of a knob's value."""

    kind: str
    """`literal`, `halve`, `times`, `at-least`, or one of NAMED_OPERATIONS."""
    value: bool | float | str | None = None
    """Of a literal the value itself; of `times` and `at-least` the number."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause before the next attempt."""

    at_most_s: float
    until: Comparison | None = None
    """It ends as soon as this holds."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One thing to try."""

    restart: bool
    repeat: Repeat = 1
    give_up: str | None = None
    advise: str | None = None
    when: When = When()
    collect: tuple[str, ...] = ()
    """What to gather from the living job before it is stopped (COLLECTS)."""
    save_first: bool = False
    """Whether the living job is asked to save before it is stopped."""
    wait: Wait | None = None
    resume: str = "newest"
    """One of RESUMES, or `before:` and the fact that names a step."""
    set: tuple[tuple[str, Operation], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    """A value "+key:value" is merged into a comma-separated list."""
    limits: tuple[tuple[str, str], ...] = ()

    @property
    def edits(self) -> bool:
        """Whether it changes anything about the command or what surrounds it."""
        return bool(self.set or self.env or self.limits)


def operation(value: object) -> Operation | None:
    """The operation that a rule file writes so; None: it writes none."""
    if isinstance(value, bool | int | float):
        return Operation("literal", value)
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()
    if text == "halve" or text in NAMED_OPERATIONS:
        return Operation(text)
    for kind, form in (("times", _TIMES), ("at-least", _AT_LEAST)):
        match = form.fullmatch(text)
        if match:
            return Operation(kind, _plain(match[1]))
    return Operation("literal", text)


def _plain(text: str) -> float:
    return float(text) if "." in text else int(text)


def _number(value: Fact) -> float | None:
    if not isinstance(value, str):
        return float(value)
    try:
        return float(value)
    except ValueError:
        return None
