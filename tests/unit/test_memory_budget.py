"""Stack(memory=...) is a hard budget, counted in storage held; and what comes to its end inside of it all the same."""

from __future__ import annotations

import errno
import hashlib
import struct
import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress

import pytest
from helpers import in_thread

import ustack
from ustack import Pipe, Stack, VirtualClock, sim
from ustack.socket import SO_RCVBUF, SOL_SOCKET, socket

LEAST = 1 << 18             # the smallest budget
US, PEER = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
VALID = struct.pack("=BBHHHH", 2, 0, 0, 0, 0, 0)        # virtio_net_hdr: the checksum has been looked at


def segment(seq: int, ack: int, flags: int, data: bytes = b"", options: bytes = b"") -> bytearray:
    """A packet from the peer as a link brings it that has looked at the TCP checksum."""
    size = 40 + len(options) + len(data)
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, 6, 0) + PEER + US
    total = sum(struct.unpack("!10H", head))
    head = head[:10] + struct.pack("!H", ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF) + head[12:]
    offset = 5 + len(options) // 4 << 4
    tcp = struct.pack("!HHIIBBHHH", 4000, 80, seq, ack, offset, flags, 65535, 0, 0)
    return bytearray(VALID + head + tcp + options + data)


class Peer:
    """A connection from a scripted peer to a stack, over a pipe that trusts checksums."""

    def __init__(self, memory: int | None = None, rcvbuf: int | None = None):
        self.stack = Stack(clock=VirtualClock(10**9), seed=1, memory=memory)
        self.pipe = Pipe(layer=3, mtu=1500, queue=4096, offloads=True)
        self.stack.add_interface(self.pipe, ["10.0.0.1/24"])
        self.listener = self.stack.create_server(("10.0.0.1", 80))
        if rcvbuf is not None:
            self.listener.setsockopt(SOL_SOCKET, SO_RCVBUF, rcvbuf)
        self.pipe.inject(segment(1000, 0, 2, options=bytes((2, 4, 5, 180, 1, 3, 3, 7))))
        self.stack.advance_to(self.stack.now_ns() + 1)
        (_, answer), = self.pipe.drain()
        self.iss = struct.unpack_from("!I", answer, 34)[0]
        self.pipe.inject(segment(1001, self.iss + 1, 16))
        self.stack.advance_to(self.stack.now_ns() + 1)
        self.conn: socket = self.listener.accept()[0]

    def bytes_one_by_one(self, numbers: range, burst: int = 2000) -> Iterator[int]:
        """Send segments of one byte each; yields the storage held after each burst."""
        template = segment(0, self.iss + 1, 16, b"x")
        size = len(template)
        flat = bytearray(template * burst)
        sizes = array("I", [size] * burst)
        pack, at = struct.Struct("!I").pack_into, 10 + 24
        for first in range(0, len(numbers), burst):
            some = numbers[first : first + burst]
            for k, n in enumerate(some):
                pack(flat, k * size + at, 1001 + n & 0xFFFFFFFF)
            assert self.pipe.inject_from(flat, sizes, len(some)) == len(some)
            self.stack.advance_to(self.stack.now_ns() + 1000)
            self.pipe.drain()
            yield self.stack.memory()["held"]

    def close(self) -> None:
        self.conn.close()
        self.listener.close()
        self.stack.close()


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    made: list[Peer] = []
    yield made
    for p in made:
        p.close()


# --- a million segments of one byte -------------------------------------------------------------------------------
def test_a_million_segments_of_one_byte_stay_inside_the_buffer(peers: list[Peer]) -> None:
    p = Peer(rcvbuf=500_000)
    peers.append(p)
    limit = 2 * p.conn.getsockopt(SOL_SOCKET, SO_RCVBUF) + 65536
    most = max(p.bytes_one_by_one(range(1_000_000)))
    assert most <= limit
    assert p.stack.stats()["tcp.collapsed"]
    # What was acknowledged is there, and is it.
    acked = 0
    while part := read(p.conn):
        assert part == b"x" * len(part)
        acked += len(part)
    assert 0.9 * 500_000 <= acked <= p.conn.getsockopt(SOL_SOCKET, SO_RCVBUF) + 65536
    p.stack.advance_to(p.stack.now_ns() + 10**9)
    p.pipe.drain()
    assert p.stack.memory()["held"] == 0


def test_single_bytes_out_of_order_stay_inside_the_buffer(peers: list[Peer]) -> None:
    p = Peer(rcvbuf=500_000)
    peers.append(p)
    limit = 2 * p.conn.getsockopt(SOL_SOCKET, SO_RCVBUF) + 65536
    assert max(p.bytes_one_by_one(range(1, 200_000, 2))) <= limit
    assert p.stack.stats()["tcp.ooo_limit"]
    assert read(p.conn) == b""


def test_segments_of_one_byte_stay_inside_the_budget(peers: list[Peer]) -> None:
    p = Peer(memory=LEAST)
    peers.append(p)
    assert max(p.bytes_one_by_one(range(100_000), 500)) <= LEAST
    assert p.stack.memory()["failures"] == 0


def read(conn: socket) -> bytes:
    try:
        return conn.recv(1 << 20)
    except BlockingIOError:
        return b""


# --- a blocking sender waits for memory ---------------------------------------------------------------------------
@pytest.mark.parametrize("memory", [LEAST, 1 << 20])
def test_a_blocking_sender_waits_for_memory(memory: int) -> None:
    """Much more than the budget, to a peer that begins late to read: nothing is refused."""
    data = bytes(range(256)) * (1_000 if memory == LEAST else 12_000)
    left, right = ustack.pair(mtu=1500)
    with Stack(memory=memory) as a, Stack(memory=memory) as b:
        a.add_interface(left, ["10.0.0.1/24"])
        b.add_interface(right, ["10.0.0.2/24"])
        full = threading.Event()

        def serve() -> bytes:
            digest = hashlib.sha256()
            with server.accept()[0] as conn:
                assert full.wait(60)
                while part := conn.recv(65536):
                    digest.update(part)
            return digest.digest()

        with b.create_server(("10.0.0.2", 80)) as server, in_thread(serve) as served:
            with a.create_connection(("10.0.0.2", 80), timeout=60) as client:
                half = len(data) // 2
                client.setblocking(False)
                sent = 0
                while sent < half:
                    try:
                        sent += client.send(data[sent:half])
                    except BlockingIOError:
                        break               # both ends are full
                full.set()
                client.settimeout(60)
                client.sendall(data[sent:])
            assert served.result(60) == hashlib.sha256(data).digest()
        assert a.memory()["failures"] == 0


def test_a_sender_without_memory_is_told_when_there_is_some() -> None:
    """Another connection's unacknowledged data holds what there is; when it is gone, the one that waits goes on."""
    with sim.Network(5) as net:
        a, b = net.host("a", "10.0.0.1", memory=LEAST), net.host("b", "10.0.0.2")
        cable = net.link(a, b, delay=0.01)
        with b.listen(80) as listener:
            (one, end), (other, far) = (connection(net, a, listener) for _ in range(2))
            cable.cut()
            fill(one)
            fill(other)
            assert a.stack.stats()["tcp.snd_memory"]
            held = a.stack.memory()["held"]
            assert LEAST // 8 < held <= LEAST
            assert not other._events() & 4
            net.run(net.now_ns + 10**9)
            cable.mend()
            net.run(until=lambda: bool(other._events() & 4), limit=10)
            for sock in (one, other, end, far):
                sock.close()


def connection(net: sim.Network, host: sim.Host, listener: socket) -> tuple[socket, socket]:
    """A new one from a host to a listener: both ends."""
    sock = host.socket()
    net.spawn(sim.connect(sock, listener.getsockname()))
    accepting = net.spawn(sim.accept(listener))
    net.run()
    return sock, accepting.result


def fill(sock: socket) -> None:
    with suppress(BlockingIOError):
        while True:
            sock.send(bytes(1000))


def test_a_waiter_that_goes_away_leaves_no_timer() -> None:
    with sim.Network(6) as net:
        a, b = net.host("a", "10.0.0.1", memory=LEAST), net.host("b", "10.0.0.2")
        cable = net.link(a, b)
        with b.listen(80) as listener:
            socks, ends = zip(*(connection(net, a, listener) for _ in range(3)), strict=True)
            cable.cut()
            for sock in socks:
                fill(sock)
            for sock in socks:
                sock.setsockopt(SOL_SOCKET, 13, struct.pack("ii", 1, 0))
                sock.close()
            net.run(net.now_ns)
            assert a.stack.deadline_ns() is None
            assert a.stack.memory()["held"] == 0
            for sock in ends:
                sock.close()


# --- who cannot starve whom ---------------------------------------------------------------------------------------
def test_unread_data_starves_no_sender() -> None:
    """A stack is full of what nobody reads; a connection of another application sends and receives all the same."""
    with sim.Network(7) as net:
        a, b = net.host("a", "10.0.0.1", memory=LEAST), net.host("b", "10.0.0.2")
        net.link(a, b, delay=0.001)
        with a.listen(80, backlog=20) as listener:
            lazy = []
            for _ in range(4):
                sock, end = connection(net, b, listener)
                sock.send(bytes(60_000))
                lazy += [sock, end]
            net.run(net.now_ns + 10**9)
            assert a.stack.stats()["tcp.rcv_memory"]
            assert a.stack.memory()["held"] <= LEAST
            flow, back = net.flow(a, b, 100_000), net.flow(b, a, 100_000)
            net.run(limit=1000)
            assert flow.exact
            assert back.exact
            for sock in lazy:
                sock.close()


def test_datagrams_nobody_reads_stay_inside_the_budget() -> None:
    with sim.Network(8) as net:
        a, b = net.host("a", "10.0.0.1", memory=LEAST), net.host("b", "10.0.0.2")
        net.link(a, b)
        lazy = [a.datagrams(1000 + k) for k in range(10)]
        with b.datagrams() as sender:
            for k in range(2000):
                sender.sendto(bytes(k % 1400), (a.address, 1000 + k % 10))
                net.run(net.now_ns + 1000)
            assert a.stack.stats()["udp.rcvbuf"]
            assert LEAST // 8 < a.stack.memory()["held"] <= LEAST
            flow = net.flow(a, b, 50_000)
            net.run(limit=1000)
            assert flow.exact
        for sock in lazy:
            sock.close()


def test_fragments_of_nothing_stay_inside_the_budget(peers: list[Peer]) -> None:
    p = Peer(memory=LEAST)
    peers.append(p)
    for n in range(3000):
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + 1024, n, 0x2000, 64, 17, 0) + PEER + US
        total = sum(struct.unpack("!10H", head))
        head = head[:10] + struct.pack("!H", ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF) + head[12:]
        p.pipe.inject(bytes(10) + head + bytes(1024))
        p.stack.advance_to(p.stack.now_ns() + 1000)
    assert p.stack.stats()["ip.frag_limit"]
    assert p.stack.memory()["held"] <= LEAST
    assert p.stack.memory()["failures"] == 0


def test_a_datagram_without_memory_is_refused() -> None:
    """As with the kernel's: a datagram is not queued."""
    with Stack(clock=VirtualClock(), memory=LEAST) as stack:
        stack.add_interface(Pipe(layer=2, queue=1), ["10.0.0.1/24"])
        with stack.socket(type=2) as sock:
            refusals = set()
            for _ in range(1000):
                try:
                    sock.sendto(bytes(1400), ("10.0.0.2", 9))       # waits for ARP
                except OSError as error:
                    refusals.add(error.errno)
            assert refusals <= {errno.ENOBUFS, errno.EAGAIN}
        assert stack.memory()["held"] <= LEAST


def test_the_smallest_budget() -> None:
    Stack(clock=VirtualClock(), memory=LEAST).close()
    with pytest.raises(ValueError, match="256 KiB"):
        Stack(clock=VirtualClock(), memory=LEAST - 1)
