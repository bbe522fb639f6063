"""Sends with completion: numbers, ranges, wrap, the hint "copied", the bound, and that no completion is ever lost."""

import contextlib
import errno
import itertools
import mmap
import random
import socket
import struct
import tempfile

import pytest
from beds import FAR, PATIENCE, Lossy, connected, copied, two_stacks
from direct_beds import counted, two_devices

import ustack
from ustack._core.py.direct import number_from

DATA = random.Random(5).randbytes(400_000)
LIMIT = 1024


def opt_in(c):
    c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 1)


@pytest.fixture
def devices():
    with two_devices() as (near, far), connected(near, far) as (c, s):
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        opt_in(c)
        yield c, s


@pytest.fixture
def wire():
    """Nothing moves unless it is carried: ``wire, c, s``."""
    with Lossy(lambda raw: False) as one:
        c, s = one.connect()
        with c, s:
            opt_in(c)
            yield one, c, s


def take(s, n):
    got = bytearray()
    while len(got) < n:
        got += s.recv(n - len(got))
    return bytes(got)


def collect(c, calls):
    """Completions until so many calls are over."""
    found = []
    while sum((n.high - n.low) % (1 << 32) + 1 for n in found) < calls:
        more = c.completions(PATIENCE)
        assert more
        found += more
    return found


def exported(buffer):
    try:
        buffer.append(1)
    except BufferError:
        return True
    return False


def test_the_option(devices):
    c, s = devices
    assert c.getsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY) == 1
    assert s.getsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY) == 0
    assert s.completions() == []
    c.setsockopt(socket.SOL_SOCKET, ustack.socket.SO_ZEROCOPY, 0)
    with pytest.raises(OSError, match="SO_ZEROCOPY"):
        c.send(b"x", zerocopy=True)


def test_the_flag_as_linux_has_it(devices):
    """MSG_ZEROCOPY counts on a socket that has opted in, and is ignored on others."""
    c, s = devices
    assert c.send(DATA, ustack.socket.MSG_ZEROCOPY) == len(DATA)
    assert s.send(b"abc", ustack.socket.MSG_ZEROCOPY) == 3
    assert take(s, len(DATA)) == DATA
    assert c.recv(3) == b"abc"
    assert collect(c, 1) == [(0, 0, False)]
    assert s.completions() == []
    assert "tx.copy" not in copied(c.stack)


def test_complete_is_acknowledged_not_sent(wire):
    net, c, s = wire
    buffer = bytearray(DATA[:1000])
    c.send(buffer, zerocopy=True)
    assert c.completions() == []
    assert exported(buffer)
    net.carry()
    assert s.recv(2000) == DATA[:1000]
    net.run(lambda: c.completions() == [(0, 0, False)])
    assert not exported(buffer)


def test_ranges_are_joined(wire):
    net, c, s = wire
    for k in range(20):
        c.send(DATA[k * 3000:(k + 1) * 3000], zerocopy=True)
    got = bytearray()

    def step():
        with contextlib.suppress(BlockingIOError):
            got.extend(s.recv(1 << 20))
        return len(got) == 60_000

    net.run(step)
    found = []

    def over():
        found.extend(c.completions())
        return bool(found) and found[-1].high == 19

    net.run(over)
    assert found[0].low == 0
    for one, two in itertools.pairwise(found):
        assert two.low == one.high + 1
    assert got == DATA[:60_000]


def test_uncollected_ones_become_one_range(devices):
    c, s = devices
    for _ in range(50):
        c.send(DATA[:4000], zerocopy=True)
        take(s, 4000)
    assert collect(c, 50)[-1].high == 49
    for _ in range(3):
        c.send(DATA[:4000], zerocopy=True)
        take(s, 4000)
    c.send(DATA[:4000], direct=True)            # behind it, everything in front is acknowledged
    take(s, 4000)
    assert c.completions() == [(50, 52, False)]


def test_numbers_wrap(devices):
    c, s = devices
    number_from(c, (1 << 32) - 2)
    for _ in range(4):
        c.send(DATA[:4000], zerocopy=True)
        take(s, 4000)
    found = collect(c, 4)
    assert (found[0].low, found[-1].high) == ((1 << 32) - 2, 1)
    assert sum((n.high - n.low) % (1 << 32) + 1 for n in found) == 4


def test_a_number_for_each_success_only(devices):
    c, s = devices
    assert c.send(b"", zerocopy=True) == 0
    c.send(DATA[:4000], zerocopy=True)
    with pytest.raises(BufferError):
        c.send(memoryview(DATA)[::2], zerocopy=True)
    with pytest.raises(TypeError):
        c.send(5, zerocopy=True)
    c.send(DATA[:4000], zerocopy=True)
    take(s, 8000)
    assert collect(c, 2)[-1].high == 1
    assert c.completions(PATIENCE) == []


def test_a_full_queue_gets_no_number(wire):
    _, c, _ = wire
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 100 * len(DATA):
            sent += c.send(DATA, zerocopy=True)
    assert 0 < sent < 100 * len(DATA)
    assert c.stack.stats()["direct.sent"] == sent // len(DATA)


def test_the_copied_hint():
    """Over a link that hands packets on by reference the bytes are copied, as on the kernel's loopback: it says so."""
    with two_stacks() as (near, far), connected(near, far) as (c, s):
        opt_in(c)
        for _ in range(3):
            c.send(DATA[:5000], zerocopy=True)
        assert take(s, 15_000) == DATA[:5000] * 3
        assert c.completions() == [(0, 2, True)]
        assert counted(near) == {"fallback.by_reference": 3}


def test_out_of_order(wire):
    """What lies in a mapped file is copied: the call is over before the one in front of it."""
    net, c, s = wire
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    c.send(DATA[:50_000], zerocopy=True)
    c.send(b"ordinary")
    with tempfile.TemporaryFile() as file:
        file.write(b"small")
        file.flush()
        with mmap.mmap(file.fileno(), 5, access=mmap.ACCESS_READ) as mapped:
            c.send(mapped, zerocopy=True)
    assert c.completions() == [(1, 1, True)]
    got, found = bytearray(), []

    def step():
        with contextlib.suppress(BlockingIOError):
            got.extend(s.recv(1 << 20))
        found.extend(c.completions())
        return bool(found)

    net.run(step)
    assert got == DATA[:50_000] + b"ordinarysmall"
    assert found == [(0, 0, False)]


def test_the_bound(wire):
    """Calls that are under way or whose completion nobody collects: beyond 1,024 of them ENOBUFS."""
    _, c, _ = wire
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    for _ in range(LIMIT):
        assert c.send(DATA[:100], zerocopy=True) == 100
    with pytest.raises(OSError, match="outstanding") as caught:
        c.send(DATA[:100], zerocopy=True)
    assert caught.value.errno == errno.ENOBUFS
    assert c.send(DATA[:100]) == 100            # everything else goes on


def test_collecting_makes_room_again(devices):
    c, s = devices
    calls = 0
    for _ in range(3 * LIMIT):
        try:
            calls += c.send(DATA[:64], zerocopy=True) // 64
        except OSError:
            assert c.completions(PATIENCE)
        if calls % 256 == 0:
            s.recv(1 << 20)
    assert calls > LIMIT


def test_after_close(devices):
    """close() loses none: what is on its way is delivered, then they can be read."""
    c, s = devices
    buffers = [bytearray(DATA[:20_000]) for _ in range(4)]
    for buffer in buffers:
        c.send(buffer, zerocopy=True)
    c.close()
    assert take(s, 80_000) == DATA[:20_000] * 4
    assert s.recv(1) == b""
    assert collect(c, 4)[-1].high == 3
    assert not any(exported(buffer) for buffer in buffers)


def test_after_a_reset(devices):
    c, s = devices
    buffers = [bytearray(DATA) for _ in range(8)]
    c.settimeout(0.05)
    calls = 0
    with contextlib.suppress(OSError):
        for buffer in buffers:
            calls += c.send(buffer, zerocopy=True) > 0
    assert 0 < calls < 8
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    collect(c, calls)
    assert not any(exported(buffer) for buffer in buffers)


def test_after_the_stack_is_gone():
    buffer = bytearray(DATA)
    with two_devices() as (near, far), connected(near, far) as (c, s):
        opt_in(c)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        c.send(buffer, zerocopy=True)
    assert c.completions(0.0) == [(0, 0, False)]
    assert not exported(buffer)


def test_a_socket_that_nobody_asks():
    """The memory is let go with the last of the connection, collected or not."""
    buffer = bytearray(DATA)
    with two_devices() as (near, far), connected(near, far) as (c, s):
        opt_in(c)
        c.send(buffer, zerocopy=True)
        assert take(s, len(DATA)) == DATA
    del c
    assert not exported(buffer)


def test_waiting_for_one_has_a_timeout():
    with two_devices() as (near, far), far.create_server((FAR, 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        with near.create_connection(listener.getsockname()) as c, listener.accept()[0]:
            opt_in(c)
            assert c.completions(None) == []    # nothing is outstanding
            c.send(DATA, zerocopy=True)
            assert c.completions(0.02) == []
            with pytest.raises(ValueError, match="Timeout"):
                c.completions(-1)
