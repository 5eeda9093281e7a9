"""A run that is loaded from its folder is the run that was watched."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.core import hearing
from guardian.core.folding import begin, fold
from guardian.core.run import Ending, Finished, Running
from guardian.errors import HostError
from guardian.host import runs, story
from guardian.host.journal import Journal

CREATED = ev.RunCreated("uuid", "r1", ("train",), "/", None, True, "{}", "0", 1000)


def hello(step, rank, world=2):
    """A line: the loop begins after this step."""
    said = {
        "t": 1000.0 + step,
        "ev": "hello",
        "pid": 9,
        "world": world,
        "step": step,
        "max_steps": 9,
        "output_dir": "/o",
    }
    batch = {"device_batch": 4, "accumulation": 2, "data_parallel": 2, "effective_batch": 16, "trainer": "T"}
    return rank, said | batch


def step(number, rank, *, late=0, **more):
    """A line: the step is finished; the loss may be that of the step before."""
    said = {"t": 1000.0 + number + rank / 8, "ev": "step", "step": number, "rows": 8, "tokens": 99, "fp": f"{number:x}"}
    return rank, said | {"lr": 1e-4, "loss": [number - late, 2.0 / number + rank]} | more


def planned(attempt):
    """An attempt is planned, and launched."""
    plan = ev.Planned(attempt, ("train",), (), None, None, (), 0.0, "because")
    return (plan, ev.Launched(attempt, 11, 22), ev.JobStarted(attempt, 33, 44))


def ended(attempt, code):
    """The tree of an attempt is gone, and everything has been read."""
    return (
        ev.LauncherExited(attempt, code, None),
        ev.TreeEnded(attempt),
        ev.Ended(attempt, code, None, None, (ev.Line(3, "bye"),), None, ()),
    )


# What a supervisor lives through: journalled events, and (rank, line) as it comes from the heartbeats.
HISTORY = (
    ev.SupervisorStarted("run", ""),
    *planned(1),
    *(hello(0, 0), hello(0, 1)),
    *(step(1, 0, late=0), step(1, 1), step(2, 0), step(3, 0), step(2, 1), (0, {"t": 1003, "ev": "phase", "phase": "save", "step": 3})),
    *((0, {"t": 1003.1, "ev": "saved", "step": 3, "path": "/o/checkpoint-3"}), step(3, 1), step(4, 1)),
    ev.CheckpointSeen(1, ev.Checkpoint("/o/checkpoint-3", 3, complete=True)),
    ev.Hit(1, "cuda-oom", 0, 123, ev.Line(7, "CUDA out of memory")),
    (1, {"t": 1004, "ev": "exc", "step": 4, "type": "OutOfMemoryError", "text": "CUDA"}),
    (1, {"t": 1004, "ev": "error", "where": "on_log", "err": "ValueError", "off": True}),
    *ended(1, 1),
    ev.Diagnosed(1, None),
    *planned(2),
    *(hello(3, 1), hello(3, 0)),
    *(step(4, 1, late=1), step(4, 0, late=1), step(5, 0, late=1), step(5, 1, late=1)),
    *((0, {"t": 1005, "ev": "log", "step": 5, "logs": {"loss": "2.5"}}), (0, {"t": 1005, "ev": "log", "step": 5, "logs": {"loss": 0.5}})),
    ev.StopRequested(ev.StopBy.SIGTERM),
    ev.StopBegun(2, "asked from outside", (33, 34)),
    ev.SaveAsked(2, 7),
    *((1, {"t": 1005, "ev": "ack", "id": 1, "step": 5, "save_at": 7}), step(6, 0), (0, {"t": 1006, "ev": "ack", "id": 1, "step": 6, "save_at": 7})),
    *(step(6, 1), step(7, 1), step(7, 0)),
    *((0, {"t": 1007, "ev": "end", "step": 7, "max_steps": 9, "by": "guardian"}), (1, {"t": 1007, "ev": "end", "step": 7, "max_steps": 9, "by": "guardian"})),
    ev.Signalled(2, 15, 3),
    *ended(2, 0),
    ev.Diagnosed(2, None),
    ev.RunFinished(ev.Outcome.STOPPED, 75, "asked from outside"),
)  # fmt: skip


class Living:
    """A run that is watched: as the supervisor does, it journals, folds, and leaves the heartbeats in their files."""

    def __init__(self, base):
        self.folder = runs.create(base, "r1")
        self.journal = Journal.create(self.folder.journal)
        self.second = 1000.0
        first = ev.Record(self.stamp(), CREATED)
        self.journal.append(first, sync=False)
        self.run = begin(first)

    def stamp(self):
        self.second += 1.0
        return ev.Stamp(self.second, 0.0, "boot", "node", 1)

    def live(self, happening):
        """One more thing happens."""
        events = (happening,)
        if isinstance(happening, tuple):
            rank, said = happening
            number = len(self.run.attempts)
            line = json.dumps(said).encode() + b"\n"
            with (self.folder.make_attempt_dir(number) / f"heartbeat.{rank}.jsonl").open("ab") as file:
                file.write(line)
            events = hearing.parse(line, number, rank)
            assert events
        for event in events:
            record = ev.Record(self.stamp(), event)
            if isinstance(event, ev.Journalled):
                self.journal.append(record, sync=False)
            self.run = fold(self.run, record)


def what_matters(run):
    """Everything but when it was heard, and which rank's acknowledgement came first."""
    attempts = tuple(
        replace(one, acknowledged=tuple(sorted(one.acknowledged, key=lambda a: a.rank))) for one in run.attempts
    )
    return replace(run, heard_wall=0.0, attempts=attempts)


def test_at_every_moment_the_loaded_run_is_the_watched_one(tmp_path):
    """Steps, losses, states, stops, ends: whoever loads the folder then goes on from the same place."""
    living = Living(tmp_path)
    for happening in HISTORY:
        living.live(happening)
        assert what_matters(living.run) == what_matters(story.load(living.folder))
    first, second = living.run.attempts

    assert [1, 2, 3] == [one.step for one in first.steps]
    assert [4, 5, 6, 7] == [one.step for one in second.steps]
    assert (4, 7) == (first.last_step, second.last_step)
    assert Finished(ev.Outcome.STOPPED, 75, "asked from outside") == living.run.state


def test_what_comes_after_the_end_was_judged_is_history(tmp_path):
    """A rank that wrote on while nobody listened: its steps are told, the attempt stays over, the next one runs."""
    living = Living(tmp_path)
    for happening in (*planned(1), hello(0, 0, world=1), step(1, 0), *ended(1, 1), *planned(2)):
        living.live(happening)
    with (living.folder.attempt_dir(1) / "heartbeat.0.jsonl").open("a") as file:
        file.write(json.dumps(step(2, 0)[1]) + "\n")
    loaded = story.load(living.folder)

    assert living.run.state == loaded.state
    assert [1, 2] == [one.step for one in loaded.attempts[0].steps]


def test_the_guardian_that_takes_over_knows_how_far_it_has_read(tmp_path):
    """Of the attempt that may still live, and of no other; its state is that of the files."""
    living = Living(tmp_path)
    for happening in (*planned(1), hello(0, 0, world=1), step(1, 0)):
        living.live(happening)
    told = story.tell(living.folder)
    assert Running() == told.run.state
    assert {0: (living.folder.attempt_dir(1) / "heartbeat.0.jsonl").stat().st_size} == told.heartbeat_offsets
    for happening in ended(1, 1)[:2]:
        living.live(happening)
    assert isinstance(story.load(living.folder).state, Ending)
    living.live(ended(1, 1)[2])

    assert {} == story.tell(living.folder).heartbeat_offsets


def test_a_blind_spot_is_part_of_the_story(tmp_path):
    """A heartbeat that cannot be read again is told as lost, not passed over."""
    living = Living(tmp_path)
    for happening in planned(1):
        living.live(happening)
    (living.folder.make_attempt_dir(1) / "heartbeat.0.jsonl").symlink_to("/dev/zero")

    assert ["heartbeat.0.jsonl"] == [one.source for one in story.load(living.folder).lost]


@pytest.mark.parametrize(
    "content, why",
    [(b"", "does not tell how the run began"), (b"damage\n", "line 1, is damaged"), (None, "No such file")],
)
def test_a_folder_without_a_beginning_is_one_line(tmp_path, content, why):
    """A start that was cut off before its first record, a damaged one, none at all."""
    folder = runs.create(tmp_path, "r1")
    if content is not None:
        folder.journal.write_bytes(content)

    with pytest.raises(HostError, match=why):
        story.load(folder)


def test_a_story_that_begins_in_the_middle_is_none(tmp_path):
    """Somebody cut the journal's head off."""
    folder = runs.create(tmp_path, "r1")
    journal = Journal.create(folder.journal)
    journal.append(ev.Record(ev.Stamp(1.0, 0.0, "boot", "node", 1), ev.KeeperLost(1)))

    with pytest.raises(HostError, match="does not tell how the run began"):
        story.load(folder)
