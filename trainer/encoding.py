"""Conversations to tokens, by the tokenizer's own chat template; the loss counts the assistant's answers only.

The text before each answer and the answer itself are tokenised apart, as they are when the model is used: the
prompt is there first, the answer is what it adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from guardian.errors import UserError

from .conversation import Conversation

_IGNORED = -100  # torch's cross entropy leaves these labels out
_AT_ONCE = 1000  # conversations whose pieces are tokenised in one call


Row = dict[str, np.ndarray]  # int32: a list of Python numbers takes several times the memory


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation."""

    text: str
    answered: bool  # the assistant said it: it counts in the loss


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows ready to train on, and what became of the others."""

    rows: list[Row]
    too_long: int
    last_answer_only: int


class TokenRows(torch.utils.data.Dataset[Row]):
    """The rows in memory."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Row:
        return self._rows[place]


def encode(conversations: Sequence[Conversation], tokenizer: Any, *, max_length: int | None, strategy: str) -> Encoded:
    """Every conversation that fits, or was made to fit, in the order given."""
    rows, too_long, last_only = [], 0, 0
    for start in range(0, len(conversations), _AT_ONCE):
        split = [pieces(conversation, tokenizer) for conversation in conversations[start : start + _AT_ONCE]]
        last_only += sum(partly for _, partly in split)
        for row in _rows([parts for parts, _ in split], tokenizer):
            fitted = _fit(row, max_length, strategy)
            too_long += fitted is None
            rows += [fitted] if fitted else []
    return Encoded(rows, too_long, last_only)


def pieces(conversation: Conversation, tokenizer: Any) -> tuple[list[Piece], bool]:
    """The rendered conversation cut at its answers; True when only the last one can be found.

    Some templates write an earlier answer in another way than the last (they drop its reasoning). Such an answer
    stands in the text as context only.
    """
    messages = [message._asdict() for message in conversation]
    whole = _render(tokenizer, messages)
    found, reached, missed = [], 0, False
    for number, message in enumerate(conversation):
        if message.role != "assistant":
            continue
        last = number == len(conversation) - 1
        before = _render(tokenizer, messages[:number], asked=True)
        until = whole if last else _render(tokenizer, messages[: number + 1])
        if not (whole.startswith(before) and whole.startswith(until)):
            if last:
                raise UserError(
                    "the tokenizer's chat template does not go on from its own prompt; give --template chatml"
                )
            missed = True
            continue
        answer = whole[len(before) : len(until)].rstrip("\n")  # a line break after the end mark is no part of it
        found += [
            Piece(whole[reached : len(before)], answered=False),
            Piece(_ended(answer, message.content, tokenizer), answered=True),
        ]
        reached = len(before) + len(answer)
    return found, missed


def _ended(answer: str, content: str, tokenizer: Any) -> str:
    """A template that writes no end mark would teach the model never to stop."""
    return answer + (tokenizer.eos_token or "") if answer.endswith(content.strip()) else answer


def _render(tokenizer: Any, messages: list[dict[str, str]], *, asked: bool = False) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked))
    except TemplateError as error:
        begins = messages[0]["content"][:60]
        raise UserError(f"the chat template refuses the row that begins with {begins!r}: {error}") from None


def _rows(split: list[list[Piece]], tokenizer: Any) -> Iterator[Row]:
    texts = [piece.text for parts in split for piece in parts]
    tokens = iter(tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"])
    for parts in split:
        ids: list[int] = []
        labels: list[int] = []
        for piece in parts:
            piece_ids = next(tokens)
            ids += piece_ids
            labels += piece_ids if piece.answered else [_IGNORED] * len(piece_ids)
        yield {"input_ids": np.array(ids, np.int32), "labels": np.array(labels, np.int32)}


def _fit(row: Row, max_length: int | None, strategy: str) -> Row | None:
    if max_length is None or len(row["input_ids"]) <= max_length:
        return row
    if strategy == "delete":
        return None
    cut = slice(-max_length, None) if strategy == "left" else slice(max_length)
    shorter = {name: values[cut] for name, values in row.items()}
    return shorter if (shorter["labels"][1:] != _IGNORED).any() else None


@dataclass(frozen=True, slots=True)
class PaddingCollator:
    """Rows of one batch, padded on the right to the longest of them."""

    pad_id: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        longest = int(lengths.max())
        return {
            "input_ids": _padded(rows, "input_ids", longest, self.pad_id),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
            "labels": _padded(rows, "labels", longest, _IGNORED),
        }


def _padded(rows: Sequence[Row], name: str, longest: int, filler: int) -> torch.Tensor:
    padded = torch.full((len(rows), longest), filler)
    for place, row in enumerate(rows):
        padded[place, : len(row[name])] = torch.from_numpy(row[name])
    return padded
