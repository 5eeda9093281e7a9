"""Looking into checkpoint folders: what a cut-off save leaves is never called whole."""

import os
import subprocess
import sys
import threading

import pytest

from guardian.host import checkpoints
from tests.host.folders import checkpoint


def only(parent):
    """The one checkpoint of a folder."""
    (found,) = checkpoints.scan(str(parent))
    return found


def test_a_whole_checkpoint_is_complete(tmp_path):
    """The healthy case of every damage below."""
    checkpoint(tmp_path, 10)

    assert (10, True, None) == (only(tmp_path).step, only(tmp_path).complete, only(tmp_path).why)


def test_a_checkpoint_that_cannot_be_looked_into_hides_no_other(tmp_path):
    """It is passed over with the reason."""
    checkpoint(tmp_path, 10)
    (checkpoint(tmp_path, 20) / "weights").symlink_to("/nowhere")

    first, second = checkpoints.scan(str(tmp_path))

    assert (True, False) == (first.complete, second.complete)
    assert f"{tmp_path}/checkpoint-20/weights: No such file or directory" == second.why


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt"])
def test_a_missing_file_makes_it_incomplete(tmp_path, name):
    """Without the optimizer transformers resumes and silently resets Adam: that is not a resume."""
    (checkpoint(tmp_path, 10) / name).unlink()

    assert not only(tmp_path).complete
    assert only(tmp_path).why


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
def test_a_file_cut_at_any_byte_makes_it_incomplete(tmp_path, name):
    """A save killed in the middle of a write leaves the beginning of a file."""
    file = checkpoint(tmp_path, 10) / name
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        assert not only(tmp_path).complete, f"{name} cut to {size} of {len(whole)} bytes"


def test_a_folder_whose_state_is_of_another_step_is_incomplete(tmp_path):
    """A renamed or copied folder would resume somewhere else than its name says."""
    (checkpoint(tmp_path, 10) / "trainer_state.json").write_text('{"global_step": 7}')

    assert "7" in only(tmp_path).why


def test_the_marker_of_an_unfinished_save_is_believed(tmp_path):
    """A just-in-time checkpoint leaves it inside until the save is whole."""
    (checkpoint(tmp_path, 10) / "checkpoint-is-incomplete.txt").touch()

    assert not only(tmp_path).complete


def test_other_folders_and_files_are_not_checkpoints(tmp_path):
    """Half-made saves have names of their own."""
    for name in ("checkpoint-10.tmp", "checkpoint-", "runs", "checkpoint-1e3"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-5").touch()

    assert checkpoints.scan(str(tmp_path)) == ()
    assert checkpoints.scan(str(tmp_path / "absent")) == ()


def test_what_an_earlier_run_left_is_not_this_runs(tmp_path):
    """Yesterday's checkpoint-500 in the same output folder must not be resumed from; an announced one may."""
    old = checkpoint(tmp_path, 500)
    os.utime(old / "trainer_state.json", (1000, 1000))
    checkpoint(tmp_path, 10)

    since = 2000.0
    assert [10] == [c.step for c in checkpoints.scan(str(tmp_path), since=since)]
    assert [10, 500] == [c.step for c in checkpoints.scan(str(tmp_path), since=since, announced=frozenset({str(old)}))]


def test_a_change_below_the_watched_folder_is_noticed(tmp_path):
    """By inotify or by watchdog's polling, whichever the machine has."""
    noticed = threading.Event()
    watch = checkpoints.Watch(str(tmp_path), noticed.set)
    try:
        checkpoint(tmp_path, 10)
        assert noticed.wait(30)
    finally:
        watch.close()


def test_what_watchdog_logs_does_not_reach_the_terminal(tmp_path):
    """Closed while it reads, it logs an error, and Python prints those of loggers that nobody set up."""
    script = (
        "import logging; from guardian.host.checkpoints import Watch; Watch('.', print).close();"
        "logging.getLogger('watchdog.observers.inotify').error('called when the thread is inactive')"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert ("", "") == (done.stdout, done.stderr)
