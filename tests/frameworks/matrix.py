"""What each cell of the matrix does to a start, and what is compared; the files test_matrix_*.py share its starts out.

One disturbed run meets every fault, in four attempts (`FAULTS`), and is held against one that nobody disturbed: each
start of a framework imports for long, so no fault has a run of its own.
"""

import math
from dataclasses import replace

from guardian.core import certificate
from guardian.core import events as ev
from tests.faults.harness import Guarded, surviving
from tests.frameworks.starts import RATE, STARTS

PATIENCE_S = 1500
"""For one run: four starts of a framework, each of which imports for a minute where the machine is busy."""
OPTIMIZER = "optimizer.pt"
SHARD = "global_step*/*zero_pp_rank_1_*optim_states.pt"
SAVED = 2
"""Steps between two checkpoints, in every start."""
HEALED = 6
"""The step that the last attempt goes on from: what comes after has another learning rate."""
FAULTS = ("preempted_or_interrupted", "cuda_oom", "nan_loss", None)


def of(*families):
    """The names of their starts."""
    return [name for name, start in STARTS.items() if start.family in families]


def ended(guarded):
    """Its exit code."""
    return guarded.start().process.wait(PATIENCE_S)


def guarded_start(name, folder, model, *deeds):
    """A start under guardian, which is not started yet."""
    start = STARTS[name]
    return Guarded(folder, *start.command(folder, model), env=start.environment(*deeds))


def meets_every_fault(undisturbed, disturbed, name):
    """Killed with its newest checkpoint damaged, out of memory, then a loss that is no number.

    It goes on from the checkpoint before the damaged one, then with a smaller device batch, then with a lower rate.
    """
    theirs, start = undisturbed(name), STARTS[name]
    last = start.ranks - 1
    smaller, row = halved(start), 1200 // start.batch
    code, guarded, report = disturbed(
        name,
        {"do": "kill", "step": 6, "rank": last, "cut": [SHARD if start.zero else OPTIMIZER]},
        {"do": "memory", "step": 5, "rank": last, "since": 2, "mib_per_row": row, "room_mib": row * smaller + 400},
        {"do": "nan", "step": 7, "since": 3, "above": 0.8 * float(RATE)},
    )

    assert (0, "finished") == (code, report["outcome"]), guarded.shown()[-5000:]
    assert FAULTS == tuple(a["cause"] and a["cause"]["class"] for a in report["attempts"])
    assert [0, 2, 4, HEALED] == [a["resume_step"] or 0 for a in report["attempts"]]
    assert "checkpoint-4" in {skipped["path"].rpartition("/")[2] for skipped in report["skipped_checkpoints"]}
    before, after = (start.batch, start.accumulation), (smaller, start.batch * start.accumulation // smaller)
    assert [before, before, after, after] == splits(guarded)
    if start.family.startswith("swift"):  # or each start would save into a folder of its own
        assert {"add_version", "output_dir"} <= {edit["knob"] for edit in report["attempts"][1]["edits"]}
    same_training(guarded, theirs, start)
    certified(guarded, report)


def halved(start):
    """The device batch that guardian must find: half at most, and the rows per step whole."""
    rows = start.batch * start.accumulation
    return max(n for n in range(1, start.batch) if rows % n == 0 and n <= start.batch / 2)


def same_training(guarded, theirs, start):
    """Rows counted and hashed at each step; each loss is the undisturbed run's until the rate is really lower."""
    ours = surviving(guarded.story())
    assert list(range(1, start.steps + 1)) == sorted(ours) == sorted(theirs)
    assert {start.effective} == {step.rows for step in ours.values()}
    assert {n: s.fingerprint for n, s in theirs.items()} == {n: s.fingerprint for n, s in ours.items()}
    assert None not in {step.fingerprint for step in ours.values()}
    for number in range(1, HEALED + 2):  # the loss of a step is taken before its rate is used
        assert abs(ours[number].loss - theirs[number].loss) <= 1e-4 * max(1, abs(theirs[number].loss)), f"step {number}"
    assert all(math.isfinite(step.loss) for step in ours.values())
    assert all(ours[n].lr == theirs[n].lr for n in range(1, HEALED))
    assert all(ours[n].lr < theirs[n].lr for n in range(HEALED + 1, start.steps))


def certified(guarded, report):
    """Proved up to where the rate was lowered; nothing but that stands against a proof of the whole."""
    run = guarded.story()
    until_then = certificate.certify(replace(run, attempts=run.attempts[:-1]))
    assert (certificate.Verdict.PROVED, 3) == (until_then.verdict, until_then.replayed_steps), until_then
    whole = report["certificate"]
    assert "consistent" == whole["verdict"], whole
    assert all(reason.endswith("the policy let the experiment be changed") for reason in whole["reasons"]), whole


def splits(guarded):
    """Device batch and accumulation of each attempt, as rank 0 had them."""
    return [(h.device_batch, h.accumulation) for h in guarded.events(ev.Hello) if h.rank == 0]
