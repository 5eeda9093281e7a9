"""Nothing is launched before the disk holds its announcement, and the job waits for the disk once only."""

import os
import sys

import pytest

from guardian.core import events as ev
from guardian.core import policy as policies
from guardian.core.planning import Terms
from guardian.host.clock import Clock
from guardian.host.journal import Journal
from guardian.recording import Outlook
from guardian.supervisor import Supervisor
from tests.core.stories import ARGV, killed, launched, records, story


class Launched(Exception):  # noqa: N818 - it ends the loop under test, it is no error
    """The moment under test has come."""


class Keeper:
    """Stands where a keeper stands by, and looks at the journal when it is given the job."""

    pid = os.getpid()

    def __init__(self, journal, syncs):
        self.journal, self.syncs = journal, syncs
        self.seen = None

    def launch(self, _):
        self.seen = (self.syncs[-1], self.journal.stat().st_size)
        raise Launched

    def dismiss(self):
        """There is no process."""


@pytest.fixture
def syncs(monkeypatch):
    """How long the synced file was, for each sync of a file's content."""
    sizes = []
    real = os.fdatasync

    def spy(fd):
        real(fd)
        sizes.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fdatasync", spy)
    return sizes


@pytest.mark.parametrize("before", [(), (launched(), killed())], ids=["first launch", "relaunch"])
def test_at_a_launch_all_that_announced_it_is_on_the_disk_after_one_sync(before, tmp_path, syncs):
    """Plan and launch become durable together: between them nothing is done that either of them announces."""
    journal = Journal.create(tmp_path / "journal.jsonl")
    for record in records(*before):
        journal.append(record, sync=False)
    policy = policies.Policy(disk=policies.Disk(ballast_mib=0))
    terms = Terms("run", ARGV, None, policy, str(tmp_path), sys.executable, None, None)
    outlook = Outlook(terms, rules=tuple, matcher=lambda: None, clock=Clock(), environment={}, told=lambda *_: None)
    supervisor = Supervisor(story(*before), journal, outlook)
    keeper = Keeper(tmp_path / "journal.jsonl", syncs)
    supervisor.stand_by(keeper)

    supervisor.take(ev.SupervisorStarted("run", ""))
    with pytest.raises(Launched):
        supervisor.supervise()
    durable, whole = keeper.seen

    assert whole == durable
    assert [whole] == syncs


def test_a_resume_is_announced_durably_before_its_checkpoint_is_pinned(tmp_path, syncs):
    """Pinning is done in between: the plan does not wait for the launch then."""
    journal = Journal.create(tmp_path / "journal.jsonl")
    terms = Terms("run", ARGV, None, policies.Policy(), str(tmp_path), sys.executable, None, None)
    outlook = Outlook(terms, rules=tuple, matcher=lambda: None, clock=Clock(), environment={}, told=lambda *_: None)
    supervisor = Supervisor(story(launched(), killed()), journal, outlook)

    supervisor.take(ev.Planned(2, ARGV, (), str(tmp_path / "checkpoint-30"), 30, (), 0.0, "again"))

    assert [journal.size] == syncs
