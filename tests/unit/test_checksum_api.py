"""The checksum functions of ustack.buffers, against RFC 1071 and RFC 1624."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ustack import buffers as b

word = st.integers(0, 0xFFFF)


def reference(data: bytes) -> int:
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_example_of_rfc_1071():
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert b.checksum_partial(data) == 0xDDF2
    assert b.checksum(data) == 0x220D
    assert b.checksum(data + b"\x22\x0d") == 0


@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=6))
@example(b"\x01\x02\x03", [1, 2])
@example(b"\xff" * 7, [1, 3, 3])
def test_sums_of_pieces_combine_at_any_split(data: bytes, cuts: list[int]):
    total = 0
    points = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    for begin, end in itertools.pairwise(points):
        total = b.checksum_add(total, b.checksum_partial(data[begin:end]), begin)
    assert total == reference(data) == b.checksum_partial(data)
    assert b.checksum(data) == total ^ 0xFFFF


@given(st.binary(max_size=2000), st.integers(0, 9))
def test_copying_gives_bytes_and_sum(data: bytes, more: int):
    target = bytearray(b"\xa5" * (len(data) + more))
    assert b.copy_checksum(target, data) == reference(data)
    assert target == data + b"\xa5" * more


def test_copying_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="room for 3 of 4"):
        b.copy_checksum(bytearray(3), b"1234")
    memory = bytearray(20)
    with pytest.raises(ValueError, match="overlap"):
        b.copy_checksum(memoryview(memory)[1:11], memoryview(memory)[0:10])
    with pytest.raises(BufferError):
        b.copy_checksum(b"1234", b"1234")
    b.copy_checksum(memoryview(memory)[10:], memoryview(memory)[:10])


def test_the_vector_of_rfc_1624():
    assert b.checksum_update16(0xDD2F, 0x5555, 0x3285) == 0x0000


@given(st.binary(min_size=4, max_size=60), st.integers(0, 28), word)
def test_updating_a_word_is_recomputing(data: bytes, at: int, new: int):
    at = at * 2 % (len(data) & ~1)
    old = int.from_bytes(data[at : at + 2], "big")
    changed = data[:at] + new.to_bytes(2, "big") + data[at + 2 :]
    if any(changed) and any(data):
        assert b.checksum_update16(b.checksum(data), old, new) == b.checksum(changed)


@given(st.binary(min_size=4, max_size=60), st.integers(0, 28), st.integers(0, (1 << 32) - 1))
def test_updating_two_words_is_recomputing(data: bytes, at: int, new: int):
    at = at * 2 % ((len(data) - 2) & ~1)
    old = int.from_bytes(data[at : at + 4], "big")
    changed = data[:at] + new.to_bytes(4, "big") + data[at + 4 :]
    if any(changed) and any(data):
        assert b.checksum_update32(b.checksum(data), old, new) == b.checksum(changed)


def test_arguments_are_checked():
    for bad in [(-1, 0, 0), (0x10000, 0, 0), (0, 0, -1)]:
        with pytest.raises(ValueError, match="between"):
            b.checksum_add(*bad)
    assert b.checksum_kernel() in {"avx512", "avx2", "scalar"}
