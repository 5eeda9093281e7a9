"""Users' own frameworks, killed and resumed: finished, the batch counted, the certificate proved, nothing left over."""

import sys
from pathlib import Path

import pytest

from guardian.core import events as ev
from tests.faults.harness import JOBS, Guarded, marked

SCRIPT = (
    str(JOBS / "hf_script.py"), "--output_dir", "out", "--per_device_train_batch_size", "2",
    "--gradient_accumulation_steps", "2", "--max_steps", "10", "--save_steps", "3", "--logging_steps", "1",
    "--learning_rate", "0.01", "--use_cpu", "--ddp_backend", "gloo", "--report_to", "none", "--kill_at", "5",
)  # fmt: skip
TORCHRUN = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2")


@pytest.fixture
def supervised(tmp_path):
    """Starts a command under guardian; nothing of it outlives the test."""
    started = []

    def start(*command, env=None):
        guarded = Guarded(tmp_path, *command, env=env)
        started.append(guarded)
        return guarded

    yield start
    for guarded in started:
        guarded.clean_up()


def finished_again(guarded, *, from_step, steps, rows):
    """The run was killed once, went on from a checkpoint, and proves that it trained the same."""
    code = guarded.run()
    report = guarded.report()
    assert (0, "finished", "proved") == (code, report["outcome"], report["certificate"]["verdict"]), guarded.shown()[
        -5000:
    ]
    assert [None, from_step] == [a["resume_step"] or None for a in report["attempts"]]
    assert (steps, rows) == (report["steps_done"], report["effective_batch"])
    assert {} == marked(guarded.story().created.run)


@pytest.mark.parametrize("launcher", [(sys.executable,), TORCHRUN], ids=["python", "torchrun"])
def test_a_plain_script_is_killed_and_goes_on(supervised, launcher):
    """It is told where from on its own command line, and the folder is its own."""
    guarded = supervised(*launcher, *SCRIPT)

    finished_again(guarded, from_step=3, steps=10, rows=4 if launcher == (sys.executable,) else 8)
    assert "transformers" == guarded.events(ev.RunCreated)[0].family
    assert ["resume_from"] == [edit.knob for edit in guarded.events(ev.Planned)[1].edits]
