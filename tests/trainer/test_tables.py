"""The tables of arguments are held to TrainingArguments of both versions: no field is forgotten, none is invented."""

from __future__ import annotations

import json
import subprocess
from functools import cache

import pytest
from guardian.trainer.arguments import ARGUMENTS, DEMO_DEFAULTS, FRAMEWORK_NAMES, REFUSED
from guardian.trainer.framework_arguments import FRAMEWORK_GROUPS, TRANSLATED
from guardian.trainer.help_text import help_text

from tests.interpreters import on_both_transformers
from tests.trainer.jobs import environment

pytest.importorskip("transformers")

ASK = """
import dataclasses, json, transformers
fields = [field.name for field in dataclasses.fields(transformers.TrainingArguments)]
schedules = [schedule.value for schedule in transformers.SchedulerType]
print(json.dumps([transformers.__version__, fields, schedules]))
"""


@cache
def framework(python):
    """Its major version, the names of its arguments and those of its schedules, as the installed one says them."""
    told = subprocess.run([python, "-c", ASK], env=environment(), capture_output=True, text=True, check=True).stdout
    version, fields, schedules = json.loads(told)
    return int(version.split(".")[0]), {name for name in fields if not name.startswith("_")}, set(schedules)


@on_both_transformers
def test_every_field_of_the_framework_is_offered_or_refused_with_a_reason(python):
    """A new field of a new version turns this red, so that somebody decides."""
    _, fields, _ = framework(python)

    assert set() == fields - ARGUMENTS.keys() - REFUSED.keys()


@on_both_transformers
def test_every_argument_that_goes_to_the_framework_is_a_field_of_the_versions_it_names(python):
    """`majors` is what command lines are refused by."""
    major, fields, _ = framework(python)
    offered = {each.name for group in FRAMEWORK_GROUPS for each in group.arguments if major in each.majors}

    assert set() == offered - TRANSLATED - fields


@on_both_transformers
def test_the_schedules_offered_are_the_frameworks(python):
    """A name that the framework lacks would fail only after its import; greedy is new in transformers 5."""
    _, _, schedules = framework(python)

    assert schedules | {"greedy"} == set(ARGUMENTS["lr_scheduler_type"].choices)


def test_the_two_interpreters_have_the_two_versions():
    """Otherwise every test that names both would try one of them twice."""
    expected = {"transformers5": 5, "transformers4": 4}
    found = {param.id: framework(param.values[0])[0] for param in on_both_transformers.args[1] if param.values[0]}

    assert {name: expected[name] for name in found} == found


def test_every_argument_is_in_the_help():
    """And no name stands in two tables."""
    text = help_text()

    assert [] == [name for name in ARGUMENTS if f"--{name}" not in text]
    assert set() == (FRAMEWORK_NAMES & REFUSED.keys()) | (DEMO_DEFAULTS.keys() - ARGUMENTS.keys())


HEALING = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size"),
    *("gradient_checkpointing", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory"),
    *("eval_strategy", "eval_steps", "split_dataset_ratio", "save_steps", "save_total_limit"),
    *("ddp_timeout", "ddp_find_unused_parameters", "learning_rate"),
)


@pytest.mark.parametrize("name", HEALING)
def test_what_a_supervisor_may_change_tells_its_default(name):
    """In brackets, or in words where it depends on something."""
    entry = help_text().split(f"--{name} ")[1].split("\n  --")[0]

    assert "[" in entry or "default" in entry
