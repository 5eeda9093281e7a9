"""Every rule that guardian brings holds on its samples and on nothing that only looks like them."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from guardian.core import events as ev
from guardian.core import metrics
from guardian.core.diagnosing import diagnose
from guardian.core.exits import normal
from guardian.core.rules import PROGRESS, Seen
from guardian.core.trail import Trail
from guardian.host import rulebook
from guardian.host.matching import Matcher
from tests.core.attempts import of_log, run
from tests.rules.samples import read

ROOT = Path(__file__).parent.parent.parent / "rules"
LOGS = Path(__file__).parent.parent / "data" / "raw_logs"
with patch.dict(os.environ, {"XDG_CONFIG_HOME": "/nonexistent"}):  # the tester's own rules do not count
    RULES = rulebook.load(None)
BY_ID = {rule.id: rule for rule in RULES}
SAMPLES = [(path.stem, sample) for path in sorted(ROOT.glob("*/*.samples")) for sample in read(path.read_text("utf-8"))]
MATCHING = [(rule, sample) for rule, sample in SAMPLES if sample.matches]

BAD_FILES = {
    "conf.json": b'{"model": 1,,}',
    "columns.jsonl": b'{"prompt_text": "a", "answer_text": "b"}\n',
    "empty.jsonl": b"",
    "second.json": b'[{"query": "a", "response": "b"},\n{"query": "a"}]',
    "damaged.json": b'[{"query": "a", "response" "b"}]',
    "latin.json": b'[{"query": "\xe9", "response": "b"}]',
}


def patterns_hit(rule, text):
    """Which of the rule's patterns occur in the text."""
    return frozenset(hit.pattern for hit in Matcher((rule,)).scan(text.encode(), 1, 0) if hit.rule != PROGRESS)


def logged(text):
    """What the trainer logs in the text."""
    trail = Trail()
    for n in metrics.read(text.encode()):
        trail = trail.append(ev.Logged(1, n.step, n.max_steps, n.loss, n.grad_norm, n.lr))
    return trail


@pytest.mark.parametrize("name, sample", SAMPLES, ids=lambda value: getattr(value, "source", value))
def test_a_rule_holds_on_its_samples_alone(name, sample):
    """Each excerpt says whether it matches, or why not."""
    rule = BY_ID[name]
    exits = (normal(sample.exit),)

    assert sample.matches == rule.holds(
        Seen(patterns_hit(rule, sample.text), exits, dict(sample.facts), logged(sample.text))
    ), sample.why


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_pattern_is_used_by_a_sample(rule):
    """A pattern that nothing real matches is a guess."""
    used = [patterns_hit(rule, sample.text) for name, sample in MATCHING if name == rule.id]
    kept_off = [patterns_hit(rule, sample.text) for name, sample in SAMPLES if name == rule.id and not sample.matches]

    assert rule.speaking <= set().union(set(), *used)
    assert set(range(len(rule.patterns))) == set().union(set(), *used, *kept_off)
    assert used, "no sample shows it"
    assert [s for name, s in SAMPLES if name == rule.id and not s.matches], "no false friend is shown"


@pytest.mark.parametrize("name, sample", MATCHING, ids=lambda value: getattr(value, "source", value))
def test_a_sample_is_diagnosed_as_its_rules_class(name, sample):
    """With all rules at once the right one speaks, and its evidence is a line of the excerpt."""
    attempt = of_log(Matcher(RULES), sample.text, sample.exit, logged=logged(sample.text))
    attempt = replace(attempt, ended=replace(attempt.ended, oom_kills=None, facts=sample.facts))
    cause = diagnose(RULES, attempt, run(attempt)).cause

    assert BY_ID[name].failure == cause.id or BY_ID[name].role == "symptom"
    assert sample.variant in (None, cause.variant)
    assert cause.evidence[0].number is None or cause.evidence[0].text in sample.text


def test_every_rule_lies_under_its_own_name_with_its_samples():
    """<family>/<id>.toml with <id>.samples beside it."""
    files = {path.relative_to(ROOT) for path in ROOT.glob("*/*") if path.suffix in {".toml", ".samples"}}
    named = {Path(rule.source).relative_to("guardian.rules") for rule in RULES}

    assert files == named | {path.with_suffix(".samples") for path in named}
    assert all(Path(rule.source).stem == rule.id for rule in RULES)


@pytest.mark.parametrize(
    "name",
    [
        "hf_uninterrupted",
        "swift_full_uninterrupted",
        "swift_ddp2_gloo",
        "lf_full",
        "hf_killed_step7",
        "graceful_exit_term",
    ],
)
def test_no_rule_speaks_on_a_log_without_a_failure_in_it(name):
    """Thousands of lines of arguments, warnings and bars; not one is taken for a cause."""
    hits = Matcher(RULES).scan((LOGS / f"{name}.log").read_bytes(), 1, 0)

    assert [] == [(hit.rule, hit.text) for hit in hits]


@pytest.mark.parametrize(
    "arguments, failure",
    [
        ("--model demo --dataset demo --learning_rat 3", "config_conflict"),
        ("--model demo --dataset demo --max_steps many", "config_conflict"),
        ("--model demo --dataset demo --warmup_ratio 0.1 --warmup_steps 3", "config_conflict"),
        ("--model demo --dataset demo --deepspeed nope.json", "config_conflict"),
        ("--model demo --dataset demo --resume_from_checkpoint nope", "config_conflict"),
        ("--model demo", "config_conflict"),
        ("--dataset demo", "config_conflict"),
        ("conf.json", "config_conflict"),
        ("--model ./nodir --dataset demo", "model_load_error"),
        ("--model demo --dataset nofile.jsonl", "dataset_error"),
        ("--model demo --dataset columns.jsonl", "dataset_error"),
        ("--model demo --dataset empty.jsonl", "dataset_error"),
        ("--model demo --dataset second.json", "dataset_error"),
        ("--model demo --dataset damaged.json", "dataset_error"),
        ("--model demo --dataset latin.json", "dataset_error"),
        ("--model demo --dataset .", "dataset_error"),
    ],
)
def test_what_the_trainer_refuses_is_named_and_not_tried_again(arguments, failure, tmp_path, monkeypatch, capsys):
    """The trainer's own words, as it says them today: one line, its class, no retry, and the fix."""
    cli = pytest.importorskip("guardian.trainer.cli")
    for name, content in BAD_FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ):
        code = cli.main(["sft", *arguments.split()])
    said = capsys.readouterr().err
    attempt = of_log(Matcher(RULES), said, code)
    cause = diagnose(RULES, attempt, run(attempt)).cause

    assert (failure, 0) == (cause.id, cause.retries), said
    assert cause.evidence[0].text in said
    assert cause.advice


def test_the_rules_are_found_where_they_are_installed():
    """Not where the sources happen to lie."""
    assert {"exception", "segfault", "refused"} <= BY_ID.keys()
