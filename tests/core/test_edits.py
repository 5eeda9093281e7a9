"""Operations on knobs: what they come to, and why some come to nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.edits import Changed, Unchanged, changed
from guardian.core.rungs import operation

SIZES = st.integers(1, 64)
HALVE = (("device_batch", operation("halve")), ("accumulation", operation("keep-effective-batch")))


def made(now, facts=None, **asked):
    """What these operations make of the knobs, as a dict; a text where they make nothing of them."""
    change = changed(tuple((knob, operation(value)) for knob, value in asked.items()), now, facts or {})
    return dict(change.settings) if isinstance(change, Changed) else change.why


@given(SIZES, SIZES, SIZES)
def test_no_edit_changes_the_rows_of_a_step(device_batch, accumulation, wanted):
    """Halved or set: the product stays the same integer, or nothing is changed."""
    now = {"device_batch": device_batch, "accumulation": accumulation}
    for operations in (HALVE, (("device_batch", operation(wanted)),)):
        change = changed(operations, now, {})
        after = now | (dict(change.settings) if isinstance(change, Changed) else {})

        assert after["device_batch"] * after["accumulation"] == device_batch * accumulation


def test_halving_writes_the_accumulation_out():
    """An accumulation that the framework would fill in follows its own rule, and rounds."""
    assert {"device_batch": 4, "accumulation": 4} == made(
        {"device_batch": 8, "accumulation": 2}, device_batch="halve", accumulation="keep-effective-batch"
    )


@pytest.mark.parametrize(
    "now, asked, why",
    [
        ({"device_batch": 1, "accumulation": 16}, {"device_batch": "halve"}, "device_batch is at its floor of 1"),
        ({"device_batch": 8, "accumulation": None}, {"device_batch": "halve"}, "the present accumulation is unknown"),
        ({"device_batch": 8, "accumulation": 2}, {"device_batch": 3}, "8 x 2 rows cannot be split into"),
        ({"workers": None}, {"workers": "halve"}, "the present workers is unknown"),
        ({"workers": 0}, {"workers": "halve"}, "workers is at its floor of 0"),
        ({"eval_batch": 1}, {"eval_batch": "halve"}, "eval_batch is at its floor of 1"),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": True}, "gradient_checkpointing is on already"),
    ],
)
def test_an_operation_that_changes_nothing_says_why(now, asked, why):
    """The reason goes into the journal."""
    assert why in made(now, **asked)


def test_a_part_that_is_so_already_does_not_hold_the_others_back():
    """prefetch is 1 already, the workers still go down."""
    assert {"workers": 2} == made({"workers": 4, "prefetch": 1}, workers="halve", prefetch=1)


def test_without_workers_there_is_nothing_to_load_ahead():
    """torch refuses a prefetch factor then (torch/utils/data/dataloader.py)."""
    assert {"workers": 0} == made({"workers": 1, "prefetch": 2}, workers="halve", prefetch=1)


@pytest.mark.parametrize(
    "shm_mib, tokens, workers, fit",
    [
        (64, 1000, 8, 4),
        (2, 1000, 8, 0),
        (64, None, 8, 0),
        (None, 1000, 8, 0),
        (100_000, 1000, 8, 4),
    ],
)
def test_as_many_workers_as_shared_memory_holds_the_batches_of(shm_mib, tokens, workers, fit):
    """8 x 32 rows of 1000 tokens in three int64 tensors are 5.9 MiB; what failed is never tried again."""
    now = {"workers": workers, "device_batch": 256, "world_size": 1, "prefetch": 2}
    facts = {"shm_total_mib": shm_mib, "longest_tokens": tokens}

    assert {"workers": fit} == made(now, facts, workers="fit-shm")


def test_a_rank_has_workers_of_its_own():
    """Two ranks share one /dev/shm."""
    now = {"workers": 8, "device_batch": 256, "world_size": 2, "prefetch": 2}

    assert {"workers": 2} == made(now, {"shm_total_mib": 64, "longest_tokens": 1000}, workers="fit-shm")


@pytest.mark.parametrize(
    "rate, dtype, optimizer, lower",
    [
        (1e-3, "bfloat16", None, 1e-4),
        (1e-4, "bfloat16", None, 5e-5),
        (2e-5, None, None, 1e-5),
        (1e-3, "bfloat16", "paged_adamw_8bit", 1e-4),
        (12.0, "float32", "sgd", 6.0),
        (12.0, "float32", "adafactor", 6.0),
    ],
)
def test_a_lower_rate_is_at_most_half_and_at_most_safe(rate, dtype, optimizer, lower):
    """The safe rates are those of Adam's scale: any other optimizer's rate is halved only."""
    now = {"learning_rate": rate, "dtype": dtype}

    assert {"learning_rate": lower} == made(now, {"optimizer": optimizer}, learning_rate="lower-or-safe")


@pytest.mark.parametrize(
    "present, start_s, wanted",
    [
        (18_000_000, 42.5, {"ddp_timeout": 1800}),
        (18_000_000, 300.1, {"ddp_timeout": 3001}),
        (None, 300, {"ddp_timeout": 3000}),
        (1800, 300, "ddp_timeout is 1800 already"),
        (18_000_000, None, "how long a start takes is unknown"),
    ],
)
def test_ranks_wait_for_each_other_as_long_as_ten_starts_take(present, start_s, wanted):
    """Half an hour at least; a wait that somebody made shorter stays."""
    assert wanted == made({"ddp_timeout": present}, {"start_s": start_s}, ddp_timeout="ten-starts")


def test_a_tenth_looks_as_people_write_it():
    """Not 1.0000000000000002e-06; a whole number stays one."""
    assert {"learning_rate": 1e-06} == made({"learning_rate": 1e-05}, learning_rate="x 0.1")
    assert {"ddp_timeout": 3600} == made({"ddp_timeout": 1800}, ddp_timeout="x 2")


def test_a_warm_up_is_never_shortened():
    """`at-least` leaves what is longer."""
    assert {"warmup_ratio": 0.05} == made({"warmup_ratio": 0.0}, warmup_ratio="at-least 0.05")
    assert "warmup_ratio is 0.1 already" == made({"warmup_ratio": 0.1}, warmup_ratio="at-least 0.05")


def test_an_unknown_batch_is_not_edited():
    """Nothing that could not be kept is touched."""
    assert isinstance(changed(HALVE, {}, {}), Unchanged)
