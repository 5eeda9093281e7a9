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
        (
            b"rank 0: {'loss': '3', 'global_step/max_steps': '7/9', 'memory(GiB)': 1.5} and more",
            Numbers(7, 9, 3.0, memory_gib=1.5),
        ),
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


FORMS = [
    (
        "ms-swift 4.6.0",
        b"{'loss': '4.015', 'grad_norm': '1.001', 'learning_rate': '0.0009875', 'token_acc': '0.1176', 'epoch': '0.375', 'global_step/max_steps': '6/14', 'elapsed_time': '0s', 'remaining_time': '2s', 'train_speed(s/it)': '0.2015'}",
        Numbers(6, 14, 4.015, 1.001, 0.0009875, 0.2015),
    ),
    (
        "ms-swift 4, on GPUs (its examples/sequence_parallel)",
        b"{'loss': '1.484', 'grad_norm': '1.666', 'learning_rate': '2e-05', 'token_acc': '0.6324', 'epoch': '0.032', 'global_step/max_steps': '2/189', 'elapsed_time': '3m 55s', 'remaining_time': '6h 6m 35s', 'memory(GiB)': '68.05', 'train_speed(s/it)': '117.6'}",
        Numbers(2, 189, 1.484, 1.666, 2e-05, 117.6, memory_gib=68.05),
    ),
    (
        "ms-swift 3 (its examples/ascend)",
        b"{'loss': 2.93490505, 'grad_norm': 2.63550186, 'learning_rate': 8.346e-05, 'token_acc': 0.58979954, 'epoch': 0.32, 'global_step/max_steps': '5/16', 'percentage': '31.25%', 'elapsed_time': '28s', 'remaining_time': '1m 2s', 'memory(GiB)': 57.91, 'train_speed(iter/s)': 0.2}",
        Numbers(5, 16, 2.93490505, 2.63550186, 8.346e-05, 5.0, memory_gib=57.91),
    ),
    (
        "ms-swift 2 (its docs of Qwen2, June 2024)",
        b"{'loss': 1.8210969, 'acc': 0.6236614, 'grad_norm': 2.75, 'learning_rate': 2e-05, 'memory(GiB)': 16.79, 'train_speed(iter/s)': 0.5, 'epoch': 0.01, 'global_step': 1}",
        Numbers(1, None, 1.8210969, 2.75, 2e-05, 2.0, memory_gib=16.79),
    ),
    (
        "megatron sft, ms-swift 4",
        b"{'loss': 0.29145688, 'grad_norm': 9.8802309, 'learning_rate': 1e-06, 'iteration': '1/1', 'memory(GiB)': 19.67, 'train_speed(s/it)': 99.010097}",
        Numbers(1, 1, 0.29145688, 9.8802309, 1e-06, 99.010097, memory_gib=19.67),
    ),
    (
        "transformers 4.46, iiicellled/Clean-Code-Qwen sft.log",
        b"{'loss': 0.401, 'grad_norm': 0.21096178889274597, 'learning_rate': 6.3729468701907006e-06, 'epoch': 0.61}",
        Numbers(None, None, 0.401, 0.21096178889274597, 6.3729468701907006e-06),
    ),
    (
        "LLaMA-Factory on transformers 4, include_num_input_tokens_seen",
        b"{'loss': 2.847, 'grad_norm': 3.8245272636413574, 'learning_rate': 5e-05, 'epoch': 0.1, 'num_input_tokens_seen': 24576}",
        Numbers(None, None, 2.847, 3.8245272636413574, 5e-05, tokens_seen=24576),
    ),
    (
        "LLaMA-Factory 0.9.5 on transformers 5.6.0",
        " 17%|█▋        | 2/12 [00:00<00:02,  4.78it/s]            {'loss': '5.922', 'grad_norm': '5.087', 'learning_rate': '0.00983', 'epoch': '0.0625'}".encode(),
        Numbers(2, 12, 5.922, 5.087, 0.00983),
    ),
    (
        "Megatron-DeepSpeed, bigscience tr8b-104B chronicles",
        b" iteration    17061/  159576 | consumed samples:      8128736 | consumed tokens:  16647651328 | elapsed time per iteration (ms): 423042.3 | learning rate: 5.948E-05 | global batch size:  2048 | lm loss: 2.667121E+00 | loss scale: 1048576.0 | grad norm: 464441.887 | num zeros: 0.0 | number of skipped iterations:   0 |",
        Numbers(17061, 159576, 2.667121, 464441.887, 5.948e-05, 423.0423, 16647651328),
    ),
    (
        "GPT-NeoX on DeepSpeed 0.10 (deepspeedai/DeepSpeed#3742)",
        b" samples/sec: 7.799 | iteration       34/   10000 | elapsed time per iteration (ms): 4103.1 | learning rate: 2.111E-06 | approx flops per GPU: 112.9TFLOPS | lm_loss: 1.118665E+01 | number of skipped iterations:   0 |",
        Numbers(34, 10000, 11.18665, None, 2.111e-06, 4.1031),
    ),
    (
        "DeepSpeed's pipeline engine (steps_per_print)",
        b"steps: 200 loss: 5.5508 lm loss: 5.5103 moe loss: 0.0405 iter time (s): 0.936 samples/sec: 136.706",
        Numbers(200, None, 5.5508, step_s=0.936),
    ),
    (
        "a script on DeepSpeed, linskybing/LLM logs/nv/zero_3.out",
        b"[Step 48/100] Loss: 4.7170 | Global Tokens/s: 2565.66 | GPU Mem (GB): 12.80 | Peak Mem: 27.45",
        Numbers(48, 100, 4.717),
    ),
]


@pytest.mark.parametrize("line, read", [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_each_frameworks_step_line_is_read_with_all_its_numbers(line, read):
    """Loss, gradient, rate, and what it says of time, tokens and memory; all of them prove that it goes on."""
    assert (read,) == metrics.read(line)
    assert metrics.progress(line)


@pytest.mark.parametrize(
    "line, read",
    [
        pytest.param(
            b" iteration        1/    1000 | consumed samples:         1024 | elapsed time per iteration (ms): 155483.8 | learning rate: 0.000E+00 | global batch size:  1024 | loss scale: 4294967296.0 | number of skipped iterations:   1 | number of nan iterations:   0 |",
            Numbers(1, 1000, lr=0.0, step_s=155.4838),
            id="Megatron-DeepSpeed, bigscience gpt2-meg-ds-3d",
        ),
        pytest.param(
            b"[2025-10-28 20:51:24,490] [INFO] [logging.py:107:log_dist] [Rank 0] step=48, skipped=2, lr=[1e-05], mom=[[0.8, 0.999]]",
            Numbers(48, lr=1e-05),
            id="DeepSpeed 0.18, linskybing/LLM logs/nv/zero_3.out",
        ),
        pytest.param(
            b"[2025-10-28 20:51:24,490] [INFO] [timer.py:264:stop] epoch=0/micro_step=48/global_step=48, RunningAvgSamplesPerSec=7.219115522639361, CurrSamplesPerSec=7.357203169574625, MemAllocated=12.99GB, MaxMemAllocated=27.45GB",
            Numbers(48, memory_gib=27.45),
            id="DeepSpeed 0.18's timer, the same log",
        ),
    ],
)
def test_a_frameworks_line_without_a_loss_gives_its_step(line, read):
    """A step was made; whether the training goes on well is for a line with a loss to say."""
    assert (read,) == metrics.read(line)
    assert not metrics.progress(line)


def test_the_event_has_all_the_numbers():
    """Nothing that was read is lost on the way."""
    read = Numbers(1, 2, 3.0, 4.0, 5.0, 6.0, 7, 8.0)
    event = metrics.logged(read, 9, wall=10.0)

    assert (9, 10.0) == (event.attempt, event.wall)
    assert read == Numbers(*(getattr(event, name) for name in Numbers.__slots__))


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
