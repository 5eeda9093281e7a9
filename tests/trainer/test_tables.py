"""The tables of arguments are held to the installed TrainingArguments: no field is forgotten, none is invented."""

from __future__ import annotations

import dataclasses

import pytest
from guardian.trainer.argument import transformers_major
from guardian.trainer.arguments import ARGUMENTS, DEMO_DEFAULTS, FRAMEWORK_NAMES, REFUSED
from guardian.trainer.framework_arguments import FRAMEWORK_GROUPS, TRANSLATED
from guardian.trainer.help_text import help_text

transformers = pytest.importorskip("transformers")
FIELDS = {field.name for field in dataclasses.fields(transformers.TrainingArguments) if not field.name.startswith("_")}


def test_every_field_of_the_framework_is_offered_or_refused_with_a_reason():
    """A new field of a new version turns this red, so that somebody decides."""
    assert set() == FIELDS - ARGUMENTS.keys() - REFUSED.keys()


def test_every_argument_that_goes_to_the_framework_is_a_field_of_the_versions_it_names():
    """`majors` is what command lines are refused by."""
    major = transformers_major()
    offered = {each.name for group in FRAMEWORK_GROUPS for each in group.arguments if major in each.majors}

    assert set() == offered - TRANSLATED - FIELDS


def test_the_schedules_offered_are_the_frameworks():
    """A name that the framework lacks would fail only after its import; greedy is new in transformers 5."""
    schedules = {schedule.value for schedule in transformers.SchedulerType} | {"greedy"}

    assert schedules == set(ARGUMENTS["lr_scheduler_type"].choices)


def test_every_argument_is_in_the_help():
    """And no name stands in two tables."""
    text = help_text()

    assert [] == [name for name in ARGUMENTS if f"--{name}" not in text]
    assert set() == (FRAMEWORK_NAMES & REFUSED.keys()) | (DEMO_DEFAULTS.keys() - ARGUMENTS.keys())
