"""What a program may hand us that is no good: a clear error or the copying path, nothing lost, and nobody dies.

Files that are cut are in test_truncation and test_receive_truncated, descriptors that lie in test_shm_processes,
tests/via/test_via_hostile and test_fbufs_processes, what runs out in test_exhaustion.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import random
import socket

import pytest
from beds import PATIENCE, connected, two_stacks
from direct_beds import two_devices
from helpers import Background

import ustack
from ustack.buffers import Region

PAGE = 4096
LENGTH = 64 * PAGE
DATA = random.Random(41).randbytes(LENGTH)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
FAR_AWAY = 0x2000_0000_0000   # nothing that is mapped later gets such an address unless it asks for it
FIXED_NOREPLACE = 0x100000
KINDS = ["unmapped", "inaccessible", "foreign"]


def mapped(address, n=LENGTH):
    """Memory at an address where there is none."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | FIXED_NOREPLACE
    got = libc.mmap(address, n, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert got == address
    return got


class ByHand:
    """Memory that Python believes in and that goes by hand: from byte `there` on it is not there any more."""

    def __init__(self):
        self.address = mapped(FAR_AWAY)
        self.memory = (ctypes.c_ubyte * LENGTH).from_address(self.address)
        self.view = memoryview(self.memory).cast("B")
        self.view[:] = DATA

    def go(self, kind, there=0):
        at, n = self.address + there, LENGTH - there
        if kind == "inaccessible":
            assert libc.mprotect(at, n, 0) == 0
            return
        assert libc.munmap(at, n) == 0
        if kind == "foreign":               # another process has memory there
            child = os.fork()
            if child == 0:
                os._exit(mapped(at, n) != at)
            assert os.waitpid(child, 0)[1] == 0

    def close(self):
        libc.munmap(self.address, LENGTH)


@contextlib.contextmanager
def by_hand():
    one = ByHand()
    try:
        yield one
    finally:
        one.close()


def bad_address():
    return pytest.raises(OSError, match=r"Bad address|cannot be read|is gone")


# --- to be sent -------------------------------------------------------------------------------------------------------

SENDING = {
    "send": lambda c, m: c.send(m),
    "sendall": lambda c, m: c.sendall(m),
    "sendmsg": lambda c, m: c.sendmsg([m[:100], m[100:]]),
    "direct": lambda c, m: c.sendall(m, direct=True),
    "auto": lambda c, m: c.sendall(m, direct="auto"),
    "zerocopy": lambda c, m: c.send(m, zerocopy=True),
    "cow": lambda c, m: c.sendall(m, cow=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", SENDING)
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_memory_to_be_sent_that_is_not_there(bed, how, kind):
    with bed() as (near, far), connected(near, far) as (c, s), by_hand() as m:
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        m.go(kind)
        with bad_address() as caught:
            SENDING[how](c, m.view)
        assert caught.value.errno == errno.EFAULT
        c.sendall(b"still there")
        assert s.recv(100) == b"still there"
        assert c.completions() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_memory_to_be_sent_that_ends(bed, kind):
    """What is there is sent, as by the kernel's send: a short count, or how much had gone in the error."""
    there = 20 * PAGE
    with bed() as (near, far), connected(near, far) as (c, s), by_hand() as m:
        c.settimeout(None)
        m.go(kind, there)
        got = Background(s.recv, 2 * there - 300, socket.MSG_WAITALL)
        assert c.send(m.view[100:]) == there - 100
        with bad_address() as caught:
            c.sendall(m.view[200:])
        assert caught.value.moved == there - 200
        assert got.result(PATIENCE) == DATA[100:there] + DATA[200:there]
        c.sendall(b"still there")
        assert s.recv(100) == b"still there"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["direct", "zerocopy", "cow"])
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_memory_that_goes_while_it_waits_to_be_sent(bed, how, kind):
    """What was copied arrives. Where other bytes would have to be sent in its place the connection ends with an error;
    and who is still copying hears of it."""
    with bed() as (near, far), connected(near, far) as (c, s), by_hand() as m:
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sending = Background(SENDING[how], c, m.view)
        first = s.recv(1)
        m.go(kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        rest = Background(to_the_end, s)
        taken, refused = LENGTH, None
        try:
            taken = sending.result(PATIENCE) or LENGTH      # sendall's result is None
        except OSError as error:
            refused = error.errno
        assert refused in (None, errno.EFAULT, errno.EIO)
        with contextlib.suppress(OSError):
            c.shutdown(socket.SHUT_WR)
        got, whole = rest.result(PATIENCE)
        got = first + got
        assert got == DATA[:len(got)]
        assert refused or not whole or len(got) == taken


def to_the_end(s):
    """What comes, and whether the stream ended as one does."""
    got = bytearray()
    try:
        while part := s.recv(LENGTH):
            got += part
    except ConnectionResetError:
        return got, False
    return got, True


# --- to be received into ----------------------------------------------------------------------------------------------

RECEIVING = {
    "recv_into": lambda s, v: s.recv_into(v),
    "all": lambda s, v: s.recv_into(v, 0, socket.MSG_WAITALL),
    "recvfrom_into": lambda s, v: s.recvfrom_into(v)[0],
    "recvmsg_into": lambda s, v: s.recvmsg_into([v[:5000], v[5000:]])[0],
    "posted": lambda s, v: s.recv_posted(v),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", RECEIVING)
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_memory_to_receive_into_that_is_not_there(bed, how, kind):
    """What found no place is the next to be received."""
    with bed() as (near, far), connected(near, far) as (c, s), by_hand() as m:
        c.sendall(DATA[:60_000])
        m.go(kind)
        with bad_address() as caught:
            RECEIVING[how](s, m.view)
        assert caught.value.errno == errno.EFAULT
        assert s.recv(60_000, socket.MSG_WAITALL) == DATA[:60_000]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", RECEIVING)
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_memory_to_receive_into_that_ends(bed, how, kind):
    there = 3 * PAGE
    with bed() as (near, far), connected(near, far) as (c, s), by_hand() as m:
        m.view[:] = bytes(LENGTH)
        c.sendall(DATA[:60_000])
        m.go(kind, there)
        assert RECEIVING[how](s, m.view[10:]) == there - 10
        assert m.view[10:there] == DATA[:there - 10]
        assert s.recv(60_000 - there + 10, socket.MSG_WAITALL) == DATA[there - 10:60_000]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bed", [two_devices, two_stacks])
def test_memory_that_goes_while_a_receive_is_posted_to_it(bed, kind):
    """A link that fills it has no place to put the bytes, neither has the copy: they are the next to be received."""
    with bed() as (near, far), connected(near, far) as (c, s), by_hand() as m, ustack.register(m.view):
        taking = Background(s.recv_posted, m.view)
        c.sendall(DATA[:1000])
        while m.view[999] != DATA[999]:
            pass                            # it is being filled
        m.go(kind)
        c.sendall(DATA[1000:60_000])
        taken = 0
        with contextlib.suppress(OSError):
            taken = taking.result(PATIENCE)     # no longer than what was there in time
        assert taken in (0, 1000)
        assert s.recv(60_000 - taken, socket.MSG_WAITALL) == DATA[taken:60_000]


# --- datagrams --------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def datagrams():
    with two_stacks() as (near, far):
        with near.socket(socket.AF_INET, socket.SOCK_DGRAM) as a, far.socket(socket.AF_INET, socket.SOCK_DGRAM) as b:
            b.bind(("10.9.0.2", 0))
            b.settimeout(PATIENCE)
            a.connect(b.getsockname())
            yield a, b


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [
    lambda a, b, v: a.send(v),
    lambda a, b, v: a.sendto(v, b.getsockname()),
    lambda a, b, v: a.sendmmsg([v, b"behind"]),
    lambda a, b, v: a.send(v, direct=True),
], ids=["send", "sendto", "sendmmsg", "direct"])
def test_datagrams_from_memory_that_ends(how, kind):
    """None goes, of which a part is not there."""
    with datagrams() as (a, b), by_hand() as m:
        m.go(kind, PAGE)
        with bad_address():
            how(a, b, m.view[:3 * PAGE])
        assert a.sendmmsg([b"before", m.view[:3 * PAGE], b"behind"]) == 1
        assert b.recv(100) == b"before"
        a.send(b"still there")
        assert b.recv(100) == b"still there"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [
    lambda b, v: b.recv_into(v),
    lambda b, v: b.recvfrom_into(v),
    lambda b, v: b.recvmsg_into([v[:100], v[100:]]),
    lambda b, v: b.recvmmsg_into(v, 8 * PAGE),
], ids=["recv_into", "recvfrom_into", "recvmsg_into", "recvmmsg_into"])
def test_datagrams_into_memory_that_ends(how, kind):
    """It is lost, and the next one comes."""
    with datagrams() as (a, b), by_hand() as m:
        m.go(kind, PAGE)
        a.send(DATA[:3 * PAGE])
        with bad_address():
            how(b, m.view)
        a.send(b"still there")
        assert b.recv(100) == b"still there"


# --- what is no good from the beginning -------------------------------------------------------------------------------

def test_memory_that_is_not_there_is_registered_but_not_pinned():
    with by_hand() as m:
        m.go("unmapped")
        with ustack.register(m.view) as memory:
            assert not memory.pinned
            assert memory.error == errno.ENOMEM


TAKING = {
    "recv_into": lambda s, b: s.recv_into(b),
    "recv_posted": lambda s, b: s.recv_posted(b),
    "recvmsg_into": lambda s, b: s.recvmsg_into([b]),
    "recvfrom_into": lambda s, b: s.recvfrom_into(b),
}


@pytest.mark.parametrize("how", TAKING)
@pytest.mark.parametrize("make", [bytes, lambda n: memoryview(bytes(n)), lambda n: "x" * n, lambda n: None],
                         ids=["bytes", "view", "str", "None"])
def test_what_cannot_be_written_to_is_refused_and_nothing_is_taken(how, make):
    with two_devices() as (near, far), connected(near, far) as (c, s):
        c.sendall(b"bytes")
        with pytest.raises((TypeError, BufferError)):
            TAKING[how](s, make(100))
        assert s.recv(5, socket.MSG_WAITALL) == b"bytes"


@pytest.mark.parametrize("at", [1, 3, 511, PAGE - 1])
@pytest.mark.parametrize("how", ["direct", "zerocopy", "cow", "sendall"])
def test_what_is_not_aligned_is_sent(how, at):
    with two_devices() as (near, far), connected(near, far) as (c, s):
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        c.settimeout(None)
        memory = bytearray(DATA)
        with memoryview(memory) as whole, whole[at:at + 70_001] as part:
            got = Background(s.recv, 70_001, socket.MSG_WAITALL)
            SENDING[how](c, part)
            assert got.result(PATIENCE) == DATA[at:at + 70_001]
            c.completions(PATIENCE)


@pytest.mark.parametrize("at", [1, 3, 511, PAGE - 1])
@pytest.mark.parametrize("how", RECEIVING)
def test_what_is_not_aligned_is_received_into(how, at):
    with two_devices() as (near, far), connected(near, far) as (c, s):
        into = memoryview(Region(1 << 20, peers=True))[at:at + 30_000]
        with ustack.register(into):
            sending = Background(c.sendall, DATA[:30_000])
            got = 0
            while got < 30_000:
                got += RECEIVING[how](s, into[got:])
            sending.result(PATIENCE)
        assert into == DATA[:30_000]


def test_a_bytearray_that_is_lent_cannot_be_resized():
    with two_devices() as (near, far), connected(near, far) as (c, s):
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        registered, sent, taken = bytearray(8 * PAGE), bytearray(DATA[:8 * PAGE]), bytearray(8 * PAGE)
        with ustack.register(registered), pytest.raises(BufferError):
            registered.append(0)
        registered.append(0)
        c.send(sent, zerocopy=True)
        with pytest.raises(BufferError):
            sent.append(0)
        with ustack.register(taken):
            assert s.recv_posted(taken) == 8 * PAGE
        assert taken == sent
        assert c.completions(PATIENCE)
        sent.append(0)
        taken.append(0)


def test_receiving_into_a_page_that_is_still_to_be_sent():
    """It is to be sent as it was; what was received is there."""
    for what in (bytearray(64 * PAGE), ustack.CowBuffer(64 * PAGE)):
        with two_devices() as (near, far), connected(near, far) as (c, s), memoryview(what) as view:
            view[:] = DATA
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(b"r" * 20 * PAGE)
            assert c.send(what, cow=True) == LENGTH
            assert c.recv_into(view[:20 * PAGE], 0, socket.MSG_WAITALL) == 20 * PAGE
            assert view[:20 * PAGE] == b"r" * 20 * PAGE
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            assert s.recv(LENGTH, socket.MSG_WAITALL) == DATA
