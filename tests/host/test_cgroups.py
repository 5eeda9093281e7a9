"""The memory cgroup, read from recorded files of others and from real ones that are made here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from guardian.host import cgroups, machine
from tests.faults.confined import memory_of

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
    assert kills == cgroups.parse_kills(text)


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
    assert files == cgroups.memory_files(cgroup, mountinfo)


def test_a_counter_says_which_file_it_read():
    """Two counts may be compared only when the same file gave both."""
    counter = cgroups.oom_counter()

    if counter is None:
        pytest.skip("neither a cgroup nor /proc/vmstat counts OOM kills here")
    assert counter.kills >= 0
    assert Path(counter.source).exists()
    assert machine.oom_kills() >= counter.kills


STAT_V2 = "anon 104857600\nfile 734003200\nkernel 9437184\nkernel_stack 1048576\npagetables 2097152\nshmem 20971520\ninactive_file 1\n"
STAT_V1 = "cache 734003200\nrss 5\nshmem 5\ntotal_cache 734003200\ntotal_rss 104857600\ntotal_shmem 20971520\n"


@pytest.mark.parametrize(
    "text, kind, mib", [(STAT_V2, "cgroup2", 123.0), (STAT_V1, "cgroup", 120.0), ("", "cgroup", None)]
)
def test_what_gives_way_is_not_counted_as_used(text, kind, mib):
    """Files' cache is dropped before anybody is killed; shared memory is not."""
    assert mib == cgroups.parse_held_mib(text, kind)


@pytest.mark.parametrize(
    "text, mib", [("1048576\n", 1.0), ("max\n", None), ("9223372036854771712\n", None), ("", None), ("-1", None)]
)
def test_no_limit_is_unknown_and_not_zero(text, mib):
    """Both versions' words for it."""
    assert mib == cgroups.parse_mib(text)


READ = "import json, sys; from guardian.host import cgroups; held = bytearray(40 << 20); m = cgroups.memory(); print(json.dumps([m.limit_mib, m.used_mib, m.kills]))"


def test_a_real_cgroup_tells_its_limit_and_what_is_held(tmp_path):
    """Forty MiB of a process in it, against the limit that it was given."""
    with memory_of(200) as around:
        done = subprocess.run(
            [*around, sys.executable, "-c", READ], capture_output=True, text=True, check=True, cwd=tmp_path
        )
    limit, used, kills = json.loads(done.stdout)

    assert (200, 0) == (limit, kills)
    assert 40 < used < 200


def test_another_cgroup_has_another_name(tmp_path):
    """Counts of one are never subtracted from those of the other."""
    name = "from guardian.host import cgroups; print(cgroups.identity())"
    with memory_of(200) as around:
        inside = subprocess.run(
            [*around, sys.executable, "-c", name], capture_output=True, text=True, check=True, cwd=tmp_path
        )

    assert inside.stdout.strip()
    assert cgroups.identity() != inside.stdout.strip()
    assert cgroups.identity() == cgroups.identity()
