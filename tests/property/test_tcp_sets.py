"""The SACK scoreboard and the out-of-order queue against models made of Python sets and dicts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ustack._core.py.probe_tcp import Host, Reassembly, Scoreboard

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


@given(BASES, PIECES)
def test_scoreboard_is_a_set(base: int, pieces: list[tuple[int, int]]):
    board, model = Scoreboard(), set[int]()
    for start, n in pieces:
        new = set(range(start, start + n)) - model
        assert board.add(base + start, base + start + n) == len(new)
        model |= new
        assert board.intervals() == absolute(base, runs(model))
        assert board.total == len(model)


@given(BASES, PIECES, st.integers(0, 300))
def test_scoreboard_forgets_what_is_acknowledged(base: int, pieces: list[tuple[int, int]], una: int):
    board, model = Scoreboard(), set[int]()
    for start, n in pieces:
        board.add(base + start, base + start + n)
        model |= set(range(start, start + n))
    board.advance(base + una)
    model = {x for x in model if x >= una}
    assert board.intervals() == absolute(base, runs(model))
    assert board.total == len(model)


@given(BASES, PIECES, st.integers(0, 300), st.integers(0, 100))
def test_scoreboard_questions(base: int, pieces: list[tuple[int, int]], start: int, n: int):
    board, model = Scoreboard(), set[int]()
    for a, k in pieces:
        board.add(base + a, base + a + k)
        model |= set(range(a, a + k))
    wanted = set(range(start, start + n))
    assert board.within(base + start, base + start + n) == len(wanted & model)
    missing = sorted(wanted - model)
    hole = board.hole(base + start, base + start + n)
    if not missing:
        assert hole is None
    else:
        assert hole == absolute(base, [runs(set(missing))[0]])[0]


@given(BASES, PIECES, st.integers(1, 30))
def test_lost_below_is_rfc_6675(base: int, pieces: list[tuple[int, int]], mss: int):
    """IsLost, byte by byte, straight from the RFC."""
    board, model = Scoreboard(), set[int]()
    for a, k in pieces:
        board.add(base + 1 + a, base + 1 + a + k)
        model |= set(range(1 + a, 1 + a + k))

    def is_lost(x: int) -> bool:
        above = [r for r in runs(model) if r[0] > x]
        return len(above) >= 3 or sum(b - a for a, b in above) > 2 * mss

    edge = (board.lost_below(base, mss) - base) & MASK
    for x in range(300):
        if x not in model:
            assert is_lost(x) == (x < edge)


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
