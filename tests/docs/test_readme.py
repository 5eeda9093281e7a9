"""The README promises nothing that is not there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from guardian.cli import main as cli
from guardian.core.policy import DEFAULT, as_tables, from_tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language=""):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_every_command_is_in_the_table_and_the_table_names_no_other():
    """What the table says can be typed."""
    named = set(re.findall(r"^\| `guardian (\w+)", README, re.MULTILINE))

    assert set(cli.COMMANDS) == named


def test_every_option_that_the_table_shows_is_known():
    """Each command's own help has it."""
    for command, rest in re.findall(r"`guardian (\w+) ([^`]*)`", README):
        shown = subprocess.run(
            [sys.executable, "-m", "guardian", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"(?<!\w)(--?[a-z][\w-]*)", rest.partition(" -- ")[0]):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), f"guardian {command} {option}"


def test_the_exit_codes_are_those_of_the_help():
    """One list, told twice."""
    codes = re.search(r"Exit codes of `run` and `resume`: (.*?)\n\n", README, re.DOTALL)[1]

    assert re.findall(r"^  (\d+) ", cli.EXIT_CODES, re.MULTILINE) == re.findall(r"(?:^|· ?)\s*(\d+) ", codes)


def test_the_policy_is_the_default_one():
    """Copied into a file it changes nothing, and no key of it is refused."""
    (block,) = blocks("toml")
    tables = tomllib.loads(block)
    policy, complaints = from_tables(tables)

    assert () == complaints
    assert policy == DEFAULT
    assert set(tables) <= set(as_tables(DEFAULT))


def test_every_room_exists():
    """The guided tour leads to files that are there."""
    for path in re.findall(r"`((?:guardian|trainer|rules)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path


def test_every_file_that_the_design_names_exists():
    """A promise is kept by and proved in files that can be opened."""
    design = (ROOT / "guardian" / "DESIGN.md").read_text()
    for path in re.findall(r"`((?:host|core|ui|cli)/\w+\.py)`", design):
        assert (ROOT / "guardian" / path).exists(), path
    for path in re.findall(r"`(tests/[\w/]+\.py)`", design):
        assert (ROOT / path).exists(), path


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_first_command_does_what_it_says(tmp_path):
    """As it stands at the top: trains under supervision and prints the report."""
    first = blocks()[0].splitlines()[0].split()
    assert "bin/guardian" == first[0]

    done = subprocess.run([str(ROOT / first[0]), *first[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout[-4000:] + done.stderr[-2000:]
    assert done.stdout.rstrip().splitlines()[-1].startswith("finished, 1 attempt, 200 of 200 steps, effective batch 16")
