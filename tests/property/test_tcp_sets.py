"""The out-of-order queue against models made of Python sets and dicts; the scoreboard has a file of its own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ustack._core.py.probe_tcp import Host, Reassembly

MASK = 0xFFFFFFFF
# Near zero, near 2^31, and across 2^32
BASES = st.sampled_from([0, 1000, 0x7FFFFF80, 0xFFFFFF80])
PIECES = st.lists(st.tuples(st.integers(0, 250), st.integers(1, 40)), max_size=40)


def runs(members: set[int]) -> list[tuple[int, int]]:
    """Maximal intervals [start, end) of a set of offsets."""
    out: list[tuple[int, int]] = []
    for x in sorted(members):
        if out and out[-1][1] == x:
            out[-1] = (out[-1][0], x + 1)
        else:
            out.append((x, x + 1))
    return out


def absolute(base: int, intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [((base + a) & MASK, (base + b) & MASK) for a, b in intervals]


@settings(max_examples=200)
@given(BASES, st.lists(st.tuples(st.integers(1, 250), st.integers(1, 40), st.booleans()), max_size=30))
def test_reassembly_keeps_the_first_bytes(base: int, pieces: list[tuple[int, int, bool]]):
    """Any overlap, reordering and duplication gives each position the byte that came first."""
    host = Host()
    q, model, nxt, out = Reassembly(host), dict[int, int](), 0, bytearray()
    for i, (start, n, fill) in enumerate(pieces):
        at = nxt if fill else start
        if at < nxt:
            continue
        data = bytes((i * 7 + k) & 0xFF for k in range(n))
        new = [k for k in range(n) if at + k not in model]
        fresh, dup = q.add(base + at, data)
        assert fresh == len(new)
        assert (dup is None) == (len(new) == n)
        for k in new:
            model[at + k] = data[k]
        while (taken := q.take(base + nxt)) is not None:
            where, chunk = taken
            assert where == (base + nxt) & MASK
            out += chunk
            nxt += len(chunk)
        waiting = {x for x in model if x >= nxt}
        assert q.runs() == absolute(base, runs(waiting))
        assert q.total == len(waiting)
        assert set(q.sack()) <= set(q.runs())
        assert len(q.sack()) == min(4, len(q.sack()))
    assert bytes(out) == bytes(model[x] for x in range(nxt))
    q.free()
    assert host.close() == 0


@given(st.lists(st.integers(0, 60), min_size=1, max_size=60))
def test_sack_blocks_are_newest_first(order: list[int]):
    host = Host()
    q = Reassembly(host)
    seen: list[int] = []
    for slot in order:
        q.add(100 + 10 * slot, b"abcde")
        if slot in seen:
            seen.remove(slot)
        seen.insert(0, slot)
        assert q.sack() == [(100 + 10 * s, 105 + 10 * s) for s in seen[:4]]
    q.free()
    assert host.close() == 0


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 30)), min_size=1, max_size=60))
def test_collapse_changes_no_byte(pieces: list[tuple[int, int]]):
    host = Host()
    plain, packed = Reassembly(host), Reassembly(host)
    for i, (start, n) in enumerate(pieces):
        for q in (plain, packed):
            q.add(start, bytes([i]) * n)
    packed.collapse()
    assert packed.runs() == plain.runs()
    for start, end in plain.runs():
        first, second = bytearray(), bytearray()
        for q, into in ((plain, first), (packed, second)):
            at = start
            while at != end:
                taken = q.take(at)
                assert taken is not None
                into += taken[1]
                at += len(taken[1])
        assert first == second
    assert (plain.held, packed.held) == (0, 0)
    assert host.close() == 0
