"""The Pythons that a training job may run in: our own, with transformers 5, and the one with transformers 4.

bin/test makes the second one and names it in GUARDIAN_TEST_PYTHON4; pytest itself always runs in the first.
"""

import os
import sys

import pytest

PYTHON_4 = os.environ.get("GUARDIAN_TEST_PYTHON4")

needs_transformers_4 = pytest.mark.skipif(
    not PYTHON_4, reason="GUARDIAN_TEST_PYTHON4 names no Python with transformers 4: bin/test makes one"
)
PYTHONS = (
    pytest.param(sys.executable, id="transformers5"),
    pytest.param(PYTHON_4, id="transformers4", marks=needs_transformers_4),
)
"""For the `params` of a fixture that other fixtures build on."""
PYTHONS_4_LONG = (
    PYTHONS[0],
    pytest.param(PYTHON_4, id="transformers4", marks=[needs_transformers_4, pytest.mark.long]),
)
"""The same where transformers 4 is left to the long tests: what is plain must be done in minutes."""
on_both_transformers = pytest.mark.parametrize("python", PYTHONS)
"""The test gets `python`, the path of the interpreter that its job is to run in."""
