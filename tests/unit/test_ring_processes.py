"""A ring between two processes: everything arrives in order, and both sleep when there is nothing."""

import mmap
import os
import subprocess
import sys

import pytest

from ustack._core.py import probe_ring
from ustack._core.py.probe_ring import CONSUMER, PRODUCER, Ring

CHILD = """
import mmap, sys
from ustack._core.py.probe_ring import Ring
memory, bell, other, side, capacity, entry, offset, count, burst = map(int, sys.argv[1:])
with mmap.mmap(memory, 0) as shared:
    ring = Ring(shared, side, capacity, entry, offset)
    print(*ring.run(bell, other, count, burst))
    ring.close()
"""
COUNT = 50_000


@pytest.mark.parametrize("here", [PRODUCER, CONSUMER], ids=["producer", "consumer"])
@pytest.mark.parametrize(("capacity", "burst"), [(1, 1), (16, 5), (1024, 64)])
def test_two_processes(here: int, capacity: int, burst: int):
    entry, offset = 24, 192
    count = COUNT if capacity > 1 else 500          # a ring of one is a hand-over of each entry
    memory = os.memfd_create("ring")
    bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    try:
        os.ftruncate(memory, offset + probe_ring.extent(capacity, entry))
        arguments = (memory, bells[1], bells[0], 1 - here, capacity, entry, offset, count, burst)
        with subprocess.Popen([sys.executable, "-P", "-c", CHILD, *map(str, arguments)], stdout=subprocess.PIPE,
                              pass_fds=[memory, *bells]) as child, mmap.mmap(memory, 0) as shared:
            ring = Ring(shared, here, capacity, entry, offset)
            ours = ring.run(bells[0], bells[1], count, burst)
            ring.close()
            out, _ = child.communicate(timeout=60)
    finally:
        for fd in (memory, *bells):
            os.close(fd)
    theirs = tuple(map(int, out.split()))
    assert child.returncode == 0
    assert ours[0] == theirs[0] == count
    assert ours[2] == theirs[2] == -1


def test_no_kick_while_nobody_sleeps():
    with mmap.mmap(-1, probe_ring.extent(64, 8)) as memory:
        producer, taker = Ring(memory, PRODUCER, 64, 8), Ring(memory, CONSUMER, 64, 8)
        for _ in range(100):
            producer.put(b"12345678")
            assert not producer.owes_kick()
            taker.take(1)
            assert not taker.owes_kick()
        assert producer.kicks == taker.kicks == 0
        producer.close()
        taker.close()


def test_a_producer_that_waits_for_much_room_is_not_kicked_awake_by_little_it_has():
    with mmap.mmap(-1, probe_ring.extent(8, 8)) as memory:
        producer, taker = Ring(memory, PRODUCER, 8, 8), Ring(memory, CONSUMER, 8, 8)
        assert producer.put(b"x" * 56) == 7
        assert producer.arm() == 1                  # there is room for one: nothing to wait for
        assert not taker.owes_kick()
        assert producer.arm(4) == 0                 # not for four
        assert taker.take(8) == b"x" * 56
        assert taker.owes_kick()
        assert producer.arm(4) == 8
        producer.close()
        taker.close()
