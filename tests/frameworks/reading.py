"""What a framework's real parser makes of a command that an adapter wrote, in that framework's own Python."""

import json
import os
import subprocess
import sys

import pytest

SAY = """
import dataclasses, json, sys
def say(*read, **more):
    found = more
    for one in read:
        for field in dataclasses.fields(one):
            value = getattr(one, field.name, None)
            if isinstance(value, (bool, int, float, str, list, type(None))):
                found[field.name] = value
    sys.stdout.write("\\nREAD " + json.dumps(found, default=str) + "\\n")
"""

PARSERS = {
    "transformers": """
from transformers import HfArgumentParser, TrainingArguments
parser = HfArgumentParser(TrainingArguments)
# On a machine without GPU TrainingArguments itself turns pinning off.
pinned = parser.parse_args(sys.argv[1:]).dataloader_pin_memory
say(*parser.parse_args_into_dataclasses(sys.argv[1:]), pinned=pinned)
""",
    "trl": """
from trl import SFTConfig, ModelConfig, ScriptArguments, TrlParser
read = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config(sys.argv[1:], return_remaining_strings=True)
say(*read[:3])
""",
    "swift": """
try:
    from swift.arguments import SftArguments
except ImportError:
    from swift.llm import TrainArguments as SftArguments
from swift.utils import parse_args
said, left = parse_args(SftArguments, sys.argv[1:])
assert not left, left
say(said, said.training_args)
""",
    "swift rlhf": """
try:
    from swift.arguments import RLHFArguments
except ImportError:
    from swift.llm import RLHFArguments
from swift.utils import parse_args
said, left = parse_args(RLHFArguments, sys.argv[1:])
assert not left, left
say(said, said.training_args)
""",
    "llamafactory": """
from llamafactory.hparams import get_train_args, read_args
say(*get_train_args(read_args()))
""",
}

NAMED = {"transformers4": "GUARDIAN_TEST_PYTHON4"}
BESIDE = {"trl": "swift"}
"""What is installed with another."""


def python_of(family):
    """The interpreter with a framework in it. Without one the test is skipped, but fails where bin/test was to make it."""
    if family == "transformers":
        return sys.executable
    framework = BESIDE.get(family, family)
    variable = NAMED.get(family) or f"GUARDIAN_TEST_{framework.upper()}_PYTHON"
    path = os.environ.get(variable)
    if not path:
        missing = f"{variable} names no interpreter with the framework in it: bin/test --all makes one"
        promised = os.environ.get("GUARDIAN_TEST_FRAMEWORKS", "").split()
        (pytest.fail if framework in promised else pytest.skip)(missing)
    return path


def read_by(family, words, folder, env=None, verb=""):
    """The values that the framework's parser reads from a program's own words; `verb`: where it has others for it."""
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [python_of(family), "-c", SAY + PARSERS[f"{family.removesuffix('3')} {verb}".strip()], *words],
        cwd=folder, env=os.environ | quiet | (env or {}), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("READ ")]
    assert lines, (done.stdout + done.stderr)[-3000:]
    return json.loads(lines[-1][5:])
