"""Rings in shared memory: what goes in comes out, once and in order; an index that lies breaks the ring, no more."""

import mmap
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ustack._core.py import probe_ring
from ustack._core.py.probe_ring import CONSUMER, PRODUCER, Ring

EPROTO = 71
TAIL, HEAD, ENTRIES = 0, 128, 256


def made(capacity: int, entry: int) -> tuple[mmap.mmap, Ring, Ring]:
    memory = mmap.mmap(-1, probe_ring.extent(capacity, entry))
    return memory, Ring(memory, PRODUCER, capacity, entry), Ring(memory, CONSUMER, capacity, entry)


class Algebra(RuleBasedStateMachine):
    """A ring beside a bounded queue of the same length."""

    @initialize(capacity=st.sampled_from([1, 2, 8, 64]), entry=st.sampled_from([8, 24, 64]),
                start=st.sampled_from([0, 2**32 - 3, 2**31 - 1]))
    def make(self, capacity: int, entry: int, start: int):
        self.capacity, self.entry, self.next = capacity, entry, 0
        self.memory, self.producer, self.consumer = made(capacity, entry)
        self.model: deque[bytes] = deque()
        self.asleep: set[int] = set()

    def fresh(self, n: int) -> list[bytes]:
        self.next += n
        return [struct.pack("=Q", i).ljust(self.entry, b"%d" % (i % 10)) for i in range(self.next - n, self.next)]

    @rule(n=st.integers(0, 80))
    def put(self, n: int):
        entries = self.fresh(n)
        room = self.capacity - len(self.model)
        assert self.producer.put(b"".join(entries)) == min(n, room)
        self.model.extend(entries[:room])
        self.settle(self.producer, CONSUMER, n and room)

    @rule(n=st.integers(-1, 80))
    def take(self, n: int):
        expected = [self.model.popleft() for _ in range(min(max(n, 0), len(self.model)))]
        assert self.consumer.take(n) == b"".join(expected)
        self.settle(self.consumer, PRODUCER, bool(expected))

    def settle(self, side: Ring, other: int, moved):
        """A kick is owed exactly when the other side asked for one, and once."""
        if moved:
            assert side.owes_kick() == (other in self.asleep)
            self.asleep.discard(other)
            assert not side.owes_kick()

    @rule(consumer=st.booleans())
    def sleep(self, consumer: bool):
        side = self.consumer if consumer else self.producer
        free = len(self.model) if consumer else self.capacity - len(self.model)
        assert side.arm() == free
        (self.asleep.discard if free else self.asleep.add)(CONSUMER if consumer else PRODUCER)

    @rule(consumer=st.booleans())
    def wake(self, consumer: bool):
        (self.consumer if consumer else self.producer).disarm()
        self.asleep.discard(CONSUMER if consumer else PRODUCER)

    @invariant()
    def counted(self):
        if hasattr(self, "model"):
            assert self.consumer.ready() == len(self.model)
            assert self.producer.ready() == self.capacity - len(self.model)

    def teardown(self):
        if hasattr(self, "model"):
            self.producer.close()
            self.consumer.close()
            self.memory.close()


Algebra.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAlgebra = Algebra.TestCase


@given(laps=st.integers(0, 5), n=st.integers(0, 8), lie=st.integers(0, 2**32 - 1), consumer=st.booleans())
@settings(max_examples=400, deadline=None)
def test_an_index_is_believed_only_if_it_can_be_true(laps: int, n: int, lie: int, consumer: bool):
    """Against a model in plain numbers: how far the peer could have come."""
    memory, producer, taker = made(8, 8)
    word = b"abcdefgh"
    for _ in range(laps):
        assert producer.put(8 * word) == 8
        assert taker.take(8) == 8 * word
    assert producer.put(n * word) == n
    if not consumer:                            # the producer has seen the head at laps * 8
        assert producer.ready() == 8 - n
    victim, at = (taker, TAIL) if consumer else (producer, HEAD)
    seen = 8 * laps                             # what the victim accepted last, or began with
    memory[at:at + 4] = struct.pack("=I", lie)
    true = 0 <= (lie - seen) % 2**32 <= (8 if consumer else n)
    got = victim.ready()
    if true:
        assert got == ((lie - seen) % 2**32 if consumer else 8 - n + (lie - seen))
        assert not victim.broken
    else:
        assert got == -EPROTO
        assert victim.broken
        memory[at:at + 4] = struct.pack("=I", seen)
        assert victim.ready() == -EPROTO        # no way back
        assert victim.arm() == -EPROTO
        assert (victim.take(1) if consumer else victim.put(word)) == -EPROTO
    for ring in (producer, taker):
        ring.close()
    memory.close()


def test_an_index_does_not_go_back():
    """What was accepted once is not produced again."""
    memory, producer, taker = made(8, 8)
    assert producer.put(b"x" * 40) == 5
    assert taker.take(3) == b"x" * 24
    memory[TAIL:TAIL + 4] = struct.pack("=I", 4)        # had been 5
    assert taker.take(8) == -EPROTO
    producer.close()
    taker.close()
    memory.close()


def test_our_own_index_is_never_read_back():
    memory, producer, taker = made(4, 8)
    assert producer.put(b"1" * 8 + b"2" * 8) == 2
    memory[TAIL:TAIL + 4] = struct.pack("=I", 77)       # a peer that writes where it must not
    assert producer.ready() == 2
    assert producer.put(b"3" * 8) == 1                  # publishes its own index again
    assert taker.take(9) == b"1" * 8 + b"2" * 8 + b"3" * 8
    producer.close()
    taker.close()
    memory.close()


@pytest.mark.parametrize(("capacity", "entry"), [(0, 8), (3, 8), (1 << 21, 8), (8, 0), (8, 12), (8, 8192)])
def test_rings_that_cannot_be(capacity: int, entry: int):
    assert probe_ring.extent(capacity, entry) == 0
    with mmap.mmap(-1, 1 << 20) as memory, pytest.raises(OSError, match="no such ring"):
        Ring(memory, PRODUCER, capacity, entry)


def test_a_ring_lies_within_its_memory():
    need = probe_ring.extent(8, 16)
    assert need == ENTRIES + 8 * 16
    with mmap.mmap(-1, 4096) as memory:
        Ring(memory, PRODUCER, 8, 16, 4096 - need).close()
        for offset in (4096 - need + 64, 4096, 4160, 8):
            with pytest.raises(OSError, match="no such ring"):
                Ring(memory, PRODUCER, 8, 16, offset)
        with pytest.raises(OSError, match="no such ring"):
            Ring(memory, 2, 8, 16)
