"""The formats that weights and optimizers are kept in, read from their bytes without torch.

Pure, and nothing here is ever unpickled: a torch file's pickle is read as a list of operations, none is carried out.
"""

from __future__ import annotations

import json
import pickletools
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from guardian.core.values import dataclass

HEADER_LENGTH = 8
"""A safetensors file opens with the length of its JSON header, 8 bytes, little-endian."""
HEADER_MAX = 100_000_000
"""Longer ones are refused by the safetensors library (tensor.rs, MAX_HEADER_SIZE)."""
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file begins that torch wrote before 1.6, or was told to write so: no zip, and no checksum."""


class Broken(ValueError):  # noqa: N818 - it names what the file is; its text follows the file's name
    """A file is not what its format demands; the text follows its name: "is cut off in its header"."""


# --- safetensors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's bytes lie in its file."""

    name: str
    dtype: str
    begin: int
    end: int


WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4,
          "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8}  # fmt: skip
"""Bytes of an element, by the name that safetensors gives its type."""


def tensors_of(head: bytes, size: int) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file in the order they lie in, from its first bytes and its size. Raises Broken.

    Format: 8 bytes N, little-endian; N bytes of JSON with `data_offsets` per tensor; then the data without gaps
    (github.com/huggingface/safetensors, README "Format").
    """
    length = int.from_bytes(head[:HEADER_LENGTH], "little")
    start = HEADER_LENGTH + length
    if len(head) >= HEADER_LENGTH and not 0 < length <= HEADER_MAX:
        raise Broken("has a damaged header")
    if len(head) < start or start > size or len(head) < HEADER_LENGTH:
        raise Broken("is cut off in its header")
    try:
        header = json.loads(head[HEADER_LENGTH:start])
        found = [_tensor(name, entry, start) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Broken("has a damaged header") from None
    found.sort(key=lambda t: (t.begin, t.end))
    wanted = found[-1].end if found else start
    if wanted != size:
        raise Broken(f"has {size} bytes where its header promises {wanted}")
    if any(a.end != b.begin for a, b in pairwise(found)) or (found and found[0].begin != start):
        raise Broken("has a damaged header")
    return tuple(found)


def _tensor(name: str, entry: Mapping[str, object], start: int) -> Tensor:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list)):
        raise TypeError
    begin, end = (int(offset) for offset in offsets)
    elements = 1
    for one in shape:
        elements *= int(one)
    if not 0 <= begin <= end or elements * WIDTHS.get(dtype, 0) not in (0, end - begin):
        raise ValueError
    return Tensor(name, dtype, start + begin, start + end)


# --- torch.save --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in a torch file."""

    key: str
    """Its bytes are the archive's member `data/<key>`."""
    dtype: str | None
    """As safetensors calls it; None: a type that is not known here."""
    name: str
    """The last name that the pickle spoke before it, mostly that of its tensor."""


STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
            "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
            "BoolStorage": "BOOL"}  # fmt: skip
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_GLOBALS = frozenset({"GLOBAL", "STACK_GLOBAL"})
_MARK = object()


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def storages_of(pickle: bytes) -> tuple[Storage, ...]:
    """The storages that a torch file's data.pkl speaks of, each once. Raises Broken.

    torch gives each as a persistent id, the tuple ("storage", <type>, key, device, elements) (torch/serialization.py,
    persistent_id); so it is enough to follow which constants were pushed since the tuple's mark.
    """
    found: dict[str, Storage] = {}
    constants = _Constants()
    try:
        for code, argument, _ in pickletools.genops(pickle):
            storage = constants.follow(code, argument)
            if storage is not None:
                found.setdefault(storage.key, storage)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError):
        raise Broken("has a damaged directory of tensors (data.pkl)") from None
    return tuple(found.values())


class _Constants:
    """What a pickle pushes, as far as it is written down in it."""

    def __init__(self) -> None:
        self._pushed: list[object] = []
        self._memo: dict[object, object] = {}
        self._spoken = self._name = ""

    def follow(self, code: pickletools.OpcodeInfo, argument: object) -> Storage | None:
        """Take note of one operation; the storage, where it was the last of a persistent id."""
        if code.name == "BINPERSID":
            return self._persistent_id()
        if code.name in _PUTS:
            self._memo[len(self._memo) if argument is None else argument] = self._pushed[-1] if self._pushed else None
        elif code.name in _GETS:
            self._push(self._memo.get(argument))
        elif code.name == "MARK":
            self._push(_MARK)
        elif code.name in _GLOBALS:
            self._push(_Global(str(argument or self._pushed[-1]).rpartition(" ")[2]))
        elif argument is not None:
            self._push(argument)
        return None

    def _push(self, value: object) -> None:
        self._pushed.append(value)
        if isinstance(value, str):
            self._spoken = value
        elif isinstance(value, _Global) and value.name.startswith("_rebuild"):
            self._name = self._spoken  # a dictionary's key stands before what makes its value

    def _persistent_id(self) -> Storage:
        start = len(self._pushed) - 1 - self._pushed[::-1].index(_MARK)
        _, kind, key, *_ = self._pushed[start + 1 :]
        self._pushed.clear()
        self._spoken = self._name  # not "cpu", should the next tensor have no key of its own
        dtype = STORAGES.get(kind.name) if isinstance(kind, _Global) else None
        return Storage(str(key), dtype, self._name[:200])


# --- numbers that are none -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """How a floating-point number is laid out, little-endian."""

    width: int
    exponent: int
    """Its bits, as a mask over the whole number: all of them set means infinite or no number."""
    fraction: int

    @property
    def suspects(self) -> tuple[bytes, ...]:
        """What the highest byte of such a number can be: hardly any sound weight has one of these."""
        shift = 8 * (self.width - 1)
        mask = self.exponent >> shift
        return tuple(bytes([b]) for b in range(256) if b & mask == mask)


FORMS = {
    "F16": Form(2, 0x7C00, 0x03FF),
    "BF16": Form(2, 0x7F80, 0x007F),
    "F32": Form(4, 0x7F800000, 0x007FFFFF),
    "F64": Form(8, 0x7FF0 << 48, (1 << 52) - 1),
    "F8_E5M2": Form(1, 0x7C, 0x03),
}
"""By the name that safetensors gives the type."""
_SUSPECTS = {name: form.suspects for name, form in FORMS.items()}
_SEARCH = {name: re.compile(b"[" + b"".join(map(re.escape, found)) + b"]") for name, found in _SUSPECTS.items()}


def not_numbers(data: bytes, dtype: str) -> Iterator[tuple[int, bool]]:
    """(element, whether it is NaN rather than infinite) for all that are not finite.

    Only the highest byte of each number is looked at until one is suspect: taking every n-th byte and searching it
    are single calls, which go through some gigabytes a second.
    """
    form = FORMS[dtype]
    top = data[form.width - 1 :: form.width]
    if not any(byte in top for byte in _SUSPECTS[dtype]):
        return
    for hit in _SEARCH[dtype].finditer(top):
        at = hit.start()
        number = int.from_bytes(data[at * form.width : (at + 1) * form.width], "little")
        if number & form.exponent == form.exponent:
            yield at, bool(number & form.fraction)
