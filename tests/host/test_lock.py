"""Who has a run: seen through the kernel where that is possible, else by a signature that is renewed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import asdict, replace

import pytest

from guardian.errors import HostError
from guardian.host import lock
from guardian.host.clock import StandingClock
from guardian.host.lock import RunLock

US = lock._us()
FOREIGN = {
    "host": replace(US, host="node7", pid=4321),
    "namespace": replace(US, pid_namespace=1, pid=4321),
    "network namespace": replace(US, network_namespace=1, pid=4321),
    "boot": replace(US, boot="another", pid=4321),
}


class Waiting(StandingClock):
    """A clock on which things happen: at each second of sleep this is called with the seconds that were slept."""

    def __init__(self, happening=lambda _: None):
        super().__init__(1000.0)
        self.happening = happening

    def sleep(self, seconds):
        super().sleep(seconds)
        self.happening(self.mono())


def signed(run, who):
    """A run that somebody's guardian has signed, and its attempt's lease."""
    (run / "attempts" / "0001").mkdir(parents=True)
    (run / "attempts" / "0001" / "lease").touch()
    (run / lock.FILE).write_text(json.dumps(asdict(who)) + "\n")
    return run


def without_locks(monkeypatch):
    """A file system that has none."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def named(run):
    """Whose signature stands."""
    return json.loads((run / lock.FILE).read_text() or "{}").get("pid")


@pytest.mark.parametrize("who", FOREIGN)
@pytest.mark.parametrize("locks", [True, False])
def test_a_foreign_signature_that_stands_still_is_waited_for_visibly_and_taken_over(tmp_path, monkeypatch, who, locks):
    """Another machine, namespace, or boot of who knows which: two minutes of our own clock, a line every ten seconds."""
    monkeypatch.setattr(lock.machine, "file_system", lambda _: "nfs4")
    if not locks:
        without_locks(monkeypatch)
    clock, said = Waiting(), []
    taken = RunLock.take(signed(tmp_path, FOREIGN[who]), clock=clock, say=said.append)

    assert 120 <= clock.mono() < 125
    assert 12 == len(said)
    assert f"is signed by guardian pid 4321 on {FOREIGN[who].host}" in said[0]
    assert os.getpid() == named(tmp_path)
    taken.release()
    assert "" == (tmp_path / lock.FILE).read_text()


@pytest.mark.parametrize("system", ["ext4", "overlay"])
def test_on_a_disk_of_its_own_an_earlier_boot_of_this_machine_is_not_waited_for(tmp_path, monkeypatch, system):
    """Whoever signed then, and every job, went down with the machine."""
    monkeypatch.setattr(lock.machine, "file_system", lambda _: system)
    clock = Waiting()
    RunLock.take(signed(tmp_path, FOREIGN["boot"]), clock=clock).release()

    assert 0 == clock.mono()


@pytest.mark.parametrize("who", ["host", "namespace", "network namespace"])
def test_on_a_disk_of_its_own_another_host_or_container_is_waited_for_all_the_same(tmp_path, monkeypatch, who):
    """A container has a name of its own, and its job may live; a disk may have come from another machine."""
    monkeypatch.setattr(lock.machine, "file_system", lambda _: "ext4")
    clock = Waiting()
    RunLock.take(signed(tmp_path, replace(FOREIGN[who], boot="another" if who == "host" else US.boot)), clock=clock)

    assert 120 <= clock.mono() < 125


def test_a_boot_that_cannot_be_told_is_no_earlier_one(tmp_path, monkeypatch):
    """Unknown is never gone."""
    monkeypatch.setattr(lock.machine, "file_system", lambda _: "ext4")
    clock = Waiting()
    RunLock.take(signed(tmp_path, replace(FOREIGN["boot"], boot=lock.machine.UNKNOWN_BOOT)), clock=clock).release()

    assert 120 <= clock.mono() < 125


def test_a_signature_from_before_networks_were_told_apart_is_understood(tmp_path):
    """A guardian that is replaced by a newer one leaves such a file."""
    old = {key: value for key, value in asdict(US).items() if key != "network_namespace"}
    (signed(tmp_path, US) / lock.FILE).write_text(json.dumps(old | {"start_ticks": 1}))
    clock = Waiting()
    RunLock.take(tmp_path, clock=clock).release()

    assert 0 == clock.mono()


@pytest.mark.parametrize(
    "file, why", [(lock.FILE, "is in use by guardian pid 4321 on node7"), ("attempts/0001/lease", "lives on node7")]
)
def test_a_foreign_run_that_shows_life_is_left_alone(tmp_path, file, why):
    """Its guardian renews the lock, or its guardian is dead and the keeper renews the lease."""
    signed(tmp_path, FOREIGN["host"])
    clock = Waiting(lambda at: os.utime(tmp_path / file, (at, at)) if at >= 29 else None)

    with pytest.raises(HostError, match=why):
        RunLock.take(tmp_path, clock=clock)
    assert clock.mono() < 31
    assert 4321 == named(tmp_path)


def test_somebody_setting_the_clock_neither_shortens_nor_prolongs_the_wait(tmp_path):
    """It is measured by monotonic time, and the others' times are compared with nothing but themselves."""
    clock = Waiting(lambda at: clock.set_wall(9e9 if at % 2 else 0.0))
    RunLock.take(signed(tmp_path, FOREIGN["host"]), clock=clock).release()

    assert 120 <= clock.mono() < 125


def test_the_wait_can_be_left(tmp_path):
    """Ctrl-C: the signature stays as it was, and the lock is free."""

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunLock.take(signed(tmp_path, FOREIGN["host"]), clock=Waiting(interrupt))
    assert 4321 == named(tmp_path)
    assert lock.holder(tmp_path) is None


def test_a_dead_guardian_within_sight_is_not_waited_for(tmp_path):
    """The kernel says that nobody has the lock; the number may belong to another process by now."""
    clock = Waiting()
    signed(tmp_path, replace(US, start_ticks=US.start_ticks - 1))
    RunLock.take(tmp_path, clock=clock).release()

    assert 0 == clock.mono()


def test_without_locks_a_living_process_has_the_run_and_its_number_alone_has_not(tmp_path, monkeypatch):
    """Pid reuse: the same pid with another start time is another process."""
    without_locks(monkeypatch)
    parent = replace(US, pid=os.getppid(), start_ticks=lock.processes.start_ticks(os.getppid()))
    signed(tmp_path, parent)
    assert parent == lock.holder(tmp_path)
    with pytest.raises(HostError, match=f"is in use by guardian pid {os.getppid()} on"):
        RunLock.take(tmp_path, clock=Waiting())
    (tmp_path / lock.FILE).write_text(json.dumps(asdict(replace(parent, start_ticks=1))))
    assert lock.holder(tmp_path) is None
    clock = Waiting()
    RunLock.take(tmp_path, clock=clock).release()

    assert lock.SETTLE_S == clock.mono()


def test_without_locks_of_two_who_sign_at_once_one_has_the_run(tmp_path, monkeypatch):
    """The other's signature came last and stands: we go."""
    without_locks(monkeypatch)
    text = json.dumps(asdict(FOREIGN["host"]))

    with pytest.raises(HostError, match="is in use by guardian pid 4321 on node7"):
        RunLock.take(tmp_path, clock=Waiting(lambda _: (tmp_path / lock.FILE).write_text(text)))


def test_a_guardian_that_was_taken_over_lets_go(tmp_path):
    """It slept for minutes with its machine; the signature of its successor stays."""
    held = RunLock.take(tmp_path)
    before = (tmp_path / lock.FILE).stat().st_mtime_ns
    os.utime(tmp_path / lock.FILE, (1, 1))
    held.renew()
    assert (tmp_path / lock.FILE).stat().st_mtime_ns >= before
    (tmp_path / lock.FILE).write_text(json.dumps(asdict(FOREIGN["host"])))
    with pytest.raises(HostError, match="was taken over by guardian pid 4321 on node7"):
        held.renew()
    held.release()

    assert 4321 == named(tmp_path)
