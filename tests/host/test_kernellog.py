"""The kernel's log: what of it is the kernel's own word, and whom it says it has killed."""

from __future__ import annotations

import time

import pytest

from guardian.host import kernellog
from guardian.host.kernellog import KernelLog, parse

KILLED = b"6,1042,23707896902,-;Memory cgroup out of memory: Killed process 24209 (python) total-vm:1534768kB, anon-rss:714552kB, UID:0\n"


@pytest.mark.parametrize(
    "line, pid, name",
    [
        (KILLED, 24209, "python"),
        (b"3,1,5,-;Out of memory: Killed process 61138 (pt_data_worker) total-vm:1kB\n", 61138, "pt_data_worker"),
        (b"3,1,5,-;Killed process 7, UID 1000, (py (x)) total-vm:1kB\n", 7, "py (x"),
        (b"3,1,5,c;Out of memory: Killed process 9 (a b) total-vm:1kB\n SUBSYSTEM=x\n", 9, "a b"),
    ],
)
def test_each_kernels_form_of_a_kill_is_read(line, pid, name):
    """From Linux 3 to 6."""
    killed = kernellog.kill(parse(line))

    assert (pid, name) == (killed.pid, killed.name)


@pytest.mark.parametrize(
    "record",
    [
        b"14,1,5,-;Killed process 1 (init)\n",  # facility 1: a program wrote it
        b"6,1;x",
        b"x,1,5,-;Killed process 1 (init)\n",
        b"",
        b"6,1,5,-",
    ],
)
def test_what_a_program_wrote_into_it_is_not_the_kernels_word(record):
    """Nor is what is no record at all."""
    entry = parse(record)

    assert entry is None or kernellog.kill(entry) is None


def test_other_lines_kill_nobody():
    """Words of memory are no kill."""
    assert kernellog.kill(parse(b"6,1,5,-;python invoked oom-killer: gfp_mask=0x100cca\n")) is None


def test_the_real_log_is_read_from_its_beginning_and_never_waited_for():
    """What was there comes once; where it may not be read it says why, and nothing ever comes."""
    log = KernelLog()
    first, again = log.read(), log.read()
    log.close()

    if log.problem is not None:
        assert [] == first
        pytest.skip(f"the kernel's log cannot be read here: {log.problem}")
    assert first
    assert not set(first) & set(again)
    assert all(entry.wall <= time.time() + 60 for entry in first)


def test_a_log_that_may_not_be_read_is_silent(tmp_path):
    """It is not there in most containers."""
    log = KernelLog(str(tmp_path / "kmsg"))

    assert "No such file or directory" == log.problem
    assert [] == log.read()
