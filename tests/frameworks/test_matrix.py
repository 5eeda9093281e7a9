"""Each framework x each fault: finished, and each step's rows are those of a run that nobody disturbed.

The environments are bin/test --all's. tests/frameworks/README.md says which cells are run, and which are not and why.
"""

import math
from functools import cache

import pytest

from guardian.core import events as ev
from tests.faults.harness import Guarded, marked, surviving
from tests.frameworks.starts import RATE, STARTS, make_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

PATIENCE_S = 1500
"""For one run: three starts of a framework, each of which imports for a minute where the machine is busy."""

OPTIMIZER = "optimizer.pt"
SHARDS = "global_step*/*optim_states.pt"
BROKEN = (
    "swift 4, LoRA, two ranks", "swift 3, LoRA, two ranks", "swift 4, full, a file",
    "LLaMA-Factory", "TRL, torchrun", "script, torchrun",
)  # fmt: skip
KILLED = ("LLaMA-Factory, two ranks", "trl sft")
SHARDED = [name for name, start in STARTS.items() if start.zero is not None]
SPOILT = ["swift 4, full, a file", "LLaMA-Factory", "TRL, accelerate", "script, accelerate"]


def ended(guarded):
    """Its exit code."""
    return guarded.start().process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a family's model, made once."""
    return cache(lambda family: make_model(family, tmp_path_factory.mktemp("models") / family))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny):
    """The run of a start that nothing is done to, made when it is first asked for."""
    made, started = {}, []

    def run(name):
        start = STARTS[name]
        if name not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            guarded = Guarded(folder, *start.command(folder, tiny(start.family)), env=start.environment())
            started.append(guarded)
            code = ended(guarded)
            report = guarded.report()
            verdict = report["certificate"]["verdict"]
            assert (0, 1, "proved") == (code, len(report["attempts"]), verdict), guarded.shown()[-5000:]
            made[name] = surviving(guarded.story())
        return made[name]

    yield run
    for guarded in started:
        guarded.clean_up()


@pytest.fixture
def disturbed(tmp_path, tiny):
    """Runs a start that things are done to; nothing of it outlives the test."""
    started = []

    def run(name, *deeds):
        start = STARTS[name]
        guarded = Guarded(tmp_path, *start.command(tmp_path, tiny(start.family)), env=start.environment(*deeds))
        started.append(guarded)
        code = ended(guarded)
        assert {} == marked(guarded.story().created.run)
        return code, guarded, guarded.report()

    yield run
    for guarded in started:
        guarded.clean_up()


def same_rows(guarded, theirs, start):
    """Counted and hashed at each step."""
    ours = surviving(guarded.story())
    assert list(range(1, start.steps + 1)) == sorted(ours) == sorted(theirs)
    assert {start.effective} == {step.rows for step in ours.values()}
    assert {n: s.fingerprint for n, s in theirs.items()} == {n: s.fingerprint for n, s in ours.items()}
    assert None not in {step.fingerprint for step in ours.values()}
    return ours


def same_training(guarded, theirs, start):
    """And each step's loss is the undisturbed run's."""
    ours = same_rows(guarded, theirs, start)
    for number, step in theirs.items():
        assert abs(ours[number].loss - step.loss) <= 1e-4 * max(1, abs(step.loss)), f"step {number}"


def splits(guarded):
    """Device batch and accumulation of each attempt, as rank 0 had them."""
    return [(h.device_batch, h.accumulation) for h in guarded.events(ev.Hello) if h.rank == 0]


@pytest.mark.parametrize("name", BROKEN)
def test_a_kill_a_damaged_checkpoint_and_too_little_memory(undisturbed, disturbed, name):
    """It goes on from the checkpoint before the damaged one, then with a smaller device batch."""
    theirs = undisturbed(name)
    start = STARTS[name]
    last = start.ranks - 1
    smaller = max(
        n for n in range(1, start.batch) if start.batch * start.accumulation % n == 0 and n <= start.batch / 2
    )
    code, guarded, report = disturbed(
        name,
        {"do": "kill", "step": 6, "rank": last, "cut": [OPTIMIZER]},
        {"do": "memory", "step": 7, "rank": last, "mib_per_row": 300, "room_mib": 300 * smaller + 400},
    )

    told = (code, report["outcome"], report["certificate"]["verdict"])
    assert (0, "finished", "proved") == told, guarded.shown()[-5000:]
    assert ["preempted_or_interrupted", "cuda_oom", None] == [
        a["cause"] and a["cause"]["class"] for a in report["attempts"]
    ]
    assert [0, 2, 6] == [a["resume_step"] or 0 for a in report["attempts"]]
    assert ["checkpoint-4"] == [skipped["path"].rpartition("/")[2] for skipped in report["skipped_checkpoints"]]
    before = (start.batch, start.accumulation)
    assert [before, before, (smaller, math.prod(before) // smaller)] == splits(guarded)
    same_training(guarded, theirs, start)
    assert report["certificate"]["replayed_steps"] >= 3
    if start.family.startswith("swift"):  # or each start would save into a folder of its own
        assert {"add_version", "output_dir"} <= {edit["knob"] for edit in report["attempts"][1]["edits"]}


@pytest.mark.parametrize("name", KILLED)
def test_a_kill(undisturbed, disturbed, name):
    """Where the launcher is another one than in the runs above."""
    theirs = undisturbed(name)
    code, guarded, report = disturbed(name, {"do": "kill", "step": 6, "rank": STARTS[name].ranks - 1})

    told = (code, report["outcome"], report["certificate"]["verdict"])
    assert (0, "finished", "proved") == told, guarded.shown()[-5000:]
    assert [0, 4] == [a["resume_step"] or 0 for a in report["attempts"]]
    same_training(guarded, theirs, STARTS[name])


@pytest.mark.parametrize("name", SHARDED)
def test_shards_are_gone_on_from_by_as_many_ranks(undisturbed, disturbed, name):
    """A rank dies, and its shard in the newest checkpoint is damaged: the one before is whole."""
    theirs = undisturbed(name)
    code, guarded, report = disturbed(name, {"do": "kill", "step": 6, "rank": 1, "cut": [SHARDS]})

    told = (code, report["outcome"], report["certificate"]["verdict"])
    assert (0, "finished", "proved") == told, guarded.shown()[-5000:]
    assert [0, 2] == [a["resume_step"] or 0 for a in report["attempts"]]
    same_training(guarded, theirs, STARTS[name])


@pytest.mark.parametrize("name", SPOILT)
def test_a_loss_that_is_no_number(undisturbed, disturbed, name):
    """It goes on from before, on the same rows, with a learning rate that is really lower."""
    theirs = undisturbed(name)
    rate = float(RATE)
    code, guarded, report = disturbed(name, {"do": "nan", "step": 5, "above": 0.8 * rate})

    assert (0, "finished") == (code, report["outcome"]), guarded.shown()[-5000:]
    assert ["nan_loss", None] == [a["cause"] and a["cause"]["class"] for a in report["attempts"]]
    assert report["attempts"][1]["resume_step"] == 4
    assert "violated" != report["certificate"]["verdict"], report["certificate"]
    ours = same_rows(guarded, theirs, STARTS[name])
    assert all(math.isfinite(step.loss) for step in ours.values())
    assert all(ours[n].lr < theirs[n].lr for n in range(6, STARTS[name].steps))
