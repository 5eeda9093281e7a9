"""What is listened to while an attempt lives: its files, its keeper, its checkpoint folder.

Observers only observe: each runs in a daemon thread and posts events; what follows from them is decided elsewhere.
A source that breaks posts `SourceLost` and is blind from then on.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from guardian.core import events as ev
from guardian.core import hearing, metrics, wire
from guardian.host import checkpoints, keeping, logs, processes
from guardian.host.private import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from guardian.core.run import Attempt
    from guardian.host.matching import Hit, Matcher

    Post = Callable[[ev.Event], None]

POSITIONS_EVERY_S = 10.0
SETTLE_S = 1.0
"""After a change below the output folder: what is renamed or announced together is looked at once."""
LOOK_EVERY_S = 30.0
"""Without any notice: a file that is written inside a checkpoint folder changes nothing right below its parent."""
TREE_POLL_S = 0.2


class AttemptFiles:
    """Follows job.log and the heartbeats of one attempt and posts what they say."""

    def __init__(
        self,
        attempt: Attempt,
        folder: Path,
        post: Post,
        *,
        matcher: Callable[[], Matcher],
        heartbeat_offsets: Mapping[int, int],
    ) -> None:
        position = attempt.positions
        self._attempt = attempt.number
        self._post = post
        self._matcher = matcher
        self._companion = bool(attempt.hellos)
        self._told = time.monotonic()
        self._follower = logs.Follower(
            folder,
            on_log=self._log,
            on_heartbeat=self._heartbeat,
            on_lost=self._lost,
            offset=position.offset if position else 0,
            lines=position.lines if position else 0,
            heartbeat_offsets=heartbeat_offsets,
        )
        self._follower.start()

    def finish(self, patience_s: float) -> bool:
        """Read everything to its end and stop; False where that took too long."""
        if not self._follower.finish(patience_s):
            return False
        self._hits(self._matcher().rest())
        return True

    def _hits(self, found: Iterable[Hit]) -> None:
        for hit in found:
            line = ev.Line(hit.line, hit.text)
            self._post(ev.Hit(self._attempt, hit.rule, hit.pattern, hit.offset, line, hit.captures))

    def _log(self, block: bytes, offset: int, line: int) -> None:
        self._hits(self._matcher().scan(block, line, offset))
        if not self._companion:
            # The companion's numbers are better and the same; the log's would only double them.
            for seen in metrics.read(block):
                self._post(metrics.logged(seen, self._attempt, time.time()))
        if time.monotonic() - self._told >= POSITIONS_EVERY_S:
            self._told = time.monotonic()
            self._post(ev.Positions(self._attempt, offset + len(block), line + block.count(b"\n") - 1))

    def _heartbeat(self, rank: int, line: bytes) -> None:
        for event in hearing.parse(line, self._attempt, rank):
            self._companion = self._companion or isinstance(event, ev.Hello)
            self._post(event)

    def _lost(self, source: str, why: str) -> None:
        self._post(ev.SourceLost(source, why, self._attempt))


def listen_to_keeper(keeper: keeping.Keeper, run: str, attempt: int, post: Post) -> None:
    """Post what the keeper tells until it is gone.

    A keeper that is refused because another one has the attempt (a killed guardian's, which was slow to take its
    socket) is not a failed start: the other one is listened to.
    """
    over = False

    def told(message: keeping.KeeperMessage) -> None:
        nonlocal over
        if isinstance(message, keeping.Refused) and message.held:
            other = keeping.connect(os.getuid(), run, attempt)
            over = other is not None
            if other is not None:
                listen_to_keeper(other, run, attempt, post)
            return
        over = over or isinstance(message, keeping.TreeEnd | keeping.Refused)
        event = _event(message, attempt)
        if event is not None and not (over and isinstance(event, ev.KeeperLost)):
            post(event)

    keeper.listen(told)


def _event(message: keeping.KeeperMessage, attempt: int) -> ev.Event | None:
    """What a keeper's message means for the run."""
    match message:
        case keeping.Started(pid=pid, start_ticks=ticks):
            return ev.JobStarted(attempt, pid, ticks or 0)
        case keeping.StartFailed(error=error, file=file):
            return ev.StartFailed(attempt, f"{file}: {error}")
        case keeping.Refused(error=error):
            return ev.StartFailed(attempt, error)
        case keeping.LauncherExit(code=code, signal=signal):
            return ev.LauncherExited(attempt, code, signal)
        case keeping.TreeEnd():
            return ev.TreeEnded(attempt)
        case keeping.KeeperGone():
            return ev.KeeperLost(attempt)


def watch_orphans(attempt: int, mark: str, known: frozenset[processes.Identity], post: Post) -> None:
    """Without a keeper nobody hears the last process end: look until no process of the attempt is left."""

    def look() -> None:
        while processes.tree(None, mark, known):
            time.sleep(TREE_POLL_S)
        post(ev.TreeEnded(attempt))

    threading.Thread(target=look, name=f"orphans-{attempt}", daemon=True).start()


class CheckpointWatch:
    """Posts each checkpoint of a folder once, when it is first seen complete; `known` paths are told already."""

    def __init__(
        self,
        attempt: int,
        folder: str,
        post: Post,
        *,
        since: float | None,
        known: frozenset[str],
        world: int | None,
    ) -> None:
        """`world`: ranks that must have left their part in a checkpoint; None: not all of them save here."""
        self.attempt = attempt
        self.folder = folder
        self._world = world
        self._since = since
        self._post = post
        self._seen = set(known)
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._changed.set()
        self._watch = checkpoints.Watch(folder, self._changed.set)
        self._thread = threading.Thread(target=self._work, name=f"checkpoints-{attempt}", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Look soon: the job says that it has saved."""
        self._changed.set()

    def close(self) -> None:
        """Stop watching; bounded."""
        self._stop.set()
        self._changed.set()
        self._watch.close()

    def _work(self) -> None:
        while not self._stop.is_set():
            self._changed.wait(LOOK_EVERY_S)
            self._stop.wait(SETTLE_S)
            self._changed.clear()
            if not self._stop.is_set():
                self._scan()

    def _scan(self) -> None:
        try:
            found = checkpoints.scan(self.folder, since=self._since, world=self._world)
        except OSError as error:
            self._post(ev.SourceLost("checkpoints", str(error), self.attempt))
            return
        for one in found:
            if one.complete and one.path not in self._seen:
                self._seen.add(one.path)
                self._post(ev.CheckpointSeen(self.attempt, one))


def write_control(folder: Path, *, request: int, save_at: int) -> None:
    """Ask the companions to save at a step and stop (core/wire.py, control.json)."""
    write_private(folder / wire.CONTROL, f'{{"id": {request}, "save_at": {save_at}, "stop": true}}\n')
