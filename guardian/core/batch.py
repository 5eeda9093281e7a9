"""The algebra of batches: how one optimizer step's rows are split, without changing how many they are.

Effective batch = device batch x accumulation x data-parallel world. The world is the machine's, so a remedy moves
factors between device batch and accumulation alone. What does not divide is refused, never approximated: a step of
15 rows is another training than one of 16.
"""

from __future__ import annotations

from guardian.core.values import dataclass


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one optimizer step on one data-parallel rank."""

    device_batch: int
    accumulation: int

    @property
    def rows(self) -> int:
        """Per optimizer step and rank."""
        return self.device_batch * self.accumulation


def halved(now: Split) -> Split | None:
    """The largest device batch at most half of this one that divides the rows; None at a device batch of 1.

    6 x 5 becomes 3 x 10, 5 x 6 becomes 2 x 15, 7 x 1 becomes 1 x 7.
    """
    return _largest(now.rows, at_most=now.device_batch // 2)


def with_device_batch(now: Split, device_batch: int) -> Split | None:
    """The same rows with this device batch; None where it does not divide them."""
    if device_batch < 1 or now.rows % device_batch:
        return None
    return Split(device_batch, now.rows // device_batch)


def _largest(rows: int, *, at_most: int) -> Split | None:
    """The split with the largest device batch up to a limit."""
    for device_batch in range(at_most, 0, -1):
        if rows % device_batch == 0:
            return Split(device_batch, rows // device_batch)
    return None
