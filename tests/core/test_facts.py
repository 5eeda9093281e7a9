"""What is known of an attempt, by the names that rules use."""

from dataclasses import fields, replace

import pytest

from guardian.core import events as ev
from guardian.core.facts import FACTS, TEXT, YES, facts_of, said
from guardian.core.run import Attempt, Run
from guardian.core.trail import Trail
from tests.core.attempts import attempt, hello, run

HELLO = replace(
    hello(100, 40), device="cpu", workers=2, prefetch=4, eval_batch=8, gradient_checkpointing=False, optimizer="sgd"
)


def known(one, *before):
    """The facts of the last of these attempts."""
    whole = run(*before, one)
    return facts_of(whole, whole.attempts[-1])


def test_what_the_training_loop_said_is_known():
    """Its numbers and its device, as far as it said them."""
    facts = known(attempt(1, hellos=(HELLO,)))

    assert {"device_batch": 8.0, "accumulation": 2.0, "effective_batch": 16.0, "world_size": 1.0} == {
        name: facts[name] for name in ("device_batch", "accumulation", "effective_batch", "world_size")
    }
    assert ("cpu", 2.0, 4.0, 8.0, 0.0) == tuple(
        facts[name] for name in ("device", "workers", "prefetch", "eval_batch", "gradient_checkpointing")
    )


def test_the_optimizer_is_the_loops_own_word_else_the_commands():
    """A loop that came up knows what a configuration file said; before it there are the words of the command."""
    told = known(attempt(1, hellos=(replace(HELLO, optimizer="adamw_torch"),)))
    whole = run(attempt(1))
    named = replace(whole, created=replace(whole.created, argv=("sft", "--optim", "sgd")))

    assert "adamw_torch" == told["optimizer"]
    assert "sgd" == facts_of(named, named.attempts[-1])["optimizer"]


def test_what_nobody_told_is_not_there():
    """Unknown is no zero."""
    facts = known(attempt(1, oom_kills=None))

    assert {"steps_done", "steps_since_start", "resumed", "exit_seen"} == facts.keys()


def test_steps_are_counted_over_all_attempts_and_since_this_one_began():
    """A resume begins where its checkpoint is."""
    first = attempt(1, steps=40, total=100)
    second = replace(attempt(1, total=100, hellos=(HELLO,)), rank_steps=((0, 47),))
    facts = known(second, first)

    assert (47.0, 7.0, 1.0) == (facts["steps_done"], facts["steps_since_start"], facts["resumed"])
    assert 0.0 == known(first)["resumed"]


def test_the_exceptions_own_rank_is_what_its_rows_are_compared_with():
    """Another rank's longer row was on another card."""
    left = ev.ExceptionLeft(1, 0, 5, "OutOfMemoryError", "x", phase="train", rows=2, longest=900)
    seen = (ev.LongestSeen(1, 0, 3, 2, 700), ev.LongestSeen(1, 1, 3, 2, 4000))
    facts = known(attempt(1, exceptions=(left,), longest=seen))

    assert ("train", 900.0, 900.0) == tuple(facts[n] for n in ("exception_phase", "exception_tokens", "longest_tokens"))
    assert 4000.0 == known(attempt(1, longest=seen))["longest_tokens"]


def test_the_longest_row_that_fitted_is_of_steps_that_were_finished():
    """The row at work when memory ran out had been told as well."""
    left = ev.ExceptionLeft(1, 0, 5, "OutOfMemoryError", "x", phase="train", rows=2, longest=900)
    seen = (ev.LongestSeen(1, 0, 3, 2, 700), ev.LongestSeen(1, 0, 6, 2, 900), ev.LongestSeen(1, 1, 3, 2, 4000))

    assert 700.0 == known(attempt(1, exceptions=(left,), longest=seen))["fitted_tokens"]


def test_the_hosts_measures_come_with_the_end():
    """By their names; the kernel's count too."""
    one = attempt(1, oom_kills=2)
    facts = known(replace(one, ended=replace(one.ended, facts=(("shm_total_mib", 64.0),))))

    assert (2.0, 64.0) == (facts["oom_kills"], facts["shm_total_mib"])


def test_the_bad_step_of_the_attempt_before_is_known():
    """As it stood in that attempt's diagnosis."""
    cause = ev.Cause("nan_loss", None, "nan-loss", "t", (), None, facts=(("first_bad_step", 12.0),))
    bad = Trail().append(ev.Logged(1, 12, 100, float("nan"), 1.0, 1e-4))
    facts = known(attempt(0, logged=bad), attempt(0, diagnosed=ev.Diagnosed(1, cause)))

    assert (12.0, 12.0) == (facts["first_bad_step"], facts["earlier_bad_step"])


@pytest.mark.parametrize(
    "step, hellos, said",
    [
        (7, (replace(HELLO, steps_per_epoch=8),), "rows 96 to 111 of epoch 1, counted from 0"),
        (9, (replace(HELLO, steps_per_epoch=8),), "rows 0 to 15 of epoch 2, counted from 0"),
        (7, (replace(HELLO, steps_per_epoch=None),), "16 rows; where an epoch begins is not known"),
        (7, (), "not known without the companion"),
    ],
)
def test_the_rows_of_the_first_bad_step_are_told_by_their_places(step, hellos, said):
    """Never by what they say: a log may be shown to others."""
    bad = Trail().append(ev.Logged(1, step, 100, float("nan"), 1.0, 1e-4))

    assert said in known(attempt(1, hellos=hellos, logged=bad))["bad_rows"]


def test_every_fact_that_is_computed_is_in_the_table():
    """And those of the table say what they are."""
    left = ev.ExceptionLeft(1, 0, 5, "E", "x", phase="eval", longest=9)
    bad = Trail().append(ev.Logged(1, 12, 100, float("nan"), 1.0, 1e-4))
    broken = (ev.GpuFault(1, 0, "hardware", 48, "an ECC error", 0.0),)
    stop = ev.StopBegun(1, "no step", (9,), silent="training", silent_s=61.0)
    seen = {"gpu_faults": broken, "stop": stop}
    full = attempt(1, hellos=(HELLO,), exceptions=(left,), phase="eval", logged=bad, **seen)

    assert known(full).keys() <= FACTS.keys()
    assert all(fact.about and fact.unit and fact.source and fact.when_unknown for fact in FACTS.values())
    texts = {name for name, value in known(full).items() if isinstance(value, str)}
    assert texts | {"oom_victim"} == {name for name, fact in FACTS.items() if fact.unit == TEXT}
    assert {"build_lock", "disk_read_only", "exit_seen", "resumed", "gradient_checkpointing"} == {
        name for name, fact in FACTS.items() if fact.unit == YES
    }


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("oom_kills", 1.0, "the kernel counted 1 OOM kill during the attempt"),
        ("oom_kills", 3.0, "the kernel counted 3 OOM kills during the attempt"),
        ("memory_limit_mib", 300.0, "the limit is 300 MiB"),
        ("oom_kills", None, None),
        ("workers", 2.0, None),
    ],
)
def test_a_fact_is_evidence_in_words(name, value, words):
    """Those that have words."""
    assert words == said(name, {name: value})


def test_the_builders_are_of_the_real_kinds():
    """What these tests build is what the fold builds."""
    assert {"hellos", "exceptions", "longest", "logged"} <= {field.name for field in fields(Attempt)}
    assert "attempts" in {field.name for field in fields(Run)}
