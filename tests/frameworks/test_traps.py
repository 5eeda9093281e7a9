"""Traps of the frameworks, sprung for real; tests/frameworks/README.md names the test of each."""

import json
import sys
from pathlib import Path

import pytest

from tests.faults.harness import Guarded, marked
from tests.frameworks.reading import python_of
from tests.frameworks.starts import HUB_LEFT_ALONE, SCRIPT, STARTS, SWIFT, around, make_model

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

PATIENCE_S = 900
TEN = ("--max_steps", "10", "--save_steps", "3", "--per_device_train_batch_size", "2", "--kill_at", "5")
TWO_RANKS = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2")


@pytest.fixture
def guarded(tmp_path):
    """Starts a command under guardian; nothing of it outlives the test."""
    started = []

    def start(*command, env=None):
        started.append(Guarded(tmp_path, *command, env=env).start())
        return started[-1]

    yield start
    for one in started:
        one.clean_up()


def ended(one):
    """Its exit code and its report; nothing of the job is left."""
    code = one.process.wait(PATIENCE_S)
    assert {} == marked(one.story().created.run)
    return code, one.report()


def certified(report):
    """The outcome with the verdict, and what is said for it."""
    return (report["outcome"], report["certificate"]["verdict"]), " ".join(report["certificate"]["reasons"])


def test_rows_that_a_resume_does_not_skip_are_no_proof_and_no_violation(guarded):
    """--ignore_data_skip: the user wants the epoch to begin again; the certificate names it."""
    code, report = ended(guarded(sys.executable, *SCRIPT, *TEN, "--ignore_data_skip", "true"))
    told, reasons = certified(report)

    assert (0, ("finished", "consistent")) == (code, told)
    assert "--ignore_data_skip" in reasons
    assert "other samples at step 4" in reasons


BY_LENGTH = [
    ("transformers", ("--train_sampling_strategy", "group_by_length")),
    ("transformers4", ("--group_by_length", "true")),
]


@pytest.mark.parametrize("family, words", BY_LENGTH)
def test_rows_in_the_order_of_their_length_are_no_proof_and_no_violation(guarded, family, words):
    """The switch of version 4, the choice of version 5: the certificate names it."""
    code, report = ended(guarded(python_of(family), *SCRIPT, *TEN, *words))
    told, reasons = certified(report)

    assert (0, ("finished", "consistent")) == (code, told)
    assert "--group_by_length: rows are ordered by length" in reasons


def test_checkpoints_without_an_optimizer_are_not_gone_on_from(guarded):
    """--save_only_model: Adam and the schedule would begin again in silence; the training begins again aloud."""
    code, report = ended(guarded(sys.executable, *SCRIPT, *TEN, "--save_only_model", "true"))

    assert (0, ("finished", "proved")) == (code, certified(report)[0])
    assert 0 == (report["attempts"][1]["resume_step"] or 0)
    assert ["save_only_model" in one["reason"] for one in report["skipped_checkpoints"]] == [True]


def test_an_epoch_that_does_not_divide_ends_with_fewer_rows(guarded):
    """30 rows in steps of 4: the eighth has 2, and that is right."""
    rows = ("--rows", "30", "--gradient_accumulation_steps", "2", "--max_steps", "12", "--kill_at", "9")
    code, report = ended(guarded(sys.executable, *SCRIPT, *TEN, *rows))
    told, reasons = certified(report)

    assert (0, ("finished", "proved"), 4) == (code, told, report["effective_batch"])
    assert "1 that end an epoch have fewer" in reasons


def test_sixteen_bits_are_held_against_the_runs_own_band(guarded):
    """A step need not repeat its loss exactly there: samples and rows prove it, and the band is stated."""
    code, report = ended(
        guarded(sys.executable, *SCRIPT, *TEN, "--bf16", "true", "--max_steps", "13", "--kill_at", "11")
    )
    told, reasons = certified(report)

    assert (0, ("finished", "proved")) == (code, told)
    assert report["certificate"]["loss_band"] > report["certificate"]["largest_loss_difference"]
    assert "(bfloat16 on cpu repeats no loss exactly)" in reasons


def test_two_ranks_that_form_no_group_are_no_proof(guarded):
    """Without --use_cpu and gloo each of them trains alone on a machine without GPU, and both end with 0."""
    words = [word for word in (*SCRIPT, *TEN) if word != "--use_cpu"]
    argv = (*TWO_RANKS, *words, "--kill_at", "0", "--save_strategy", "no")
    code, report = ended(guarded(*argv, env={"CUDA_VISIBLE_DEVICES": ""}))
    told, reasons = certified(report)

    assert (0, ("finished", "consistent")) == (code, told)
    assert "asks for 2 ranks" in reasons


@pytest.fixture(scope="module", params=["swift", "swift3"])
def swift(request, tmp_path_factory):
    """A version of ms-swift, and a model that its transformers made."""
    return request.param, make_model(request.param, tmp_path_factory.mktemp("tiny") / request.param)


def of(version):
    """The start of this version in one process."""
    return STARTS["swift 4, full, a file" if version == "swift" else "swift 3, full, a file"]


def test_a_stop_reaches_the_trainer_that_swifts_own_command_does_not_pass_it_to(guarded, swift, tmp_path):
    """It saves and is gone, though SIGTERM ends swift's command alone and leaves the trainer behind it."""
    version, tiny = swift
    start = of(version)
    argv = (*start.command(tmp_path, tiny), "--max_steps", "100000")
    if version == "swift3":  # behind --config the file wins
        config = json.loads((tmp_path / "c.yaml").read_text())
        (tmp_path / "c.yaml").write_text(json.dumps(config | {"max_steps": 100000}))
        argv = argv[:-2]
    one = guarded(*argv, env=start.environment())
    one.until_step(2, attempt=1)
    assert 0 == one.call("stop", one.name).returncode
    code, report = ended(one)

    assert (75, "stopped") == (code, report["outcome"]), one.shown()[-4000:]
    assert 0 == report["attempts"][0]["lost_steps"]
    folders = list(tmp_path.glob("out/*/checkpoint-*/trainer_state.json"))
    assert report["steps_done"] in {json.loads(path.read_text())["global_step"] for path in folders}


def test_a_flag_of_the_other_version_is_named_and_not_tried_again(guarded, swift, tmp_path):
    """--train_type is version 3's, --tuner_type version 4's: each refuses the other's."""
    version, tiny = swift
    (tmp_path / "tiny").symlink_to(tiny)
    flag = "--train_type" if version == "swift" else "--tuner_type"
    program = str(Path(python_of(version)).parent / "swift")
    code, report = ended(guarded(program, *SWIFT, *HUB_LEFT_ALONE, flag, "full", env=of(version).environment()))

    assert (4, "not_retryable", 1) == (code, report["outcome"], len(report["attempts"]))
    assert "config_conflict" == report["attempts"][0]["cause"]["class"]
    assert flag in report["attempts"][0]["cause"]["evidence"][0]["text"]


def test_rows_that_are_streamed_are_no_proof_and_no_violation(guarded, swift, tmp_path):
    """--streaming: a resumed run reads its way forward to where it was; the certificate names it."""
    version, tiny = swift
    (tmp_path / "tiny").symlink_to(tiny)
    program = str(Path(python_of(version)).parent / "swift")
    words = ("--streaming", "true", "--max_steps", "8", "--per_device_train_batch_size", "2")
    code, report = ended(guarded(program, *SWIFT, *HUB_LEFT_ALONE, *words, env=killed_at(6, version)))
    told, reasons = certified(report)

    assert (0, ("finished", "consistent"), 16) == (code, told, report["effective_batch"])
    assert "--streaming: the rows have no fixed order" in reasons


def test_rows_that_are_packed_are_no_proof_and_no_violation(guarded, tmp_path):
    """TRL's --packing, which lays the packs of a micro-batch end to end: both are named, and the samples are the same."""
    start = STARTS["trl sft"]
    tiny = make_model("trl", tmp_path / "made")
    argv = (*start.command(tmp_path, tiny), "--packing", "true")
    code, report = ended(guarded(*argv, env=killed_at(5, "trl")))
    told, reasons = certified(report)

    assert (0, ("finished", "consistent"), 1) == (code, told, report["effective_batch"])
    assert "--packing: several rows make one" in reasons
    assert "--padding_free: rows are laid end to end" in reasons
    assert "1 rows per step were counted where the job says 2" in reasons
    assert "other samples" not in reasons


def killed_at(step, family):
    """The environment in which the job is killed at that step, once."""
    return around(python_of(family), {"do": "kill", "step": step, "rank": 0})
