"""The rest of the rows that claim no CPU copy, in the dark: payload that this process may not touch reaches the peer.

Memory of the program's and files are in test_dark and test_direct_dark, fbufs in test_fbufs, VIA in tests/via.
"""

import contextlib
import os
import random
import signal
import socket

import pytest
from beds import PATIENCE, connected, copied, reading
from dark import DarkRegion, copied_out, dark_stacks
from helpers import Background

import ustack
from ustack._core.py.probe_cow import alias
from ustack._core.py.probe_shm import protect

PAGE = 4096
SLOT = 69632            # of a link's receive buffers: a page that headers end in, then payload (ext/link/shm_wire.pxd)
LIGHT = 2 * PAGE


def mapping_of(address):
    """(first, behind) of the mapping that an address lies in."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, behind = (int(part, 16) for part in line.split()[0].split("-"))
            if first <= address < behind:
                return first, behind
    raise AssertionError("nothing is mapped there")


def dies(call):
    """Whether a child process that runs this dies of touching what it must not."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        with contextlib.suppress(BaseException):
            call()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV


# --- copy on write ----------------------------------------------------------------------------------------------------

def shared_in_the_dark(**link):
    """Send pages of a CowBuffer that the stack's own mapping does not show; what arrived, and what was copied."""
    data = random.Random(21).randbytes(256 * PAGE)
    buffer = ustack.CowBuffer(len(data))
    with memoryview(buffer) as view:
        view[:] = data
        first = alias(buffer.address)[0]
        slots = buffer.spare + 256
        with dark_stacks(link) as (near, far), connected(near, far) as (c, s):
            protect(first, slots * PAGE, "none")
            try:
                with reading(s) as got:
                    c.sendall(buffer, cow=True)
                    c.shutdown(socket.SHUT_WR)
                assert got.result(PATIENCE) == data
                assert near.stats()["cow.pages"] == 256
                return copied_out(near)
            finally:
                protect(first, slots * PAGE, "write")


def test_pages_shared_by_copy_on_write_are_sent_in_the_dark():
    assert shared_in_the_dark() == {}


def test_the_proof_of_shared_pages_can_fail():
    assert dies(lambda: shared_in_the_dark(max_sg=1, device="thread"))


# --- splice, socket to socket -----------------------------------------------------------------------------------------

@contextlib.contextmanager
def dark_receive_buffers(client, inner):
    """The buffers that a stack's link receives into, out of reach of this process but for two pages of each: headers
    are in the first; packets that are shorter than a page are copied."""
    client.sendall(bytes(60_000))
    first = behind = 0
    taken = 0
    while taken < 60_000:
        for block in inner.recv_buffers():
            taken += len(block)
            if len(block) >= PAGE:
                first, behind = mapping_of(block.address)
    assert (behind - first) % SLOT == 0
    slots = range(first, behind, SLOT)
    for at in slots:
        protect(at + LIGHT, SLOT - LIGHT, "none")
    try:
        yield
    finally:
        for at in slots:
            protect(at + LIGHT, SLOT - LIGHT, "write")


def in_bulk(client, data):
    client.sendall(data)


def in_pieces(client, data):
    """Packets of all sizes."""
    dice, at = random.Random(23), 0
    while at < len(data):
        n = dice.choice((100, 1000, 3000, 5000, 20_000, 66_000, 200_000))
        client.sendall(data[at:at + n])
        at += n


def at_once(server, n):
    return server.recv(n, socket.MSG_WAITALL)


def in_bites(server, n):
    """What has little room behind it is taken in part."""
    dice, got = random.Random(24), bytearray()
    while len(got) < n:
        got += server.recv(dice.choice((100, 3000, 30_000, 300_000)))
    return got


def spliced_in_the_dark(feed=in_bulk, take=at_once, room=0, **link):
    """A proxy that could not read what it passes on; what its stack has copied. Half of the buffers may be lent, each
    to no less than 4 KB: there are enough of them for all that is sent."""
    with (dark_stacks({"slots": 1024, "max_sg": 64} | link) as (near, far), connected(near, far) as (client, inner),
          connected(near, far) as (server, outer)):
        size = 2_000_000
        data = random.Random(22).randbytes(size)
        if room:
            outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        with dark_receive_buffers(client, inner):
            before = copied(far)
            job = ustack.splice(inner, outer, size, wait=False)
            got = Background(take, server, size)
            feed(client, data)
            assert job.wait(PATIENCE) == size
            assert got.result(PATIENCE) == data
            return {name: n - before.get(name, 0) for name, n in copied(far).items() if n > before.get(name, 0)}


def passes_on(*how):
    """Exits 0 if 2 MB went through, in a process of its own: what it copies are packets shorter than a page, whose
    bytes are not in the dark."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(not set(spliced_in_the_dark(*how)) <= {"rx.ring", "tx.append"})
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_splice_passes_on_what_it_cannot_read():
    assert [passes_on() for _ in range(3)] == [0, 0, 0]


def test_a_splice_that_is_held_up_passes_on_what_it_cannot_read():
    """Queues fill up, so that packets are taken in part, and what is left lies in the queue when the next one comes."""
    assert [passes_on(in_pieces, in_bites, room) for room in (140_000, 200_000, 300_000)] == [0, 0, 0]


def test_lent_buffers_are_not_packed():
    """A queue of packets that hold ten times what they show, and of one that was taken but for 100 bytes."""
    with dark_stacks() as (near, far), connected(near, far) as (c, s):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in (60_000, *[6000] * 10):
            c.sendall(bytes(n))
            s.recv(1 << 20, socket.MSG_PEEK)        # it has come
        assert len(s.recv(59_900, socket.MSG_WAITALL)) == 59_900
        for n in (6000, 100, 100):
            c.sendall(bytes(n))
        assert len(s.recv(66_300, socket.MSG_WAITALL)) == 66_300
        assert "rx.collapse" not in copied(far)


def test_the_proof_of_splices_can_fail():
    assert dies(lambda: spliced_in_the_dark(max_sg=1, device="thread"))


# --- a pipe of page references ----------------------------------------------------------------------------------------

def piped_in_the_dark(**link):
    """Memory that this process cannot read, through pipes of references to two connections; what was copied."""
    size = 1 << 20
    data = random.Random(23).randbytes(size)
    with (DarkRegion(size) as memory, ustack.register(memory.region) as registered, ustack.PagePipe() as one,
          ustack.PagePipe() as two, dark_stacks(link) as (near, far), connected(near, far) as (c, s),
          connected(near, far) as (d, t)):
        if not registered.pinned:
            pytest.skip("memory that is not pinned is looked at before it is referred to")
        memory.write(0, data)
        with memory.dark(), reading(s) as first, reading(t) as second:
            left = memoryview(memory.region)
            while left:
                n = one.vmsplice(left)
                left = left[n:]
                while n:
                    again = ustack.tee(one, two, n)
                    for pipe, connection in ((one, c), (two, d)):
                        moved = 0
                        while moved < again:
                            moved += ustack.splice(pipe, connection, again - moved)
                    n -= again
            for connection in (c, d):
                connection.shutdown(socket.SHUT_WR)
            assert first.result(PATIENCE) == second.result(PATIENCE) == data
        assert one.ledger() == two.ledger() == {}
        return copied_out(near)


def test_a_pipe_of_references_passes_on_what_it_cannot_read():
    assert piped_in_the_dark() == {}


def test_the_proof_of_pipes_can_fail():
    assert dies(lambda: piped_in_the_dark(max_sg=1, device="thread"))
