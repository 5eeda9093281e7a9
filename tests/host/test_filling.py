"""A real small disk that fills at a known rate, by bytes or by files: the forecast says when, and a person is told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.faults.test_full_disk import NAMESPACE, needs_namespaces

FILLS = """
import json, os, pathlib, subprocess, sys, time
from guardian.core import hostfacts
from guardian.host import filesystems, metricsfile, processes, sampling
hostfacts.WINDOW_S, filesystems.EVERY_S = 2.0, 0.5
disk, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
job = subprocess.Popen(["sleep", "1000"])
view = lambda: sampling.View("filling/1", None, frozenset({processes.identify(job.pid)}), (), None, 3600.0)
filesystems.Watch.__init__.__defaults__ = (0.5,)
said = []
sampler = sampling.Sampler(1, folder, view, lambda: (disk,), lambda event: said.append(event.text), every_s=0.25)
begun, path = time.time(), folder / metricsfile.NAME
in_files = sys.argv[3] == "files"
left, full_in = ("inodes_free", "inodes_gone_in_s") if in_files else ("disk_free_mib", "disk_full_in_s")
made = 0
with open(disk / "fill", "wb", buffering=0) as file:
    while True:
        while made < int((time.time() - begun) * 2):  # two files, or half a MiB, a second
            made += 1
            (disk / str(made)).touch() if in_files else file.write(bytes(1 << 18))
        window = metricsfile.last(path)
        if window and window.span(full_in) and said:
            break
        assert time.time() - begun < 240, (window, said)
        time.sleep(0.1)
job.kill()
job.wait()
sampler.finish(60)
print(json.dumps([window.span(full_in).last, window.span(left).last, said]))
"""


@pytest.mark.long
@needs_namespaces
@pytest.mark.parametrize(
    ("what", "a_second", "size", "left"),
    [("room", 0.5, "size=200m", "MiB are free"), ("files", 2.0, "nr_inodes=600", "more files can be made in it")],
)
def test_a_disk_that_fills_at_a_known_rate_is_full_when_the_forecast_says(tmp_path, what, a_second, size, left):
    """Half a MiB a second, or two empty files: told once, with the save that would come too late."""
    disk, folder = tmp_path / "disk", tmp_path / "folder"
    disk.mkdir()
    folder.mkdir()
    mounted = f'mount -t tmpfs -o {size} none {disk} && exec "$@"'
    words = (*NAMESPACE, "sh", "-c", mounted, "sh", sys.executable, "-c", FILLS, str(disk), str(folder), what)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    full_in_s, free, (said,) = json.loads(done.stdout)

    assert free / a_second == pytest.approx(full_in_s, rel=0.25)
    assert said.startswith("the disk that the run writes to fills up: ")
    assert left in said
    assert said.endswith(" min at this rate, before the next save")
