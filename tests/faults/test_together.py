"""Keeper, job and guardian die in one moment, as in a container whose memory has run out: the last figures are left."""

import os
import signal

import pytest

from guardian.core import events as ev
from tests.faults.confined import memory_of
from tests.faults.harness import Guarded, marked
from tests.faults.test_victims import LIMIT, ORPHANED, until_both_are_known


@pytest.fixture
def full(tmp_path):
    """A run that is near its memory's limit, all of which is then killed at once."""
    with memory_of(LIMIT) as around:
        (tmp_path / "policy.toml").write_text("[budget]\nrestarts = 0\nbackoff_s = [0]\n")
        job = (*ORPHANED, "rank", "925", "1", str(tmp_path / "go"))
        guarded = Guarded(tmp_path, *job, options=("--policy", "policy.toml"), env={"LOCAL_RANK": "0"})
        guarded.around = around
        guarded.start()
        try:
            until_both_are_known(guarded)
            keeper = guarded.seen_from_here(guarded.story().attempt.launched.keeper_pid)
            everyone = [guarded.process.itself() or 0, keeper, *marked(guarded.story().created.run)]
            for pid in everyone:
                os.kill(pid, signal.SIGSTOP)
            for pid in everyone:
                os.kill(pid, signal.SIGKILL)
            guarded.process.wait()
            yield guarded
        finally:
            guarded.clean_up()


@pytest.mark.long
def test_all_that_died_together_near_the_limit_is_judged_by_the_last_figures(full):
    """No counter rose, no exit was seen: what was in use is what tells."""
    full.start("resume", full.name)
    full.until("attempt 1 is judged", lambda run: run.attempts[0].diagnosed is not None)
    for _ in range(3):  # once more is without a save, a third time at once
        full.call("stop")
    full.wait()
    cause = full.story().attempts[0].diagnosed.cause
    ended = full.events(ev.Ended)[0]

    assert (None, None, 0) == (ended.code, ended.signal, ended.oom_kills)
    assert dict(ended.facts)["memory_share"] >= 0.95
    assert "host_oom" == cause.id
    assert any("of the memory were in use" in line.text for line in cause.evidence)
