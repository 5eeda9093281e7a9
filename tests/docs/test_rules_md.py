"""What docs/rules.md shows is a rule that loads, and does what its samples say."""

import re
from pathlib import Path

import pytest

from guardian.core import matchfile, rungs, windows
from guardian.core.ladderfile import _KEYS
from guardian.core.rules import CONFIRMS
from tests.cli.calling import guardian

TEXT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()


@pytest.fixture
def folder(tmp_path):
    """The example as the page shows it."""
    for name, block in re.findall(r"^`(\S+)`:\n\n```\w*\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(block)
    assert {"loader-timeout.toml", "loader-timeout.samples"} == {path.name for path in tmp_path.iterdir()}
    return tmp_path


def test_the_example_does_what_its_samples_say(folder):
    """With all of guardian's own rules in force beside it."""
    done = guardian("rules", "test", str(folder), cwd=folder, env={"XDG_CONFIG_HOME": "/nonexistent"})

    assert 0 == done.returncode, done.stdout + done.stderr
    assert done.stdout.startswith("1 rules tested: no mistake")


def test_a_sample_of_the_example_that_is_turned_round_is_found(folder):
    """The test above would tell."""
    path = folder / "loader-timeout.samples"
    path.write_text(path.read_text().replace("no-match because the process was killed", "match"))
    done = guardian("rules", "test", str(folder), cwd=folder, env={"XDG_CONFIG_HOME": "/nonexistent"})

    assert 1 == done.returncode
    assert "loader-timeout.samples:6: missed: made with torch 2.13 on CPU: match" in done.stdout


@pytest.mark.parametrize(
    "words",
    [matchfile._CONDITIONS, _KEYS, windows.KINDS, windows.SERIES, CONFIRMS, rungs.RESUMES, rungs.NAMED_OPERATIONS],
)
def test_the_whole_vocabulary_is_told(words):
    """Nothing can be written that the page does not name."""
    assert [] == [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", TEXT)]
