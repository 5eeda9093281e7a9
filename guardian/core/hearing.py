"""What one line of a rank's heartbeat says, as events.

The line comes from inside a job that we do not own (core/wire.py has the format): whatever does not look as it
should says nothing. It never raises, and never guesses: a step without its number is no step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from guardian.core import events as ev
from guardian.core.values import dataclass

LINE_MOST = 64 * 1024
"""Bytes; the companion writes lines of a few hundred, and cuts the text of an exception."""
_WHOLE_MOST = 2**63
_LOGGED = ("loss", "grad_norm", "learning_rate")

Heard = (
    ev.Hello
    | ev.StepDone
    | ev.LossSeen
    | ev.OwnWork
    | ev.Logged
    | ev.LongestSeen
    | ev.RateSet
    | ev.PhaseChanged
    | ev.BatchDone
    | ev.TrainingEnded
    | ev.ExceptionLeft
    | ev.Saved
    | ev.Acknowledged
    | ev.SourceLost
)


def parse(line: bytes, attempt: int, rank: int) -> tuple[Heard, ...]:
    """The events of a line, () for garbage. The rank is the file's: most lines do not repeat it."""
    if len(line) > LINE_MOST:
        return ()
    try:
        fields = json.loads(line.decode())
        said = _Said(fields, attempt, rank)
        events = _READERS[fields["ev"]](said)
        # A loss may ride on any line, own work too. They come first: older news, of this step or the one before.
        own = () if fields.get("own") is None else (_own(said),)
        loss = () if fields.get("loss") is None else (_loss(said),)
        return (*own, *loss, *events)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return ()


@dataclass(frozen=True, slots=True)
class _Said:
    """A parsed line; its readers raise ValueError for what is missing or of the wrong kind."""

    fields: dict[str, object]
    attempt: int
    rank: int

    def whole(self, key: str, at_least: int = 0) -> int:
        return _whole(self.fields.get(key), at_least)

    def maybe_whole(self, key: str) -> int | None:
        return None if self.fields.get(key) is None else self.whole(key)

    def number(self, key: str) -> float:
        return _number(self.fields.get(key))

    def maybe_number(self, key: str) -> float | None:
        return None if self.fields.get(key) is None else self.number(key)

    def maybe_flag(self, key: str) -> bool | None:
        value = self.fields.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise ValueError(key)

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        if isinstance(value, str):
            return value
        raise ValueError(key)

    def maybe_text(self, key: str) -> str | None:
        return None if self.fields.get(key) is None else self.text(key)

    def maybe_list(self, key: str) -> list[object]:
        value = self.fields.get(key)
        return value if isinstance(value, list) else []

    def maybe_table(self, key: str) -> list[tuple[str, object]]:
        value = self.fields.get(key)
        return list(value.items()) if isinstance(value, dict) else []


def _whole(value: object, at_least: int = 0) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and at_least <= value < _WHOLE_MOST:
        return value
    raise ValueError(value)


def _number(value: object) -> float:
    """A number, also one that was printed: transformers 5 logs its numbers as text, nan among them."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    raise ValueError(value)


def _hello(said: _Said) -> tuple[Heard, ...]:
    hello = ev.Hello(
        attempt=said.attempt,
        rank=said.rank,
        pid=said.whole("pid", at_least=1),
        world=said.whole("world", at_least=1),
        step=said.whole("step"),
        max_steps=said.whole("max_steps"),
        device_batch=said.whole("device_batch"),
        accumulation=said.whole("accumulation"),
        data_parallel=said.whole("data_parallel"),
        effective_batch=said.whole("effective_batch"),
        steps_per_epoch=said.maybe_whole("steps_per_epoch"),
        save_steps=said.maybe_number("save_steps"),
        learning_rate=said.maybe_number("learning_rate"),
        output_dir=said.text("output_dir"),
        trainer=said.text("trainer"),
        resumed_from=said.maybe_text("resumed_from"),
        versions=tuple(
            sorted((name, version) for name, version in said.maybe_table("versions") if isinstance(version, str))
        ),
        wall=said.number("t"),
        device=said.maybe_text("device"),
        precision=said.maybe_text("precision"),
        workers=said.maybe_whole("workers"),
        prefetch=said.maybe_whole("prefetch"),
        pin_memory=said.maybe_flag("pin_memory"),
        eval_batch=said.maybe_whole("eval_batch"),
        gradient_checkpointing=said.maybe_flag("gradient_checkpointing"),
        armed=said.maybe_flag("armed"),
        local_world=said.maybe_whole("local_world"),
        optimizer=said.maybe_text("optimizer"),
        argv=tuple(word for word in said.maybe_list("argv") if isinstance(word, str)),
        launcher=said.maybe_text("launcher"),
        training=said.maybe_whole("training"),
        takes_resume=said.maybe_flag("takes_resume"),
        save_total_limit=said.maybe_whole("save_total_limit"),
        batch_argument=said.maybe_whole("batch_argument"),
        weakening=tuple(word for word in said.maybe_list("weakening") if isinstance(word, str)),
        fixed=tuple(sorted((name, why) for name, why in said.maybe_table("fixed") if isinstance(why, str))),
    )
    return (hello,)


def _step(said: _Said) -> tuple[Heard, ...]:
    fingerprint = said.maybe_text("fp")
    done = ev.StepDone(
        attempt=said.attempt,
        rank=said.rank,
        step=said.whole("step", at_least=1),
        rows=said.maybe_whole("rows"),
        tokens=said.maybe_whole("tokens"),
        fingerprint=None if fingerprint is None else int(fingerprint, 16) % 2**64,
        lr=said.maybe_number("lr"),
        wall=said.number("t"),
    )
    return (done,)


def _loss(said: _Said) -> ev.LossSeen:
    loss = said.fields.get("loss")
    if isinstance(loss, list) and len(loss) == 2:
        return ev.LossSeen(said.attempt, said.rank, _whole(loss[0], at_least=1), _number(loss[1]))
    raise ValueError(loss)


def _own(said: _Said) -> ev.OwnWork:
    own = said.fields.get("own")
    if isinstance(own, list) and len(own) == 2 and math.isfinite(seconds := _number(own[1])) and seconds >= 0:
        return ev.OwnWork(said.attempt, said.rank, _whole(own[0], at_least=1), seconds)
    raise ValueError(own)


def _log(said: _Said) -> tuple[Heard, ...]:
    """Every rank hears the trainer's mean over the ranks; it counts once."""
    logs = said.fields.get("logs")
    if said.rank != 0 or not isinstance(logs, dict):
        return ()
    numbers = {name: _number(logs[name]) for name in _LOGGED if logs.get(name) is not None}
    if not numbers:
        return ()
    # Transformers' name, and TRL's; the memory is ms-swift's.
    tokens = next(
        (n for key in ("num_input_tokens_seen", "num_tokens") if (n := _finite(logs.get(key))) is not None), None
    )
    logged = ev.Logged(
        attempt=said.attempt,
        step=said.maybe_whole("step"),
        max_steps=None,
        loss=numbers.get("loss"),
        grad_norm=numbers.get("grad_norm"),
        lr=numbers.get("learning_rate"),
        wall=said.maybe_number("t"),
        tokens_seen=None if tokens is None else int(tokens),
        memory_gib=_finite(logs.get("memory(GiB)")),
    )
    return (logged,)


def _end(said: _Said) -> tuple[Heard, ...]:
    step, total, wall = said.whole("step"), said.whole("max_steps"), said.maybe_number("t")
    return (ev.TrainingEnded(said.attempt, said.rank, step, total, said.text("by"), wall),)


def _finite(value: object) -> float | None:
    """What rides along with a log says nothing where it is no number; the rest of the line still counts."""
    try:
        number = _number(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _longest(said: _Said) -> tuple[Heard, ...]:
    step, rows, longest = (said.whole(key, at_least=1) for key in ("step", "rows", "longest"))
    return (ev.LongestSeen(said.attempt, said.rank, step, rows, longest),)


def _rate(said: _Said) -> tuple[Heard, ...]:
    """Where nothing could be set the rate may be unknown too."""
    error = said.maybe_text("error")
    before, after = (
        math.nan if error is not None and said.fields.get(key) is None else said.number(key)
        for key in ("before", "after")
    )
    return (ev.RateSet(said.attempt, said.rank, said.whole("step"), before, after, error),)


def _exception(said: _Said) -> tuple[Heard, ...]:
    left = ev.ExceptionLeft(
        attempt=said.attempt,
        rank=said.rank,
        step=said.whole("step"),
        type=said.text("type"),
        text=said.maybe_text("text") or "",  # an exception whose str() fails has none
        phase=said.maybe_text("phase"),
        rows=said.maybe_whole("rows"),
        longest=said.maybe_whole("longest"),
        rescued=said.maybe_text("rescued"),
        not_rescued=said.maybe_text("not_rescued"),
    )
    return (left,)


def _error(said: _Said) -> tuple[Heard, ...]:
    off = ", and switched itself off" if said.fields.get("off") is True else ""
    why = f"{said.text('where')}: {said.text('err')}{off}"
    return (ev.SourceLost(f"companion of rank {said.rank}", why, said.attempt),)


def _phase(said: _Said) -> tuple[Heard, ...]:
    wall = said.maybe_number("t")
    return (ev.PhaseChanged(said.attempt, said.rank, said.text("phase"), said.whole("step"), wall),)


def _batch(said: _Said) -> tuple[Heard, ...]:
    return (ev.BatchDone(said.attempt, said.rank, said.whole("batch"), said.maybe_number("t")),)


_READERS: dict[str, Callable[[_Said], tuple[Heard, ...]]] = {
    "hello": _hello,
    "step": _step,
    "log": _log,
    "error": _error,
    "phase": _phase,
    "batch": _batch,
    "saved": lambda said: (ev.Saved(said.attempt, said.rank, said.whole("step"), said.text("path")),),
    "ack": lambda said: (ev.Acknowledged(said.attempt, said.rank, said.whole("save_at")),),
    "end": _end,
    "exc": _exception,
    "longest": _longest,
    "lr": _rate,
}
