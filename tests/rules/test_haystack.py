"""A failure at the end of a long healthy log is found there, and nothing in the log before it is taken for one."""

import io
import json
from pathlib import Path

import pytest

from guardian.host import reading
from tests.rules.explained import MATCHER, RULES
from tests.rules.haystack import woven

CORPUS = Path(__file__).parent.parent / "data" / "corpus_dev.jsonl"
CASES = {case["id"]: case for case in map(json.loads, CORPUS.read_text("utf-8").splitlines())}
OTHER_BEHIND_STEPS = {
    "c0143": "preempted_or_interrupted",  # workers that wait when an interrupt comes are a hang where nothing trains
    "c0146": "preempted_or_interrupted",
    "c0378": "cuda_oom",  # the CPU's allocator: in a step of training the device's memory, else the host's
    "c0379": "cuda_oom",
}
SMALL = 200_000
BIG = 20_000_000


@pytest.fixture(scope="module")
def small():
    """A log of a few thousand lines."""
    return woven(SMALL)


@pytest.fixture(scope="module")
def big():
    """A log of a few hundred thousand lines."""
    return woven(BIG)


def explain(data):
    """What `guardian explain` says of it without an exit code."""
    return reading.explain(RULES, MATCHER, io.BytesIO(data), None)


def found(hay, case):
    """The class behind a healthy log, that of the excerpt alone, and whether the evidence is a line of the excerpt."""
    text = case["text"].encode()
    alone, behind = explain(text), explain(hay + text)
    before = hay.count(b"\n")
    lines = [line.number for line in behind.evidence if line.number is not None]
    return behind.failure, alone.failure, all(number > before for number in lines)


@pytest.mark.parametrize("seed", range(3))
def test_a_woven_log_alone_is_healthy(seed):
    """Arguments, warnings, bars and advice of eight ranks at once."""
    told = explain(woven(SMALL, seed))

    assert ("healthy", 0) == (told.failure, told.survived), told.evidence


@pytest.mark.parametrize("name", CASES)
def test_an_excerpt_behind_a_healthy_log_is_what_it_is_alone(small, name):
    """The same class, and the evidence is one of its own lines."""
    behind, alone, own_line = found(small, CASES[name])

    assert OTHER_BEHIND_STEPS.get(name, alone) == behind
    assert own_line


@pytest.mark.long
def test_a_woven_log_of_20_mb_is_healthy(big):
    """Nothing of its 290,000 lines is taken for a failure."""
    told = explain(big)

    assert ("healthy", 0) == (told.failure, told.survived), told.evidence


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_excerpt_behind_20_mb_is_what_it_is_alone(big):
    """All of them; the first that is not is named."""
    for name, case in CASES.items():
        behind, alone, own_line = found(big, case)

        assert (OTHER_BEHIND_STEPS.get(name, alone), True) == (behind, own_line), name
