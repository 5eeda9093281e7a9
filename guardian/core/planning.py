"""What the next attempt runs, from which checkpoint, in which environment.

Pure: the adapter knows the command's language, `Terms` carries what the host knows and does not change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import flight, wire
from guardian.core.commandline import launchable
from guardian.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardian.core.adapters import Adapter
    from guardian.core.adapters.writing import Written
    from guardian.core.healing import Remedy
    from guardian.core.job import Value
    from guardian.core.policy import Policy
    from guardian.core.rules import Rule
    from guardian.core.run import Attempt, Run

COMPANION_KNOBS: dict[str, object] = {
    "fingerprint": True, "longest": True, "rescue": True, "restore_batch": True, "restore_intervals": True,
    "stacks": True,
}  # fmt: skip

PATCHED = "patched"
"""Of an attempt's folder: the copy of the checkpoint with another learning rate that it goes on from."""
SAVE_LIMIT = "save_total_limit"
NO_WARM_UP = "a warm-up: only the companion can add one to a run that goes on"

SHAPING = frozenset({
    "ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "FORCE_TORCHRUN",
    "GUARDIAN_COMMAND_FILE",
    "HIP_VISIBLE_DEVICES", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "MAX_PIXELS", "NNODES", "NODE_RANK",
    "NPROC_PER_NODE", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "RANK",
    "TORCH_EXTENSIONS_DIR", "USE_HF", "WORLD_SIZE",
})  # fmt: skip
"""Names whose values decide what is trained, and hold no secrets; they are kept with the run."""


def shaping(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The part of an environment that shapes a training."""
    return tuple((name, environment[name]) for name in sorted(SHAPING & environment.keys()))


def _no_rule(_: str) -> Rule | None:
    return None


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
    taken: frozenset[str] = frozenset()
    """Names of flight.NAMES that the caller's environment has: they stay as they are."""
    torch: tuple[int, int] | None = None
    """Version of the job's torch, where it is known before the launch."""
    rule: Callable[[str], Rule | None] = _no_rule
    """The rule of an id; None: there is none in force (any more)."""

    def informed(self, run: Run) -> Terms:
        """With what the training itself has told, where the command does not say it, or not in words it would take."""
        from guardian.core.adapters import inside, scripts  # noqa: PLC0415 - the first launch does not wait for it

        if self.adapter is not None and self.adapter.family != scripts.FAMILY:
            return self
        hellos = tuple(a.hello for a in run.attempts if a.hello)
        moved = {a.number for a in run.attempts if any(edit.knob == "output_dir" for edit in a.plan.edits)}
        own = tuple(hello.output_dir for hello in hellos if hello.attempt not in moved)
        found = inside.understood(self.argv, self.adapter.family if self.adapter else None, hellos, own)
        return self if found is None else replace(self, adapter=found)

    def first(self, now: float) -> ev.Planned:
        """Attempt 1: the user's own command."""
        return ev.Planned(
            attempt=1,
            argv=self._launch_argv(self.argv),
            env=self._environment(1),
            resume_from=None,
            resume_step=None,
            edits=(),
            not_before=now,
            reason="first start",
        )

    def next(
        self, run: Run, attempt: Attempt, now: float, reason: str, *, wait_s: float, remedy: Remedy | None = None
    ) -> ev.Planned:
        """The next attempt, to heal what ended `attempt`: as the remedy says, from the checkpoint that it names."""
        from guardian.core import retreat  # noqa: PLC0415 - the first launch does not wait for it

        number = run.attempts[-1].number + 1
        found = retreat.standing(run, run.attempts[-1])
        best = self._chosen(run, attempt, found, remedy) if self.adapter is not None else None
        carried = attempt.plan if remedy is None else remedy
        settings = dict(carried.settings)
        start = best.step if best else None
        warm = _warmed_by_argument(run, start)
        cold = self.companion is None and not warm and settings.pop("warmup_ratio", None) is not None
        retreats = remedy is not None and remedy.resume != "newest"
        passed = _passed_over(found, best, retreats=retreats)
        written = self._with(settings | ({} if retreats else self._more_kept(passed)), number, warm=warm)
        copy = rated(run, best.path, settings) if best and self.companion is None else None
        argv, moves = self._moved(run, written.argv, number, best, copy=copy.copy if copy else None)
        return ev.Planned(
            attempt=number,
            argv=self._launch_argv(argv),
            env=self._environment(
                number, carried.variables, self._rates(run, settings, start) | self._inside(written, moves, best)
            ),
            resume_from=best.path if best else None,
            resume_step=start,
            edits=(*moves, *self._changes(attempt, remedy, settings, written)),
            not_before=now + wait_s,
            awaits=_awaits(remedy),
            reason=reason,
            passed_over=passed,
            settings=tuple(settings.items()),
            variables=carried.variables,
            limits=carried.limits,
            overlays=written.overlays,
            rule=_cause_rule(attempt) if remedy is not None else None,
            rung=remedy.rung if remedy is not None else None,
            skipped=(*remedy.skipped, *([NO_WARM_UP] if cold else [])) if remedy is not None else (),
        )

    def _more_kept(self, passed: tuple[tuple[str, str], ...]) -> dict[str, Value]:
        """A higher save_total_limit where newer folders lie beside the chosen one.

        The job counts folders, not sound ones: it would delete what it goes on from to keep what is damaged.
        """
        newer = len({path.rpartition("/")[2] for path, _ in passed})
        limit = self._save_limit() if newer else None
        return {} if limit is None else {SAVE_LIMIT: limit + newer}

    def _save_limit(self) -> int | None:
        """The limit that the command, or its file, sets; None: it keeps everything, or says it in no way known here."""
        if self.adapter is None:
            return None
        probe = self.adapter.write(self.argv, {SAVE_LIMIT: 0}).edits
        old = next((edit.old for edit in probe if edit.knob == SAVE_LIMIT), None)
        return int(old) if old is not None and old.isdecimal() and int(old) > 0 else None

    def rating(self, run: Run, planned: ev.Planned) -> ev.Rated | None:
        """The copy with another learning rate that the plan needs; None: the command, or the companion, says the rate.

        A checkpoint brings its own rate, and no argument changes it.
        """
        target = dict(planned.settings).get("learning_rate")
        if self.companion is not None or planned.resume_from is None or not isinstance(target, int | float):
            return None
        copy = f"{attempt_folder(self.folder, planned.attempt)}/{PATCHED}/{planned.resume_from.rpartition('/')[2]}"
        return ev.Rated(run.attempts[-1].number, planned.resume_from, float(target), copy)

    def _chosen(
        self, run: Run, attempt: Attempt, found: tuple[ev.Checkpoint, ...], remedy: Remedy | None
    ) -> ev.Checkpoint | None:
        if remedy is None or remedy.resume == "newest":
            return newest_complete(found)
        from guardian.core import facts, healing  # noqa: PLC0415 - the first launch does not wait for it

        cause = attempt.diagnosed.cause if attempt.diagnosed else None
        known = facts.facts_of(run, attempt) | (dict(cause.facts) if cause else {})
        return healing.chosen(remedy.resume, found, attempt, known)

    def _moved(
        self,
        run: Run,
        argv: tuple[str, ...],
        number: int,
        best: ev.Checkpoint | None,
        *,
        copy: str | None,
    ) -> tuple[tuple[str, ...], tuple[ev.Edit, ...]]:
        """The command from where it goes on; nothing is saved over checkpoints that it goes back behind."""
        from guardian.core import retreat  # noqa: PLC0415 - the first launch does not wait for it

        if self.adapter is None:
            return argv, ()
        here = _output_dir(run, best) if best else None
        home = _first_output_dir(run) or self.adapter.output_dir(argv)
        fresh = retreat.folder(home, number) if home and retreat.goes_back(run, best, here) else None
        if best is not None:
            return self.adapter.resume(argv, copy or best.path, fresh or here)
        return self.adapter.resume(argv, None, fresh) if fresh else (argv, ())

    def _inside(self, written: Written, moves: tuple[ev.Edit, ...], best: ev.Checkpoint | None) -> dict[str, object]:
        """What the companion must do that no word of the command does."""
        from guardian.core.adapters.inside import Inside  # noqa: PLC0415 - the first launch does not wait for it

        path = best.path if best else None
        asked = self.adapter.asked(written, moves, path) if isinstance(self.adapter, Inside) else {}
        return asked | ({"resume": path} if path else {})

    def _rates(self, run: Run, settings: Mapping[str, Value], start: int | None) -> dict[str, object]:
        """What the companion must do to the learning rate that the checkpoint brings; nothing from the beginning."""
        rate, ratio = settings.get("learning_rate"), settings.get("warmup_ratio")
        asked: dict[str, object] = {}
        if start is None:
            return asked
        if rate is not None:
            asked["learning_rate"] = rate
        since = _first_warmed(run)
        begin = start if since is None else since.resume_step
        total = next((a.max_steps for a in reversed(run.attempts) if a.max_steps is not None), None)
        if isinstance(ratio, int | float) and total and begin is not None:
            asked["rewarm"] = {"from": begin, "steps": math.ceil(ratio * total)}
        return asked

    def _with(self, settings: Mapping[str, Value], number: int, *, warm: bool = False) -> Written:
        """The user's command with other values of the knobs, and the configuration files that go with it.

        A warm-up is an argument only of a course that began with it (`warm`): added to a run that goes on it would
        bend the schedule that was saved, and the companion does it instead.
        """
        from guardian.core.adapters.writing import OVERLAYS, Written  # noqa: PLC0415 - the first launch needs it not

        if not settings or self.adapter is None:
            return Written(self.argv)
        words = {knob: value for knob, value in settings.items() if warm or knob != "warmup_ratio"}
        written = self.adapter.write(self.argv, words)
        folder = f"{attempt_folder(self.folder, number)}/overlays"
        return replace(written, argv=tuple(word.replace(OVERLAYS, folder) for word in written.argv))

    def _changes(
        self, attempt: Attempt, remedy: Remedy | None, settings: Mapping[str, Value], written: Written
    ) -> tuple[ev.Edit, ...]:
        """What the remedy changes against the attempt before, and what else had to change for it."""
        if remedy is None:
            return tuple(edit for edit in written.edits if edit.knob == SAVE_LIMIT)
        from guardian.core import edits, healing  # noqa: PLC0415 - the first launch does not wait for it

        before, now = dict(attempt.plan.settings), healing.present(attempt, self.adapter)
        knobs = tuple(
            ev.Edit(knob, _shown(now.get(knob)), _shown(value), edits.kind(knob))
            for knob, value in settings.items()
            if knob not in before or before[knob] != value
        )
        known = self._with(before, attempt.number).edits if before else ()
        besides = tuple(edit for edit in written.edits if edit.knob not in settings and edit not in known)
        return (*knobs, *besides, *remedy.edits)

    def _launch_argv(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        return self.adapter.launch_argv(argv, self.python) if self.adapter else launchable(argv)

    def _environment(
        self, number: int, variables: tuple[tuple[str, str], ...] = (), rates: Mapping[str, object] | None = None
    ) -> tuple[tuple[str, str], ...]:
        """What is set on top of the caller's environment, and shown in the launch line."""
        # Without PYTHONUNBUFFERED a Python child's output lags by its 8 KiB buffer, and is lost in a kill.
        added = {wire.ENV_MARK: wire.mark(self.run, number), "PYTHONUNBUFFERED": "1"}
        if self.companion is not None:
            added[wire.ENV_DIR] = attempt_folder(self.folder, number)
            added[wire.ENV_SPEC] = json.dumps(COMPANION_KNOBS | dict(rates or {}))
            added["PYTHONPATH"] = ":".join(p for p in (self.companion, self.pythonpath) if p)
        if self.adapter is not None:
            added |= flight.variables(attempt_folder(self.folder, number), self.adapter.spec, self.taken, self.torch)
        return tuple((added | dict(variables)).items())


def attempt_folder(folder: str, number: int) -> str:
    """Where an attempt's files lie."""
    return f"{folder}/attempts/{number:04d}"


def newest_complete(found: tuple[ev.Checkpoint, ...]) -> ev.Checkpoint | None:
    """The complete checkpoint with the highest step; of equal ones the first."""
    return max((c for c in found if c.complete), key=lambda c: c.step, default=None)


def rated(run: Run, source: str, settings: Mapping[str, Value]) -> ev.Rated | None:
    """What came of the copy of this checkpoint with this learning rate, for the attempt after the latest."""
    target = settings.get("learning_rate")
    return next((one for one in run.attempts[-1].rated if (one.source, one.target) == (source, target)), None)


def _first_warmed(run: Run) -> ev.Planned | None:
    """The first plan with another warm-up than the user's."""
    return next((a.plan for a in run.attempts if "warmup_ratio" in dict(a.plan.settings)), None)


def _warmed_by_argument(run: Run, start: int | None) -> bool:
    """Whether the course that is gone on with, or begun, has its warm-up from the command."""
    since = _first_warmed(run)
    return (start if since is None else since.resume_step) is None or start is None


def _cause_rule(attempt: Attempt) -> str | None:
    cause = attempt.diagnosed.cause if attempt.diagnosed else None
    return cause.rule if cause else None


def _shown(value: Value) -> str | None:
    """As one writes it in a command."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _passed_over(
    found: tuple[ev.Checkpoint, ...], best: ev.Checkpoint | None, *, retreats: bool
) -> tuple[tuple[str, str], ...]:
    """What lies ahead of the chosen checkpoint and is not resumed from, each with its reason."""
    from guardian.core.retreat import LEFT_BEHIND  # noqa: PLC0415 - the first launch does not wait for it

    ahead = [c for c in found if best is None or c.step > best.step]
    return tuple(
        (c.path, LEFT_BEHIND if c.complete else c.why or "incomplete") for c in ahead if retreats or not c.complete
    )


def _awaits(remedy: Remedy | None) -> tuple[str, str, float] | None:
    test = remedy.wait.until if remedy is not None and remedy.wait is not None else None
    return (test.fact, test.operator, float(test.value)) if test is not None and not test.other else None


def _first_output_dir(run: Run) -> str | None:
    """The folder that the job named when it began."""
    return next((a.hello.output_dir for a in run.attempts if a.hello), None)


def _output_dir(run: Run, best: ev.Checkpoint) -> str | None:
    """The folder that the job itself named last (it may be a versioned one below the argument); None: the command's.

    A job that named none saves beside what it goes on from, unless that is guardian's own pin.
    """
    said = next((a.hello.output_dir for a in reversed(run.attempts) if a.hello), None)
    beside = best.path.rpartition("/")[0]
    return said if said is not None else None if beside.endswith("/pins") else beside
