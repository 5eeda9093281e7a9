"""Facts of the machine, read from recorded files of others and from the real ones here."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from guardian.host import machine
from guardian.host.clock import Clock, StandingClock

# Linux 6.8, systemd, cgroup version 2: /sys/fs/cgroup/user.slice/.../memory.events of a session with two kills.
EVENTS_V2 = "low 0\nhigh 0\nmax 311\noom 2\noom_kill 2\noom_group_kill 0\n"
# Linux 5.15, version 1: memory.oom_control.
CONTROL_V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
# Linux 4.9, version 1: the count is not there yet.
CONTROL_OLD = "oom_kill_disable 0\nunder_oom 0\n"
VMSTAT = "nr_free_pages 123\npgfault 5566\noom_kill 7\nnuma_pte_updates 0\n"

V2_HOST = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V1_HOST = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
V1_DOCKER = "612 600 0:32 /docker/0a1b /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    "text, kills",
    [(EVENTS_V2, 2), (CONTROL_V1, 3), (CONTROL_OLD, None), (VMSTAT, 7), ("", None), ("oom_kill x\n", None)],
)
def test_the_count_of_oom_kills_is_found_in_each_form(text, kills):
    """`oom` counts attempts and `oom_group_kill` groups; neither is a killed process."""
    assert kills == machine.parse_kills(text)


@pytest.mark.parametrize(
    "cgroup, mountinfo, files",
    [
        ("0::/user.slice/s.scope\n", V2_HOST, ("/sys/fs/cgroup/user.slice/s.scope/memory.events",)),
        ("0::/\n", V2_HOST, ("/sys/fs/cgroup/memory.events",)),
        ("0::/../other\n", V2_HOST, ("/sys/fs/cgroup/memory.events",)),
        (
            "4:memory:/job/7\n1:cpu,cpuacct:/\n0::/\n",
            V1_HOST,
            ("/sys/fs/cgroup/unified/memory.events", "/sys/fs/cgroup/memory/job/7/memory.oom_control"),
        ),
        ("4:memory:/docker/0a1b\n", V1_DOCKER, ("/sys/fs/cgroup/memory/memory.oom_control",)),
        ("", "", ()),
        ("nonsense\n", "1 2 3 -\n", ()),
    ],
)
def test_our_own_cgroup_is_found_wherever_it_is_mounted(cgroup, mountinfo, files):
    """On a host, in a container with and without a namespace of its own, with both versions at once."""
    assert files == machine.memory_files(cgroup, mountinfo)


def test_a_counter_says_which_file_it_read():
    """Two counts may be compared only when the same file gave both."""
    counter = machine.oom_counter()

    if counter is None:
        pytest.skip("neither a cgroup nor /proc/vmstat counts OOM kills here")
    assert counter.kills >= 0
    assert Path(counter.source).exists()
    assert machine.oom_kills() >= counter.kills


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
