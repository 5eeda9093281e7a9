"""Whether a trainer's log ends in numbers."""

import pytest

from guardian.core.losses import FirstBad, first_bad

NAN, INF = float("nan"), float("inf")


def entries(*pairs):
    """(loss, grad_norm) for steps 1, 2, ...; None: not logged."""
    named = ({"loss": loss, "grad_norm": norm} for loss, norm in pairs)
    return [{"step": at} | {k: v for k, v in one.items() if v is not None} for at, one in enumerate(named, 1)]


GOOD = (2.5, 1.0)


@pytest.mark.parametrize(
    "log, first",
    [
        (entries(GOOD, GOOD, (NAN, 1.0)), FirstBad(3, "loss nan")),
        (entries(GOOD, (NAN, NAN), (NAN, NAN)), FirstBad(2, "loss nan")),
        (entries(GOOD, (2.4, NAN), (0.0, NAN), (0.0, NAN)), FirstBad(2, "gradient norm nan")),
        (entries(GOOD, (2.4, INF), (2.4, INF), (2.4, INF)), FirstBad(2, "gradient norm inf")),
        (entries(GOOD, (0.0, None), (0.0, None), (0.0, None)), FirstBad(2, "loss exactly 0 without a gradient norm")),
        (entries(GOOD, ("nan", "nan")), FirstBad(2, "loss nan")),
    ],
)
def test_a_log_that_ends_in_no_numbers_is_poison_from_its_first_such_entry(log, first):
    """Also hidden: transformers logs 0 for a loss that is NaN, and trainers of their own log texts."""
    assert first == first_bad(log)


@pytest.mark.parametrize(
    "log",
    [
        entries(GOOD, GOOD),
        entries(GOOD, (2.4, INF)),
        entries(GOOD, (2.4, NAN), (2.4, NAN)),
        entries((NAN, NAN), (NAN, NAN), (NAN, NAN), GOOD),
        entries((0.0, 0.1), (0.0, 0.1), (0.0, 0.1)),
        [],
        [None, 3, {"step": 1, "eval_loss": NAN}, {"loss": NAN}, {"loss": True, "step": 2}],
    ],
    ids=["healthy", "a skipped step", "two of them", "healed", "a loss that is zero", "no log", "other entries"],
)
def test_what_goes_on_in_numbers_is_no_poison(log):
    """One or two skipped steps of fp16 are none; weights that are NaN never give a number again."""
    assert first_bad(log) is None


def test_an_evaluation_between_bad_steps_does_not_break_their_row():
    """It is logged as an entry of its own."""
    log = entries(GOOD, (2.4, NAN), (2.4, NAN), (2.4, NAN))
    log.insert(3, {"step": 3, "eval_loss": 1.0})

    assert FirstBad(2, "gradient norm nan") == first_bad(log)
