"""Memory that depends on the batch runs out: the batch is halved, the rows per step stay, and the run finishes.

The job is the embedded trainer with an appetite (tests/jobs/hungry): real memory, a real allocator that fails, a real
kernel that kills. Nobody does anything between the start and the end.
"""

import json
import sys

import pytest

from guardian.core import events as ev
from tests.faults.confined import memory_of
from tests.faults.harness import JOBS, TINY, Guarded, harm, surviving
from tests.interpreters import PYTHON_4, PYTHONS_4_LONG, needs_transformers_4, on_both_transformers
from tests.jobs.hunger import hungry

STEPS = 8
SHORT = 60
"""Tokens: no row of the usual ones is longer than twice as much."""
LONG_ROW = 400
"""Letters of one answer; the demo's tokens are bytes."""


def batch(rows, accumulated, steps=STEPS, save_steps=100):
    """How the sixteen rows of a step are split, and how far it goes."""
    words = ("--per_device_train_batch_size", rows, "--gradient_accumulation_steps", accumulated)
    return (*map(str, words), "--output_dir", "out", "--max_steps", str(steps), "--save_steps", str(save_steps))


def trainer(python, *arguments):
    """The command that trains, under one of the interpreters."""
    return (python, "-m", "guardian.trainer", *TINY, *arguments)


@pytest.fixture(scope="module")
def one_long(tmp_path_factory):
    """The usual rows, and among them one that is far longer than every other."""
    rows = [json.loads(line) for line in (JOBS / "rows.jsonl").read_text().splitlines()]
    rows[WHICH]["response"] = "word " * (LONG_ROW // 5)
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ("--dataset", str(path))


WHICH = 76
"""The place of the long one: the seed's order brings it in the middle of the epoch."""


@pytest.fixture
def healed(tmp_path):
    """Runs a job that guardian heals; what it showed goes with the test's output."""
    started = []

    def run(*command, around=(), expected=0, **how):
        guarded = Guarded(tmp_path, *command, **how)
        guarded.around = around
        started.append(guarded)
        code = guarded.run()
        print(guarded.shown())
        print(json.dumps(guarded.report(), indent=1))
        assert expected == code, guarded.shown()[-6000:]
        return guarded, guarded.report()

    yield run
    for guarded in started:
        guarded.clean_up()


def edits(report):
    """What each attempt after the first changed, besides where it went on."""
    changed = [[e for e in a["edits"] if e["kind"] != "resume"] for a in report["attempts"][1:]]
    return [[(e["knob"], e["old"], e["new"]) for e in some] for some in changed]


def causes(report):
    """What each attempt ended of."""
    return [a["cause"] and (a["cause"]["class"], a["cause"]["variant"]) for a in report["attempts"]]


def sixteen_rows_at_each_step(guarded, report, steps=STEPS):
    """The proof: counted at each step of the line that survived."""
    assert ("finished", steps, 16) == (report["outcome"], report["steps_done"], report["effective_batch"])
    assert ("proved", steps) == (report["certificate"]["verdict"], report["certificate"]["steps_counted"]), report
    assert dict.fromkeys(range(1, steps + 1), 16) == {s.step: s.rows for s in surviving(guarded.story()).values()}


HALVED = [("device_batch", "8", "4"), ("accumulation", "2", "4")]
HALVED_AGAIN = [("device_batch", "4", "2"), ("accumulation", "4", "8")]
NO_ROOM = ("cuda_oom", "host_allocator")


# --- the allocator fails in the step -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=PYTHONS_4_LONG)
def undisturbed(request, tmp_path_factory, one_long):
    """The run of the rows with the long one that has memory enough, and its interpreter."""
    folder = tmp_path_factory.mktemp("undisturbed")
    guarded = Guarded(folder, *trainer(request.param, *one_long, *batch(8, 2)))
    assert 0 == guarded.run(), guarded.shown()[-4000:]
    return request.param, guarded


def test_a_long_row_that_does_not_fit_costs_no_finished_step(undisturbed, healed, one_long):
    """It falls in the middle, with no checkpoint yet: the job saves what it had, and half the batch goes on from there."""
    python, baseline = undisturbed
    steps = baseline.story().attempts[0].longest
    step, tokens = next((one.step, one.longest) for one in steps if one.longest > 2 * SHORT)
    env = hungry(mib_per_row=60, room_mib=400, longer_than=2 * SHORT)
    guarded, report = healed(*trainer(python, *one_long, *batch(8, 2)), env=env)

    assert ([NO_ROOM, None], [HALVED]) == (causes(report), edits(report))
    sixteen_rows_at_each_step(guarded, report)
    assert [0, 0] == [a["lost_steps"] for a in report["attempts"]]
    assert step - 1 == report["attempts"][1]["resume_step"]
    same_losses(guarded, baseline)
    (sentence,) = report["smaller_batch"]
    assert f"at step {step}, with one sample of {tokens} tokens" in sentence
    assert "without it the batch could have stayed" in sentence


def same_losses(guarded, baseline):
    """Each step's loss is that of the undisturbed run."""
    ours, theirs = surviving(guarded.story()), surviving(baseline.story())
    for number, step in theirs.items():
        assert step.fingerprint == ours[number].fingerprint
        assert abs(ours[number].loss - step.loss) <= 1e-4 * max(1, abs(step.loss)), f"step {number}"


@pytest.mark.long
@on_both_transformers
def test_the_batch_is_halved_as_often_as_needed(healed, python):
    """Neither eight rows nor four fit, two do."""
    env = hungry(mib_per_row=80, room_mib=260)
    guarded, report = healed(*trainer(python, *batch(8, 2, steps=20, save_steps=5)), env=env)

    assert ([NO_ROOM, NO_ROOM, None], [HALVED, HALVED_AGAIN]) == (causes(report), edits(report))
    sixteen_rows_at_each_step(guarded, report, steps=20)


@pytest.mark.long
def test_where_one_row_finds_no_room_it_gives_up_and_says_what_is_missing(healed):
    """The floor: recomputing is tried too, then need stands against limit, with what is left to do."""
    env = hungry(mib_per_row=900, room_mib=400)
    _, report = healed(*trainer(sys.executable, *batch(1, 16, steps=2)), env=env, expected=1)

    assert ("gave_up", 0) == (report["outcome"], report["steps_done"])
    assert [[("gradient_checkpointing", "false", "true")]] == edits(report)
    assert ["device_batch halved: device_batch is at its floor of 1"] == report["attempts"][-1]["not_tried"]
    assert "At device batch 1 it still asks for 450 MiB more" in report["reason"]
    assert "Shorten the sequences, use LoRA or a smaller model, or give it more memory." in report["reason"]


# --- transformers 4 and the batch in its checkpoints ------------------------------------------------------------

WITHOUT_RESTORE_BATCH = (
    "import sys; from guardian.core import planning; planning.COMPANION_KNOBS['restore_batch'] = False;"
    " from guardian.cli.main import main; sys.exit(main(sys.argv[4:]))"
)
"""Guardian with a companion that leaves the batch of the checkpoint alone; what follows are the words that start it."""


@needs_transformers_4
@pytest.mark.parametrize("restored", [pytest.param(True, marks=pytest.mark.long), False])
def test_the_batch_that_comes_back_out_of_a_checkpoint_is_noticed(healed, one_long, restored):
    """A trainer that obeys its checkpoint: the companion holds it to its arguments, and without it 32 rows are found."""
    obeys = harm({"do": "let the old batch come back"})
    env = hungry(obeys, mib_per_row=60, room_mib=400, longer_than=2 * SHORT)
    around = () if restored else (sys.executable, "-c", WITHOUT_RESTORE_BATCH)
    job = trainer(PYTHON_4, *one_long, *batch(8, 2))
    _, report = healed(*job, env=env, around=around, expected=0 if restored else 1)

    assert [HALVED] == edits(report)[:1]
    assert ("proved" if restored else "violated") == report["certificate"]["verdict"]
    assert restored != any("32 rows instead of 16 were counted" in one for one in report["certificate"]["reasons"])


# --- the kernel kills it without a word -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "python",
    PYTHONS_4_LONG,
)
def test_a_job_that_the_kernel_kills_for_its_memory_is_halved(healed, python):
    """Nothing stands in its log: the cgroup's counter, which rose during the attempt, is what tells it."""
    with memory_of(1536) as around:
        job = trainer(python, *batch(8, 2, steps=4))
        guarded, report = healed(*job, env=hungry(mib_per_row=160), around=around)

    assert ([("host_oom", None), None], [HALVED]) == (causes(report), edits(report))
    assert [1, 0] == [e.oom_kills for e in guarded.events(ev.Ended)]
    sixteen_rows_at_each_step(guarded, report, steps=4)


# --- an evaluation ----------------------------------------------------------------------------------------------


def test_an_evaluation_that_runs_out_of_memory_lowers_its_own_batch_alone(healed):
    """The training batch fits, so it stays."""
    evaluating = ("--split_dataset_ratio", "0.25", "--eval_strategy", "steps", "--eval_steps", "3")
    job = trainer(sys.executable, *batch(8, 2, steps=5), *evaluating, "--per_device_eval_batch_size", "8")
    guarded, report = healed(*job, env=hungry(mib_per_row=60, room_mib=400, only="eval"))

    assert [("cuda_oom", "eval"), None] == causes(report)
    assert [[("eval_batch", "8", "4")]] == edits(report)
    assert ([0, 0], []) == ([a["lost_steps"] for a in report["attempts"]], report["smaller_batch"])
    sixteen_rows_at_each_step(guarded, report, steps=5)


# --- several ranks -----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_one_rank_that_runs_out_of_memory_costs_no_finished_step(healed, one_long):
    """The rank that failed saves for all; the others die of its absence, and that is not taken for the cause."""
    env = hungry(mib_per_row=200, room_mib=600, longer_than=2 * SHORT) | {"NPROC_PER_NODE": "2"}
    guarded, report = healed(*trainer(sys.executable, *one_long, *batch(4, 2)), env=env)

    assert [NO_ROOM, None] == causes(report)
    assert [[("device_batch", "4", "2"), ("accumulation", "2", "4")]] == edits(report)
    assert [0, 0] == [a["lost_steps"] for a in report["attempts"]]
    sixteen_rows_at_each_step(guarded, report)
