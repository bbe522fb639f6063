"""TCP whose payload the stack's process cannot touch: SharedMemory devices gather it, and the bytes arrive."""

import os
import random
import signal

import pytest
from beds import PATIENCE, connected, reading
from dark import DarkRegion, copied_out, dark_stacks

from ustack._core.py.probe_shm import completed, queue_external

SIZE = 1 << 20
DATA = random.Random(5).randbytes(SIZE)


def send_dark(c, memory, n, piece):
    """Queue the region piece by piece, as it lies there."""
    at = 0
    while at < n:
        took = queue_external(c, memory.address + at, min(piece, n - at))
        assert took > 0
        at += took


@pytest.mark.parametrize("outboard", [False, True])
@pytest.mark.parametrize("offloads", [True, ["csum"]])
@pytest.mark.parametrize("piece", [SIZE, 10_000])
def test_payload_in_the_dark_arrives(piece, offloads, outboard):
    """Every byte is as it was, none was copied, and all of the memory is let go when it is acknowledged."""
    before = completed()
    options = {"offloads": offloads, "outboard": outboard, "mtu": 1500 if offloads is not True else 9000}
    with (dark_stacks(options) as (near, far), connected(near, far) as (c, s), DarkRegion(SIZE) as memory,
          memory.dark()):
        memory.write(0, DATA)
        with reading(s) as got:
            send_dark(c, memory, SIZE, piece)
            c.shutdown(1)
        assert got.result(PATIENCE) == DATA
        assert copied_out(near) == {}
        assert near.ledger()["device.tx"][0] > SIZE
    assert completed() - before == -(-SIZE // piece)


def test_the_proof_can_fail():
    """A device that wants other alignment has the stack copy what it must not touch: it dies of it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        with (dark_stacks({"align": 64, "device": "thread"}) as (near, far), connected(near, far) as (c, s),
              DarkRegion(SIZE) as memory, memory.dark(), reading(s)):
            queue_external(c, memory.address + 1, 10_000)
            c.shutdown(1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV
