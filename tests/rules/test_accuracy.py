"""How often the rules are right on logs that others labelled: a floor under the figures of bench/RESULTS.md."""

import importlib.util
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"


@pytest.fixture(scope="module")
def accuracy():
    """bench/accuracy.py, which is a script."""
    with patch.object(sys, "path", [str(ROOT / "bench"), *sys.path]):
        spec = importlib.util.spec_from_file_location("accuracy", ROOT / "bench" / "accuracy.py")
        module = importlib.util.module_from_spec(spec)
        with patch.dict(sys.modules, {"accuracy": module}):
            spec.loader.exec_module(module)
            yield module


@pytest.fixture(scope="module")
def of_others(accuracy):
    """The logs of other people."""
    with patch.dict("os.environ", {"XDG_CONFIG_HOME": "/nonexistent"}):
        return accuracy.figures_of(accuracy.answers(accuracy.read([DATA / "corpus_dev.jsonl"])))


@pytest.fixture(scope="module")
def of_ours(accuracy):
    """The logs that were made for the tests."""
    with patch.dict("os.environ", {"XDG_CONFIG_HOME": "/nonexistent"}):
        return accuracy.figures_of(accuracy.answers(accuracy.read([DATA / "own_logs.jsonl"])))


def test_the_figures_do_not_fall(of_others):
    """Macro-F1 over the classes, and what a wrong answer would cost."""
    assert of_others.cases == 199
    assert of_others.macro_f1 >= 0.965
    assert of_others.macro_f1_lenient >= 0.985
    assert of_others.hard_lenient >= 0.95
    assert () == of_others.false_stops


def test_no_class_is_left_out(of_others):
    """Each class that is labelled is found at least once."""
    assert [] == [row.label for row in of_others.classes if row.recall == 0]


def test_what_nobody_can_know_is_unknown(of_ours):
    """Jobs that end without a word: no cause is made up, and a loop that works is healthy."""
    unknown = next(row for row in of_ours.classes if row.label == "unknown")

    assert unknown.cases >= 15
    assert (1.0, 1.0) == (unknown.precision, unknown.recall)
    assert (1.0, 1.0, ()) == (of_ours.accuracy, of_ours.variants, of_ours.false_stops)


def test_a_miss_is_counted_as_one(accuracy):
    """The figures themselves: a wrong label lowers its class's recall and the other one's precision."""
    cases = [{"text": "KeyError: 7\n", "label": "code_bug"}, {"text": "KeyError: 7\n", "label": "healthy", "id": "h"}]
    found = accuracy.figures_of(accuracy.answers(cases))
    rows = {row.label: row for row in found.classes}

    assert (0.5, 1.0) == (rows["code_bug"].precision, rows["code_bug"].recall)
    assert (0.0, ("h",)) == (rows["healthy"].recall, found.false_stops)
