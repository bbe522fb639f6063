"""Leaf facts: lists that are kept twice, sequence arithmetic, hashes and dice."""

import re

import pytest
from helpers import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from ustack._core.py import probe_base

EXT = ROOT / "ext" / "base"
word = st.integers(0, (1 << 32) - 1)


@pytest.mark.parametrize(("room", "prefix", "last"), [("counters", "C_", "C_COUNT"), ("ledger", "LR_", "LR_COUNT")])
def test_the_interface_lists_exactly_what_the_header_lists(room: str, prefix: str, last: str):
    header = re.findall(rf"^\s+X\(({prefix}\w+),", (EXT / f"{room}.h").read_text(), re.M)
    block = re.search(r'cdef extern from "\w+\.h":\s+enum:\n(.*?)\n\n', (EXT / f"{room}.pxd").read_text(), re.S)
    assert block
    listed = re.findall(rf"\b{prefix}\w+", block[1])
    assert header
    assert [*header, last] == listed


@pytest.mark.parametrize("listing", [probe_base.counter_list, probe_base.ledger_list])
def test_names_are_unique_and_explained(listing):
    names = [name for name, _ in listing()]
    assert len(names) == len(set(names)) > 15
    assert all(re.fullmatch(r"[a-z0-9]+(\.[a-z0-9_]+){0,2}", name) for name in names)
    assert all(meaning for _, meaning in listing())


@given(word, st.integers(-(1 << 31) + 1, (1 << 31) - 1))
@example((1 << 32) - 1, 1)
@example(0, -1)
@example(1 << 31, (1 << 31) - 1)
def test_sequence_numbers_compare_across_the_wrap(a: int, distance: int):
    b = (a + distance) % (1 << 32)
    lt, leq, gt, geq, diff, largest, smallest = probe_base.seq_compare(a, b)
    assert (lt, leq, gt, geq) == (distance > 0, distance >= 0, distance < 0, distance <= 0)
    assert diff == -distance
    assert (largest, smallest) == ((b, a) if distance > 0 else (a, b))


def test_siphash_reference_vectors():
    # Aumasson and Bernstein, "SipHash: a fast short-input PRF", appendix A, and the reference code's table
    key = bytes(range(16))
    assert probe_base.sip(key, bytes(range(15))) == 0xA129CA6149BE45E5
    assert probe_base.sip(key, b"") == 0x726FDB47DD0E0E31
    assert probe_base.sip(key, bytes(range(8))) == 0x93F5F5799A932462


def test_a_seed_determines_the_dice():
    assert probe_base.dice([1, 2], 20, 6) == probe_base.dice([1, 2], 20, 6)
    assert probe_base.dice([1, 2], 20, 6) != probe_base.dice([1, 3], 20, 6)
    assert probe_base.dice([1], 5, 6)[3] != probe_base.dice([2], 5, 6)[3]


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=4), word)
def test_dice_stay_in_their_bounds(seed: list[int], below: int):
    _, bounded, units, _ = probe_base.dice(seed, 50, below)
    assert all(x < below or x == below == 0 for x in bounded)
    assert all(0.0 <= x < 1.0 for x in units)


def test_dice_are_fair_enough_to_be_dice():
    _, bounded, units, _ = probe_base.dice([42], 60000, 6)
    assert all(9400 < bounded.count(face) < 10600 for face in range(6))
    assert 0.49 < sum(units) / len(units) < 0.51
