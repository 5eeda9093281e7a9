"""Three forms of a row mean the same, and a row in none of them is told what it lacks."""

from __future__ import annotations

import pytest
from guardian.trainer.conversation import FormError, Message, from_row

ASKED, ANSWERED = Message("user", "2+2?"), Message("assistant", "4")
SYSTEM = Message("system", "Be brief.")


@pytest.mark.parametrize(
    "row,expected",
    [
        ({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}, (ASKED, ANSWERED)),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, (ASKED, ANSWERED)),
        ({"instruction": "2+2?", "input": "", "output": "4"}, (ASKED, ANSWERED)),
        ({"instruction": "Add.", "input": "2+2", "output": "4"}, (Message("user", "Add.\n2+2"), ANSWERED)),
        ({"query": "2+2?", "response": "4", "extra": None}, (ASKED, ANSWERED)),
        (
            {"query": "2+2?", "response": "4", "system": "Be brief.", "history": [["2+2?", "4"]]},
            (SYSTEM, ASKED, ANSWERED, ASKED, ANSWERED),
        ),
    ],
)
def test_all_forms_mean_a_conversation(row, expected):
    """What one writes as messages, alpaca or query and response."""
    assert expected == from_row(row)


def test_columns_are_renamed_before_they_are_read():
    """--columns '{"prompt": "query", "answer": "response"}'."""
    assert (ASKED, ANSWERED) == from_row({"prompt": "2+2?", "answer": "4"}, {"prompt": "query", "answer": "response"})


@pytest.mark.parametrize(
    "row,message",
    [
        ([1], "is a list, not an object"),
        (
            {"quer": "a", "response": "b"},
            """column query is missing (there are: quer, response); rename with --columns '{"quer": "query"}'""",
        ),
        ({"prompt": "a"}, "has columns prompt; it needs messages, or instruction and output, or query and response"),
        ({"query": 3, "response": "b"}, "column query is a number; it must be text"),
        ({"query": "a", "response": " "}, "column response holds an empty answer"),
        ({"messages": []}, "column messages must be a list of messages, and is an empty list"),
        ({"messages": ["hi"]}, """messages[0] is a text; write {"role": "user", "content": "..."}"""),
        ({"messages": [{"role": "bot", "content": "b"}]}, "messages[0] has role 'bot'"),
        ({"messages": [{"role": "user", "content": "b"}]}, "column messages ends with a message of user"),
        ({"messages": [{"role": "assistant", "content": "b"}]}, "column messages holds no question of a user"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0] has nothing as content; it must be text"),
        ({"query": "a", "response": "b", "history": [["x"]]}, "column history[0] must be a pair of texts"),
    ],
)
def test_a_row_of_no_form_is_told_what_it_lacks(row, message):
    """The reader is told the column and what to write."""
    with pytest.raises(FormError) as caught:
        from_row(row)

    assert str(caught.value).startswith(message)
