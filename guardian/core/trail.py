"""An append-only sequence that is cheap to copy, so that a fold over a million steps stays linear.

Appending to a tuple copies it whole. A Trail shares its full blocks with the Trail it grew from and copies
only the last, small one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

from guardian.core.values import dataclass

T = TypeVar("T")
BLOCK = 64


@dataclass(frozen=True, slots=True)
class Trail(Sequence[T], Generic[T]):
    """A persistent list: `append` returns a longer Trail and leaves this one as it is."""

    blocks: tuple[tuple[tuple[T, ...], ...], ...] = ()
    row: tuple[tuple[T, ...], ...] = ()
    tail: tuple[T, ...] = ()

    def append(self, item: T) -> Trail[T]:
        """This trail and one more item."""
        tail = (*self.tail, item)
        if len(tail) < BLOCK:
            return Trail(self.blocks, self.row, tail)
        row = (*self.row, tail)
        if len(row) < BLOCK:
            return Trail(self.blocks, row, ())
        return Trail((*self.blocks, row), (), ())

    def __len__(self) -> int:
        return len(self.blocks) * BLOCK * BLOCK + len(self.row) * BLOCK + len(self.tail)

    def __iter__(self) -> Iterator[T]:
        for block in self.blocks:
            for part in block:
                yield from part
        for part in self.row:
            yield from part
        yield from self.tail

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """Constant time for one item; a slice is built by walking."""
        if isinstance(index, slice):
            return tuple(self)[index]
        size = len(self)
        at = index + size if index < 0 else index
        if not 0 <= at < size:
            raise IndexError(index)
        big, rest = divmod(at, BLOCK * BLOCK)
        middle, small = divmod(rest, BLOCK)
        if big < len(self.blocks):
            return self.blocks[big][middle][small]
        return self.row[middle][small] if middle < len(self.row) else self.tail[small]
