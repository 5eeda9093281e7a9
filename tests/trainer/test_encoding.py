"""Tokens follow the chat template, and only what the assistant said counts in the loss."""

from __future__ import annotations

import pytest
from guardian.trainer.conversation import Message

from guardian.errors import UserError

torch = pytest.importorskip("torch")

from guardian.trainer.demo_model import CHATML, demo_model, demo_tokenizer  # noqa: E402 - needs torch
from guardian.trainer.encoding import PaddingCollator, encode, pieces  # noqa: E402 - needs torch

torch.set_num_threads(1)  # several crawl where the cores are shared with other programs
TALK = (
    *(Message("system", "Be brief."), Message("user", "2+2?"), Message("assistant", "4")),
    *(Message("user", "Ünd 3+3?"), Message("assistant", "6\n")),
)
WRITTEN = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    "<|im_start|>user\nÜnd 3+3?<|im_end|>\n<|im_start|>assistant\n6\n<|im_end|>"
)
FORGETFUL = CHATML.replace(
    "message['content']", "('' if message['role'] == 'assistant' and not loop.last else message['content'])"
)


def encoded(*conversations, max_length=None, strategy="delete", tokenizer=None):
    """What the demo's byte tokenizer makes of them."""
    return encode(conversations, tokenizer or demo_tokenizer(), max_length=max_length, strategy=strategy)


def counted(row, tokenizer):
    """The text whose loss counts."""
    return tokenizer.decode([label for label in row["labels"] if label != -100])


def test_a_conversation_is_written_as_its_template_writes_it():
    """To the last end mark; the line break after it teaches nothing."""
    tokenizer = demo_tokenizer()
    (row,) = encoded(TALK).rows

    assert WRITTEN == tokenizer.decode(row["input_ids"])
    assert "4<|im_end|>6\n<|im_end|>" == counted(row, tokenizer)


def test_a_prompt_in_training_is_the_prompt_in_use():
    """The tokens before the last answer are those of the template's own generation prompt."""
    tokenizer = demo_tokenizer()
    (row,) = encoded(TALK).rows
    prompt = tokenizer.apply_chat_template(
        [message._asdict() for message in TALK[:-1]], add_generation_prompt=True, return_dict=False
    )

    assert prompt == row["input_ids"][: len(prompt)].tolist()
    assert -100 == row["labels"][len(prompt) - 1] != row["labels"][len(prompt)]


def test_an_answer_that_the_template_rewrites_is_context_only():
    """Templates that drop earlier reasoning: the last answer counts, and the row is reported."""
    tokenizer = demo_tokenizer()
    tokenizer.chat_template = FORGETFUL
    result = encoded(TALK, tokenizer=tokenizer)

    assert 1 == result.last_answer_only
    assert "6\n<|im_end|>" == counted(result.rows[0], tokenizer)


def test_a_template_without_an_end_mark_gets_one():
    """Otherwise the model would never learn to stop."""
    tokenizer = demo_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}".replace(
        " {% endfor", "{% endfor"
    )
    (last,) = (part for part in pieces(TALK[1:3], tokenizer)[0] if part.answered)

    assert "4<|im_end|>" == last.text


def test_a_template_that_refuses_is_one_line():
    """Many templates want user and assistant to take turns."""
    tokenizer = demo_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(UserError, match=r"refuses the row that begins with 'Be brief\.': roles must alternate"):
        encoded(TALK, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "strategy,length,left",
    [("left", 14, "<|im_start|>assistant\n6\n<|im_end|>"), ("right", 44, "<|im_start|>assistant\n4<|im_end|>")],
)
def test_a_long_row_is_cut_on_the_side_asked_for(strategy, length, left):
    """And is exactly as long as it may be."""
    result = encoded(TALK, max_length=length, strategy=strategy)

    assert ([length], 0) == ([len(row["input_ids"]) for row in result.rows], result.too_long)
    assert demo_tokenizer().decode(result.rows[0]["input_ids"]).endswith(left)


def test_a_long_row_is_left_out_unless_it_may_be_cut():
    """The shorter one stays."""
    result = encoded(TALK, TALK[1:3], max_length=44)

    assert (1, 1) == (len(result.rows), result.too_long)


def test_a_row_cut_off_before_its_answer_is_left_out():
    """Nothing in it would count, and a batch of such rows has no loss."""
    result = encoded(TALK, max_length=20, strategy="right")

    assert ([], 1) == (result.rows, result.too_long)


def test_padding_changes_no_loss():
    """Rows of one batch are padded to the longest; what was added is masked and not counted."""
    tokenizer = demo_tokenizer()
    model = demo_model(tokenizer).eval()
    rows = encoded(TALK, TALK[1:3]).rows
    collate = PaddingCollator(tokenizer.pad_token_id)
    batch = collate(rows)
    losses = [model(**collate([row]), num_items_in_batch=1).loss for row in rows]

    assert (2, len(rows[0]["input_ids"])) == batch["input_ids"].shape
    assert len(rows[1]["input_ids"]) == int(batch["attention_mask"][1].sum())
    torch.testing.assert_close(sum(losses), model(**batch, num_items_in_batch=1).loss, rtol=1e-5, atol=1e-4)


def test_the_demo_is_the_same_model_every_time_and_small():
    """An adapter checkpoint holds no base weights: it relies on that. The seed of the run is left alone."""
    tokenizer = demo_tokenizer()
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    one = demo_model(tokenizer)

    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), demo_model(tokenizer).parameters(), strict=True))
    assert 100_000 < sum(each.numel() for each in one.parameters()) < 900_000
