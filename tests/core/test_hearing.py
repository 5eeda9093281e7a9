"""The reader of heartbeats: what the companion says becomes events, everything else becomes nothing."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guardian.core import events as ev
from guardian.core.folding import fold
from guardian.core.hearing import LINE_MOST, parse
from guardian.core.records import decode, encode
from guardian.core.run import Run

HELLO = {
    "v": 1,
    "t": 1795000000.5,
    "ev": "hello",
    "pid": 321,
    "rank": 1,
    "local_rank": 1,
    "world": 2,
    "step": 5,
    "max_steps": 60,
    "device_batch": 4,
    "batch_argument": 4,
    "accumulation": 2,
    "data_parallel": 2,
    "effective_batch": 16,
    "steps_per_epoch": 12,
    "save_steps": 10,
    "logging_steps": 1,
    "learning_rate": 1e-4,
    "output_dir": "/out",
    "trainer": "Trainer",
    "resumed_from": None,
    "versions": {"torch": "2.13", "python": "3.11"},
    "device": "cuda",
    "workers": 4,
    "prefetch": 2,
    "pin_memory": True,
    "eval_batch": 8,
    "gradient_checkpointing": False,
    "precision": "bfloat16",
    "armed": True,
    "local_world": 2,
    "optimizer": "adamw_torch",
    "argv": ["train.py", "--x", 1],
    "launcher": "torchrun",
    "training": 1,
    "takes_resume": True,
    "save_total_limit": 2,
    "weakening": ["packing", 3],
    "fixed": {"workers": "its own loader", "device_batch": None},
}
LINES = (
    HELLO,
    {"t": 1.5, "ev": "step", "step": 6, "rows": 8, "tokens": 512, "fp": "00ff", "lr": 1e-4, "loss": [5, 2.25]},
    {"t": 1.5, "ev": "log", "step": 6, "logs": {"loss": "2.25", "grad_norm": 1, "learning_rate": "nan", "epoch": 0.5}},
    {"t": 1.5, "ev": "phase", "phase": "save", "step": 10},
    {"t": 1.5, "ev": "saved", "step": 10, "path": "/out/checkpoint-10"},
    {"t": 1.5, "ev": "ack", "id": 1, "step": 10, "save_at": 12},
    {"t": 1.5, "ev": "exc", "step": 10, "type": "KeyError", "text": "'input_ids'"},
    {"t": 1.5, "ev": "end", "step": 60, "max_steps": 60, "by": "max_steps", "loss": [60, 1.0]},
    {"t": 1.5, "ev": "error", "where": "on_log", "err": "ValueError: x", "off": True},
    {"t": 1.5, "ev": "longest", "step": 7, "rows": 4, "longest": 4812},
    {"t": 1.5, "ev": "lr", "step": 4, "before": 0.01, "after": 0.001},
    {"t": 1.5, "ev": "lr", "step": 4, "before": None, "after": None, "error": "Refused: no base"},
    {"t": 1.5, "ev": "exc", "step": 7, "type": "RuntimeError", "text": "memory", "phase": "train", "rows": 4,
     "longest": 4812, "rescued": "/out/checkpoint-7"},
    {"t": 1.5, "ev": "exc", "step": 7, "type": "KeyError", "text": "'a'", "phase": "optimizer", "not_rescued": "in it"},
)  # fmt: skip


def heard(said, *, attempt=2, rank=1):
    """What a line with these contents says."""
    return parse(json.dumps(said).encode() + b"\n", attempt, rank)


def test_a_hello_is_heard_with_everything_it_says():
    """The rank is the file's, and versions are in order, so that equal hellos are equal."""
    assert heard(HELLO) == (
        ev.Hello(
            attempt=2,
            rank=1,
            pid=321,
            world=2,
            step=5,
            max_steps=60,
            device_batch=4,
            accumulation=2,
            data_parallel=2,
            effective_batch=16,
            steps_per_epoch=12,
            save_steps=10,
            learning_rate=1e-4,
            output_dir="/out",
            trainer="Trainer",
            resumed_from=None,
            versions=(("python", "3.11"), ("torch", "2.13")),
            wall=1795000000.5,
            device="cuda",
            workers=4,
            prefetch=2,
            pin_memory=True,
            eval_batch=8,
            gradient_checkpointing=False,
            precision="bfloat16",
            local_world=2,
            armed=True,
            optimizer="adamw_torch",
            argv=("train.py", "--x"),
            launcher="torchrun",
            training=1,
            takes_resume=True,
            save_total_limit=2,
            batch_argument=4,
            weakening=("packing",),
            fixed=(("workers", "its own loader"),),
        ),
    )


def test_a_hello_of_an_older_companion_leaves_unknown_what_it_does_not_say():
    """Unknown is not zero, and not off."""
    new = ("local_world", "device", "workers", "prefetch", "pin_memory", "eval_batch", "gradient_checkpointing", "armed", "optimizer",
           "launcher", "training", "takes_resume", "save_total_limit", "batch_argument")  # fmt: skip
    (hello,) = heard({name: value for name, value in HELLO.items() if name not in new})

    assert {None} == {getattr(hello, name) for name in new}


@pytest.mark.parametrize(
    "said, events",
    [
        (LINES[1], (ev.LossSeen(2, 1, 5, 2.25), ev.StepDone(2, 1, 6, 8, 512, 255, 1e-4, 1.5))),
        ({"t": 2, "ev": "step", "step": 1}, (ev.StepDone(2, 1, 1, None, None, None, None, 2.0),)),
        (LINES[3], (ev.PhaseChanged(2, 1, "save", 10, 1.5),)),
        ({"t": 2, "ev": "batch", "batch": 7}, (ev.BatchDone(2, 1, 7, 2.0),)),
        (LINES[4], (ev.Saved(2, 1, 10, "/out/checkpoint-10"),)),
        (LINES[5], (ev.Acknowledged(2, 1, 12),)),
        (LINES[6], (ev.ExceptionLeft(2, 1, 10, "KeyError", "'input_ids'"),)),
        ({"t": 2, "ev": "exc", "step": 1, "type": "Odd", "text": None}, (ev.ExceptionLeft(2, 1, 1, "Odd", ""),)),
        (LINES[7], (ev.LossSeen(2, 1, 60, 1.0), ev.TrainingEnded(2, 1, 60, 60, "max_steps", 1.5))),
        (LINES[9], (ev.LongestSeen(2, 1, 7, 4, 4812),)),
        (LINES[10], (ev.RateSet(2, 1, 4, 0.01, 0.001, None),)),
        (
            LINES[12],
            (ev.ExceptionLeft(2, 1, 7, "RuntimeError", "memory", "train", 4, 4812, "/out/checkpoint-7", None),),
        ),
        (LINES[13], (ev.ExceptionLeft(2, 1, 7, "KeyError", "'a'", "optimizer", None, None, None, "in it"),)),
        ({**LINES[9], "longest": 0}, ()),
        ({**LINES[10], "after": None}, ()),
        ({**LINES[12], "rows": -4}, ()),
        (LINES[8], (ev.SourceLost("companion of rank 1", "on_log: ValueError: x, and switched itself off", 2),)),
    ],
)
def test_each_kind_of_line_becomes_its_events(said, events):
    """What the line leaves out is unknown, and a loss is told with whatever line it rides on."""
    assert events == heard(said)


def test_a_rate_that_could_not_be_set_is_heard_with_the_reason():
    """Where even the rate before is unknown it is no number."""
    (rate,) = heard(LINES[11])

    assert "Refused: no base" == rate.error
    assert math.isnan(rate.before)
    assert math.isnan(rate.after)


def test_own_work_rides_on_a_line_like_the_loss():
    """Of this step, or of the one before; what is no time says nothing."""
    told = heard({"t": 1.5, "ev": "step", "step": 6, "loss": [5, 2.25], "own": [5, 0.125]})

    assert [ev.OwnWork, ev.LossSeen, ev.StepDone] == [type(event) for event in told]
    assert (5, 0.125, 1) == (told[0].step, told[0].seconds, told[0].rank)
    for wrong in ([5, "nan"], [0, 1.0], [5, -1.0], 5, [5]):
        assert () == heard({"t": 1.5, "ev": "step", "step": 6, "own": wrong})


def test_tokens_and_memory_ride_along_with_a_log_and_never_spoil_it():
    """Under the names of transformers, TRL and ms-swift; as text too."""
    logs = {"loss": 2.0, "num_input_tokens_seen": 4096, "memory(GiB)": "17.47"}
    (logged,) = heard({"t": 1.5, "ev": "log", "step": 6, "logs": logs}, rank=0)
    (spoilt,) = heard({"t": 1.5, "ev": "log", "step": 6, "logs": {"loss": 2.0, "num_tokens": "nan"}}, rank=0)

    assert (4096, 17.47) == (logged.tokens_seen, logged.memory_gib)
    assert (2.0, None) == (spoilt.loss, spoilt.tokens_seen)


def test_logged_numbers_are_heard_as_text_too_and_once():
    """Newer trainers log numbers as text; every rank hears the mean over the ranks, so rank 0 speaks for all."""
    (logged,) = heard(LINES[2], rank=0)

    assert (6, 2.25, 1.0, 1.5) == (logged.step, logged.loss, logged.grad_norm, logged.wall)
    assert math.isnan(logged.lr)
    assert () == heard(LINES[2], rank=1)
    assert () == heard({"t": 1.5, "ev": "log", "step": 6, "logs": {"eval_loss": 2.0}}, rank=0)


def test_a_loss_that_is_not_a_number_is_heard():
    """That is what a watcher waits for; JSON has no word for it, Python's writer uses NaN."""
    lost, _ = parse(b'{"t": 1.5, "ev": "step", "step": 6, "loss": [6, NaN]}\n', 1, 0)

    assert math.isnan(lost.loss)


@pytest.mark.parametrize(
    "change",
    [
        *({"world": wrong} for wrong in (0, -1, True, "2", None, 2.0, 2**63)),
        *({"t": wrong} for wrong in ("soon", None, [], 10**400)),
        *({"output_dir": wrong} for wrong in (None, 7)),
        *({"ev": wrong} for wrong in (None, "sing", [], {})),
        *({"max_steps": wrong} for wrong in (-1, "sixty")),
    ],
)
def test_a_hello_with_a_wrong_value_says_nothing(change):
    """A world of 0 ranks would be divided by; a hello that is half believed is worse than none."""
    assert () == heard({**HELLO, **change})


@pytest.mark.parametrize(
    "change",
    [{"step": 0}, {"rows": -1}, {"fp": "xyz"}, {"lr": True}, {"loss": [5]}, {"loss": [5, None]}, {"loss": 2.5}],
)
def test_a_step_with_a_wrong_value_says_nothing(change):
    """Rows that cannot be believed prove nothing, and are not counted."""
    assert () == heard({**LINES[1], **change})


def test_unknown_keys_and_versions_are_no_obstacle():
    """The companion may be newer than the reader."""
    assert heard(HELLO) == heard({**HELLO, "v": 99, "mood": {"good": True}})


def test_an_endless_line_is_not_parsed():
    """Another process may write anything into the file."""
    said = {**LINES[3], "phase": "x" * LINE_MOST}

    assert () == heard(said)


@given(st.binary(max_size=200) | st.sampled_from([b"[" * 60000, b'{"ev":' * 9000, b"9" * 60000, b"\xff\xfe{"]))
@example(b"null")
@example(b'"ev"')
@example(b'[{"ev":"step"}]')
def test_no_bytes_make_it_raise(noise):
    """Garbage says nothing."""
    assert () == parse(noise, 1, 0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(data=st.data(), line=st.sampled_from(LINES), rank=st.integers(0, 3))
def test_whatever_is_heard_can_be_journalled_and_folded(data, line, rank):
    """A job that writes nonsense in our format must not bring the supervisor down later either."""
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(line)), json_values))
    stamp = ev.Stamp(1.0, 1.0, "boot", "node", 1)
    run = Run(created=ev.RunCreated("u", "r", (), "/", None, True, "{}", "0", 0), created_wall=0.0)
    run = fold(run, ev.Record(stamp, ev.Planned(1, (), (), None, None, (), 0.0, "first")))
    for event in heard({**line, **wrong}, attempt=1, rank=rank):
        record = ev.Record(stamp, event)
        if isinstance(event, ev.Journalled):
            assert repr(record) == repr(decode(encode(record)))
        run = fold(run, record)
