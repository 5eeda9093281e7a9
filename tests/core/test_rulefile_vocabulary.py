"""The whole vocabulary of a rule file: each word becomes its value, and each slip is told at its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core import rungs
from guardian.core.exits import Exit
from guardian.core.facts import FACTS, TEXT
from guardian.core.job import SETTABLE
from guardian.core.rulefile import merge, parse
from guardian.core.rules import FactIs, Group, Log, RuleIs, Seen
from guardian.core.rungs import Comparison, Operation, Wait, When
from guardian.core.windows import Series
from guardian.host.matching import regex_problem
from guardian.host.userfiles import parse_toml

FULL = r"""
id = "full"
class = "cuda_oom"
title = "{asked_mib} MiB on {device}"
role = "cause"
[match]
any = [
  { log = 'asked (?P<asked_mib>[\d.]+ [MG]iB)' },
  { all = [{ log = 'two' }, { exit = 1 }] },
  { series = "grad_norm", is = "nan", times = 3 },
]
all = [{ fact = "world_size >= 1" }, { any = [{ rule = "other" }, { log = 'three' }] }]
unless = [{ log = 'skipped' }]
capture = ['(?P<idle_mib>[\d.]+ [MG]iB) idle', 'who (?P<who>\w+)']
confirm = "stall"
settle = "90 s"
within = "10 min"
[[variant]]
name = "idle"
when = { idle_mib = ">= asked_mib", who = "known" }
title = "Idle {idle_mib}"
[[variant.try]]
env = { PYTORCH_CUDA_ALLOC_CONF = "+expandable_segments:True" }
[[variant]]
name = "other"
[[try]]
when = [{ device = "== cpu" }, { workers = "> 0" }]
set = { device_batch = "halve", accumulation = "keep-effective-batch", pin_memory = false, learning_rate = "x 0.5" }
repeat = "until-floor"
[[try]]
wait = { until = "disk_free_mib > 1024", at_most = "10 min" }
resume = "before:first_bad_step"
save_first = true
collect = ["stacks"]
limits = { nofile = "hard" }
repeat = "budget"
[[try]]
give_up = "It needs {asked_mib} MiB."
"""


def line_of(text):
    """Where a text stands in FULL, from 1."""
    return FULL[: FULL.index(text)].count("\n") + 1


def read(text):
    """The rule of a text and its complaints, each as one line."""
    rule, complaints = parse(parse_toml(text, "f"), text, "f", regex_problem)
    return rule, [str(complaint) for complaint in complaints]


RULE = read(FULL)[0]


def test_conditions_of_every_kind_are_read_and_nest_once():
    """Patterns are numbered in the order of the file, those that only capture at the end."""
    assert [] == read(FULL)[1]
    assert Group(all=(Log("two"), RULE.any[1].all[1])) == RULE.any[1]
    assert Series("grad_norm", "nan", 3) == RULE.any[2]
    assert FactIs(Comparison("world_size", ">=", 1.0)) == RULE.all[0]
    assert Group(any=(RuleIs("other"), Log("three"))) == RULE.all[1]
    assert ["asked", "two", "three", "skipped"] == [pattern.split()[0] for pattern in RULE.patterns[:4]]
    assert (frozenset({0, 1, 2}), 6) == (RULE.speaking, len(RULE.patterns))
    assert ("stall", 90.0, 600.0) == (RULE.confirm, RULE.settle_s, RULE.within_s)


def test_rungs_say_what_is_changed_waited_for_and_resumed_from():
    """Every key of a rung is in its value."""
    first, second, last = RULE.ladder

    assert When(((Comparison("device", "==", "cpu"),), (Comparison("workers", ">", 0.0),))) == first.when
    assert (
        ("device_batch", Operation("halve")),
        ("accumulation", Operation("keep-effective-batch")),
        ("pin_memory", Operation("literal", False)),
        ("learning_rate", Operation("times", 0.5)),
    ) == first.set
    assert (True, "until-floor", True) == (first.restart, first.repeat, first.edits)
    assert Wait(600.0, Comparison("disk_free_mib", ">", 1024.0)) == second.wait
    assert ("before:first_bad_step", True, ("stacks",)) == (second.resume, second.save_first, second.collect)
    assert ((("nofile", "hard"),), None) == (second.limits, second.repeat)
    assert (False, "It needs {asked_mib} MiB.") == (last.restart, last.give_up)


def test_a_variant_is_taken_by_facts_and_falls_through_to_the_rules_ladder():
    """What is unknown takes no variant; one without conditions takes the rest."""
    idle, other = RULE.variants

    assert idle == RULE.variant({"idle_mib": 5.0, "asked_mib": 5.0, "who": "x"})
    assert other == RULE.variant({"idle_mib": 5.0, "asked_mib": 5.0})
    assert other == RULE.variant({"idle_mib": 4.0, "asked_mib": 5.0, "who": "x"})
    assert (*idle.ladder, *RULE.ladder) == RULE.ladder_of("idle")
    assert RULE.ladder == RULE.ladder_of("other") == RULE.ladder_of(None)


@pytest.mark.parametrize(
    "patterns, exits, facts, rules, answer",
    [
        ({0, 2}, (), {"world_size": 1.0}, (), True),
        ({0}, (), {"world_size": 1.0}, {"other"}, True),
        ({0}, (), {"world_size": 1.0}, (), False),
        ({0, 2}, (), {"world_size": 0.0}, (), False),
        ({0, 2}, (), {}, (), None),
        ({2}, (), {}, (), False),
        ({1, 2}, (Exit(code=1),), {"world_size": 1.0}, (), True),
        ({1, 2}, (Exit(code=2),), {"world_size": 1.0}, (), False),
        ({0, 2, 3}, (), {"world_size": 1.0}, (), False),
        ({4, 5, 2}, (), {"world_size": 1.0}, (), False),
    ],
)
def test_a_rule_is_true_false_or_hangs_on_what_is_unknown(patterns, exits, facts, rules, answer):
    """`unless` takes it back, captures say nothing, an unknown fact decides only where all else is true."""
    seen = Seen(frozenset(patterns), exits, facts, (), frozenset(rules))

    assert answer is RULE.answer(seen)
    assert (answer is True) == RULE.holds(seen)
    assert ("world_size",) == RULE.unknown({})


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ('series = "grad_norm"', 'series = "grad"', "match.any[3].series: 'grad' is not known here; did you mean 'grad_norm'?"),
        ('is = "nan"', 'is = "none"', "match.any[3].is: 'none' is not known here; did you mean 'nan'?"),
        ("times = 3", "times = 0", "match.any[3].times: must be a number from 1"),
        ("{ exit = 1 }]", "{ any = [] }]", "match.any[2].all[2].any: there is no such key here"),
        ("world_size >= 1", "world_sise >= 1", "match.all[1].fact: there is no such fact; did you mean 'world_size'?"),
        ("world_size >= 1", "world_size", 'match.all[1].fact: must compare a fact: "disk_free_mib > 1024"'),
        ("world_size >= 1", "world_size >= one", "match.all[1].fact: 'one' is neither a number nor a fact"),
        ("world_size >= 1", "world_size == one", "match.all[1].fact: world_size is a number, and one is not"),
        ("world_size >= 1", "device > prefetch", "match.all[1].fact: device is a text, and prefetch is not"),
        ('"== cpu"', '"> phase"', "try[1].when.device: device is a text: compare it by == or !="),
        ("who (?P<who>", "who (?:", "match.capture: captures nothing: (?P<name>...)"),
        ('"stall"', '"later"', "match.confirm: 'later' is not known here; known: exit, line, stall"),
        ('"stall"', '"line"', 'match.settle: is for confirm = "stall" alone'),
        ('"90 s"', "90", 'match.settle: must be a time with its unit, like "30 s" or "10 min"'),
        ('{ series = "grad_norm", is = "nan", times = 3 }', "{ log = 'x' }", "match.within: is for series conditions alone"),
        ('name = "other"', 'name = "idle"', "variant[2].name: 'idle' is used twice; `when` may be a list"),
        ('name = "idle"', 'name = "Idle"', "variant[1].name: must be lower-case words joined by underscores"),
        ('when = { idle_mib = ">= asked_mib", who = "known" }\n', "", "variant[2]: can never be taken: the variant 'idle' before it has no `when`"),
        (">= asked_mib", ">= askd_mib", "variant[1].when.idle_mib: 'askd_mib' is neither a number nor a fact; did you mean 'asked_mib'?"),
        ("Idle {idle_mib}", "Idle {idel_mib}", "variant[1].title: no pattern captures {idel_mib}; did you mean 'idle_mib'?"),
        ("env = { PYTORCH_CUDA_ALLOC_CONF", "env = { LD_PRELOAD", "variant[1].try[1].env.LD_PRELOAD: is no variable that a rule may set"),
        ('"+expandable_segments:True"', '"+"', "variant[1].try[1].env.PYTORCH_CUDA_ALLOC_CONF: must be a text of one line"),
        ('set = { device_batch = "halve"', 'set = { device_bach = "halve"', "try[1].set.device_bach: is no knob that a rule may set; did you mean 'device_batch'?"),
        ('set = { device_batch = "halve"', 'set = { output_dir = "x"', "try[1].set.output_dir: is no knob that a rule may set"),
        ('set = { device_batch = "halve"', 'set = { device_batch = "fit-shm"', "try[1].set.device_batch: 'fit-shm' is for workers alone"),
        ('set = { device_batch = "halve"', 'set = { device_batch = "half"', "try[1].set.device_batch: 'half' is neither a whole number from 0 nor an operation"),
        ("pin_memory = false", 'pin_memory = "halve"', "try[1].set.pin_memory: 'halve' is for numbers, and pin_memory is true or false"),
        ("pin_memory = false", "pin_memory = 0", "try[1].set.pin_memory: 0 is neither true or false nor an operation"),
        ('at_most = "10 min"', 'atmost = "10 min"', "try[2].wait.at_most: is missing: every wait has an end"),
        ("disk_free_mib > 1024", "free > 1024", "try[2].wait.until: there is no such fact"),
        ("before:first_bad_step", "before:first_bad", "try[2].resume: there is no such fact: 'first_bad'; did you mean 'first_bad_step'?"),
        ("before:first_bad_step", "newer", "try[2].resume: 'newer' is not known here; did you mean 'newest'?"),
        ('["stacks"]', '["stack"]', "try[2].collect: 'stack' is not known here; did you mean 'stacks'?"),
        ('nofile = "hard"', 'nofiles = "hard"', "try[2].limits.nofiles: is no limit that a rule may raise; did you mean 'nofile'?"),
        ('nofile = "hard"', "nofile = 4096", 'try[2].limits.nofile: must be "hard": as high as it may go'),
        ("save_first = true", 'save_first = "yes"', "try[2].save_first: must be true or false"),
        ("give_up =", "restart = true\ngive_up =", "try[3]: must either restart or give_up"),
        ('give_up = "It', 'repeat = "until-floor"\ngive_up = "It', 'try[3].repeat: "until-floor" is for a rung that sets something'),
    ],
)  # fmt: skip
def test_a_slip_is_told_with_its_line_and_the_nearest_name(old, new, complaint):
    """One slip, one place; and the rule is not used."""
    assert FULL.count(old) >= 1
    rule, complaints = read(FULL.replace(old, new, 1))

    assert rule is None
    (told,) = [one for one in complaints if one.split(": ", 1)[1].startswith(complaint)] or [str(complaints)]
    # Of a list that is written over several lines the line of its beginning may be told.
    places = {line_of(old), line_of("any = [")} if "match.any" in complaint else {line_of(old)}
    places |= {line_of("within")} if "match.within" in complaint else set()
    places |= {line_of('[[variant]]\nname = "other"') - 1} if "variant[2]:" in complaint else set()
    places |= {line_of("settle"), line_of("[[try]]\ngive_up")}
    assert int(told.split(":")[1]) in places


def test_the_line_of_a_key_in_an_inner_table_is_its_own():
    """[[variant.try]] belongs to the variant above it."""
    text = FULL.replace('name = "other"', 'name = "other"\n[[variant.try]]\nenv = { PATH = "x" }')
    (told,) = read(text)[1]

    assert told.startswith(f"f:{text[: text.index('PATH')].count(chr(10)) + 1}: variant[2].try[1].env.PATH: ")


def test_a_folder_is_only_ever_one_of_the_run():
    """A rule file says no path."""
    text = FULL.replace('name = "other"', 'name = "other"\n[[variant.try]]\nenv = { TORCH_EXTENSIONS_DIR = "/tmp" }')
    (told,) = read(text)[1]

    assert 'must be "own": a folder of the run' in told
    assert read(text.replace("/tmp", "own"))[1] == []


def test_rules_that_ask_for_rules_are_held_together_by_the_loader():
    """A name that no rule has, and a ring, are complaints."""

    def rule(name, asked):
        match = f'{{ rule = "{asked}" }}' if asked else "{ log = 'x' }"
        text = f'id = "{name}"\nclass = "unknown"\ntitle = "t"\nrole = "cause"\n[match]\nany = [{match}]\n[[try]]\nrestart = true\n'
        return read(text)[0]

    def told(*rules):
        return [complaint.message for complaint in merge([rules], lambda _: 1)[1]]

    assert [] == told(rule("a", "b"), rule("b", None))
    assert ["there is no rule 'bb'; did you mean 'b'?"] == told(rule("a", "bb"), rule("b", None))
    assert ["'a' asks for itself", "'b' asks for itself"] == told(rule("a", "b"), rule("b", "a"))


@pytest.mark.parametrize(
    "written, meant",
    [
        ("halve", Operation("halve")),
        ("x 2", Operation("times", 2)),
        ("x0.1", Operation("times", 0.1)),
        ("at-least 4", Operation("at-least", 4)),
        ("at-least 0.05", Operation("at-least", 0.05)),
        ("keep-effective-batch", Operation("keep-effective-batch")),
        ("fit-shm", Operation("fit-shm")),
        ("lower-or-safe", Operation("lower-or-safe")),
        ("ten-starts", Operation("ten-starts")),
        ("bf16", Operation("literal", "bf16")),
        (True, Operation("literal", True)),
        (1, Operation("literal", 1)),
        (1e-5, Operation("literal", 1e-5)),
        ([1], None),
        ("", None),
    ],
)
def test_an_operation_is_read_from_how_it_is_written(written, meant):
    """What is no operation is the value itself."""
    assert meant == rungs.operation(written)
    assert meant is None or type(meant.value) is type(rungs.operation(written).value)


def test_the_lists_of_knobs_and_variables_are_closed():
    """Every settable knob has a kind; no variable names a file, a program or a library."""
    assert SETTABLE == rungs.KNOB_KINDS.keys()
    assert set(rungs.NAMED_OPERATIONS.values()) <= SETTABLE
    assert not {"LD_PRELOAD", "PYTHONPATH", "PATH", "NCCL_NET_PLUGIN", "LD_LIBRARY_PATH"} & rungs.VARIABLES
    assert not [name for name in rungs.VARIABLES if name.endswith(("_PATH", "_DIR", "_FILE", "_PLUGIN", "_HOME"))]


VALUES = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["cpu", "cuda", "3"])


@given(VALUES, VALUES, st.sampled_from(rungs.OPERATORS))
def test_a_comparison_is_true_false_or_unknown_and_never_both(left, right, operator):
    """Each operator says the opposite of its counterpart, where both sides are known numbers; else != is not ==."""
    facts = {"a": left, "b": right}
    answer = Comparison("a", operator, "b", other=True).answer(facts)
    opposite = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}[operator]
    contrary = Comparison("a", opposite, "b", other=True).answer(facts)

    assert (answer is None) == (left is None or right is None)
    numbers = all(isinstance(value, float) or value == "3" for value in (left, right))
    if answer is not None and (numbers or operator in ("==", "!=")):
        assert answer is not contrary


def test_every_fact_may_be_compared_by_its_kind():
    """A fact in the table is known to the reader of rules."""
    for name, fact in FACTS.items():
        test = "== x" if fact.unit == TEXT else "> 0"
        _, complaints = read(FULL.replace("world_size >= 1", f"{name} {test}"))
        assert [] == complaints
