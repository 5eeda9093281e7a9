"""What may be acted on while the job still lives, and what may not."""

from dataclasses import replace

from guardian.core import events as ev
from guardian.core.judging import captures, held
from guardian.core.rulefile import parse
from guardian.core.rules import PROGRESS
from guardian.core.suspecting import suspect
from guardian.core.trail import Trail
from guardian.host.matching import regex_problem
from guardian.host.userfiles import parse_toml
from tests.core.attempts import attempt, hit, run


def rule(name="stuck", match="any = [{ log = 'x' }]", confirm="stall", title="t"):
    """A rule that need not wait for the end."""
    text = f'id = "{name}"\nclass = "unknown"\ntitle = "{title}"\nrole = "cause"\n[match]\n{match}\nconfirm = "{confirm}"\n[[try]]\nrestart = true\n'
    read, complaints = parse(parse_toml(text, "f"), text, "f", regex_problem)
    assert [] == list(map(str, complaints))
    return read


def living(**changes):
    """An attempt that has not ended."""
    return replace(attempt(1), ended=None, **changes)


def suspected(rules, one):
    """(rule, confirm, text) of each suspicion."""
    return [(found.rule, found.confirm, found.line.text) for found in suspect(tuple(rules), one, run(one))]


def logged(*losses):
    """A log of each loss."""
    trail = Trail()
    for step, loss in enumerate(losses, 1):
        trail = trail.append(ev.Logged(1, step, 100, loss, 1.0, 1e-4 / step))
    return trail


def test_a_rule_that_may_act_early_is_suspected_at_its_line():
    """With its title, its manner and its patience; one that waits for the end says nothing."""
    early = rule(match="any = [{ log = 'x (?P<n>.*)' }]", title="{n} of it")
    (found,) = suspect((early, rule("late", confirm="exit")), living(hits=()), run(living())) or [None]
    assert found is None

    one = living(hits=(hit("stuck", "x 3", 7, captures=(("n", "3"),)), hit("late", "x", 8)))
    (found,) = suspect((early, rule("late", confirm="exit")), one, run(one))
    assert ev.Suspected(1, "stuck", "3 of it", "stall", None, ev.Line(7, "x 3")) == found


def test_what_was_survived_or_told_is_not_suspected_again():
    """Steps after the line; and the same line twice. A new line after them is new."""
    told = ((5.0, ev.Suspected(1, "stuck", "t", "stall", None, ev.Line(7, "x"))),)
    once, again = hit("stuck", "x", 7), hit("stuck", "x", 9)

    assert [] == suspected([rule()], living(hits=(once, hit(PROGRESS, "step", 8))))
    assert [] == suspected([rule()], living(hits=(once,), suspected=told))
    assert [("stuck", "stall", "x")] == suspected([rule()], living(hits=(once, hit(PROGRESS, "s", 8), again)))


def test_a_job_that_has_ended_or_is_being_stopped_is_left_to_its_diagnosis():
    """No suspicion comes too late."""
    hits = (hit("stuck", "x"),)

    assert [] == suspected([rule()], attempt(1, hits=hits))
    assert [] == suspected([rule()], living(hits=hits, stop=ev.StopBegun(1, "asked", (9,))))


def test_numbers_are_suspected_once_at_the_step_where_they_went_bad():
    """The next bad log is the same suspicion; what came back is none."""
    nan = rule("nan", 'any = [{ series = "loss", is = "nan", times = 2 }]', "line")
    bad = living(logged=logged(2.0, float("nan"), float("nan")))
    (first,) = suspect((nan,), bad, run(bad))
    worse = living(logged=logged(2.0, *[float("nan")] * 3), suspected=((1.0, first),))

    assert ("line", "step 2: loss nan, gradient norm 1.0") == (first.confirm, first.line.text)
    assert [] == suspected([nan], worse)
    assert [] == suspected([nan], living(logged=logged(2.0, float("nan"), float("nan"), 1.9)))


def test_an_exit_or_a_fact_of_the_end_is_not_known_yet():
    """A rule that hangs on it waits."""
    needs_exit = rule("a", "all = [{ log = 'x' }, { exit = 1 }]")
    needs_fact = rule("b", "all = [{ log = 'x' }, { fact = 'oom_kills > 0' }]")

    assert [] == suspected([needs_exit, needs_fact], living(hits=(hit("a", "x"), hit("b", "x"))))


def test_a_rule_may_ask_for_another_one_in_whatever_order_they_stand():
    """The other is held first."""
    asks, other = rule("a", "all = [{ log = 'x' }, { rule = 'b' }]"), rule("b", confirm="exit")
    both = (hit("a", "x", 3), hit("b", "x", 4))

    assert [("a", "stall", "x")] == suspected([asks, other], living(hits=both))
    assert [("a", "stall", "x")] == suspected([other, asks], living(hits=both))
    assert [] == suspected([asks, other], living(hits=both[:1]))


def test_what_is_captured_near_a_line_belongs_to_it():
    """Its own groups first, then the nearest line's; memory and time become numbers, what is no amount is left out."""
    first = hit("a", "x", 300, captures=(("asked_mib", "1.50 GiB"),))
    own = [
        hit("a", "x", 300, pattern=3, captures=(("asked_mib", "7 GiB"),)),
        first,
        hit("a", "far", 90, pattern=1, captures=(("who", "far"),)),
        hit("a", "above", 140, pattern=1, captures=(("who", "above"), ("asked_mib", "9 GiB"))),
        hit("a", "near", 303, pattern=1, captures=(("who", "near"), ("waited_s", "2 min"), ("odd_s", "long"))),
        hit("a", "below", 331, pattern=1, captures=(("deep", "1"),)),
    ]

    assert (("asked_mib", 1536.0), ("waited_s", 120.0), ("who", "near")) == captures(first, own)
    assert (("asked_mib", 1536.0), ("who", "above")) == captures(first, own[:4])


def test_rules_that_hold_come_in_the_order_of_their_lines():
    """What shows in numbers alone comes after the log; a captured line makes nothing true."""
    nan = rule("nan", 'any = [{ series = "loss", is = "nan" }]')
    captured = rule("c", "any = [{ log = 'x' }]\ncapture = ['(?P<y>y)']")
    hits = [hit("b", "x", 9), hit("a", "x", 5), hit("c", "y", 1, pattern=1)]
    found = held((nan, rule("b"), rule("a"), captured), hits, (), {}, logged(float("nan")))

    assert ["a", "b", "nan"] == [one.rule.id for one in found]
