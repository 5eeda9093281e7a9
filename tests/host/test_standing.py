"""A list of runs costs their journals, not their past; what it says is what the whole story says."""

import json
import os

import pytest

from guardian.core import events as ev
from guardian.core import records
from guardian.core.run import Running, Starting
from guardian.errors import HostError
from guardian.host import runs, standing, story
from guardian.host.journal import Journal


@pytest.fixture
def run(tmp_path):
    """The folder and the journal of a run whose first attempt trains."""
    folder = runs.create(tmp_path / "runs", "r1")
    journal = Journal.create(folder.journal)
    plan = ev.Planned(1, ("x",), (), None, None, (), 0.0, "because")
    for event in (created(), plan, ev.Launched(1, 1, 1)):
        append(journal, event)
    folder.make_attempt_dir(1)
    yield folder, journal
    journal.close()


def created():
    """The first record."""
    return ev.RunCreated("uuid", "r1", ("x",), "/", None, True, "{}", "0", os.getuid())


def append(journal, event):
    """One more record."""
    journal.append(ev.Record(ev.Stamp(1.0, 1.0, "boot", "node", 1), event), sync=False)


def beat(folder, steps, rank=0):
    """A heartbeat of so many steps; its last line is still being written."""
    lines = [json.dumps({"t": 1.0, "ev": "step", "step": step, "rows": 8}) + "\n" for step in range(1, steps + 1)]
    (folder.attempt_dir(1) / f"heartbeat.{rank}.jsonl").write_text("".join(lines) + '{"t": 1.0, "ev": "st')


def test_the_newest_step_is_known_from_the_end_of_the_heartbeat(run):
    """As the whole story has it, however long the file is."""
    folder, _ = run
    assert isinstance(standing.look(folder).state, Starting)
    beat(folder, 5000)
    seen, told = standing.look(folder), story.load(folder)

    assert 5000 == seen.attempt.last_step == told.attempt.last_step
    assert Running() == seen.state == told.state
    assert len(seen.attempt.steps) < 1000


def test_lines_that_only_say_how_far_readers_were_are_not_parsed(run, monkeypatch):
    """They are most of a long run's journal."""
    folder, journal = run
    for number in range(100):
        append(journal, ev.Positions(1, number, number))
    parsed = []
    real = records.decode
    monkeypatch.setattr(records, "decode", lambda line: parsed.append(line) or real(line))

    assert "r1" == standing.look(folder).created.name
    assert 3 == len(parsed)


def test_an_onlooker_hears_each_record_once_and_none_before_it_is_whole(run):
    """Half a line that is being written, or is cut away again by the next guardian, was never said."""
    folder, journal = run
    onlooker = standing.Onlooker.of(folder)
    assert [] == list(onlooker.news())
    with folder.journal.open("ab") as file:
        file.write(b'{"crc":"0123')
    assert [] == list(onlooker.news())
    os.truncate(folder.journal, journal.size)
    append(journal, ev.KeeperLost(1))

    assert [ev.KeeperLost(1)] == [record.event for _, record in onlooker.news()]
    assert onlooker.run.attempt.keeper_lost
    assert [] == list(onlooker.news())


def test_damage_is_named_with_its_line(run):
    """Nothing behind it is believed."""
    folder, _ = run
    with folder.journal.open("ab") as file:
        file.write(b"rubbish\n")

    with pytest.raises(HostError, match="line 4, is damaged"):
        standing.look(folder)
