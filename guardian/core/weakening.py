"""What a certificate cannot count on, by name, each with what it means for a resumed run.

The command names it, or the training itself tells it: a script may have it written in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardian.core.run import Attempt, Run

WEAKENING = {
    "save_only_model": "checkpoints hold no optimizer: a resumed run forgets Adam's moments and its schedule",
    "ignore_data_skip": "a resumed run begins its epoch again: the rows of a step are not the undisturbed run's",
    "group_by_length": "rows are ordered by length: the order depends on the batch",
    "packing": "several rows make one: counted are packs, not rows",
    "padding_free": "rows are laid end to end: counted are micro-batches, not rows",
    "streaming": "the rows have no fixed order to return to, and the epoch no length",
    "auto_find_batch_size": "the trainer itself lowers the batch when memory runs out, and the effective batch with it",
    "resume_only_model": "a resumed run forgets Adam's moments and its schedule",
}
OTHER_SAMPLES = ("--ignore_data_skip:", "--group_by_length:", "--streaming:")
"""What makes a resumed run go on with other rows, and the user wants it so."""


def weakened(run: Run) -> tuple[str, ...]:
    """Each as `--name: why`: what the command asks for, and what its trainings have told of themselves."""
    told = (name for attempt in run.attempts if attempt.hello for name in attempt.hello.weakening)
    asked = (*run.created.weakened, *(f"--{name}: {WEAKENING[name]}" for name in told if name in WEAKENING))
    return tuple({text.partition(":")[0]: text for text in reversed(asked)}.values())[::-1]


def split_end_to_end(run: Run, before: Attempt, after: Attempt) -> bool:
    """Whether the rows of a micro-batch are one to whoever counts, and were shared out to micro-batches another way.

    The product must be the same all the same: it is what the job itself says.
    """
    old, new = before.hello, after.hello
    if old is None or new is None or old.device_batch == new.device_batch:
        return False
    free = any(text.startswith("--padding_free:") for text in weakened(run))
    return free and old.effective_batch == new.effective_batch


def asked_for_other_samples(run: Run) -> bool:
    """Whether a resumed run may go on with other rows."""
    return any(text.startswith(OTHER_SAMPLES) for text in weakened(run))
