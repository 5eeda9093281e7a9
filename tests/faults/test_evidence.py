"""The exit must not overtake the failure line: the last thing that a job prints is what its report goes by."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from guardian.core import reporting
from tests.faults.harness import JOBS, TINY, Guarded, harm

ONCE = "[budget]\nrestarts = 0\n"
AT_ONCE = 4
RUNS = pytest.mark.parametrize("runs", [20, pytest.param(100, marks=pytest.mark.long)])


@pytest.fixture
def policy(tmp_path):
    """Options that forbid a second attempt."""
    file = tmp_path / "once.toml"
    file.write_text(ONCE)
    return ("--policy", str(file))


def named(number):
    """A line that a rule knows; only having read it in time can name the rule."""
    return f"ModuleNotFoundError: No module named 'number_{number}'"


def nameless(number):
    """A line that no rule knows."""
    return f"the engine has stopped, number {number}"


def ended(folder, line, end, options):
    """The exit code of a run whose job ends with this line, and the cause in its report."""
    folder.mkdir()
    guarded = Guarded(folder, "python3", str(JOBS / "last_word.py"), line, *end, options=options)
    try:
        code = guarded.run()
        (attempt,) = reporting.report(guarded.story()).attempts
    finally:
        guarded.clean_up()
    return code, attempt.cause


def all_of(folder, words, options):
    """Each word as the last one of a job: every second ends without the end of a line."""

    def one(number):
        return ended(folder / f"{number}", words[number], ("newline",) * (number % 2), options)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(len(words))))


@RUNS
def test_a_failure_line_that_a_rule_knows_is_the_cause_every_time(tmp_path, policy, runs):
    """Followed and matched before the end is judged."""
    words = [named(number) for number in range(runs)]

    found = all_of(tmp_path, words, policy)

    expected = [(4, "import-failed", word, 101) for word in words]
    assert expected == [(code, c.rule, c.evidence[0].text, c.evidence[0].number) for code, c in found]


@RUNS
def test_a_failure_line_that_no_rule_knows_is_the_evidence_every_time(tmp_path, policy, runs):
    """Said as it is."""
    words = [nameless(number) for number in range(runs)]

    found = all_of(tmp_path, words, policy)

    expected = [(1, "unknown", word, 101) for word in words]
    assert expected == [(code, c.id, c.evidence[0].text, c.evidence[0].number) for code, c in found]


def last_words_of_the_trainer(folder, options):
    """The cause of a run of the embedded trainer that an exception ends in the middle of step 2."""
    folder.mkdir(exist_ok=True)
    command = (*TINY, "--output_dir", "out", "--max_steps", "4")
    guarded = Guarded(folder, *command, options=options, env=harm({"step": 2, "do": "fail"}))
    try:
        assert 1 == guarded.run(), guarded.shown()[-4000:]
        (attempt,) = guarded.report()["attempts"]
    finally:
        guarded.clean_up()
    return attempt["cause"]


def test_an_exception_that_ends_the_trainer_is_the_cause(tmp_path, policy):
    """The last line of the traceback, and not one of the many before it."""
    cause = last_words_of_the_trainer(tmp_path, policy)

    assert ("code_bug", "exception") == (cause["class"], cause["rule"])
    assert "RuntimeError: the engine has stopped" == cause["evidence"][0]["text"]


@pytest.mark.long
def test_an_exception_that_ends_the_trainer_is_the_cause_every_time(tmp_path, policy):
    """10 of 10."""
    texts = [last_words_of_the_trainer(tmp_path / f"{n}", policy)["evidence"][0]["text"] for n in range(10)]

    assert ["RuntimeError: the engine has stopped"] * 10 == texts
