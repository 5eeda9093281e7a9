"""What the next attempt runs, from which checkpoint, in which environment.

Pure: the adapter knows the command's language, `Terms` carries what the host knows and does not change.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import wire
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardian.core.adapters import Adapter
    from guardian.core.policy import Policy
    from guardian.core.run import Attempt, Run

COMPANION_KNOBS: dict[str, bool] = {"fingerprint": True, "restore_batch": True, "restore_intervals": True}

SHAPING = frozenset({
    "ACCELERATE_CONFIG_FILE", "ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "FORCE_TORCHRUN",
    "HIP_VISIBLE_DEVICES", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "MAX_PIXELS", "NNODES", "NODE_RANK",
    "NPROC_PER_NODE", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "RANK", "USE_HF",
    "WORLD_SIZE",
})  # fmt: skip
"""Names whose values decide what is trained, and hold no secrets; they are kept with the run."""


def shaping(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The part of an environment that shapes a training."""
    return tuple((name, environment[name]) for name in sorted(SHAPING & environment.keys()))


@dataclass(frozen=True, slots=True)
class Terms:
    """What stays the same over a supervisor's life and shapes every launch."""

    run: str
    argv: tuple[str, ...]
    """The user's command, as given."""
    adapter: Adapter | None
    policy: Policy
    folder: str
    """The run folder, absolute."""
    python: str
    """The interpreter that runs the embedded trainer."""
    companion: str | None
    """Folder with the companion's sitecustomize; None: not wanted."""
    pythonpath: str | None
    """The caller's PYTHONPATH, which the companion's folder is put in front of."""

    def first(self, now: float) -> ev.Planned:
        """Attempt 1: the user's own command."""
        return self._planned(1, self._launch_argv(self.argv), now, "first start")

    def next(self, run: Run, attempt: Attempt, now: float, reason: str, *, wait_s: float) -> ev.Planned:
        """The attempt after `attempt`: from its newest complete checkpoint where there is one."""
        found = attempt.ended.checkpoints if attempt.ended else ()
        best = newest_complete(found)
        passed = tuple((c.path, c.why or "incomplete") for c in found if not c.complete and _newer(c, best))
        number = attempt.number + 1
        if best is None or self.adapter is None:
            return self._planned(number, self._launch_argv(self.argv), now + wait_s, reason, passed_over=passed)
        argv, edits = self.adapter.resume(self.argv, best.path, _output_dir(run, best))
        return self._planned(number, self._launch_argv(argv), now + wait_s, reason, best, edits, passed)

    def _launch_argv(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        return self.adapter.launch_argv(argv, self.python) if self.adapter else argv

    def _planned(
        self,
        number: int,
        argv: tuple[str, ...],
        not_before: float,
        reason: str,
        checkpoint: ev.Checkpoint | None = None,
        edits: tuple[ev.Edit, ...] = (),
        passed_over: tuple[tuple[str, str], ...] = (),
    ) -> ev.Planned:
        return ev.Planned(
            attempt=number,
            argv=argv,
            env=self._environment(number),
            resume_from=checkpoint.path if checkpoint else None,
            resume_step=checkpoint.step if checkpoint else None,
            edits=edits,
            not_before=not_before,
            reason=reason,
            passed_over=passed_over,
        )

    def _environment(self, number: int) -> tuple[tuple[str, str], ...]:
        """What is set on top of the caller's environment, and shown in the launch line."""
        # Without PYTHONUNBUFFERED a Python child's output lags by its 8 KiB buffer, and is lost in a kill.
        added = {wire.ENV_MARK: wire.mark(self.run, number), "PYTHONUNBUFFERED": "1"}
        if self.companion is not None:
            added[wire.ENV_DIR] = attempt_folder(self.folder, number)
            added[wire.ENV_SPEC] = json.dumps(COMPANION_KNOBS)
            added["PYTHONPATH"] = ":".join(p for p in (self.companion, self.pythonpath) if p)
        return tuple(added.items())


def attempt_folder(folder: str, number: int) -> str:
    """Where an attempt's files lie."""
    return f"{folder}/attempts/{number:04d}"


def newest_complete(found: tuple[ev.Checkpoint, ...]) -> ev.Checkpoint | None:
    """The complete checkpoint with the highest step; of equal ones the first."""
    return max((c for c in found if c.complete), key=lambda c: c.step, default=None)


def _newer(one: ev.Checkpoint, best: ev.Checkpoint | None) -> bool:
    return best is None or one.step > best.step


def _output_dir(run: Run, best: ev.Checkpoint) -> str:
    """The folder that the job itself named last (it may be a versioned one below the argument)."""
    said = next((a.hello.output_dir for a in reversed(run.attempts) if a.hello), None)
    return said if said is not None else best.path.rpartition("/")[0]
