"""Whole logs of real jobs, each with what it is: nothing in them may be taken for anything else."""

import re
import sys
from pathlib import Path

import pytest

from guardian.host import reading
from tests.rules.explained import MATCHER, RULES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATA = Path(__file__).parent.parent / "data"
KNOWN = tomllib.loads((DATA / "raw_logs.toml").read_text())


def explained(name, code):
    """What `guardian explain` says of a recorded log."""
    with (DATA / "raw_logs" / f"{name}.log").open("rb") as log:
        return reading.explain(RULES, MATCHER, log, code)


def test_every_log_has_its_class_and_a_reason():
    """No log without a word on it, no word without a log."""
    assert {path.stem for path in (DATA / "raw_logs").glob("*.log")} == set(KNOWN)
    assert all(one["why"].strip() for one in KNOWN.values())


@pytest.mark.parametrize("name", KNOWN)
def test_a_recorded_log_is_what_it_is(name):
    """Its class, or healthy; with a line of evidence out of the log itself."""
    told = explained(name, KNOWN[name].get("exit"))
    text = (DATA / "raw_logs" / f"{name}.log").read_bytes().decode("utf-8", "replace")

    assert KNOWN[name]["class"] == told.failure, told.evidence
    for line in told.evidence:
        assert line.number is None or line.text.split()[-1] in text.split("\n")[line.number - 1]


@pytest.mark.parametrize("name", [name for name, one in KNOWN.items() if one["class"] != "healthy" and "exit" in one])
def test_without_its_exit_code_a_log_is_not_taken_for_another_failure(name):
    """A failure that only the exit tells of is then unknown, or not to be seen; what the text tells of stays."""
    told = explained(name, None)

    assert told.failure in (KNOWN[name]["class"], "unknown", "healthy")
    if re.search(r"^\w*Traceback", (DATA / "raw_logs" / f"{name}.log").read_text("utf-8", "replace"), re.MULTILINE):
        assert KNOWN[name]["class"] == told.failure


@pytest.mark.parametrize(
    "name, phase, step",
    [
        ("fault_h_bad_model_hf", "startup", None),
        ("fault_j_optimizer_truncated", "startup", None),
        ("fault_d_gloo_timeout", "first_steps", 1),
        ("sig_term_cli", "training", 129),
        ("fault_f_disk_full", "saving", None),
        ("swift_full_killed_step7", "first_steps", 7),
        ("swift_full_uninterrupted", "end", 14),
    ],
)
def test_the_phase_is_named_as_people_do(name, phase, step):
    """Where it stood, and at which step; a step that nobody tells is not made up."""
    told = explained(name, None)

    assert (phase, step) == (told.phase, told.last_step)
