"""Formats read from their bytes: nothing raises but Broken, and no number that is none is missed."""

import contextlib
import json
import math
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core.tensorfiles import Broken, Storage, Tensor, not_numbers, storages_of, tensors_of


def header(entries, data=b""):
    """A safetensors file."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


TWO = {
    "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [4, 12]},
    "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    "__metadata__": {"format": "pt"},
}


def test_tensors_come_in_the_order_they_lie_in():
    """With their places in the file."""
    whole = header(TWO, bytes(12))
    start = len(whole) - 12

    assert (Tensor("a", "F32", start, start + 4), Tensor("b", "BF16", start + 4, start + 12)) == tensors_of(
        whole, len(whole)
    )


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
        {"a": 3},
        [],
    ],
    ids=["a gap", "another shape", "backwards", "no shape", "no entry", "no header"],
)
def test_a_header_that_contradicts_itself_is_damage(entries):
    """As the safetensors library refuses it."""
    with pytest.raises(Broken):
        tensors_of(header(entries, bytes(4)), len(header(entries, bytes(4))))


@pytest.mark.parametrize("more", [-1, 1, 4096])
def test_a_file_shorter_or_longer_than_its_header_says_is_damage(more):
    """Both lengths are told."""
    whole = header(TWO, bytes(12))

    with pytest.raises(Broken, match=f"has {len(whole) + more} bytes where its header promises {len(whole)}"):
        tensors_of(whole, len(whole) + more)


@given(st.data())
def test_no_bytes_raise_anything_but_broken(data):
    """A header altered anywhere, or cut off."""
    whole = bytearray(header(TWO, bytes(12)))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Broken):
        tensors_of(bytes(whole[: data.draw(st.integers(0, len(whole)))]), len(whole))


def floats(dtype, raw):
    """The numbers of some bytes, by struct."""
    if dtype == "BF16":
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
    return [x for (x,) in struct.iter_unpack({"F16": "<e", "BF16": "<f", "F32": "<f", "F64": "<d"}[dtype], raw)]


@given(
    st.sampled_from(["F16", "BF16", "F32", "F64"]),
    st.lists(st.one_of(st.binary(min_size=8, max_size=8), st.sampled_from([b"\0" * 6 + b"\xf0\x7f", b"\xff" * 8]))),
)
def test_no_number_that_is_none_is_missed_or_invented(dtype, raw):
    """Against what struct reads from the same bytes."""
    data = b"".join(raw)
    wanted = [(at, math.isnan(x)) for at, x in enumerate(floats(dtype, data)) if not math.isfinite(x)]

    assert wanted == list(not_numbers(data, dtype))


class Weights:
    """Pickled as torch pickles a storage: a persistent id."""


class HalfStorage:
    """Stands for torch's class of that name."""


class Pickler(pickle._Pickler):
    """pickle's, with torch's persistent ids."""

    def persistent_id(self, thing):
        if isinstance(thing, Weights):
            return ("storage", HalfStorage, "7", "cpu", 12)
        return None


def test_storages_are_found_without_carrying_anything_out(tmp_path):
    """By key and type, under the name that stood before; a class that would act when built is never built."""

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    with open(tmp_path / "data.pkl", "wb") as file:
        Pickler(file, 2).dump({"model.weight": Weights(), "trap": Trap()})

    (found,) = storages_of((tmp_path / "data.pkl").read_bytes())
    assert ("7", "F16") == (found.key, found.dtype)
    assert not (tmp_path / "sprung").exists()


@given(st.binary(max_size=200))
def test_no_pickle_raises_anything_but_broken(data):
    """Or it speaks of no storage."""
    with contextlib.suppress(Broken):
        assert all(isinstance(one, Storage) for one in storages_of(b"\x80\x02" + data))
