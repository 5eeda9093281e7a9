"""A rule file is read whole or refused with every complaint at its line."""

import pytest

from guardian.core.exits import Exit, normal
from guardian.core.rulefile import merge, parse
from guardian.core.rules import CLASSES, Seen, filled
from guardian.core.tomltext import line_of
from guardian.host.matching import regex_problem
from guardian.host.userfiles import parse_toml

GOOD = """\
id = "port-taken"
class = "port_in_use"
title = "Port {port} is taken"
role = "cause"
explains = ["network"]
false_friends = "Dashboards."

[match]
any = [
  { log = 'port (?P<port>\\d+) in use' },
  { exit = [98, "SIGABRT"] },
]

[[try]]
when = { steps_done = "> 0" }
restart = true
repeat = 2

[[try]]
restart = true
advise = "Give it {port}."

[[try]]
give_up = "Choose another one than {port}."
"""


def read(text):
    """The rule of a text and its complaints, each as one line."""
    rule, complaints = parse(parse_toml(text, "f.toml"), text, "f.toml", regex_problem)
    return rule, [str(complaint) for complaint in complaints]


def test_a_rule_says_what_it_saw_and_what_to_try():
    """Everything of the file is in the value."""
    rule, complaints = read(GOOD)

    assert [] == complaints
    assert ("port-taken", "port_in_use", "cause", ("network",)) == (rule.id, rule.failure, rule.role, rule.explains)
    assert (r"port (?P<port>\d+) in use",) == rule.patterns
    assert (3, 1) == (rule.retries({"steps_done": 5.0}), rule.retries({"steps_done": 0.0}))
    assert 1 == rule.retries({"steps_done": None}), "an unknown fact makes a condition not true"
    assert "Give it {port}." == rule.advice({"steps_done": 0.0})


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ('role = "cause"', 'role = "reason"', "f.toml:4: role: 'reason' is not known here"),
        ('class = "port_in_use"', 'class = "port_in_us"', "f.toml:2: class: 'port_in_us' is not known here; did you mean 'port_in_use'?"),
        ('["network"]', '["netwrk"]', "f.toml:5: explains: 'netwrk' is not known here; did you mean 'network'?"),
        ("false_friends", "falsefriends", "f.toml:6: falsefriends: there is no such key here; did you mean 'false_friends'?"),
        ('id = "port-taken"', 'id = "Port taken"', "f.toml:1: id: must be lower-case words joined by dashes"),
        ('title = "Port {port} is taken"', "title = 3", "f.toml:3: title: must be a text, not empty"),
        ('title = "Port {port} is taken"\n', "", "f.toml:1: title: is missing"),
        ("(?P<port>\\d+)", "(?P<prt>\\d+)", "f.toml:3: title: no pattern captures {port}; did you mean 'prt'?"),
        ("\\d+)", "\\d+(?=x))", "f.toml:10: match.any[1].log: is not a regular expression of RE2: "),
        ("'port (?P<port>\\d+) in use'", "'x*'", "f.toml:10: match.any[1].log: matches every line"),
        ("'port", "'\\Aport", "f.toml:10: match.any[1].log: \\A and \\z mean the whole text here"),
        ("'port", "'[é]port", "f.toml:10: match.any[1].log: a letter outside ASCII cannot stand in [...]"),
        ("{ log =", "{ lug =", "f.toml:10: match.any[1].lug: there is no such key here; did you mean 'log'?"),
        ('"SIGABRT"', '"SIGABORT"', "f.toml:11: match.any[2].exit: 'SIGABORT' is neither a code from 0 to 255 nor the name of a signal; did you mean 'SIGABRT'?"),
        ("[98,", "[980,", "f.toml:9: match.any[2].exit: 980 is neither a code"),
        ('{ exit = [98, "SIGABRT"] }', "{ exit = 1, log = 'a' }", "f.toml:9: match.any[2]: must hold one condition: log, exit, series, fact or rule"),
        ("any = [", "every = [", "f.toml:9: match.every: there is no such key here"),
        ("steps_done", "step_done", "f.toml:15: try[1].when.step_done: there is no such fact; did you mean 'steps_done'?"),
        ('"> 0"', '"more"', 'f.toml:15: try[1].when.steps_done: must be a comparison, like "> 0", "== cpu" or ">= asked_mib"; or "known"'),
        ("repeat = 2", "repeat = 0", 'f.toml:17: try[1].repeat: must be "once", a number from 1, "until-floor" or "budget"'),
        ("give_up", "giveup", "f.toml:24: try[3].giveup: there is no such key here; did you mean 'give_up'?"),
        ("restart = true\nadvise", "advise", "f.toml:19: try[2]: must either restart or give_up"),
        ("restart = true\nrepeat", "restart = 1\nrepeat", "f.toml:16: try[1].restart: must be true or false"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_the_nearest_name(old, new, complaint):
    """One mistake, named where it stands; and the rule is not used."""
    assert old in GOOD
    rule, complaints = read(GOOD.replace(old, new, 1))

    assert rule is None
    assert [one for one in complaints if one.startswith(complaint)], complaints


def test_every_mistake_of_a_file_is_told_at_once():
    """Nobody has to start five times to find five slips."""
    _, complaints = read(GOOD.replace("cause", "reason").replace("port_in_use", "x").replace("{ log", "{ lag"))

    assert {"role", "class", "match.any[1].lag"} <= {one.split(": ")[1] for one in complaints}


@pytest.mark.parametrize(
    "text, missing",
    [("", {"id", "class", "title", "role", "match", "try"}), ("match = 3\ntry = []", {"match", "try"})],
)
def test_what_a_rule_needs_is_named(text, missing):
    """An empty file is not an empty rule."""
    assert missing <= {one.split(": ")[1] for one in read(text)[1]}


@pytest.mark.parametrize(
    "match, hit, exits, holds",
    [
        ("any = [{ log = 'a' }, { exit = 3 }]", {0}, (), True),
        ("any = [{ log = 'a' }, { exit = 3 }]", set(), (Exit(code=3),), True),
        ("any = [{ log = 'a' }, { exit = 3 }]", set(), (Exit(code=4),), False),
        ("all = [{ log = 'a' }, { exit = 3 }]", {0}, (Exit(code=4),), False),
        ("all = [{ log = 'a' }, { exit = 3 }]", {0}, (Exit(code=4), Exit(code=3)), True),
        ("any = [{ log = 'a' }]\nall = [{ log = 'b' }, { exit = \"SIGKILL\" }]", {0, 1}, (Exit(signal=9),), True),
        ("any = [{ log = 'a' }]\nall = [{ log = 'b' }, { exit = \"SIGKILL\" }]", {1}, (Exit(signal=9),), False),
        ('any = [{ exit = "SIGKILL" }]', set(), (Exit(code=9),), False),
        ("any = [{ exit = 1 }]", set(), (Exit(),), False),
    ],
)  # fmt: skip
def test_conditions_are_joined_by_any_and_all(match, hit, exits, holds):
    """At least one of `any`, and each of `all`."""
    text = f'id = "a"\nclass = "unknown"\ntitle = "t"\nrole = "cause"\n[match]\n{match}\n[[try]]\nrestart = true\n'
    rule, complaints = read(text)

    assert [] == complaints
    assert holds == rule.holds(Seen(frozenset(hit), exits))


@pytest.mark.parametrize(
    "code, signal, meaning",
    [
        (None, 9, Exit(signal=9)),
        (137, None, Exit(signal=9)),
        (-9, None, Exit(signal=9)),
        (247, None, Exit(signal=9)),
        (143, None, Exit(signal=15)),
        (241, None, Exit(signal=15)),
        (254, None, Exit(signal=2)),
        (249, None, Exit(signal=7)),
        (245, None, Exit(signal=11)),
        (139, 0, Exit(signal=11)),
        (255, None, Exit(code=255)),
        (1, None, Exit(code=1)),
        (0, None, Exit(code=0)),
        (127, None, Exit(code=127)),
        (128, None, Exit(code=128)),
        (None, None, Exit()),
    ],
)
def test_a_signal_is_found_in_every_form_of_exit_code(code, signal, meaning):
    """128+N of shells, -N of Python parents, 256-N through swift."""
    assert meaning == normal(code, signal)


def test_a_later_layer_replaces_a_rule_and_the_same_layer_may_not():
    """The user's file wins over ours; two of one id side by side are a mistake."""
    ours, _ = read(GOOD)
    theirs, _ = read(GOOD.replace("Dashboards", "None"))

    assert ((theirs,), ()) == merge([[ours], [theirs]], lambda _: 1)
    assert ["f.toml:7: id: 'port-taken' is used in f.toml too"] == [
        str(c) for c in merge([[ours, theirs]], lambda _: 7)[1]
    ]


def test_a_field_that_nothing_captured_prints_as_unknown():
    """A text never shows braces to the user."""
    assert "port 80 of an unknown amount" == filled("port {port} of {host}", {"port": "80"})


def test_a_line_is_found_for_every_kind_of_key():
    """Tables, tables of arrays, dotted keys, values inside an array."""
    text = "a = 1\n[b]\nc.d = 2\n'e' = 3\n[[t]]\nx = 1\n[[t]]\nx = [\n 'one',\n 'two',\n]\n"
    paths = [("a",), ("b",), ("b", "c", "d"), ("b", "e"), ("t", 0, "x"), ("t", 1, "x"), ("nowhere",), ("t", 1, "y")]

    assert [1, 2, 3, 4, 6, 8, 1, 7] == [line_of(text, path) for path in paths]
    assert 10 == line_of(text, ("t", 1, "x"), "two")
    assert 2 == line_of("x = 1\nb.c = 2\n", ("b",)), "a table that is only written dotted"


def test_the_vocabulary_is_sorted_and_stands_once():
    """Other programs read these words."""
    assert sorted(set(CLASSES)) == list(CLASSES)
