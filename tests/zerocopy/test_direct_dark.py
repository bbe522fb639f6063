"""Sends in place of memory that this process may not read: devices of SharedMemory gather it, and the bytes arrive."""

import random
import socket

import pytest
from beds import PATIENCE, connected, reading
from dark import DarkRegion, copied_out, dark_stacks
from direct_beds import counted

import ustack

SIZE = 1 << 20
DATA = random.Random(12).randbytes(SIZE)


@pytest.mark.parametrize("how", [{"direct": True}, {"direct": "auto"}, {"zerocopy": True}], ids=str)
def test_registered_memory_is_sent_in_the_dark(how):
    with dark_stacks() as (near, far), connected(near, far) as (c, s), DarkRegion(SIZE) as memory:
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        memory.write(0, DATA)
        with ustack.register(memory.region) as registered:
            if not registered.pinned:
                pytest.skip("memory that is not pinned is looked at before it is sent")
            with memory.dark(), reading(s) as got:
                c.sendall(memory.region, **how)
                c.shutdown(socket.SHUT_WR)
                assert got.result(PATIENCE) == DATA
                if "zerocopy" in how:
                    assert c.completions(PATIENCE) == [(0, 0, False)]
        assert copied_out(near) == {}
        assert counted(near) == {"sent": 1, "sent_bytes": SIZE, "registered": 1}


def test_other_memory_is_bounced_by_the_link():
    """It goes in place as far as the stack is concerned; what the device cannot reach is copied for it."""
    with dark_stacks() as (near, far), connected(near, far) as (c, s), reading(s) as got:
        c.sendall(DATA, direct=True)
        c.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == DATA
        assert copied_out(near)["tx.bounce"] >= SIZE
        assert counted(near)["sent"] == 1
