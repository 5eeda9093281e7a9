"""Facts of the machine, read from recorded files of others and from the real ones here."""

from __future__ import annotations

import resource

from guardian.host import machine
from guardian.host.clock import Clock, StandingClock


def test_the_machine_has_a_name_a_boot_and_room(tmp_path):
    """Room is in MiB; of a path that is not there nothing is known."""
    assert machine.node()
    assert machine.boot_id() == machine.boot_id() != ""
    assert 0 <= machine.free_mib(tmp_path) < 2**40
    assert machine.free_mib(tmp_path / "missing") is None


def test_a_file_is_known_by_the_file_system_that_it_lies_on():
    """By its own mount, whatever is mounted around it; a descriptor that is none tells nothing."""
    with open("/proc/self/stat") as file:
        assert "proc" == machine.file_system(file.fileno())
    assert machine.file_system(999_999) is None


def test_a_mount_is_found_by_its_number():
    """Optional fields come before the dash, and a number is no prefix of another one."""
    mountinfo = "315 22 0:51 / /a rw shared:1 master:2 - nfs4 server:/a rw\n31 22 8:1 / / rw - ext4 /dev/sda1 rw\n"

    assert ["nfs4", "ext4", None] == [machine.mounted(mountinfo, mount) for mount in ("315", "31", "3")]


def test_a_standing_clock_moves_only_when_it_is_told():
    """Setting the wall clock back does not touch monotonic time."""
    clock = StandingClock(wall=1000.0, mono=5.0)
    clock.pass_by(2.5)
    clock.set_wall(10.0)

    assert (10.0, 7.5) == (clock.wall(), clock.mono())
    assert isinstance(clock, Clock)
    assert Clock().mono() <= Clock().mono()


def test_open_files_are_counted_up_to_the_hard_limit():
    """The soft one is what a remedy raises first: it is no news that it was too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    try:
        assert hard == dict(machine.facts(()))["open_files_limit"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
