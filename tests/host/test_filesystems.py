"""Room, inodes and read-only mounts, of real small file systems."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from guardian.host import filesystems
from tests.faults.test_full_disk import NAMESPACE, needs_namespaces
from tests.host.attempts import until

LOOK = "import json, pathlib, sys; from guardian.host import filesystems; print(json.dumps(filesystems.look((pathlib.Path(sys.argv[1]),))))"


def looked(folder, script):
    """What is seen of a tmpfs of 16 MiB with 100 inodes after a script has run on it."""
    mounted = f'mount -t tmpfs -o size=16m,nr_inodes=100 none {folder} && {script} && "$@"'
    words = (*NAMESPACE, "sh", "-c", mounted, "sh", sys.executable, "-c", LOOK, str(folder / "out" / "x"))
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@needs_namespaces
@pytest.mark.parametrize(
    "script, name, least, most",
    [
        ("true", "disk_free_mib", 15, 16),
        ("head -c 12M /dev/zero >{0}/file", "disk_free_mib", 3, 4),
        ("seq 80 | sed s,^,{0}/, | xargs touch", "inodes_free", 10, 19),
        ("true", "disk_read_only", 0, 0),
        ("mount -o remount,ro {0}", "disk_read_only", 1, 1),
    ],
)
def test_a_file_systems_shortages_are_seen(tmp_path, script, name, least, most):
    """Of a folder that is not there yet it is that of its parents."""
    assert least <= looked(tmp_path, script.format(tmp_path))[name] <= most


def test_of_several_places_the_fullest_counts():
    """/dev/shm has figures of its own."""
    both = filesystems.look((Path("/"), Path("/proc")))

    assert 0.0 == both["disk_free_mib"]
    assert both["shm_free_mib"] <= both["shm_total_mib"]


def test_a_place_that_does_not_answer_holds_up_nobody_and_is_unknown(monkeypatch):
    """As a network file system whose server is gone; the call itself is the only thing that is made up."""
    asked, answer = threading.Event(), threading.Event()

    def hangs():
        asked.set()
        answer.wait()
        return (Path("/"),)

    monkeypatch.setattr(filesystems, "STALE_S", 0.2)
    watch = filesystems.Watch(hangs, every_s=0.05)
    try:
        assert asked.wait(60)
        until(lambda: watch.latest() is None, "it counts as unknown")
        answer.set()
        until(lambda: (watch.latest() or {}).get("disk_free_mib"), "it is known again")
    finally:
        answer.set()
        watch.close()
