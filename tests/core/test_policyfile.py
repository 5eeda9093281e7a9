"""A policy file is used whole or refused with file, line and key."""

import os

import pytest

from guardian.core.policy import DEFAULT
from guardian.errors import UserError
from guardian.host import policyfile


def test_what_a_file_says_counts_and_the_rest_is_the_default(tmp_path):
    """A policy names only what it changes."""
    path = tmp_path / "p.toml"
    path.write_text("[budget]\nrestarts = 3\nbackoff_s = [0, 1.5]\n")
    policy = policyfile.load(path)

    assert (3, (0, 1.5), 3) == (policy.budget.restarts, policy.budget.backoff_s, policy.budget.without_progress)
    assert DEFAULT.stop == policy.stop


def test_the_users_own_file_counts_where_none_is_named(tmp_path, monkeypatch):
    """$XDG_CONFIG_HOME/guardian/policy.toml, else ~/.config; a file that is named replaces it."""
    own = tmp_path / ".config" / "guardian" / "policy.toml"
    own.parent.mkdir(parents=True)
    own.write_text("[budget]\nrestarts = 4\n")
    (tmp_path / "p.toml").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    assert 4 == policyfile.load(None).budget.restarts
    assert DEFAULT == policyfile.load(tmp_path / "p.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert DEFAULT == policyfile.load(None)


@pytest.mark.parametrize(
    "text, complaints",
    [
        ("[budget]\n\nrestarts = -1\n", ["3: budget.restarts: must be a whole number"]),
        ("[budget]\nrestart = 1\n", ["2: budget.restart: there is no key 'restart' in [budget]; did you mean 'restarts'?"]),
        ("x = 1\n[stops]\nsave_wait_s = 1\n", ["1: x: ", "2: stops: there is no section [stops]; did you mean 'stop'?"]),
        ("budget.restarts = true\n", ["1: budget.restarts: must be a whole number"]),
        ("[stop]\nterm_wait_s = 'long'\nkill_wait_s = nan\n", ["2: stop.term_wait_s: must", "3: stop.kill_wait_s: must"]),
        ("budget = 3\n", ["1: budget: must be a section"]),
        ("[budget\nrestarts = 1\n", ["1: is not TOML: "]),
        ("[budget]\nrestarts = 1\nrestarts = 2\n", ["3: is not TOML: "]),
        ("[budget]\nrestarts = [", ["1: is not TOML: ", "2: is not TOML: "]),
    ],
)  # fmt: skip
def test_every_mistake_is_told_with_its_line(tmp_path, text, complaints):
    """file:line: key: message, one line each."""
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        policyfile.load(path)
    lines = str(caught.value).split("\n")

    assert all(any(line.startswith(f"{path}:{c}") for c in complaints) for line in lines), lines
    assert 2 == caught.value.exit_code


@pytest.mark.parametrize(
    "name, why", [("absent.toml", "No such file"), (".", "is not a file"), ("pipe", "is not a file")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, why):
    """Nothing is guessed in its place, and nothing is waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=why) as caught:
        policyfile.load(tmp_path / name)

    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    """The reason is the system's own word."""
    (tmp_path / "p.toml").touch(mode=0)
    with pytest.raises(UserError, match=r"p\.toml: Permission denied"):
        policyfile.load(tmp_path / "p.toml")
