"""Sending memory in place and waiting for it: the same bytes, no copy, and every way in which it may not be."""

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from beds import FAR, NEAR, PATIENCE, Lossy, connected, copied, lose_first, reading
from direct_beds import counted, two_devices
from helpers import Background

import ustack
from ustack._core.py import direct as core
from ustack.buffers import Region

DATA = random.Random(4).randbytes(3_000_017)


@pytest.fixture
def devices():
    with two_devices() as (near, far), connected(near, far) as ends:
        yield ends


def sent_and_got(c, s, data, **options):
    with reading(s) as got:
        c.sendall(data, **options)
        c.shutdown(socket.SHUT_WR)
        return got.result(PATIENCE)


def test_no_byte_is_copied(devices):
    c, s = devices
    assert sent_and_got(c, s, DATA, direct=True) == DATA
    assert not copied(c.stack)
    assert counted(c.stack) == {"sent": 1, "sent_bytes": len(DATA)}


def test_when_it_returns_the_memory_is_free(devices):
    """What is written afterwards does not reach the peer, and the buffer can be resized."""
    c, s = devices
    buffer = bytearray(DATA[:400_000])
    with reading(s) as got:
        for k in range(20):
            buffer[:] = bytes([k]) * 400_000
            c.sendall(buffer, direct=True)
        buffer.clear()
        c.shutdown(socket.SHUT_WR)
        data = got.result(PATIENCE)
    assert data == b"".join(bytes([k]) * 400_000 for k in range(20))
    assert not copied(c.stack)


@contextlib.contextmanager
def shut_window(far_buffer=65536):
    """A connection whose receiver takes little until it reads."""
    with two_devices() as (near, far), far.create_server((FAR, 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, far_buffer)
        with near.create_connection(listener.getsockname()) as c, listener.accept()[0] as s:
            s.settimeout(PATIENCE)
            yield c, s


def until(condition):
    """Poll what another thread is about to do."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


def take(s, n):
    got = bytearray()
    while len(got) < n:
        got += s.recv(n - len(got))
    return bytes(got)


def test_while_it_is_under_way_the_buffer_cannot_be_resized():
    with shut_window() as (c, s):
        buffer = bytearray(DATA)
        sending = Background(lambda: c.send(buffer, direct=True))
        until(lambda: counted(c.stack))             # all of it is queued
        with pytest.raises(BufferError):
            buffer.append(1)
        assert take(s, len(DATA)) == DATA
        assert sending.result(PATIENCE) == len(DATA)
        buffer.append(1)
        assert not copied(c.stack)


# --- ended early ----------------------------------------------------------------------------------------------------

def test_a_timeout_leaves_the_rest_to_copies():
    """All of it was queued, so all of it counts as sent; what was not acknowledged is sent as it was then."""
    with shut_window() as (c, s):
        buffer = bytearray(DATA)
        c.settimeout(0.05)
        assert c.send(buffer, direct=True) == len(DATA)
        buffer[:] = bytes(len(buffer))
        buffer.append(0)
        assert take(s, len(DATA)) == DATA
        assert counted(c.stack) == {"sent": 1, "sent_bytes": len(DATA), "rescued": 1}
        book = copied(c.stack)
        assert list(book) == ["tx.rescue"]
        assert 0 < book["tx.rescue"] <= len(DATA)


class Stopped(Exception):
    pass


def test_a_signal_gives_the_memory_back():
    def stop(*_):
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with shut_window() as (c, s):
            buffer = bytearray(DATA)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Stopped):
                c.sendall(buffer, direct=True)
            buffer[:] = bytes(len(buffer))
            buffer.clear()
            assert take(s, len(DATA)) == DATA
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_reset_gives_the_memory_back():
    with shut_window() as (c, s):
        buffer = bytearray(DATA)
        sending = Background(lambda: c.send(buffer, direct=True))
        until(lambda: counted(c.stack))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        with pytest.raises(ConnectionResetError):
            sending.result(PATIENCE)
        until(lambda: not exported(buffer))
        assert not copied(c.stack)


def exported(buffer):
    try:
        buffer.append(1)
    except BufferError:
        return True
    return False


def test_closing_the_socket_in_another_thread():
    with shut_window() as (c, s):
        buffer = bytearray(DATA)
        sending = Background(lambda: c.send(buffer, direct=True))
        until(lambda: counted(c.stack))
        c.close()
        with pytest.raises(OSError, match="Bad file"):
            sending.result(PATIENCE)
        until(lambda: not exported(buffer))
        buffer[:] = bytes(len(buffer))
        assert take(s, len(DATA)) == DATA           # it was queued before: close() still delivers it
        assert s.recv(1) == b""


def test_a_link_that_keeps_packets_too_long_costs_the_connection():
    """Packets that a link delays cannot be copied: rather than let them show other bytes the connection is given up."""
    with ustack.Stack() as near, ustack.Stack() as far:
        left, right = ustack.pair(device=True)
        near.add_interface(ustack.Impair(left, seed=1, tx={"rate": 100_000.0}), addresses=[f"{NEAR}/24"])
        far.add_interface(right, addresses=[f"{FAR}/24"])
        with connected(near, far) as (c, _):
            buffer = bytearray(DATA[:14_000])       # more than a second on this wire
            c.settimeout(0.05)
            with contextlib.suppress(OSError):
                c.send(buffer, direct=True)
            assert counted(near)["reset"] == 1
            with pytest.raises(OSError, match=r"abort|Broken pipe"):
                c.send(b"x")


def test_auto_has_a_least_size(devices):
    c, s = devices
    with reading(s) as got:
        c.sendall(DATA[:ustack.DIRECT_LEAST - 1], direct="auto")
        c.sendall(DATA[:ustack.DIRECT_LEAST], direct="auto")
        c.sendall(DATA[:100], direct=True)
        c.shutdown(socket.SHUT_WR)
        assert got.result(PATIENCE) == DATA[:ustack.DIRECT_LEAST - 1] + DATA[:ustack.DIRECT_LEAST] + DATA[:100]
    assert counted(c.stack) == {"fallback.small": 1, "sent": 2, "sent_bytes": ustack.DIRECT_LEAST + 100}


@pytest.mark.parametrize(("options", "reason"), [
    ({"offloads": False}, "no_checksum"),
    ({"max_sg": 1}, "no_gather"),
    ({"device": False}, "by_reference"),
])
def test_a_link_that_cannot(options, reason):
    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.pair(**{"device": True} | options), (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        with connected(near, far) as (c, s):
            assert sent_and_got(c, s, DATA, direct=True) == DATA
            assert counted(near) == {f"fallback.{reason}": 1}
            assert copied(near)["tx.copy"] == len(DATA)


def test_the_stack_itself_as_the_peer():
    with ustack.Stack() as net, net.create_server(("127.0.0.1", 0)) as listener, \
            net.create_connection(listener.getsockname()) as c, listener.accept()[0] as s:
        assert sent_and_got(c, s, DATA[:100_000], direct=True) == DATA[:100_000]
        assert counted(net) == {"fallback.by_reference": 1}


def test_a_non_blocking_call_copies(devices):
    c, s = devices
    c.setblocking(False)
    assert c.send(DATA[:1000], direct=True) == 1000
    assert s.recv(1000, socket.MSG_WAITALL) == DATA[:1000]
    assert counted(c.stack) == {"fallback.nonblocking": 1}


def test_datagrams_are_copied():
    with two_devices() as (near, far), near.socket(type=socket.SOCK_DGRAM) as c, \
            far.socket(type=socket.SOCK_DGRAM) as s:
        s.bind((FAR, 0))
        s.settimeout(PATIENCE)
        c.connect(s.getsockname())
        assert c.send(b"abc", direct=True) == 3
        assert s.recv(10) == b"abc"
        assert counted(near) == {"fallback.datagram": 1}


def test_arguments_that_make_no_sense(devices):
    c, _ = devices
    with pytest.raises(ValueError, match="direct is"):
        c.send(b"x", direct="never")
    with pytest.raises(ValueError, match="exclude"):
        c.send(b"x", direct=True, zerocopy=True)
    for more in ({"direct": True}, {"direct": "auto"}, {"zerocopy": True}):
        for call in (c.send, c.sendall):
            with pytest.raises(ValueError, match="exclude"):
                call(b"x", cow=True, **more)
    with pytest.raises(OSError, match="SO_ZEROCOPY") as caught:
        c.send(b"x", zerocopy=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    assert c.send(b"", direct=True) == 0


def test_a_socket_that_is_not_connected():
    with ustack.Stack() as net, net.socket() as c:
        with pytest.raises(BrokenPipeError):        # as Linux
            c.send(b"x", direct=True)
        assert counted(net) == {}


# --- identical bytes ------------------------------------------------------------------------------------------------

def test_the_same_bytes_whatever_the_calls():
    """10^5 calls: sizes, offsets, in place or not, of registered memory or not, waiting or with a completion."""
    dice = random.Random(7)
    size = 1 << 20
    buffers = bytearray(dice.randbytes(size)), bytearray(dice.randbytes(size))
    views = [memoryview(buffer) for buffer in buffers]
    expected = bytearray()
    with two_devices() as (near, far), connected(near, far) as (c, s), ustack.register(buffers[1]) as memory:
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)       # nobody is to wait for a delayed ACK
        for k in range(100_000):
            n = dice.choice((1, 7, 64, 100, 512, 1448, 4096)) if dice.random() < 0.97 else dice.randrange(1, 40_000)
            at = dice.randrange(size - n)
            piece = views[k % 2][at:at + n]
            choice = dice.random()
            if choice < 0.02:
                assert c.send(piece, direct=True) == n
            elif choice < 0.5:
                assert c.send(piece, zerocopy=True) == n
            else:
                c.sendall(piece, direct="auto")
            expected += piece
            if not k % 100:
                assert take(s, len(expected)) == expected
                expected.clear()
                c.completions()
        assert take(s, len(expected)) == expected
        stats = counted(near)
        assert stats["sent"] > 45_000
        assert memory.pinned == (stats.get("registered", 0) > 20_000)
        assert stats["fallback.small"] > 40_000
        done = 0
        while notices := c.completions(PATIENCE):
            done += len(notices)
        assert done
        del views, piece
    for buffer in buffers:
        assert not exported(buffer)


@pytest.mark.parametrize("share", [2, 3, 5])
def test_losses_are_repaired_from_the_memory_itself(share):
    data = bytearray(DATA[:500_000])
    with Lossy(lose_first(share)) as wire:
        c, s = wire.connect()
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        got = bytearray()
        with c, s:
            sent = 0

            def step():
                nonlocal sent
                with contextlib.suppress(BlockingIOError):
                    if sent < len(data):
                        sent += c.send(memoryview(data)[sent:sent + 50_000], zerocopy=True)
                with contextlib.suppress(BlockingIOError):
                    got.extend(s.recv(1 << 20))
                return len(got) == len(data)

            wire.run(step)
            assert got == data
            assert wire.stacks[0].stats()["tcp.retransmitted"] > 5
            assert "tx.copy" not in copied(wire.stacks[0])
            wire.run(lambda: not wire.stacks[0].deadline_ns() or True)


def test_the_peer_reads_the_very_memory():
    """What is written before it has left arrives, and its checksum is right: nobody has made a copy."""
    with Lossy(lambda raw: False) as wire:
        c, s = wire.connect()
        c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)
        with c, s:
            buffer = bytearray(5000)
            c.send(buffer, zerocopy=True)
            buffer[:] = DATA[:5000]
            wire.carry()
            assert s.recv(10_000) == DATA[:5000]
            assert not wire.stacks[1].stats().get("tcp.checksum")


# --- memory of all kinds --------------------------------------------------------------------------------------------

def kinds():
    anonymous = mmap.mmap(-1, 300_000)
    anonymous[:] = DATA[:300_000]
    region = Region(300_000)
    memoryview(region)[:300_000] = DATA[:300_000]
    array = (ctypes.c_char * 300_000).from_buffer_copy(DATA[:300_000])
    return {
        "bytes": DATA[:300_000], "bytearray": bytearray(DATA[:300_000]), "memoryview": memoryview(DATA)[:300_000],
        "mmap": anonymous, "region": memoryview(region)[:300_000], "ctypes": array,
        "odd": memoryview(b"x" + DATA[:300_000])[1:],
    }


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "mmap", "region", "ctypes", "odd"])
@pytest.mark.parametrize("registered", [False, True])
def test_kinds_of_memory(devices, kind, registered):
    c, s = devices
    memory = kinds()[kind]
    with contextlib.ExitStack() as stack:
        if registered:
            assert stack.enter_context(ustack.register(memory)).nbytes == 300_000
        assert sent_and_got(c, s, memory, direct=True) == DATA[:300_000]
    assert not copied(c.stack)
    if kind == "mmap":
        memory.close()


def test_a_buffer_in_pieces_is_refused(devices):
    with pytest.raises(BufferError):
        devices[0].send(memoryview(DATA)[::2], direct=True)


def test_a_page_that_cannot_be_read(devices):
    """It is seen before anything is queued: the connection goes on."""
    c, s = devices
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = 1 << 20
    for spoil in ("protect", "unmap"):
        address = libc.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, ctypes.c_long(0))
        memory = (ctypes.c_char * size).from_address(address)
        if spoil == "protect":
            libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), 0)
        else:
            libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
        with pytest.raises(OSError, match="cannot be read") as caught:
            c.send(memory, direct=True)
        assert caught.value.errno == errno.EFAULT
        if spoil == "protect":
            libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    c.sendall(b"still here")
    assert s.recv(100) == b"still here"


# --- registered memory ----------------------------------------------------------------------------------------------

def test_a_registration_holds_and_pins():
    buffer = bytearray(100_000)
    before = core.registered()
    with ustack.register(buffer) as one, ustack.register(memoryview(buffer)[5000:6000]) as two:
        assert (one.closed, one.nbytes, two.nbytes) == (False, 100_000, 1000)
        assert two.address == one.address + 5000
        assert core.registered()[0] == before[0] + 2
        with pytest.raises(BufferError):
            buffer.append(1)
        if one.pinned:
            assert core.registered()[1] >= before[1] + 100_000
        assert "100000 bytes" in repr(one)
    assert one.closed
    assert core.registered()[:2] == before[:2]
    one.close()
    buffer.append(1)


def test_a_registration_ends_with_its_last_reference():
    buffer = bytearray(100_000)
    before = core.registered()
    one = ustack.register(buffer)
    assert core.registered()[0] == before[0] + 1
    del one
    gc.collect()
    assert core.registered()[:2] == before[:2]
    buffer.append(1)


def test_registered_memory_is_looked_up(devices):
    c, s = devices
    buffer = bytearray(DATA[:500_000])
    with ustack.register(buffer) as memory:
        before = core.registered()
        with reading(s) as got:
            c.sendall(buffer, direct=True)
            c.sendall(memoryview(buffer)[100:300_000], direct=True)
            c.sendall(DATA[:1000], direct=True)
            c.shutdown(socket.SHUT_WR)
            assert got.result(PATIENCE) == DATA[:500_000] + DATA[100:300_000] + DATA[:1000]
        _, _, hits, misses = core.registered()
        assert (hits - before[2], misses - before[3]) == (2, 1)
        assert counted(c.stack).get("registered", 0) == (2 if memory.pinned else 0)


def test_nothing_empty_is_registered():
    with pytest.raises(ValueError, match="empty"):
        ustack.register(b"")
    with pytest.raises(TypeError):
        ustack.register(5)
    with pytest.raises(BufferError):
        ustack.register(memoryview(DATA)[::2])


LIMITED = """
import os, resource, socket, sys
import ustack
from direct_beds import two_devices
from beds import connected, reading
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
os.setuid(65534)
with two_devices() as (near, far), connected(near, far) as (c, s):
    buffer = bytearray(range(256)) * 2000
    with ustack.register(buffer) as memory, reading(s) as got:
        assert not memory.pinned and memory.error, memory
        c.sendall(buffer, direct=True)
        c.shutdown(socket.SHUT_WR)
        assert got.result(60) == bytes(range(256)) * 2000
    stats = near.stats()
    assert stats["direct.sent"] == 1 and not stats.get("direct.registered"), stats
    print("fine")
"""


@pytest.mark.pins
@pytest.mark.skipif(os.geteuid() != 0, reason="giving up the right to lock memory needs a root to give it up")
def test_memory_that_may_not_be_pinned_is_sent_all_the_same():
    here = os.path.dirname(__file__)
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=PATIENCE,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join([here, os.path.dirname(here), *sys.path])})
    assert run.stdout == "fine\n", run.stderr


# --- nothing is left behind -----------------------------------------------------------------------------------------

def test_no_block_and_no_export_is_left(devices):
    c, s = devices
    buffer = bytearray(DATA[:200_000])
    with reading(s) as got:
        for k in range(50):
            c.sendall(memoryview(buffer)[k:], direct=True)
        c.shutdown(socket.SHUT_WR)
        got.result(PATIENCE)
    assert not exported(buffer)
