"""guardian rules: what is listed, shown and found wrong."""

import json

import pytest

from guardian.core.facts import FACTS
from guardian.core.mutating import mutants
from tests.cli.calling import complaint, guardian

RULE = """\
id = "{id}"
class = "hang_no_output"
title = "It waits"
role = "cause"
[match]
any = [{{ log = '{pattern}' }}]
[[try]]
restart = true
"""
SAMPLES = """\
# source made up; any; match
waited for ever, at last
# source made up; any; no-match because it came
waited for a minute
"""


@pytest.fixture
def called(tmp_path):
    """guardian rules with these words: its exit code and what it wrote."""

    def call(*words):
        return guardian("rules", *words, cwd=tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path / "config")})

    return call


@pytest.fixture
def written(tmp_path):
    """A folder with a rule and its samples."""

    def write(pattern="waited for ever", samples=SAMPLES, name="waits"):
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.toml").write_text(RULE.format(id=name, pattern=pattern))
        if samples:
            (folder / f"{name}.samples").write_text(samples)
        return str(folder)

    return write


def findings(done):
    """(kind, rule, line) of each mistake in the JSON."""
    return [
        (one["kind"], one["rule"], one["line"]) for one in json.loads(done.stdout)["findings"] if one["kind"] != "blunt"
    ]


def test_every_rule_in_force_is_listed(called, written):
    """The user's own among them."""
    rows = json.loads(called("list", "--rules", written(), "--json").stdout)["rules"]

    assert {"cuda-oom", "host-oom", "shm-bus-error", "nan-loss", "waits"} <= {row["id"] for row in rows}
    assert {"id", "class", "role", "title", "source"} == set(rows[0])
    assert "cuda_oom" in called("list").stdout


def test_a_rule_of_ones_own_takes_the_place_of_the_one_with_its_id(called, tmp_path):
    """And is shown as it is written."""
    own = tmp_path / "config" / "guardian" / "rules"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text(RULE.format(id="cuda-oom", pattern="boom"))
    shown = called("show", "cuda-oom")

    assert shown.stdout.startswith(f"# {own}/mine.toml\n")
    assert "log = 'boom'" in shown.stdout
    assert ["boom"] == json.loads(called("show", "cuda-oom", "--json").stdout)["patterns"]


def test_what_is_not_there_is_named(called):
    """With the nearest name, or what is missing."""
    assert complaint(called("show", "cuda-om"), 2) == "there is no rule 'cuda-om'; did you mean 'cuda-oom'?"
    assert complaint(called("show"), 2) == "rules show: name a rule; guardian rules list has them"
    assert complaint(called("list", "x"), 2) == "rules list takes nothing more: x"
    assert "invalid choice: 'lst'" in complaint(called("lst"), 2)
    assert "is not a folder with rules" in complaint(called("test", "nowhere"), 2)


def test_the_facts_are_those_of_the_table(called):
    """For programs and for people."""
    assert list(FACTS) == [row["name"] for row in json.loads(called("facts", "--json").stdout)["facts"]]
    assert "oom_kills (kills): processes that the kernel killed" in called("facts").stdout


def test_a_rule_that_does_what_its_samples_say_passes(called, written):
    """Exit 0, and a summary."""
    done = called("test", written())

    assert (0, True) == (done.returncode, done.stdout.startswith("1 rules tested: no mistake")), done.stdout


@pytest.mark.parametrize(
    "pattern, samples, found",
    [
        ("waited for good", SAMPLES, [("missed", "waits", 1), ("unused", "waits", None)]),
        ("waited for", SAMPLES, [("noisy", "waits", 3)]),
        ("waited for ever", None, [("missing", "waits", None)]),
        ("waited for ever", "".join(SAMPLES.splitlines(keepends=True)[:2]), [("missing", "waits", None)]),
        ("waited for ever", "what is this\n", [("unreadable", "waits", None)]),
        ("waited for ever", SAMPLES.replace("any; match", "any; match as odd"), [("ambiguous", "waits", 1)]),
        ("waited for ever", SAMPLES.replace("waited for ever", "RuntimeError: CUDA out of memory. Tried to allocate 2 GiB\nwaited for ever"), [("ambiguous", "waits", 1)]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_rule_or_its_samples_is_named(called, written, pattern, samples, found):
    """Missed, noisy, unused, ambiguous, and samples that are not there; exit 1."""
    done = called("test", written(pattern, samples), "--json")

    assert 1 == done.returncode
    assert sorted(found, key=str) == sorted(findings(done), key=str)


def test_a_part_of_a_pattern_that_no_sample_needs_is_told_when_asked(called, written):
    """It is advice: the exit code is 0."""
    folder = written("waited for (?:ever|good)")

    assert "good is shown by no sample to be needed" not in called("test", folder).stdout
    done = called("test", folder, "--blunt")
    assert (0, True) == (done.returncode, "|good is shown by no sample to be needed" in done.stdout), done.stdout


def test_a_rule_file_that_is_wrong_is_told_as_everywhere(called, written):
    """Exit 2, with its line."""
    assert ":6: match.any[1].log: is not a regular expression" in complaint(called("test", written("(")), 2)


@pytest.mark.parametrize(
    "pattern, left_out",
    [
        ("ab cd", []),
        ("ab cd.", ["ab cd", "."]),
        (r"a\.b+", ["a", r"\.", "b+"]),
        (r"x[a-z\]]*y", ["x", r"[a-z\]]*", "y"]),
        ("(?P<n>a|bc)?d", ["a", "bc", "a|", "|bc", "(?P<n>a|bc)?", "d"]),
        (r"(?i)\bab", [r"\b", "ab"]),
        (r"\d{2,3}a", [r"\d{2,3}", "a"]),
        ("a(b(c))", ["a", "b", "c", "(c)", "(b(c))"]),
        ("abc?", ["ab", "c?"]),
    ],
)
def test_each_part_of_a_pattern_is_left_out_once(pattern, left_out):
    """Letters in a row, classes, groups and alternatives, with what repeats them."""
    assert sorted(left_out) == sorted(part for part, _ in mutants(pattern))
    assert all(len(pattern) == len(part) + len(rest) for part, rest in mutants(pattern))
