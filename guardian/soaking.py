"""Two runs of one command, one of them killed at random, compared step by step.

Everything is looked at from outside, as a user would: guardian runs as processes of its own, its story is read from
its folder, its processes from /proc. Only processes that carry the soaked run's mark, its keeper and its guardian
are killed, by pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.core import wire
from guardian.core.lineage import steps_done
from guardian.core.replays import loss_difference
from guardian.core.run import Finished
from guardian.errors import GuardianError, HostError
from guardian.host import keeping, pins, processes, runs, story

if TYPE_CHECKING:
    from guardian.core.run import Attempt, Run, Step

POLICY = "[budget]\nrestarts = 200\nwithout_progress = 200\nbackoff_s = [0]\n"
SAMPLE_S = 0.1
LOOK_S = 0.5
JITTER_S = 2.0
SOON_S = 8.0
VICTIM_WAIT_S = 20.0
"""For a kind of victim whose turn it is: there is no trainer while the next one starts."""
SOON_SHARE = 0.25
"""Of the kills come within SOON_S of the one before: in start-ups, stops and take-overs."""
GUARDIAN_GONE_S = 3.0
"""The longest that a killed guardian is left dead before `resume`."""
TOLERANCE = 1e-4
"""The same samples in the same order, summed again."""
SHM = Path("/dev/shm")  # noqa: S108 - that is where PyTorch's shared memory lies; it is only listed
QUIET_S = 30.0
KILLS = "kills.jsonl"
"""In the soak's folder: each kill, when it has been made."""


@dataclass
class Result:
    """What a soak saw."""

    kills_asked: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    """Those that were made: fewer than were asked for where the run was over first."""
    outcome: str = ""
    exit_code: int | None = None
    steps_done: int = 0
    steps_wanted: int = 0
    doubled: int = 0
    """Samples in which processes of two attempts lived at the same time."""
    lost: tuple[int, ...] = ()
    """Steps of the undisturbed run that the soaked one does not have, or with other rows."""
    largest_loss_difference: float | None = None
    """Over the steps of both runs, in units of max(1, |loss|)."""
    left_over: tuple[str, ...] = ()
    pss_first_mib: float | None = None
    pss_last_mib: float | None = None
    descriptors_first: int | None = None
    descriptors_last: int | None = None
    attempts: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "kills": dict(self.kills)}


class Soak:
    """One soak in a folder of its own."""

    def __init__(self, folder: Path, command: tuple[str, ...], *, kills: int, seed: int) -> None:
        self._folder = folder.absolute()
        self._command = command
        self._kills = kills
        self._random = random.Random(seed)
        self._result = Result(kills_asked=kills)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._uuid: str | None = None

    def run(self) -> Result:
        """Run undisturbed, then soaked; compare. Raises HostError where the folder is used already."""
        try:
            self._folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise HostError(f"{self._folder} exists: name another --dir, or remove it") from None
        (self._folder / "policy.toml").write_text(POLICY)
        _say("undisturbed run")
        if self._start("undisturbed").wait() != 0:
            raise HostError(f"the undisturbed run does not finish: see {self._log('undisturbed')}")
        shm = _shared_memory()
        began = time.monotonic()
        _say(f"soaked run, {self._kills} kills")
        self._guardian = self._start("soaked")
        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        self._disturb()
        self._result.exit_code = self._see_out()
        self._over.set()
        sampler.join()
        self._result.seconds = time.monotonic() - began
        self._compare(shm)
        return self._result

    # --- the two runs ----------------------------------------------------------------------------------------

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        command = command or (
            "run", "--name", name, "--policy", "policy.toml", "--",
            *self._command, "--output_dir", f"out-{name}", "--add_version", "false",
        )  # fmt: skip
        with self._log(name).open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "guardian", *command],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _story(self, name: str = "soaked") -> Run:
        return story.load(runs.find(self._folder / "guardian_runs", name))

    def _see_out(self) -> int:
        """The exit code of the last guardian; one that was killed is started again."""
        while True:
            assert self._guardian is not None
            code = self._guardian.wait()
            if code != -signal.SIGKILL:
                return code
            self._resume()

    def _resume(self) -> None:
        time.sleep(self._random.uniform(0, GUARDIAN_GONE_S))
        self._guardian = self._start("soaked", "resume", "soaked")

    # --- disturbing ------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        """Kill at moments spread over the training, and one in four soon after the kill before.

        The last steps' share, as long as each kill's, is left free: it has a kill that comes late still meet the run.
        """
        total = len(surviving(self._story("undisturbed")))
        for number in range(self._kills):
            soon = self._random.random() < SOON_SHARE
            step = 0 if soon else int(total * (number + self._random.random()) / (self._kills + 1))
            if not self._wait_for_step(step):
                return
            time.sleep(self._random.uniform(0, SOON_S if soon else JITTER_S))
            self._kill_one(number + 1)

    def _wait_for_step(self, step: int) -> bool:
        """Until the run is that far; False when it is over first."""
        while self._guardian is not None and self._guardian.poll() is None:
            with contextlib.suppress(GuardianError):
                if (steps_done(self._story()) or 0) >= step:
                    return True
            time.sleep(LOOK_S)
        return False

    def _kill_one(self, number: int) -> None:
        """Kill the kind that was spared longest, where one is there within a while; else any."""
        assert self._guardian is not None
        deadline = time.monotonic() + VICTIM_WAIT_S
        while self._guardian.poll() is None:
            victims = self._victims()
            spared = min(self._result.kills[k] for k in ("guardian", "keeper", *victims))
            wanted = sorted(k for k in victims if self._result.kills[k] == spared or time.monotonic() > deadline)
            if wanted and self._killed(self._random.choice(wanted), victims, number):
                return
            time.sleep(LOOK_S)

    def _killed(self, kind: str, victims: dict[str, list[int]], number: int) -> bool:
        """Whether a victim of the kind could be killed; a killed guardian is followed by another."""
        assert self._guardian is not None
        try:
            os.kill(self._random.choice(victims[kind]), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self._result.kills[kind] += 1
        with (self._folder / KILLS).open("a") as file:
            file.write(json.dumps({"kill": number, "of": self._kills, "victim": kind}) + "\n")
        _say(f"kill {number} of {self._kills}: {kind}")
        if kind == "guardian":
            self._guardian.wait()
            self._resume()
        return True

    def _victims(self) -> dict[str, list[int]]:
        """Living pids by kind; the guardian always, the others where they are."""
        assert self._guardian is not None
        found = {"guardian": [self._guardian.pid]}
        with contextlib.suppress(GuardianError):
            run = self._story()
            attempt = run.attempt
            if attempt is not None and attempt.ended is None:
                _add_job(found, run, attempt)
        return found

    # --- watching --------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Look all along whether two attempts live at once, and how big the guardian is."""
        while not self._over.wait(SAMPLE_S):
            with contextlib.suppress(GuardianError, OSError):
                uuid = self._story_uuid()
                if uuid and len(set(marked(uuid).values())) > 1:
                    self._result.doubled += 1
            self._measure()

    def _story_uuid(self) -> str | None:
        if self._uuid is None:
            self._uuid = self._story().created.run
        return self._uuid

    def _measure(self) -> None:
        guardian = self._guardian
        if guardian is None or guardian.poll() is not None:
            return
        with contextlib.suppress(OSError):
            pss = pss_mib(guardian.pid)
            descriptors = sum(1 for _ in Path(f"/proc/{guardian.pid}/fd").iterdir())
            if pss is None:
                return
            if self._result.pss_first_mib is None:
                self._result.pss_first_mib, self._result.descriptors_first = pss, descriptors
            self._result.pss_last_mib, self._result.descriptors_last = pss, descriptors

    # --- comparing -------------------------------------------------------------------------------------------

    def _compare(self, shm: frozenset[str]) -> None:
        result = self._result
        wanted, run = self._story("undisturbed"), self._story()
        theirs, ours = surviving(wanted), surviving(run)
        result.outcome = run.state.outcome.value if isinstance(run.state, Finished) else "running"
        result.attempts = len(run.attempts)
        result.steps_wanted, result.steps_done = len(theirs), len(ours)
        result.lost = tuple(n for n, s in theirs.items() if n not in ours or ours[n].rows != s.rows)
        gaps = [_gap(ours[n].loss, s.loss) for n, s in theirs.items() if n in ours]
        result.largest_loss_difference = max((g for g in gaps if g is not None), default=None)
        result.left_over = self._left_over(run, shm)

    def _left_over(self, run: Run, shm: frozenset[str]) -> tuple[str, ...]:
        deadline = time.monotonic() + QUIET_S
        left: list[str] = ["not looked"]
        while left and time.monotonic() < deadline:
            left = [f"process {pid} of attempt {n}" for pid, n in marked(run.created.run).items()]
            left += [f"{SHM / name}" for name in sorted(_shared_memory() - shm)]
            time.sleep(SAMPLE_S)
        folder = self._folder / "guardian_runs" / "soaked" / pins.FOLDER
        return (*left, *(f"pin {p}" for p in pins.held(str(folder))))


def _gap(ours: float | None, theirs: float | None) -> float | None:
    """Difference of two losses, measured in max(1, |loss|); None where one is unknown."""
    gap = loss_difference(ours, theirs)
    return gap if gap is None or theirs is None else gap / max(1.0, abs(theirs))


def _add_job(found: dict[str, list[int]], run: Run, attempt: Attempt) -> None:
    """The job's processes that live, by kind."""
    tree = {p.pid for p in processes.tree(None, wire.mark(run.created.run, attempt.number))}
    ranks = [h.pid for h in attempt.hellos if h.pid in tree]
    launcher = attempt.job.pid if attempt.job and attempt.job.pid in tree else None
    if ranks:
        found["trainer" if launcher in ranks else "rank"] = ranks
    if launcher is not None and launcher not in ranks:
        found["launcher" if ranks else "starting job"] = [launcher]
    keeper = keeping.connect(os.getuid(), run.created.run, attempt.number)
    if keeper is not None:
        keeper.close()
        found["keeper"] = [keeper.pid]


def surviving(run: Run) -> dict[int, Step]:
    """Step number to step, of the line that survived."""
    return {step.step: step for attempt in run.attempts for step in attempt.steps}


def marked(run: str) -> dict[int, int]:
    """Living processes of a run: pid to attempt, by the mark in their environment."""
    wanted = f"{wire.ENV_MARK}={run}/".encode()
    found = {}
    for pid, process in processes.snapshot().items():
        if process.life is not processes.Life.ALIVE:
            continue
        for entry in processes.environment(pid):
            if entry.startswith(wanted):
                found[pid] = int(entry.rpartition(b"/")[2])
    return found


def pss_mib(pid: int) -> float | None:
    """Proportional set size of a process (proc(5), smaps_rollup)."""
    with Path(f"/proc/{pid}/smaps_rollup").open("rb") as file:
        line = next((x for x in file if x.startswith(b"Pss:")), None)
    return int(line.split()[1]) / 1024 if line else None


def _shared_memory() -> frozenset[str]:
    """Names of PyTorch's and multiprocessing's segments."""
    with contextlib.suppress(OSError):
        return frozenset(p.name for p in SHM.iterdir() if p.name.startswith(("torch_", "psm_", "sem.mp-")))
    return frozenset()


def verdict(result: Result) -> tuple[bool, list[str]]:
    """Whether nothing was lost and nothing doubled, and the story in a few lines."""
    difference, made = result.largest_loss_difference, sum(result.kills.values())
    same = difference is not None and difference <= TOLERANCE
    good = bool(
        result.exit_code == 0
        and result.outcome == "finished"
        and not result.lost
        and not result.doubled
        and not result.left_over
        and same
        and (made or not result.kills_asked)
    )
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(result.kills.items())) or "none"
    if made < result.kills_asked:
        kinds += f" ({result.kills_asked} asked for: the run was over first; give it more steps)"
    memory = f"PSS {_figure(result.pss_first_mib)} -> {_figure(result.pss_last_mib)} MiB"
    lines = [
        f"{result.outcome}, {result.steps_done} of {result.steps_wanted}, {result.attempts} attempts",
        f"kills: {kinds}",
        f"{result.doubled} doubled, {len(result.lost)} lost, largest loss difference {difference}",
        f"guardian: {memory}, descriptors {result.descriptors_first} -> {result.descriptors_last}",
        *(f"left over: {what}" for what in result.left_over),
    ]
    return good, lines


def _figure(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.1f}"


def _say(text: str) -> None:
    sys.stderr.write(f"guardian soak: {text}\n")
    sys.stderr.flush()
