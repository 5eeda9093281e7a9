"""Secrets stay hidden, and what a reader needs stays readable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.masking import LONGEST, is_sensitive, mask, mask_argv, mask_value


@pytest.mark.parametrize(
    "text, shown",
    [
        ("HF_TOKEN=abcd1234", "HF_TOKEN=***"),
        ("export WANDB_API_KEY='0123abcd'", "export WANDB_API_KEY='***'"),
        ("--hub_token s3cr3t --lr 1e-5", "--hub_token *** --lr 1e-5"),
        ("--hub-token=s3cr3t,and,more", "--hub-token=***"),
        ("['--password', 'open sesame']", "['--password', '***']"),
        ('{"api_key": "xyz-1", "model": "demo"}', '{"api_key": "***", "model": "demo"}'),
        ("key=4711abc", "key=***"),
        ("token=" + "x" * 5000, "token=***"),
        ("push to hf_AbCdEfGhIjKlMnOpQrStUvWx failed", "push to *** failed"),
        ("openai sk-proj-a1b2c3d4", "openai ***"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer ***"),
        ("https://me:hunter2@example.org/x?api_key=abc&b=1", "https://me:***@example.org/x?api_key=***&b=1"),
        ("client(secret=abc, retries=3)", "client(secret=***, retries=3)"),
    ],
)
def test_a_secret_is_hidden_and_the_rest_is_left(text, shown):
    """By its name in every spelling, or by its own shape."""
    assert shown == mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "--max_new_tokens 128 --tokenizer demo --num_train_epochs 3",
        "pad_token=<|endoftext|> eos_token: </s>",
        "use_auth_token=True token=None",
        "KeyError: 'text'",
        "Missing key: model.layers.0.weight",
        "pip install hf_transfer; import sk-learn",
        "tokens per second: 1834.2, token_type_ids=[0, 0]",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "--resume_from_checkpoint out/checkpoint-30 --sort_key length",
    ],
)
def test_what_is_no_secret_stays_readable(text):
    """The tokens of tokenizers and the keys of dictionaries are what a log is about."""
    assert text == mask(text)


def test_a_command_line_hides_values_that_follow_their_option():
    """Name and value are two arguments there, and the value may look like anything."""
    argv = (
        "swift",
        "sft",
        "--hub_token",
        "plain words",
        "--lr",
        "1e-5",
        "trainer.api_key=k",
        "--use_auth_token",
        "true",
    )

    assert (
        "swift",
        "sft",
        "--hub_token",
        "***",
        "--lr",
        "1e-5",
        "trainer.api_key=***",
        "--use_auth_token",
        "true",
    ) == mask_argv(argv)


def test_a_variable_is_hidden_for_its_name():
    """Environments and edits come as name and value."""
    assert "***" == mask_value("HF_TOKEN", "x")
    assert "expandable_segments:True" == mask_value("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


@pytest.mark.parametrize("name", ["hubToken", "WANDB_API_KEY", "aws-secret-access-key", "PGPASSWORD", "apikey"])
def test_a_name_can_announce_a_secret(name):
    """Whatever the spelling."""
    assert is_sensitive(name)


@pytest.mark.parametrize(
    "unit", ["a", "key=", "--token ", '"', "eyJaaaaaaaaa.", "-eyJ", "://a:", "token='", "hf_1", "a.-"]
)
def test_a_hostile_text_is_cut_and_costs_no_more_than_its_length(unit):
    """A megabyte of the worst neighbours ends; what was not looked at is not shown."""
    assert LONGEST + 3 * LONGEST >= len(mask(unit * 250_000))


@given(
    st.text(max_size=60),
    st.sampled_from(["HF_TOKEN=", "--password ", "api_key: "]),
    st.text("abcXYZ019_", min_size=9, max_size=40),
)
def test_no_surrounding_text_lets_a_named_secret_through(before, name, secret):
    """The name is found after any text that leaves it a word of its own."""
    assert secret not in mask(f"{before} {name}{secret}q8 end").replace(before, "")
