"""Numbers of steps and of things in words, as every report says them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def spell(steps: Iterable[int], most: int = 4) -> str:
    """Step numbers in words: `step 7`, `steps 31-35 and 40`."""
    ranges = list(_ranges(sorted(set(steps))))
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:most]]
    if len(ranges) > most:
        parts.append(f"{len(ranges) - most} more places")
    words = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"step {words}" if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else f"steps {words}"


def count(number: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _ranges(steps: list[int]) -> Iterator[tuple[int, int]]:
    begin = 0
    for at in range(1, len(steps) + 1):
        if at == len(steps) or steps[at] != steps[at - 1] + 1:
            yield steps[begin], steps[at - 1]
            begin = at
