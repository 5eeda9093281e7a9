"""The companion inside real training jobs, compared with what the jobs measured themselves."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.companion.launching import plan, run

MASK = 2**64 - 1


def sums(*fingerprints):
    """The fingerprint of what several ranks saw together, per step."""
    return {step: f"{sum(int(one[step], 16) for one in fingerprints) & MASK:016x}" for step in fingerprints[0]}


def test_a_hello_says_what_the_trainer_really_runs(many):
    """The parts of the effective batch are read from the trainer, beside the arguments that claim them."""
    (hello,) = many.told("whole", "hello")
    versions = hello.pop("versions")
    hello.pop("t")

    assert {"python", "torch", "transformers", "accelerate"} <= versions.keys()
    assert hello["optimizer"].startswith("adamw_torch")
    assert ["job.py", "plan.json"] == [Path(word).name for word in hello.pop("argv")]
    assert hello == {
        "ev": "hello", "v": 1, "pid": hello["pid"], "rank": 0, "local_rank": 0, "world": 1, "local_world": 1,
        "step": 0, "max_steps": 8, "steps_per_epoch": 4, "save_steps": 4, "logging_steps": 1, "learning_rate": 5e-05,
        "device_batch": 8, "batch_argument": 8, "accumulation": 2, "data_parallel": 1, "effective_batch": 16,
        "output_dir": str(many.folder / "whole"), "trainer": "Trainer", "resumed_from": None,
        "device": "cpu", "precision": "float32", "workers": 0, "prefetch": None, "pin_memory": hello["pin_memory"], "eval_batch": 8,
        "gradient_checkpointing": False, "armed": True, "optimizer": hello["optimizer"],
        "launcher": "python", "training": hello["training"], "takes_resume": False, "save_total_limit": None, "fixed": {},
        "weakening": [],
    }  # fmt: skip


def test_a_hello_says_what_the_loader_and_the_model_are(many):
    """Knobs that a remedy turns down: from the objects, not from the arguments."""
    (loaded,), (adapted,) = many.told("epoch", "hello"), many.told("adapted", "hello")

    assert (1, 3, 2) == tuple(loaded[name] for name in ("workers", "prefetch", "eval_batch"))
    assert isinstance(loaded["pin_memory"], bool)
    assert (False, True) == (loaded["gradient_checkpointing"], adapted["gradient_checkpointing"])


@pytest.mark.parametrize("name", ["resumed", "whole", "epoch", "adapted"])
def test_each_row_longer_than_all_before_is_told_with_its_step(many, name):
    """Real tokens, as the model saw them; nothing is told twice."""
    split = {"resumed": 2, "whole": 8, "epoch": 4, "adapted": 4}[name]
    expected, longest = [], 0
    for step, rows in many.truth(name, "rows").items():
        lengths = [len(row.split()) for row in rows]
        for width in (max(lengths[start : start + split]) for start in range(0, len(rows), split)):
            if width > longest:
                longest = width
                expected.append((step, split, width))

    assert expected
    assert expected == [(one["step"], one["rows"], one["longest"]) for one in many.told(name, "longest")]


def test_a_process_killed_in_forward_has_told_the_size_of_what_it_computed(tmp_path):
    """Nobody hears of it afterwards."""
    dying = plan("dying", tmp_path, (4, 4), 2, fault="kill", fault_after=0)
    ran = run(tmp_path, [dying], spec={"longest": True})
    (told,) = ran.told("dying", "longest")

    assert (-9,) == ran.codes
    assert [] == ran.told("dying", "step")
    assert (1, 4) == (told["step"], told["rows"])
    assert 3 <= told["longest"] <= 8


@pytest.mark.parametrize("name", ["resumed", "whole", "epoch", "early", "adapted", "restored"])
def test_rows_and_tokens_are_those_that_the_model_saw(many, name):
    """Counted at the model's own door, whatever the split, with adapters and recomputation too."""
    rows = {step: len(seen) for step, seen in many.truth(name, "rows").items()}

    assert rows
    assert rows == many.steps(name, "rows")
    assert many.truth(name, "tokens") == many.steps(name, "tokens")


def test_the_learning_rate_is_the_one_that_the_optimizer_used(many):
    """Not the scheduler's next one, which logs of some trainers show."""
    assert many.truth("whole", "lr") == many.steps("whole", "lr")
    assert 8 == len(set(many.steps("whole", "lr").values()))


@pytest.mark.parametrize("name", ["resumed", "whole", "adapted"])
def test_the_loss_is_that_of_the_step_summed_over_its_micro_batches(many, name):
    """The trainer's own log of every step shows the same number (transformers 4.x rounds it to four places)."""
    told = dict(line["loss"] for line in many.told(name, "step"))

    assert many.truth(name, "loss") == pytest.approx(told, abs=1e-4)


def test_nothing_of_ours_is_in_the_model_between_the_steps(many):
    """A job that copies or pickles its model finds the model as it made it."""
    assert {0} == set(many.truth("whole", "hooks").values())


def test_being_armed_leaves_no_files(many):
    """Nor do the loader processes that are forked in each evaluation: a night has thousands of them."""
    assert many.told("epoch", "hello")[0]["armed"]
    assert ["heartbeat.0.jsonl"] == [
        path.name for path in (many.folder / "attempt").iterdir() if path.suffix != ".json"
    ]


def test_what_is_logged_is_told_as_numbers(many):
    """Each line of the trainer's log, with its step."""
    first = many.told("whole", "log")[0]

    assert 1 == first["step"]
    assert 5e-05 == first["logs"]["learning_rate"]
    assert {"loss", "grad_norm", "epoch"} <= first["logs"].keys()


def test_a_resume_with_another_split_sees_the_same_samples(killed, many):
    """Killed in step 6 as 4 x 4, gone on from step 4 as 2 x 8: the replayed step 5 is the same one."""
    before, after = killed.steps("first", "fp"), many.steps("resumed", "fp")
    (hello,) = many.told("resumed", "hello")

    assert (-9,) == killed.codes
    assert [1, 2, 3, 4, 5] == list(before)
    assert [5, 6, 7, 8] == list(after)
    assert (4, str(killed.folder / "first" / "checkpoint-4")) == (hello["step"], hello["resumed_from"])
    assert before[5] == after[5]
    assert many.steps("whole", "fp") == {**before, **after}


def test_a_fingerprint_tells_steps_apart(many):
    """Eight steps over two differently shuffled epochs: eight values."""
    assert 8 == len(set(many.steps("whole", "fp").values()))


def test_a_killed_job_leaves_whole_lines(killed):
    """Nothing says the end of it: neither an exception nor an end."""
    raw = (killed.folder / "attempt" / "heartbeat.0.jsonl").read_bytes()

    assert raw.endswith(b"}\n")
    assert [] == killed.told("first", "end") + killed.told("first", "exc")


def test_the_intervals_of_the_command_line_win_at_a_resume(many):
    """The checkpoint was written by a run that saved at each second step; this one asked for every step."""
    (hello,) = many.told("resumed", "hello")

    assert 1 == hello["save_steps"]
    assert [5, 6, 7, 8] == [line["step"] for line in many.told("resumed", "saved")]


def test_the_batch_of_the_command_line_wins_over_a_restored_one(many):
    """As transformers 4.x has it, 8 x 4 would run here: twice the effective batch that was asked for."""
    (hello,) = many.told("restored", "hello")

    assert (4, 16) == (hello["device_batch"], hello["effective_batch"])
    assert {16} == set(many.steps("restored", "rows").values())


def test_phases_say_what_else_the_job_does(many):
    """An evaluation and a save, each with the way back; an evaluation after the training is none of the loop's."""
    evaluated = [(line["phase"], line["step"]) for line in many.told("early", "phase")]
    saved = [(line["phase"], line["step"]) for line in many.told("whole", "phase")]

    assert [("eval", 2), ("train", 2), ("eval", 4), ("train", 4)] == evaluated
    assert [("save", 4), ("train", 4), ("save", 8), ("train", 8)] == saved


def test_an_evaluation_says_when_it_begins_and_that_it_gets_on(many):
    """Its first batch is 0, told at once; the others are told now and then: these take no two seconds."""
    assert [0, 0] == [line["batch"] for line in many.told("early", "batch")]


def test_a_save_is_told_with_its_folder(many):
    """Told when the trainer has written all of it."""
    paths = [line["path"] for line in many.told("whole", "saved")]

    assert [str(many.folder / "whole" / f"checkpoint-{step}") for step in (4, 8)] == paths
    assert all((Path(path) / "trainer_state.json").exists() for path in paths)


@pytest.mark.parametrize(
    "name, step, max_steps, by",
    [
        ("whole", 8, 8, "max_steps"),
        ("resumed", 8, 8, "max_steps"),
        ("epoch", 3, 3, "epochs"),
        ("early", 4, 12, "trainer"),
        ("signalled", 2, 6, "signal"),
        ("stopped", 3, 6, "guardian"),
        ("late", 4, 4, "max_steps"),
    ],
)
def test_an_end_says_who_decided_it(many, name, step, max_steps, by):
    """A finish, the trainer's own decision, ours, or a signal that a handler of the job's turned into a stop."""
    (end,) = many.told(name, "end")

    assert (step, max_steps, by) == (end["step"], end["max_steps"], end["by"])


def test_handlers_of_the_job_are_as_it_left_them(many):
    """Before the job sets one the defaults stand; its own is listened to during a training and given back."""
    assert [None, "default_int_handler", None] == many.handlers("whole")
    assert ["stop_gracefully", "default_int_handler", None] == many.handlers("signalled")


def test_the_control_file_saves_and_stops_at_its_step(many):
    """Read at the end of a step, acknowledged once, obeyed at the step that it names."""
    (ack,) = many.told("stopped", "ack")
    (saved,) = many.told("stopped", "saved")

    assert (7, 1, 3) == (ack["id"], ack["step"], ack["save_at"])
    assert (3, str(many.folder / "stopped" / "checkpoint-3")) == (saved["step"], saved["path"])


def test_a_control_file_that_came_too_late_is_left_alone(many):
    """Acknowledged, but a step that is over is never made up for: the other ranks may have passed it too."""
    assert 1 == len(many.told("late", "ack"))
    assert [] == many.told("late", "saved")


def test_an_exception_is_told_with_its_step_and_no_end(many):
    """It leaves the job as it would without us."""
    (exc,) = many.told("failing", "exc")

    assert (1, "KeyError", "'input_ids'") == (exc["step"], exc["type"], exc["text"])
    assert ("train", 4) == (exc["phase"], exc["rows"])
    assert 3 <= exc["longest"] <= 8
    assert [] == many.told("failing", "end")
    assert (1,) == many.codes
    assert "KeyError: 'input_ids'" == many.output.strip().splitlines()[-1]


def test_a_loop_that_the_job_itself_begins_again_is_told_again(many):
    """The job's accelerate catches the exception and tries a smaller batch: a second hello, then the end."""
    batches = [line["device_batch"] for line in many.told("shrunk", "hello")]
    (exc,), (end,) = many.told("shrunk", "exc"), many.told("shrunk", "end")

    assert [8, 7] == batches
    assert (1, "CUDA out of memory.", 2) == (exc["step"], exc["text"], end["step"])
    assert {1: 7, 2: 7} == many.steps("shrunk", "rows")


def test_a_job_whose_heartbeat_cannot_be_written_trains_on(many):
    """The attempt's folder vanishes, then there is room for 100 bytes: both trainings run, the next is told whole."""
    raw = (many.folder / "attempt" / "heartbeat.0.jsonl").read_bytes().splitlines()

    assert [1, 2] == list(many.truth("gone", "rows"))
    assert [] == many.told("gone", "hello")
    assert [100] == [len(line) for line in raw if line and not line.endswith(b"}")]
    assert [1] == list(many.steps("failing", "rows"))


def test_the_heartbeat_is_for_its_owner_alone(many):
    """Run folders may lie where others can look."""
    mode = (many.folder / "attempt" / "heartbeat.0.jsonl").stat().st_mode

    assert 0o600 == stat.S_IMODE(mode)


def test_no_trouble_of_the_companion_was_told(killed, many, pair):
    """All of the above without one error swallowed."""
    lines = [*killed.heartbeat(), *many.heartbeat(), *pair.heartbeat(0), *pair.heartbeat(1)]

    assert [] == [line for line in lines if line["ev"] == "error"]


def test_the_ranks_together_see_what_one_process_sees(many, pair):
    """2 ranks x 4 x 2: rows add up to 16, fingerprints to those of 8 x 2."""
    (hello,) = pair.told("shared", "hello", rank=1)
    apart = pair.steps("shared", "fp", 0), pair.steps("shared", "fp", 1)
    whole = many.steps("whole", "fp")

    assert (1, 2, 4, 2, 2, 16) == tuple(
        hello[name] for name in ("rank", "world", "device_batch", "accumulation", "data_parallel", "effective_batch")
    )
    assert {8} == set(pair.steps("shared", "rows", 0).values()) | set(pair.steps("shared", "rows", 1).values())
    assert {step: whole[step] for step in (1, 2, 3, 4)} == sums(*apart)
    assert apart[0] != apart[1]


def test_each_rank_tells_its_own_loss(pair):
    """Their mean is what the trainer logs."""
    ranks = [dict(line["loss"] for line in pair.told("shared", "step", rank)) for rank in (0, 1)]
    mean = {step: (ranks[0][step] + ranks[1][step]) / 2 for step in ranks[0]}

    assert ranks[0] != ranks[1]
    assert pair.truth("shared", "loss") == pytest.approx(mean, abs=1e-4)


def test_each_rank_tells_its_own_work_of_a_step(pair):
    """From the second step on: a part of the time from one step's end to the next. One process tells none."""
    for rank in (0, 1):
        ends = {line["step"]: line["t"] for line in pair.told("shared", "step", rank)}
        own = dict(line["own"] for line in pair.told("shared", "step", rank) if "own" in line)
        assert [2, 3, 4] == list(own)
        assert all(0 < own[step] < ends[step] - ends[step - 1] + 0.01 for step in own)


def test_one_process_alone_has_nobody_to_wait_for(many):
    """So its own work is not timed."""
    assert not any("own" in line for line in many.told("whole", "step"))


def test_all_ranks_save_and_stop_at_the_same_step(pair):
    """No rank waits for another that went on."""
    assert (0, 0) == pair.codes
    for rank in (0, 1):
        (ack,), (saved,), (end,) = (pair.told("halted", event, rank) for event in ("ack", "saved", "end"))
        assert (1, 3, 3, 3, "guardian") == (ack["id"], ack["save_at"], saved["step"], end["step"], end["by"])
    assert (pair.folder / "halted" / "checkpoint-3" / "trainer_state.json").exists()
