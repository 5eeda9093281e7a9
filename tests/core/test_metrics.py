"""Numbers come out of the logs that the frameworks really print, and nothing else does."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardian.core import metrics
from guardian.core.metrics import Numbers

LOGS = Path(__file__).parent.parent / "data" / "raw_logs"


def numbers_of(name):
    """Everything that a recorded log says."""
    return metrics.read((LOGS / f"{name}.log").read_bytes())


def test_every_step_of_a_plain_trainer_is_read():
    """Transformers prints text; without a bar the step is unknown, and not guessed."""
    read = numbers_of("hf_uninterrupted")

    assert 14 == len(read)
    assert Numbers(None, None, 6.249, 2.667, 0.01) == read[0]
    assert Numbers(None, None, 3.797, 0.8252, 0.0001254) == read[-1]


def test_every_step_of_swift_is_read_with_its_total():
    """`global_step/max_steps` stands in the dict, bars share its line."""
    steps = [(n.step, n.max_steps) for n in numbers_of("swift_full_uninterrupted") if n.loss is not None]

    assert [(step, 14) for step in range(1, 15)] == steps


def test_the_bar_before_a_dict_gives_its_step():
    """A bar without a name is the training's when a log follows; it may lag (twice here), never lead."""
    read = [n for n in numbers_of("lf_full") if n.loss is not None]

    assert [1, 2, 3, 3, 5, 6, 7, 7, 9, 10, 11, 12] == [n.step for n in read]
    assert {12} == {n.max_steps for n in read}


def test_a_killed_ranks_last_step_is_the_one_that_was_shown():
    """What is drawn again at the end of the process adds nothing."""
    assert (19, 3000) == (numbers_of("ddp_kill9_rank1")[-1].step, numbers_of("ddp_kill9_rank1")[-1].max_steps)


def test_nan_is_read_as_nan():
    """It is a number of the job, not a line that could not be read."""
    assert math.isnan(numbers_of("fault_e_nan_lr")[-1].grad_norm)
    assert Numbers(loss=math.inf) == metrics.read(b"{'loss': inf}")[0]


@pytest.mark.parametrize(
    "line, read",
    [
        (b"{'loss': 2.5, 'grad_norm': 1.0, 'learning_rate': 1e-05, 'epoch': 0.1}", Numbers(None, None, 2.5, 1.0, 1e-5)),
        (b"Train:  25%|##5    | 3/12 [00:00<00:01,  5.74it/s]\r", Numbers(3, 12)),
        (b"Train: 1%|| 1/9 [00:00<?, ?it/s]\rTrain: 2%|| 2/9 [00:01<00:02, 1.1s/it]", Numbers(2, 9)),
        (b" 50%|#### | 6/12 [01:02<01:03]\r   \r{'loss': '1.5'}\r 50%|## | 6/12 [01:02<01:03]", Numbers(6, 12, 1.5)),
        (b'{"loss": 2.0, "global_step/max_steps": "10/12"}', Numbers(10, 12, 2.0)),
        (b"rank 0: {'loss': '3', 'global_step/max_steps': '7/9', 'memory(GiB)': 1.5} and more", Numbers(7, 9, 3.0)),
        (b"{'loss': '3', 'global_step/max_steps': '7/9'}\rTrain: 78%|## | 7/9 [00:01<00:02]", Numbers(7, 9, 3.0)),
        (b"{'loss': '3', 'global_step/max_steps': '7/9'}\r100%|#### | 8/8 [00:01<00:00]", Numbers(7, 9, 3.0)),
    ],
)
def test_a_line_is_read_in_every_form(line, read):
    """Text or number, one or several on a line, not anchored anywhere."""
    assert (read,) == metrics.read(line)


@pytest.mark.parametrize(
    "line",
    [
        b"100%|##########| 8/8 [00:00<00:00, 99it/s]",
        b"Map: 100%|####| 256/256 [00:00<00:00, 1027 examples/s]",
        b"{'eval_loss': '2.5', 'eval_runtime': '1.0', 'epoch': '1.0'}",
        b"[INFO] logging_nan_inf_filter=True, loss_scale=None",
        b"{'train_runtime': '2.0', 'train_loss': '6.1', 'epoch': '0.4'}",
        b"Train: starting",
        b"{'loss': 'none'}",
        b"",
    ],
)
def test_what_is_no_training_log_gives_nothing(line):
    """Evaluation, loading bars and arguments are not steps."""
    assert () == metrics.read(line)


@settings(derandomize=True, max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [b"{", b"}", b"'loss'", b":", b"'", b" 1", b"Train:", b"| 3/12 [00:00<", b"\r", b"\n", b"9" * 400, b"\xff"]
        )
    )
)
def test_no_line_breaks_the_reader(parts):
    """Whatever a job prints, the answer is numbers or nothing."""
    assert all(isinstance(numbers, Numbers) for numbers in metrics.read(b"".join(parts)))


def test_only_a_log_of_a_step_is_progress():
    """A bar is drawn once more when the process dies, and the summary comes at the end."""
    assert metrics.progress(b"\rTrain: 1%|| 1/9 [00:00<?]\r{'loss': '6.0'}")
    assert not metrics.progress(b"Train: 1%|| 1/9 [00:00<00:01]")
    assert not metrics.progress(b"{'train_runtime': '2', 'train_loss': '6'}")


@pytest.mark.parametrize(
    "line, read",
    [
        (
            b" iteration   17060/  159576 | learning rate: 5.948E-05 | lm loss: 2.665295E+00 | loss scale: 1024.0 | grad norm: 4.5 |",
            Numbers(17060, 159576, 2.665295, 4.5, 5.948e-05),
        ),
        (b"iter 590: loss 2.1642 BPC, time 60.24ms, mfu 6.55%", Numbers(590, None, 2.1642)),
        (b"step 5000: train loss 0.8948, val loss 2.4492", Numbers(5000, None, 0.8948)),
    ],
)
def test_a_training_loops_own_line_gives_its_step_and_its_loss(line, read):
    """Megatron's and many a script's: they prove that the training goes on."""
    assert (read,) == metrics.read(line)
    assert metrics.progress(line)


@pytest.mark.parametrize(
    "line",
    [
        b"wandb: step 3 loss 2.0",
        b"Best loss: 21.8",
        b" iteration        1/    1000 | loss scale: 4294967296.0 | number of skipped iterations:   1 |",
        b"step 3: loss nan",
    ],
)
def test_a_summary_a_scale_and_what_is_no_number_are_no_progress(line):
    """They say nothing of a step that was made."""
    assert not metrics.progress(line)
