"""Pipes of page references against a model: whatever goes in, out and across, bytes, bounds and references are kept."""

import mmap

from hypothesis import given, settings
from hypothesis import strategies as st

import ustack
from ustack.buffers import Arena, esballoc

PAGE = mmap.PAGESIZE
SOURCE = bytes(k * 7 % 251 for k in range(3 * PAGE))
WHICH = st.integers(0, 2)
COUNT = st.one_of(st.integers(1, 40), st.integers(1, 3 * PAGE))

LENGTHS = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 3 * PAGE)), max_size=5)

OPERATIONS = st.lists(st.one_of(
    st.tuples(st.just("vmsplice"), WHICH, LENGTHS),
    st.tuples(st.just("tee"), WHICH, WHICH, COUNT),
    st.tuples(st.just("splice"), WHICH, WHICH, COUNT),
    st.tuples(st.just("read"), WHICH, COUNT),
    st.tuples(st.just("into"), WHICH, st.lists(COUNT, min_size=1, max_size=3)),
    st.tuples(st.just("take"), WHICH, COUNT),
    st.tuples(st.just("drop")),
    st.tuples(st.just("resize"), WHICH, st.integers(1, 5), st.integers(1, 3)),
), max_size=40)


class Model:
    """Three pipes, and beside them what should be in each: a list of (call, memory, from, to)."""

    def __init__(self):
        self.arena = Arena()
        self.pipes = [ustack.PagePipe(1 + 2 * k, (k + 1) * PAGE, arena=self.arena) for k in range(3)]
        for pipe in self.pipes:
            pipe.settimeout(0)
        self.inside = [[], [], []]
        self.taken = []             # (block, the same)
        self.given_back = []
        self.calls = []             # that took something

    def front(self, segments, n, slots):
        """At most n bytes from the front, as at most so many references."""
        found = []
        for call, memory, start, end in segments:
            if n == 0 or len(found) == slots:
                break
            end = min(end, start + n)
            n -= end - start
            found.append((call, memory, start, end))
        return found

    def remove(self, k, n):
        while n:
            call, memory, start, end = self.inside[k].pop(0)
            if end - start > n:
                self.inside[k].insert(0, (call, memory, start + n, end))
                return
            n -= end - start

    def room(self, k):
        """(references, bytes)"""
        return (self.pipes[k].buffers - len(self.inside[k]),
                self.pipes[k].size - sum(end - start for _, _, start, end in self.inside[k]))

    def does(self, expected, call, *arguments, **options):
        """A call that moves so many bytes, or would wait (None)."""
        try:
            assert call(*arguments, **options) == expected
        except BlockingIOError:
            assert expected is None

    def vmsplice(self, k, lengths):
        call = len(self.calls)
        parts = [memoryview(SOURCE)[:n] for n in lengths]
        slots, room = self.room(k)
        segments = []
        for part in parts:
            n = min(len(part), room - sum(end for *_, end in segments)) if len(segments) < slots else 0
            if n:
                segments.append((call, part, 0, n))
            if n < len(part):
                break
        moved = sum(end for *_, end in segments)
        self.calls.append(moved)
        self.does(moved if moved or not any(lengths) else None, self.pipes[k].vmsplice, parts,
                  given_back=lambda: self.given_back.append(call))
        self.inside[k] += segments

    def across(self, how, a, b, n):
        if a == b:
            return
        slots, room = self.room(b)
        segments = self.front(self.inside[a], min(n, room), slots)
        moved = sum(end - start for _, _, start, end in segments)
        self.does(moved or None, how, self.pipes[a], self.pipes[b], n)
        self.inside[b] += segments
        if how is ustack.splice:
            self.remove(a, moved)

    def tee(self, a, b, n):
        self.across(ustack.tee, a, b, n)

    def splice(self, a, b, n):
        self.across(ustack.splice, a, b, n)

    def bytes_of(self, segments):
        return b"".join(bytes(memory[start:end]) for _, memory, start, end in segments)

    def read(self, k, n):
        expected = self.bytes_of(self.front(self.inside[k], n, 99))
        self.does(expected or None, self.pipes[k].read, n)
        self.remove(k, len(expected))

    def into(self, k, lengths):
        expected = self.bytes_of(self.front(self.inside[k], sum(lengths), 99))
        targets = [bytearray(n) for n in lengths]
        self.does(len(expected) or None, self.pipes[k].vmsplice_into, targets)
        assert b"".join(targets)[:len(expected)] == expected
        self.remove(k, len(expected))

    def take(self, k, n):
        segments = self.front(self.inside[k], n, 99)
        if not segments:
            return
        blocks = self.pipes[k].take(n)
        assert len(blocks) == len(segments)
        for block, (_, memory, start, end) in zip(blocks, segments, strict=True):
            assert block.address == esballoc(memory).address + start
            assert block == memory[start:end]
        self.taken += zip(blocks, segments, strict=True)
        self.remove(k, sum(end - start for _, _, start, end in segments))

    def drop(self):
        if self.taken:
            self.taken.pop(0)

    def resize(self, k, buffers, pages):
        fits = len(self.inside[k]) <= buffers and len(self.pipes[k]) <= pages * PAGE
        before = self.pipes[k].buffers, self.pipes[k].size
        try:
            self.pipes[k].resize(buffers, pages * PAGE)
            assert fits
        except OSError:
            assert not fits
            assert (self.pipes[k].buffers, self.pipes[k].size) == before

    def check(self):
        for k, pipe in enumerate(self.pipes):
            assert len(pipe) == sum(end - start for _, _, start, end in self.inside[k])
            assert pipe.used == len(self.inside[k]) <= pipe.buffers
            assert len(pipe) <= pipe.size
        held = {call for inside in self.inside for call, *_ in inside} | {call for _, (call, *_) in self.taken}
        assert sorted(self.given_back) == [k for k, moved in enumerate(self.calls) if moved and k not in held]

    def close(self):
        for pipe in self.pipes:
            pipe.close()
        self.inside = [[], [], []]
        self.taken.clear()
        self.check()
        assert self.arena.live == 0
        assert set(self.arena.ledger()) <= {"rx.copy"}


@settings(max_examples=500, deadline=None)
@given(OPERATIONS)
def test_any_sequence_keeps_bytes_bounds_and_references(operations):
    model = Model()
    for name, *arguments in operations:
        getattr(model, name)(*arguments)
        model.check()
    model.close()
