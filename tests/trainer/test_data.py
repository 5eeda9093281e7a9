"""Every row of every file is read and checked first; what is wrong is named by file and line."""

from __future__ import annotations

import json

import pytest
from guardian.trainer.data import DataRequest, load_rows
from guardian.trainer.demo_data import docstring_conversations

from guardian.errors import UserError


def rows_file(folder, *answers, name="rows.jsonl"):
    """A file with a row for each answer."""
    path = folder / name
    path.write_text("".join(json.dumps({"query": f"q{answer}", "response": answer}) + "\n" for answer in answers))
    return str(path)


def answers(rows):
    """What tells the rows apart."""
    return [row[-1].content for row in rows]


def test_sources_are_joined_in_the_order_given(tmp_path):
    """Two files and no shuffling here: the sampler of the run does that."""
    first, second = rows_file(tmp_path, "a", "b"), rows_file(tmp_path, "c", name="more.jsonl")

    assert ["c", "a", "b"] == answers(load_rows(DataRequest(sources=(second, first))).train)


def test_a_count_takes_the_beginning_of_a_seeded_permutation(tmp_path):
    """The same seed takes the same rows, a longer count the same and more, another seed others."""
    path = rows_file(tmp_path, *"abcdefgh")
    take = lambda count, seed: answers(load_rows(DataRequest(sources=(f"{path}#{count}",), seed=seed)).train)  # noqa: E731

    assert take(5, 1) == take(8, 1)[:5]
    assert take(8, 1) != take(8, 2)
    assert sorted("abcdefgh") == sorted(take(8, 1))
    assert take(8, 1) + take(3, 1) == take(11, 1)


def test_the_split_keeps_rows_apart(tmp_path):
    """No row is both trained on and evaluated on, and none is lost."""
    rows = load_rows(DataRequest(sources=(rows_file(tmp_path, *"abcdefghij"),), split_ratio=0.2))

    assert (8, 2) == (len(rows.train), len(rows.evaluation))
    assert list("abcdefghij") == sorted(answers(rows.train) + answers(rows.evaluation))


def test_a_system_message_goes_to_the_rows_that_bring_none(tmp_path):
    """A row's own system message stays."""
    path = tmp_path / "rows.jsonl"
    own = {"query": "a", "response": "b", "system": "own"}
    path.write_text(json.dumps(own) + "\n" + json.dumps({"query": "a", "response": "b"}))
    rows = load_rows(DataRequest(sources=(str(path),), system="given")).train

    assert ["own", "given"] == [row[0].content for row in rows]


def test_a_json_list_is_read_like_lines(tmp_path):
    """The same rows in both kinds of file."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"query": "q", "response": "a"}, {"query": "q", "response": "b"}], indent=1))

    assert ["a", "b"] == answers(load_rows(DataRequest(sources=(str(path),))).train)


@pytest.mark.parametrize(
    "name,content,message",
    [
        (
            "a.jsonl",
            b'{"query": "a", "response": "b"}\n\n{"query": "a"}\n',
            "a.jsonl line 3: column response is missing",
        ),
        ("a.jsonl", b'{"query": "a", "response": "b"}\n{"query": ', "a.jsonl line 2: is not JSON"),
        ("a.jsonl", b'{"query": "a", "response": "b"}\n\n\xff', "a.jsonl line 3: is not UTF-8"),
        ("a.jsonl", b"\n \n", "a.jsonl: holds no rows"),
        (
            "a.json",
            b'[\n{"query": "a", "response": "b"},\n\n {"query": "a"}]',
            "a.json line 4: column response is missing",
        ),
        ("a.json", b'[{"query": "a", "response": "b"}\n{"query": "a"}]', "a.json line 2: is not JSON: expected ,"),
        ("a.json", b'[{"query": "a"\n "b"}]', "a.json line 2: is not JSON"),
        ("a.json", b'{"query": "a", "response": "b"}', "a.json: must hold a list of objects"),
        ("a.json", b"[]", "a.json: holds no rows"),
        ("a.csv", b"query,response", "a.csv: is neither .jsonl nor .json"),
    ],
)
def test_a_fault_is_named_by_file_and_line(tmp_path, monkeypatch, name, content, message):
    """One line: file, line, what is wrong there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError) as caught:
        load_rows(DataRequest(sources=(name,)))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_split_are_named(tmp_path):
    """What the user can see on the command line is what is said."""
    with pytest.raises(UserError, match="no such data file"):
        load_rows(DataRequest(sources=(str(tmp_path / "none.jsonl"),)))
    with pytest.raises(UserError, match="both need some"):
        load_rows(DataRequest(sources=(rows_file(tmp_path, "a", "b"),), split_ratio=0.1))


def test_the_demo_rows_are_many_real_and_the_same_every_time():
    """They fill whole batches, so that no epoch ends in a part of one."""
    rows = docstring_conversations()

    assert rows == docstring_conversations()
    assert (0, True) == (len(rows) % 64, len(rows) >= 1000)
    assert len(set(rows)) > 0.9 * len(rows)
    assert any("queue" in question.content and "queue" in answer.content for question, answer in rows)
