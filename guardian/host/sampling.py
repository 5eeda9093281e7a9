"""Looks at what a job's processes and its host do, about once a second, in a thread of its own.

It only observes: it posts what a person should know and keeps the rest in metrics.jsonl, ten seconds a line. What costs
much (the tree's marks, page tables) is looked at the more seldom the longer it takes: none of it takes more than 1/400
of a core. Whatever goes wrong here ends the looking, is said once, and concerns nobody else.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from guardian.core import events as ev
from guardian.core import figures, forecasting, hostfacts, victims, wire
from guardian.core.hostfacts import Member, Sample, Window
from guardian.core.values import dataclass
from guardian.host import cgroups, filesystems, kernellog, metricsfile, processes, processmemory

EVERY_S = 1.0
TREE_EVERY_S = 2.0
MEMORY_EVERY_S = 3.0
SHARE = 1 / 400
"""Of one core's time, for each of the costly looks."""
STALE_S = 60.0
"""So long before a job's last word an earlier guardian's last window says nothing of its end."""
SILENT_S = 60.0
"""A look that takes longer does not come back."""
MISSES = 20
"""So often at least it must have been missed: a guardian that was itself stopped has missed none."""
LAST_S = 10
"""So long before the end is what its facts are of; a window lasts no less than a second."""
GIVEN_S = 15.0
"""What others gave counts so long."""
LATE_S = 10.0
"""A process that the kernel kills may need so long to vanish."""
HISTORY = 360
"""Windows that forecasts stand on: an hour."""
WARN_S = 2 * 3600.0
"""A disk that is full so soon is told of."""
RISES_MOST = 100
SOURCE = "figures of the host"
LARGEST = {victims.WORKER: "worker_pss_mib", victims.RANK: "rank_pss_mib"}
"""Series of the process of a role that has most."""


@dataclass(frozen=True, slots=True)
class View:
    """What the supervisor knows of the attempt at the moment."""

    mark: str
    keeper: processes.Identity | None
    known: frozenset[processes.Identity]
    ranks: tuple[int, ...] = ()
    """Pids that heartbeats name."""
    step_wall: float | None = None
    """When a step was last finished."""
    next_save_s: float | None = None
    saved: str | None = None
    """The newest whole checkpoint; None also while another is being written."""


class _Pace:
    """When a costly look is due again."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        begun = time.thread_time()
        try:
            yield
        finally:
            cost_s = time.thread_time() - begun
            self._next = time.monotonic() + max(self._every_s, cost_s / SHARE)


class Sampler:
    """Samples one attempt until it is finished."""

    def __init__(
        self, attempt: int, folder: Path, view: Callable[[], View], places: Callable[[], tuple[Path, ...]],
        post: Callable[[ev.Event], None], *, every_s: float = EVERY_S,
    ) -> None:  # fmt: skip
        """`places`: where the run writes; asked in another thread than `view`."""
        self.attempt = attempt
        self._path = folder / metricsfile.NAME
        self._view = view
        self._places = places
        self._post = post
        self._every_s = every_s
        self._file = metricsfile.MetricsFile(self._path)
        self._told: set[str] = set()
        self._given: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()
        # What is known of the tree.
        self._tree: tuple[Member, ...] = ()
        self._roles: dict[int, str] = {}
        """Of everybody who was ever there."""
        self._known: dict[tuple[int, int], str] = {}
        """Of those who were there at the last look."""
        self._held: dict[str, float] = {}
        self._tree_pace, self._memory_pace = _Pace(TREE_EVERY_S), _Pace(MEMORY_EVERY_S)
        # What the kernel killed.
        self._kernel: kernellog.KernelLog | None = None
        self._counted: int | None = None
        self._machine: int | None = None
        """The whole machine's counter when the attempt began, if we were there."""
        self._kills: list[victims.Kill] = []
        self._rises: deque[victims.Rise] = deque(maxlen=RISES_MOST)
        self._cgroup = cgroups.identity()
        self._cgroups: set[str] = set()
        """Those of windows that others wrote."""
        # Windows.
        self._window: Window | None = None
        self._recent: deque[Window] = deque(maxlen=LAST_S)
        """The last that were written."""
        self._peak_mib: float | None = None
        self._disk_left: deque[forecasting.Point] = deque(maxlen=HISTORY)
        self._inodes_left: deque[forecasting.Point] = deque(maxlen=HISTORY)
        self._memory_left: deque[forecasting.Point] = deque(maxlen=HISTORY)
        self._saved: str | None = None
        self._disk: filesystems.Watch | None = None
        self._looks = 0
        self._missed = (0, 0, time.monotonic())
        """Looks when they were last counted, how often no further one had come since, and since when."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"samples-{attempt}", daemon=True)
        self._thread.start()

    def give(self, readings: Mapping[str, float]) -> None:
        """Readings of somebody else's, under whatever names: they stand in the samples of the next seconds."""
        now = time.monotonic()
        with self._lock:
            self._given.update({name: (now, value) for name, value in readings.items()})

    def miss(self) -> None:
        """Say once that a look does not come back; whoever calls this now and then does not wait for it."""
        now = time.monotonic()
        looks, times, since = self._missed
        if looks != self._looks or not self._thread.is_alive():
            self._missed = (self._looks, 0, now)
            return
        self._missed = (looks, times + 1, since)
        if times + 1 >= MISSES and now - since >= SILENT_S and "late" not in self._told:
            self._told.add("late")
            why = f"a look has not come back for {SILENT_S:.0f} s: a file of the kernel, or a disk, does not answer"
            self._post(ev.SourceLost(SOURCE, why, self.attempt))

    def finish(self, patience_s: float) -> bool:
        """Look a last time, write what is left and stop; False where that took too long."""
        self._stop.set()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def facts(self) -> dict[str, float]:
        """What was measured last, and over the attempt; what could not be read is not in it."""
        found = hostfacts.facts(hostfacts.end_of([*self._recent, *filter(None, [self._window])], LAST_S))
        if self._peak_mib is not None:
            found["tree_peak_mib"] = self._peak_mib
        if self._machine is not None and (kills := cgroups.machine_kills()) is not None:
            found["machine_oom_kills"] = float(kills - self._machine)
        return found

    def victim(self, *, by_sigkill: bool) -> str | None:
        """Whom the kernel killed so that the job ended; None: unknown, or nobody."""
        step_wall = self._view().step_wall
        return victims.victim(self._kills, tuple(self._rises), self._roles, by_sigkill=by_sigkill, step_wall=step_wall)

    @property
    def same_cgroup(self) -> bool:
        """Whether counters of then and now are of the same memory cgroup, as far as is known."""
        return not self._cgroups or self._cgroups <= {self._cgroup}

    # --- the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._begin()
            while not self._stop.wait(self._every_s):
                self._look()
            self._look()
            self._write()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on without these figures
            self._say_blind(f"{type(error).__name__}: {error}")
        finally:
            if self._disk is not None:
                self._disk.close()
            if self._kernel is not None:
                self._kernel.close()

    def _begin(self) -> None:
        """An earlier guardian's windows are gone on from; the last one counts only if the job was silent since."""
        self._disk = filesystems.Watch(self._places, saved=lambda: self._saved)
        self._kernel = kernellog.KernelLog() if kernellog.our_pids() else None
        windows = metricsfile.windows(self._path)
        self._machine = None if windows else cgroups.machine_kills()
        for one in windows:
            self._remember(one)
            self._roles.update({member.pid: member.role for member in one.tree})
            self._known = {(member.pid, member.ticks): member.role for member in one.tree}
            self._cgroups |= {one.cgroup} - {""}
        if windows and windows[-1].until >= _life_sign(self._path.parent) - STALE_S:
            self._recent.extend(windows)

    def _look(self) -> None:
        self._looks += 1
        now = time.time()
        gone = self._look_at_tree()
        held = cgroups.memory()
        self._count(now, held.kills, gone)
        self._hear_kernel()
        if not self._tree:
            return  # not begun, or over: what is free now is not what the job had
        readings = {
            **self._fresh(),
            **self._of_disk(),
            **_of_memory(held),
            **self._of_tree(),
            "load": os.getloadavg()[0],
        }
        sample = Sample(now, hostfacts.readable(readings), self._tree, self._cgroup)
        self._window = hostfacts.joined(self._window, hostfacts.window(sample))
        self._watch_mounts(readings)
        self._watch_room(readings)
        if hostfacts.is_full(self._window):
            self._write()

    def _of_disk(self) -> dict[str, float]:
        found = self._disk.latest() if self._disk else None
        if found is None and "disk-late" not in self._told:
            self._told.add("disk-late")
            why = "a file system that the run writes to has not answered for a minute"
            self._post(ev.SourceLost("room on the disk", why, self.attempt))
        return found or {}

    def _fresh(self) -> dict[str, float]:
        now = time.monotonic()
        with self._lock:
            self._given = {name: one for name, one in self._given.items() if now - one[0] < GIVEN_S}
            return {name: value for name, (_, value) in self._given.items()}

    # --- the tree --------------------------------------------------------------------------------------------

    def _look_at_tree(self) -> tuple[Member, ...]:
        """Who has gone since the look before."""
        before = self._tree
        living = tuple(m for m in before if processes.alive(processes.Identity(m.pid, m.ticks)))
        if self._tree_pace.due() or len(living) < len(before):
            with self._tree_pace.taken():
                living = self._found({m.pid: m.pss_mib for m in living})
        self._tree = living
        now = {(m.pid, m.ticks) for m in living}
        return tuple(m for m in before if (m.pid, m.ticks) not in now)

    def _found(self, memory: Mapping[int, float | None]) -> tuple[Member, ...]:
        view = self._view()
        self._saved = view.saved
        found = processes.tree(view.keeper, view.mark, view.known)
        seen = [
            victims.Seen(
                p.pid, p.start_ticks, p.ppid, p.name, p.cmdline,
                local_rank=not view.ranks and any(e.startswith(b"LOCAL_RANK=") for e in processes.environment(p.pid)),
            )
            for p in found
        ]  # fmt: skip
        members = victims.lasting(victims.members(seen, view.ranks), self._known, view.ranks)
        self._known = {(member.pid, member.ticks): member.role for member in members}
        self._roles.update({member.pid: member.role for member in members})
        return tuple(replace(member, pss_mib=memory.get(member.pid)) for member in members)

    def _of_tree(self) -> dict[str, float]:
        """Memory and files of the processes: between two looks what they last were."""
        if self._memory_pace.due():
            self._held = self._holding()
        there = {member.role for member in self._tree}
        gone = {name for role, name in LARGEST.items() if role not in there}
        held = {name: value for name, value in self._held.items() if name not in gone}
        return held | {"tree_processes": float(len(self._tree))}

    def _holding(self) -> dict[str, float]:
        """What they hold now; what one of them does not tell makes no sum."""
        found = {}
        with self._memory_pace.taken():
            held = {member.pid: processmemory.pss_mib(member.pid) for member in self._tree}
            files = [count for member in self._tree if (count := processmemory.open_files(member.pid)) is not None]
        self._tree = tuple(replace(member, pss_mib=held[member.pid]) for member in self._tree)
        if files:
            found["open_files"] = float(max(files))
        known = [(member.role, member.pss_mib) for member in self._tree if member.pss_mib is not None]
        if known and len(known) == len(self._tree):
            found["tree_pss_mib"] = sum(pss for _, pss in known)
        for role, name in LARGEST.items():
            largest = max((pss for one, pss in known if one == role), default=None)
            if largest is not None:
                found[name] = largest
        return found

    # --- kills -----------------------------------------------------------------------------------------------

    def _count(self, now: float, kills: int | None, gone: tuple[Member, ...]) -> None:
        """A process may vanish some looks after the kernel has counted it."""
        before, self._counted = self._counted, kills
        if kills is not None and before is not None and kills > before:
            workers = any(role == victims.WORKER for role in self._roles.values())
            self._rises.append(victims.Rise(now, kills - before, gone, workers))
        elif gone and self._rises and not self._rises[-1].gone and now - self._rises[-1].wall < LATE_S:
            self._rises[-1] = replace(self._rises[-1], gone=gone)

    def _hear_kernel(self) -> None:
        for entry in self._kernel.read() if self._kernel is not None else ():
            killed = kernellog.kill(entry)
            if killed is not None:
                self._kills = [*self._kills, killed][-RISES_MOST:]

    # --- windows ---------------------------------------------------------------------------------------------

    def _write(self) -> None:
        one, self._window = self._window, None
        if one is None:
            return
        self._remember(one)
        one = self._with_forecasts(one)
        self._recent.append(one)
        self._file.write(one)
        if self._file.problem is not None:
            self._say_blind(f"metrics.jsonl cannot be written ({self._file.problem})")

    def _remember(self, one: Window) -> None:
        """For forecasts, and for what is asked of the whole attempt."""
        pss, disk, inodes, used, limit = (
            one.span(name)
            for name in ("tree_pss_mib", "disk_free_mib", "inodes_free", "memory_used_mib", "memory_limit_mib")
        )
        if pss is not None:
            self._peak_mib = max(self._peak_mib or 0.0, pss.most)
        if disk is not None:
            self._disk_left.append((one.until, disk.last))
        if inodes is not None:
            self._inodes_left.append((one.until, inodes.last))
        if used is not None and limit is not None:
            self._memory_left.append((one.until, limit.last - used.last))

    def _with_forecasts(self, one: Window) -> Window:
        told = {
            "disk_full_in_s": forecasting.empty_in_s(tuple(self._disk_left)),
            "inodes_gone_in_s": forecasting.empty_in_s(tuple(self._inodes_left)),
            "memory_full_in_s": forecasting.empty_in_s(tuple(self._memory_left)),
        }
        known = {name: value for name, value in told.items() if value is not None}
        self._warn(one, "disk_free_mib", known.get("disk_full_in_s"), "{:.0f} MiB are free")
        self._warn(one, "inodes_free", known.get("inodes_gone_in_s"), "{:.0f} more files can be made in it")
        if not known:
            return one
        return hostfacts.joined(
            one, hostfacts.window(Sample(one.until, hostfacts.readable(known), one.tree, one.cgroup))
        )

    def _warn(self, one: Window, name: str, full_in_s: float | None, left: str) -> None:
        free = one.span(name)
        if full_in_s is None or free is None or full_in_s > 2 * WARN_S:
            self._told.discard(name)
        elif full_in_s <= WARN_S and name not in self._told:
            self._told.add(name)
            words = forecasting.in_words(full_in_s, self._view().next_save_s)
            self._post(ev.Noted(f"the disk that the run writes to fills up: {left.format(free.last)}, {words}"))

    def _watch_room(self, readings: Mapping[str, float]) -> None:
        """What is freed when a save rotates the oldest one away comes only after it."""
        free, save = readings.get("disk_free_mib"), readings.get("save_mib")
        if free is not None and save is not None and free < save and "save" not in self._told:
            self._told.add("save")
            told = (
                f"{figures.size(free)} are free where the run writes, and the last checkpoint has {figures.size(save)}"
            )
            self._post(ev.Noted(f"the next save may find no room: {told}"))

    def _watch_mounts(self, readings: Mapping[str, float]) -> None:
        if readings.get("disk_read_only") == 1.0 and "read-only" not in self._told:
            self._told.add("read-only")
            self._post(
                ev.Noted("a file system that the run writes to can only be read now: nothing can be saved there")
            )

    def _say_blind(self, why: str) -> None:
        if "blind" not in self._told:
            self._told.add("blind")
            self._post(ev.SourceLost(SOURCE, why, self.attempt))


def _life_sign(folder: Path) -> float:
    """When the job was last seen to write, in wall seconds; 0: never."""
    times = [0.0]
    for pattern in (wire.JOB_LOG, wire.HEARTBEAT_GLOB):
        with contextlib.suppress(OSError):
            times += [path.stat().st_mtime for path in folder.glob(pattern)]
    return max(times)


def _of_memory(held: cgroups.Memory) -> dict[str, float]:
    """Of the cgroup; where it sets no limit, the share is that of the machine."""
    total, free = _meminfo()
    found = {
        "memory_limit_mib": held.limit_mib,
        "memory_used_mib": held.used_mib,
        "memory_peak_mib": held.peak_mib,
        "host_available_mib": free,
        "oom_kills": held.kills,
    }
    shares = []
    if held.limit_mib and held.used_mib is not None:
        shares.append(held.used_mib / held.limit_mib)
    if total and free is not None:
        shares.append(1 - free / total)
    return {name: value for name, value in found.items() if value is not None} | (
        {"memory_share": max(shares)} if shares else {}
    )


def _meminfo() -> tuple[float | None, float | None]:
    """The machine's memory and what of it can be had, in MiB."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return None, None
    values = {line.partition(":")[0]: line.split()[1:2] for line in lines}
    total, free = (values.get(name, []) for name in ("MemTotal", "MemAvailable"))
    return _mib(total), _mib(free)


def _mib(kib: list[str]) -> float | None:
    return int(kib[0]) / 1024 if kib and kib[0].isdigit() else None
