"""Hits are the lines that the patterns match, with their own numbers, whatever the log looks like."""

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardian.core.rulefile import parse
from guardian.core.rules import PROGRESS
from guardian.errors import UserError
from guardian.host import matching, rulebook
from guardian.host.matching import Matcher, regex_problem
from guardian.host.userfiles import parse_toml

STEP = b"{'loss': '2.0', 'grad_norm': '1.0'}\n"


def rule_of(*patterns, name="a"):
    """A rule that any of the patterns makes true."""
    conditions = ", ".join(f"{{ log = '{pattern}' }}" for pattern in patterns)
    text = f'id = "{name}"\nclass = "unknown"\ntitle = "t"\nrole = "cause"\n[match]\nany = [{conditions}]\n[[try]]\nrestart = true\n'
    rule, complaints = parse(parse_toml(text, "f"), text, "f", regex_problem)
    assert not complaints
    return rule


def scan(patterns, block, line=1, offset=0):
    """(number, text) of each hit."""
    return [(hit.line, hit.text) for hit in Matcher((rule_of(*patterns),)).scan(block, line, offset)]


def test_a_hit_carries_its_place_and_its_captures():
    """Rule, number of the pattern, offset and number of the line, and what the named groups caught."""
    matcher = Matcher((rule_of("nothing", r"port (?P<port>\d+)( of (?P<host>\w+))?"), rule_of("zzz", name="b")))
    hits = matcher.scan(b"one\ntwo\n  port 80 \xff taken  \nend\n", 11, 1000)

    assert [("a", 1, 1008, 13, "port 80 � taken", (("port", "80"),))] == [
        (h.rule, h.pattern, h.offset, h.line, h.text, h.captures) for h in hits
    ]


def test_the_parts_of_a_progress_bar_share_their_lines_number():
    """Carriage returns part lines for matching; numbers count line feeds, as grep -n does."""
    assert [(3, "boom"), (3, "boom b"), (4, "boom")] == scan(["boom"], b"x\n\n 1%\rboom\r 2%\rboom b\nboom\r\n")


def test_the_ends_of_a_line_are_its_own():
    """^ and $ hold at both ends of every part; nothing reaches into the next line."""
    assert [(2, "ab"), (3, "ab")] == scan(["^ab$"], b"xab\nab\r\nab\nab y")
    assert [] == scan([r"a\s*b", r"a[^x]b", "a.b"], b"a\nb a\rb")


def test_broken_characters_are_characters():
    """A log is bytes: what is no UTF-8 is matched by a dot, and words of any script are found."""
    assert [(1, "a�b")] == scan(["a.b"], b"a\xffb\n")
    assert [(1, "错误 7")] == scan([r"错误 \d"], "错误 7\n".encode())


def test_a_very_long_line_is_looked_at_in_part_and_kept_in_part():
    """64 KiB are matched, 2000 bytes around the match are kept."""
    long = b"x" * 60_000 + b"boom" + b"y" * 60_000
    [(number, text)] = scan(["boom"], b"\n" + long + b"\n")

    assert 2 == number
    assert "boom" in text
    assert matching.MAX_TEXT == len(text)
    assert [] == scan(["boom"], b"x" * 70_000 + b"boom\n")


def test_a_hit_is_found_across_all_the_parts_of_a_large_block():
    """Blocks are gone through in parts; every line counts."""
    block = b"".join(b"line %d\n" % n for n in range(40_000))

    assert [(20_001, "line 20000"), (40_000, "line 39999")] == scan(["line 20000$", "line 39999$"], block)


@settings(derandomize=True, max_examples=150)
@given(st.lists(st.sampled_from([b"a", b"b", b"ab", b"\n", b"\r", b"x\n", b"^", b"\xc3", b" "]), max_size=40))
def test_the_prefilter_loses_nothing(parts):
    """Against Python's own engine, line by line."""
    block = b"".join(parts)
    wanted = []
    for number, line in enumerate(block.split(b"\n"), 1):
        wanted += [number for part in line.split(b"\r") for p in (rb"^a+b", rb"b$", rb"a b") if re.search(p, part)]

    assert wanted == [hit.line for hit in Matcher((rule_of("^a+b", "b$", "a b"),)).scan(block, 1, 0)]


def test_many_hits_of_a_pattern_are_told_in_part():
    """The first at once, the last when the log is at its end, none of those between; a new log begins anew."""
    matcher = Matcher((rule_of("boom"), rule_of("rare", name="b")))
    at_once = matcher.scan(b"boom\n" * 100 + b"rare\n", 1, 0)

    assert [*range(1, 26), 101] == [hit.line for hit in at_once]
    assert [*range(76, 101)] == [hit.line for hit in matcher.rest()]
    assert [] == matcher.rest()
    assert 25 == len(matcher.scan(b"boom\n" * 30, 1, 0))


def test_two_logged_steps_after_a_hit_say_that_it_was_survived():
    """One may come late from another rank; bars are drawn once more at a process's death; it is said once."""
    matcher = Matcher((rule_of("boom"),))
    late = b"boom\n" + STEP + b"Train: 1%| | 3/9 [00:01<00:02]\r" * 5
    on = STEP + STEP + b"boom\n" + STEP

    assert ["a"] == [hit.rule for hit in matcher.scan(late, 1, 0)]
    assert [(PROGRESS, 2), ("a", 4)] == [(h.rule, h.line) for h in matcher.scan(b"\n" + on, 1, len(late))]


def test_a_log_of_steps_alone_says_nothing():
    """Hours of training leave no record here."""
    assert [] == Matcher((rule_of("boom"),)).scan(STEP * 1000, 1, 0)


def test_a_survived_hit_is_not_told_at_the_end():
    """Of a thousand errors that were caught, the last ones are no news."""
    matcher = Matcher((rule_of("boom"),))
    matcher.scan(b"boom\n" * 100 + STEP * 2, 1, 0)

    assert [] == matcher.rest()


@pytest.mark.parametrize("pattern", ["(a+)+$", "(x+x+)+y", ".*.*.*=.*"])
def test_no_pattern_takes_more_than_linear_time(pattern):
    """What hangs a backtracking engine for hours returns here."""
    assert scan([pattern], b"a" * 50_000 + b"!\n" + b"x" * 50_000 + b"\n") == []


@pytest.mark.parametrize("pattern", ["(?=a)", r"(a)\1", "[", "(?P<a", "a{2000}", "a)(b"])
def test_a_pattern_outside_the_dialect_is_refused_with_a_reason(pattern):
    """Without a word on stderr, and without an exception."""
    assert regex_problem(pattern).startswith("is not a regular expression of RE2: ")


@pytest.mark.parametrize("pattern", ["", "x*", "^", "a|"])
def test_a_pattern_that_matches_every_line_is_refused(pattern):
    """It would tell nothing."""
    assert "matches every line" == regex_problem(pattern)


def test_rules_of_a_folder_replace_those_of_the_package(tmp_path, monkeypatch):
    """--rules wins over the user's own, and both over the package's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    plain = 'id = "segfault"\nclass = "segfault"\ntitle = "%s"\nrole = "cause"\n[match]\nany = [{ exit = 9 }]\n[[try]]\nrestart = true\n'
    for folder, title in ((tmp_path / "xdg/guardian/rules/x", "own"), (tmp_path / "given", "given")):
        folder.mkdir(parents=True)
        (folder / "s.toml").write_text(plain % title)

    def title(folder):
        return next(rule.title for rule in rulebook.load(folder) if rule.id == "segfault")

    assert ("own", "given") == (title(None), title(tmp_path / "given"))


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda f: (f / "a.toml").write_text("x = ["), "a.toml:1: is not TOML: "),
        (lambda f: (f / "a.toml").write_text("id = 3"), "a.toml:1: id: must be a text"),
        (lambda f: (f / "a.toml").write_bytes(b"a = 1\nb = '\xff'"), "a.toml:2: is not UTF-8"),
        (lambda f: (f / "a.toml").write_text("#" * (2 << 20)), "is larger than 1 MiB"),
        (lambda f: (f / "a.toml").touch() or (f / "a.toml").chmod(0o666), "others may write it"),
        (lambda f: f.chmod(0o777), "others may write it"),
        (lambda f: os.mkfifo(f / "a.toml"), "is not a file"),
        (lambda f: f.rmdir(), "is not a folder with rules"),
    ],
)
def test_a_rule_file_that_cannot_be_trusted_or_read_is_refused(tmp_path, spoil, complaint):
    """One line with the file's name, before anything runs."""
    folder = tmp_path / "rules"
    folder.mkdir(mode=0o755)
    spoil(folder)

    with pytest.raises(UserError, match=re.escape(complaint)):
        rulebook.load(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_rule_file_of_another_user_is_refused(tmp_path):
    """Whoever owns it decides what happens to the job."""
    (tmp_path / "a.toml").touch()
    os.chown(tmp_path / "a.toml", 1234, -1)

    with pytest.raises(UserError, match="belongs to another user"):
        rulebook.load(tmp_path)
