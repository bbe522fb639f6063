"""Every kernel gives what RFC 1071 says, at every alignment and length, and writes only where it should."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustack._core.py import probe_base

DATA = random.Random(1).randbytes(2 << 20)


def reference(data: bytes) -> int:
    """RFC 1071 section 4.1, on big-endian words: the sum, not complemented."""
    total = sum(int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = probe_base.kernel()
    if not probe_base.select_kernel(request.param):
        pytest.skip(f"this CPU lacks {request.param}")
    yield request.param
    assert probe_base.kernel() == request.param
    probe_base.select_kernel(before)


def test_every_alignment_and_length(kernel: str):
    for length in range(301):
        for alignment in range(64):
            end = alignment + length
            assert probe_base.partial_sum(DATA, alignment, end) == reference(DATA[alignment:end])


def test_copying_at_every_alignment(kernel: str):
    for length in [*range(80), 127, 128, 129, 255, 256, 257, 300]:
        want = [reference(DATA[a : a + length]) for a in range(64)]
        for source in range(64):
            for target in (0, 1, 31, source):
                got, buffer = probe_base.copy_sum(DATA, source, source + length, target)
                assert got == want[source]
                assert buffer[target : target + length] == DATA[source : source + length]
                assert set(buffer[:target]) | set(buffer[target + length :]) <= {0xA5}


HALF = 512 << 10


@pytest.mark.parametrize("length", [1448, 4095, 4096, 65535, 65536, HALF - 1, HALF + 65, 4 * HALF - 7])
def test_long_buffers(kernel: str, length: int):
    for start in (0, 7):
        want = reference(DATA[start : start + length])
        assert probe_base.partial_sum(DATA, start, start + length) == want
        got, buffer = probe_base.copy_sum(DATA, start, start + length, 3)
        assert got == want
        assert buffer[3 : 3 + length] == DATA[start : start + length]


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x80, 0x7F])
@pytest.mark.parametrize("length", [2, 63, 64, 65, 256, 65536, 1 << 20])
def test_extreme_bytes_do_not_overflow_a_lane(kernel: str, byte: int, length: int):
    data = bytes([byte]) * length
    assert probe_base.partial_sum(data, 0, length) == reference(data)
    assert probe_base.copy_sum(data, 0, length, 0)[0] == reference(data)


def test_only_zeros_sum_to_zero(kernel: str):
    assert probe_base.partial_sum(bytes(1000), 0, 1000) == 0
    assert probe_base.partial_sum(b"\xff\xff" * 500, 0, 1000) == 0xFFFF


@given(st.binary(max_size=700))
def test_all_kernels_agree(data: bytes):
    before = probe_base.kernel()
    try:
        sums = {probe_base.partial_sum(data, 0, len(data))
                for name in ("scalar", "avx2", "avx512") if probe_base.select_kernel(name)}
    finally:
        probe_base.select_kernel(before)
    assert sums == {reference(data)}


def test_an_unknown_kernel_is_refused():
    before = probe_base.kernel()
    assert not probe_base.select_kernel("mmx")
    assert probe_base.kernel() == before
