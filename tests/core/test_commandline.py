"""Whatever a command line holds, reading changes nothing and an edit changes one thing."""

import argparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardian.core import commandline

NAMES = ("learning_rate", "output_dir", "dataset")
WORDS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["-", "--", "-1", "-0.5", "-v", "a=b", "--a b", "x y", "", "-1e-4", "=", "--=", "--learning_rate"]),
)
PLAIN = st.sampled_from(["1", "-1", "-.5", "a=b", "--x y", "-", "", "ü"])
SPELLINGS = st.sampled_from(NAMES).flatmap(lambda n: st.sampled_from([n, n.replace("_", "-")]))
OPTIONS = st.one_of(
    SPELLINGS.map(lambda n: (f"--{n}",)),
    st.tuples(SPELLINGS, WORDS).map(lambda p: (f"--{p[0]}={p[1]}",)),
    st.tuples(SPELLINGS, WORDS).map(lambda p: (f"--{p[0]}", p[1])),
    st.lists(WORDS, max_size=3).map(tuple),
)
ARGVS = st.lists(OPTIONS, max_size=6).map(lambda parts: tuple(token for part in parts for token in part))


@settings(derandomize=True, max_examples=300)
@given(ARGVS, st.sampled_from(NAMES), WORDS)
def test_what_is_set_is_what_is_read(argv, name, new):
    """Any value survives, also one that looks like an option or is empty."""
    assert new == commandline.value(commandline.set_value(argv, new, name), name)


@settings(derandomize=True, max_examples=300)
@given(ARGVS, st.sampled_from(NAMES), WORDS)
def test_setting_a_value_touches_the_last_occurrence_alone(argv, name, new):
    """Before and after the edited option every token stands as it did."""
    found = commandline.occurrences(argv, name)
    after = commandline.set_value(argv, new, name)
    at, end = (found[-1].at, found[-1].end) if found else (len(argv), len(argv))
    if not found and "--" in argv:
        at = end = argv.index("--")

    assert argv[:at] == after[:at]
    assert argv[end:] == after[len(after) - len(argv) + end :]
    assert len(after) - len(argv) in ((-1, 0, 1) if found else (1, 2))


@settings(derandomize=True, max_examples=300)
@given(ARGVS, st.sampled_from(NAMES))
def test_setting_the_value_that_is_there_changes_nothing(argv, name):
    """The round trip of any command line."""
    now = commandline.value(argv, name)
    if now is not None:
        assert argv == commandline.set_value(argv, now, name)


@settings(derandomize=True, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(NAMES), PLAIN, st.booleans()), max_size=6), st.sampled_from(NAMES))
def test_removing_an_option_removes_nothing_else(options, name):
    """Every other option stands as it did, in order and spelling."""
    spelled = [(n, (f"--{n}={v}",) if inline else (f"--{n}", v)) for n, v, inline in options]
    argv = tuple(token for _, tokens in spelled for token in tokens)
    kept = tuple(token for n, tokens in spelled if n != name for token in tokens)

    assert kept == commandline.remove(argv, name)


@settings(derandomize=True, max_examples=300)
@given(ARGVS, st.sampled_from(NAMES))
def test_removing_an_option_leaves_the_rest_in_order(argv, name):
    """Also in a command line that no parser would take: what is left is a part of what was there."""
    after = commandline.remove(argv, name)
    walk = iter(argv)

    assert all(token in walk for token in after)
    assert not commandline.given(after, name)


@settings(derandomize=True, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES[:2]), st.sampled_from(["1", "-1", "-.5", "a=b", "--x y", "-", "", "ü"]), st.booleans()
        )
    )
)
def test_values_are_read_as_argparse_reads_them(pairs):
    """The parser that the frameworks use is the judge."""
    parser = argparse.ArgumentParser()
    for name in NAMES[:2]:
        parser.add_argument(f"--{name}")
    argv = tuple(t for name, text, inline in pairs for t in ([f"--{name}={text}"] if inline else [f"--{name}", text]))

    assert vars(parser.parse_args(argv)) == {name: commandline.value(argv, name) for name in NAMES[:2]}


@pytest.mark.parametrize(
    "before, after",
    [
        ("--lr 1 --x 2", "--lr 9 --x 2"),
        ("--lr=1 --x", "--lr=9 --x"),
        ("--lr 1 --x --lr 2", "--lr 1 --x --lr 9"),
        ("--x", "--x --lr 9"),
        ("--x -- --lr 1", "--x --lr 9 -- --lr 1"),
        ("--lr --x", "--lr 9 --x"),
        ("a --lr 1 b", "a --lr 9 b"),
    ],
)
def test_an_edit_lands_where_the_parser_will_find_it(before, after):
    """The last one wins, in its own spelling; a new one goes before the end of the options."""
    assert tuple(after.split()) == commandline.set_value(tuple(before.split()), "9", "lr")


def test_a_name_is_found_in_either_spelling():
    """`--save-steps` and `--save_steps` are one option, and an edit keeps the one that stands there."""
    assert ("--save-steps", "7") == commandline.set_value(("--save-steps", "5"), "7", "save_steps")


def test_a_list_is_read_whole():
    """Options with several values are not cut to the first."""
    assert ("a.jsonl", "b.jsonl#5") == commandline.values(("--dataset", "a.jsonl", "b.jsonl#5", "--x"), "dataset")


def test_a_value_that_looks_like_an_option_is_joined_to_its_name():
    """Otherwise argparse would take it for the next option."""
    assert ("--system=--be brief",) != commandline.set_value((), "--be", "system") == ("--system=--be",)
