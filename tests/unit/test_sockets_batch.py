"""Many datagrams a call (sendmmsg, recvmmsg), and many in one (UDP_SEGMENT, UDP_GRO)."""

from __future__ import annotations

import errno
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ustack
from ustack import socket as us

Bed = tuple[ustack.Stack, ustack.Stack, str]
US, PEER, PORT = "10.0.0.1", "10.0.0.2", 53


@pytest.fixture(params=["pair", "plain", "loopback"])
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """Two stacks with offloads between them, or without any, or one that talks to itself."""
    if request.param == "loopback":
        with ustack.Stack() as one:
            yield one, one, "127.0.0.1"
            one.close(0)
        return
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair() if request.param == "pair" else ustack.pair(offloads=False, mtu=1500)
        a.add_interface(here, [f"{US}/24"])
        b.add_interface(there, [f"{PEER}/24"])
        yield a, b, PEER
        a.close(0)
        b.close(0)


class Still:
    """A stack on a clock that stands still, at the end of a pipe."""

    def __init__(self, **options: object) -> None:
        self.pipe = ustack.Pipe(**options)  # type: ignore[arg-type]
        self.stack = ustack.Stack(clock=ustack.VirtualClock(), seed=1)
        self.stack.add_interface(self.pipe, [f"{US}/24"])

    def packets(self) -> list[bytes]:
        return [packet for _time, packet in self.pipe.drain()]

    def payloads(self) -> list[bytes]:
        """Of what went out, after a look at each checksum."""
        out = []
        for packet in self.packets():
            assert ones_sum(packet[:20]) == 0xFFFF
            pseudo = packet[12:20] + struct.pack("!HH", 17, len(packet) - 20)
            assert ones_sum(pseudo + packet[20:]) == 0xFFFF
            out.append(packet[28:])
        return out

    def arrive(self, *payloads: bytes, sport: int = 9, dport: int = PORT, ttl: int = 64) -> None:
        """Datagrams from the peer in one burst."""
        packets = []
        for data in payloads:
            udp = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
            ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, ttl, 17, 0, bytes([10, 0, 0, 2]),
                             bytes([10, 0, 0, 1]))  # fmt: skip
            ip = ip[:10] + struct.pack("!H", ones_sum(ip) ^ 0xFFFF) + ip[12:]
            packets.append(ip + udp)
        self.pipe.inject_many(packets)
        self.stack.advance_to(self.stack.now_ns())


def ones_sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.fixture
def still() -> Iterator[Still]:
    one = Still()
    yield one
    one.stack.close(0)


def udp(stack: ustack.Stack, *address: str | int) -> us.socket:
    sock = stack.socket(us.AF_INET, us.SOCK_DGRAM)
    if not stack.virtual:
        sock.settimeout(10)
    if address:
        sock.bind((str(address[0]), int(address[1])))
    return sock


def refused_or(call: Callable[..., int], *args: object) -> int:
    """What a call returns, 0 if it would have to wait."""
    try:
        return call(*args)
    except BlockingIOError:
        return 0


def collect(sock: us.socket, n: int) -> list[bytes]:
    out: list[bytes] = []
    while len(out) < n:
        out += [data for data, _ in sock.recvmmsg(n - len(out))]
    return out


# --- many a call ------------------------------------------------------------------------------------------------------


def test_datagrams_go_and_come_in_order(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, PORT) as server:
        sent = [bytes([k]) * n for k, n in enumerate([0, 1, 64, 1472, 1473, 9000, 3])]
        assert client.sendmmsg(sent, 0, (host, PORT)) == len(sent)
        assert collect(server, len(sent)) == sent
        sender = client.getsockname()[1]
        client.connect((host, PORT))
        assert client.sendmmsg(bytearray([k]) for k in range(40)) == 40
        got: list[tuple[bytes, tuple[str, int]]] = []
        while len(got) < 40:
            got += server.recvmmsg(7)
        assert [data for data, _ in got] == [bytes([k]) for k in range(40)]
        assert {address[1] for _, address in got} == {sender}
        assert client.sendmmsg([]) == 0


def test_into_a_buffer_at_a_stride(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, PORT) as server:
        client.sendmmsg([b"abc", b"", b"0123456789", b"z"], 0, (host, PORT))
        buffer = bytearray(b"." * 18)
        got: list[tuple[int, tuple[str, int]]] = server.recvmmsg_into(buffer, 4, 3)
        while len(got) < 3:
            view = memoryview(buffer)[4 * len(got) :]
            got += server.recvmmsg_into(view, 4, 3 - len(got))
        assert [n for n, _ in got] == [3, 0, 4]
        assert bytes(buffer) == b"abc." + b"...." + b"0123" + b"......"
        assert got[0][1][1] == client.getsockname()[1]
        assert server.recv(10) == b"z"


def test_lengths_before_the_cut_and_one_address_for_all(still: Still) -> None:
    with udp(still.stack, US, PORT) as s:
        still.arrive(b"0123456789", b"a")
        still.arrive(b"b", sport=10)
        got = s.recvmmsg_into(bytearray(12), 4, flags=us.MSG_TRUNC)
        assert got == [(10, (PEER, 9)), (1, (PEER, 9)), (1, (PEER, 10))]
        assert got[0][1] is got[1][1]
        still.arrive(b"0123456789", b"a")
        assert s.recvmmsg(9, 4) == [(b"0123", (PEER, 9)), (b"a", (PEER, 9))]


def test_what_was_not_asked_for_stays(still: Still) -> None:
    with udp(still.stack, US, PORT) as s:
        still.arrive(b"a", b"b", b"c")
        assert [d for d, _ in s.recvmmsg(2)] == [b"a", b"b"]
        assert s.recv(9) == b"c"
        with pytest.raises(BlockingIOError):
            s.recvmmsg(2)
        with pytest.raises(BlockingIOError):
            s.recvmmsg_into(bytearray(10), 5, flags=us.MSG_DONTWAIT)


def test_arguments_are_looked_at_before_anything_happens(still: Still) -> None:
    with udp(still.stack, US, PORT) as s, still.stack.socket() as stream:
        still.arrive(b"a")
        call: Any
        wrong: Any
        for call in (lambda: s.recvmmsg(0), lambda: s.recvmmsg(1, 0), lambda: s.recvmmsg_into(bytearray(9), 0),
                     lambda: s.recvmmsg_into(bytearray(9), 10), lambda: s.recvmmsg_into(bytearray(9), 3, 4),
                     lambda: s.recvmmsg_into(bytearray(9), -3, 1)):  # fmt: skip
            with pytest.raises(ValueError, match=r"datagram|byte"):
                call()
        with pytest.raises(TypeError):
            s.recvmmsg_into(b"read-only", 9)
        with pytest.raises(OSError, match="flags") as info:
            s.recvmmsg(1, 9, us.MSG_PEEK)
        assert info.value.errno == errno.EINVAL
        for wrong in (b"one buffer", bytearray(3), "text", 7):
            with pytest.raises(TypeError):
                s.sendmmsg(wrong, 0, (PEER, 9))
        for call in (lambda: stream.recvmmsg(1), lambda: stream.sendmmsg([b""])):
            with pytest.raises(OSError, match="not supported") as info:
                call()
            assert info.value.errno == errno.EOPNOTSUPP
        with pytest.raises(OverflowError):
            s.sendmmsg([b""], 0, (PEER, 70000))
        with pytest.raises(OSError, match="address") as info:
            s.sendmmsg([b"a"])
        assert info.value.errno == errno.EDESTADDRREQ
        assert s.recv(9) == b"a"
        assert still.packets() == []


def test_no_datagram_goes_if_one_is_no_buffer(still: Still) -> None:
    with udp(still.stack) as s:
        with pytest.raises(TypeError):
            s.sendmmsg([b"a", 7], 0, (PEER, 9))  # type: ignore[list-item]

        def broken() -> Iterator[bytes]:
            yield b"a"
            raise RuntimeError("the user's")

        with pytest.raises(RuntimeError, match="the user's"):
            s.sendmmsg(broken(), 0, (PEER, 9))
        assert still.packets() == []
    assert still.stack.memory()["held"] == 0


def test_one_that_is_too_long_ends_it(still: Still) -> None:
    with udp(still.stack) as s:
        for size in (65508, 65536, 1 << 20):
            with pytest.raises(OSError, match="too long") as info:
                s.sendmmsg([bytes(size), b"a"], 0, (PEER, 9))
            assert info.value.errno == errno.EMSGSIZE
            assert s.sendmmsg([b"a", b"b", bytes(size), b"c"], 0, (PEER, 9)) == 2
        assert still.payloads() == [b"a", b"b"] * 3


def test_as_many_as_there_is_room_for(still: Still) -> None:
    """The interface's queue is bounded: what finds no room is not sent, and the count says so."""
    many = [b"%d" % k for k in range(3000)]
    with udp(still.stack) as s:
        sent = s.sendmmsg(many, 0, (PEER, 9))
        assert 1024 <= sent < 3000
        while more := refused_or(s.sendmmsg, many[sent:], 0, (PEER, 9)):
            sent += more
        assert sent < 3000
        went = still.payloads()
        while sent < 3000:
            still.stack.advance_to(still.stack.now_ns() + 1000)
            went += still.payloads()
            sent += refused_or(s.sendmmsg, many[sent:], us.MSG_DONTWAIT, (PEER, 9))
        while rest := still.payloads():
            went += rest
            still.stack.advance_to(still.stack.now_ns() + 1000)
        assert went == many
    assert still.stack.memory()["held"] == 0


def test_an_icmp_error_is_told_once(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, PORT) as server:
        client.connect((host, 9))
        client.sendmmsg([b"nobody is there"])
        with pytest.raises(ConnectionRefusedError):
            client.recvmmsg(5)
        client.sendmmsg([b"nor now"])
        while True:
            try:
                client.sendmmsg([b"again"])
            except ConnectionRefusedError:
                break
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.recvmmsg(1)


def test_waiting_ends_with_the_timeout(bed: Bed) -> None:
    _, b, host = bed
    with udp(b, host, PORT) as server:
        server.settimeout(0.01)
        with pytest.raises(TimeoutError):
            server.recvmmsg(4)
        with pytest.raises(TimeoutError):
            server.recvmmsg_into(bytearray(8), 4)


def test_a_datagram_ends_the_wait(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, PORT) as server:
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.extend(data for data, _ in server.recvmmsg(10)))
        thread.start()
        client.sendmmsg([b"x"], 0, (host, PORT))
        thread.join(10)
        assert got == [b"x"]


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_closing_ends_the_wait(bed: Bed, how: str) -> None:
    a, _, _ = bed
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(server.recvmmsg(10))
        except OSError as e:
            got.append(e.errno)

    with udp(a, "0.0.0.0", PORT) as server:
        server.connect(("127.0.0.1", 9))
        server.settimeout(10)
        thread = threading.Thread(target=wait)
        thread.start()
        if how == "close":
            server.close()
        else:
            server.shutdown(us.SHUT_RD)
        thread.join(10)
        assert got == [errno.EBADF if how == "close" else []]


def test_a_full_interface_is_waited_for() -> None:
    """A blocking socket waits for room, within its timeout; what has gone is counted."""
    pipe = ustack.Pipe(queue=8)
    many = [b"%d" % k for k in range(2000)]
    with ustack.Stack() as stack:
        stack.add_interface(pipe, [f"{US}/24"])
        with udp(stack) as s:
            s.settimeout(0.05)
            first = s.sendmmsg(many, 0, (PEER, 9))
            assert 8 <= first < 2000
            with pytest.raises(TimeoutError):
                s.sendmmsg(many[first:], 0, (PEER, 9))
            s.settimeout(None)
            sent: list[int] = []
            thread = threading.Thread(target=lambda: sent.append(s.sendmmsg(many[first:], 0, (PEER, 9))))
            thread.start()
            went: list[bytes] = []
            while len(went) < 2000:
                went += [packet[28:] for _, packet in pipe.drain()]
            thread.join(10)
            assert sent == [2000 - first]
            assert went == many
        stack.close(0)


def test_ctrl_c_ends_the_wait(bed: Bed) -> None:
    _, b, host = bed

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with udp(b, host, PORT) as server:
            server.settimeout(None)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            with pytest.raises(KeyboardInterrupt):
                server.recvmmsg(4)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_that_returns_changes_nothing(bed: Bed) -> None:
    a, b, host = bed
    calls = 0

    def handle(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            client.sendmmsg([b"late"], 0, (host, PORT))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with udp(a) as client, udp(b, host, PORT) as server:
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            assert [data for data, _ in server.recvmmsg(4)] == [b"late"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_while_an_interface_is_full() -> None:
    pipe = ustack.Pipe(queue=8)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ustack.Stack() as stack:
            stack.add_interface(pipe, [f"{US}/24"])
            with udp(stack) as s:
                s.settimeout(None)
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                with pytest.raises(KeyboardInterrupt):
                    s.sendmmsg([b"x"] * 3000, 0, (PEER, 9))
                signal.setitimer(signal.ITIMER_REAL, 0)
            stack.close(0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_each_byte_is_copied_once_in_and_once_out(bed: Bed) -> None:
    a, b, host = bed
    with udp(a) as client, udp(b, host, PORT) as server:
        client.sendmmsg([bytes(100)] * 32, 0, (host, PORT))
        buffer, got = bytearray(32 * 100), 0
        while got < 32:
            got += len(server.recvmmsg_into(buffer, 100, 32 - got))
        assert a.ledger()["tx.copy"] == (3200, 32)
        assert b.ledger()["rx.copy"] == (3200, 32)


# --- many in one ------------------------------------------------------------------------------------------------------


def test_the_options_are_those_of_linux(still: Still) -> None:
    with udp(still.stack) as s:
        assert s.getsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT) == s.getsockopt(us.IPPROTO_UDP, us.UDP_GRO) == 0
        s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, 65535)
        s.setsockopt(us.IPPROTO_UDP, us.UDP_GRO, 7)
        assert s.getsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT) == 65535
        assert s.getsockopt(us.IPPROTO_UDP, us.UDP_GRO) == 1
        for wrong in (-1, 65536):
            with pytest.raises(OSError, match="option") as info:
                s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, wrong)
            assert info.value.errno == errno.EINVAL
        assert s.getsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT) == 65535


def test_what_is_sent_is_cut(still: Still) -> None:
    data = bytes(range(250)) * 10
    with udp(still.stack) as s:
        s.connect((PEER, 9))
        s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, 1000)
        assert s.send(data) == 2500
        assert still.payloads() == [data[:1000], data[1000:2000], data[2000:]]
        s.send(data[:2000])
        assert still.payloads() == [data[:1000], data[1000:2000]]
        s.send(b"short")
        s.send(b"")
        assert still.payloads() == [b"short", b""]
        assert s.sendmmsg([data, b"x"]) == 2
        assert [len(p) for p in still.payloads()] == [1000, 1000, 500, 1]


def test_ancillary_data_count_instead_of_the_option(still: Still) -> None:
    def size(n: int) -> tuple[int, int, bytes]:
        return us.IPPROTO_UDP, us.UDP_SEGMENT, struct.pack("H", n)

    with udp(still.stack) as s:
        s.connect((PEER, 9))
        s.sendmsg([bytes(300), bytes(200)], [size(400)])
        assert [len(p) for p in still.payloads()] == [400, 100]
        s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, 100)
        s.sendmsg([bytes(500)], [size(400)])
        assert [len(p) for p in still.payloads()] == [400, 100]
        s.sendmsg([bytes(500)], [size(0)])
        assert [len(p) for p in still.payloads()] == [500]
        s.sendmsg([bytes(500)])
        assert [len(p) for p in still.payloads()] == [100] * 5
        with pytest.raises(OSError, match="out of bounds"):
            s.sendmsg([b"x"], [(us.IPPROTO_UDP, us.UDP_SEGMENT, struct.pack("I", 65536))])


def test_limits_of_segments(still: Still) -> None:
    with udp(still.stack) as s:
        s.connect((PEER, 9))

        def refused(segment: int, size: int) -> int | None:
            s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, segment)
            try:
                s.send(bytes(size))
            except OSError as e:
                return e.errno
            return None

        assert refused(10, 1280) is None
        assert len(still.payloads()) == 128
        assert refused(10, 1281) == errno.EINVAL
        assert refused(1472, 65507) is None
        assert len(still.payloads()) == 45
        assert refused(1473, 1473) == errno.EINVAL
        assert refused(1473, 1472) is None
        assert refused(1472, 65508) == errno.EMSGSIZE


def test_a_link_that_can_gets_one_super_datagram() -> None:
    still = Still(offloads=["csum", "uso"])
    with udp(still.stack) as s:
        s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, 1000)
        s.sendto(bytes(2500), (PEER, 9))
        (packet,) = still.packets()
        _flags, kind, _header, size, start, offset = struct.unpack_from("=BBHHHH", packet)
        assert (kind, size, start, offset) == (5, 1000, 20, 6)
        assert len(packet) == 10 + 20 + 8 + 2500
    still.stack.close(0)


def test_a_link_that_can_gets_datagrams_of_one_size_together() -> None:
    """What a receiver gets is the same; the link is asked once."""
    still = Still(offloads=["csum", "uso"])
    sizes = [1000, 1000, 1000, 500, 1000, 0, 7, 7, 8, 1460, 1460, 1461, 1461, *[1] * 130]
    data = [bytes([k]) * n for k, n in enumerate(sizes)]
    with udp(still.stack) as s:
        s.connect((PEER, 9))
        assert s.sendmmsg(data) == len(data)
        parts, trains = [], []
        for packet in still.packets():
            size = struct.unpack_from("=H", packet, 4)[0]
            payload = packet[38:]
            trains.append((len(payload), size))
            parts += [payload[k : k + size] for k in range(0, len(payload), size)] if size else [payload]
        assert parts == data
        assert trains[:7] == [(3500, 1000), (1000, 0), (0, 0), (14, 7), (8, 0), (1460, 0), (1460, 0)]
        assert trains[-3:] == [(60, 1), (60, 1), (10, 1)]
        s.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, 600)
        s.sendmmsg([bytes(1000)] * 2)
        assert [struct.unpack_from("=H", p, 4)[0] for p in still.packets()] == [600, 600]
        s.sendmmsg([b"ab"] * 3, 0, ("10.0.0.3", 9))
        assert len(still.packets()) == 3
    assert still.stack.memory()["held"] == 0
    still.stack.close(0)


def gro(sock: us.socket) -> us.socket:
    sock.setsockopt(us.IPPROTO_UDP, us.UDP_GRO, 1)
    return sock


def ancillary(size: int) -> list[tuple[int, int, bytes]]:
    return [(us.IPPROTO_UDP, us.UDP_GRO, struct.pack("i", size))]


@pytest.mark.parametrize("joined", [False, True])
def test_super_datagrams_arrive_as_the_receiver_wants_them(joined: bool) -> None:
    with ustack.Stack() as a, ustack.Stack() as b:
        for stack, link, ip in zip((a, b), ustack.pair(), (US, PEER), strict=True):
            stack.add_interface(link, [f"{ip}/24"])
        with udp(a) as client, udp(b, PEER, PORT) as server:
            if joined:
                gro(server)
            data = os.urandom(2500)
            client.setsockopt(us.IPPROTO_UDP, us.UDP_SEGMENT, 1000)
            client.sendto(data, (PEER, PORT))
            if joined:
                assert server.recvmsg(65535, 64)[:3] == (data, ancillary(1000), 0)
            else:
                parts = [server.recvmsg(65535, 64) for _ in range(3)]
                assert [p[:3] for p in parts] == [(data[k : k + 1000], [], 0) for k in (0, 1000, 2000)]
        a.close(0)
        b.close(0)


def test_what_comes_together_is_joined(still: Still) -> None:
    with gro(udp(still.stack, US, PORT)) as s:
        still.arrive(b"aaaa", b"bbbb", b"cc", b"dddd", b"eeee")
        assert s.recvmsg(100, 64) == (b"aaaabbbbcc", ancillary(4), 0, (PEER, 9))
        assert s.recvmsg(100, 64) == (b"ddddeeee", ancillary(4), 0, (PEER, 9))
        still.arrive(b"alone")
        assert s.recvmsg(100, 64) == (b"alone", [], 0, (PEER, 9))


def test_what_does_not_belong_together_is_not_joined(still: Still) -> None:
    with gro(udp(still.stack, US, PORT)) as s:
        still.arrive(b"aa", b"bbb", b"", b"")
        still.stack.advance_to(still.stack.now_ns() + 1)
        still.arrive(b"cc")
        still.arrive(b"dd", sport=10)
        still.arrive(b"ee", sport=10, ttl=63)
        got = [s.recvmsg(100, 64) for _ in range(7)]
        assert [g[0] for g in got] == [b"aa", b"bbb", b"", b"", b"cc", b"dd", b"ee"]
        assert all(g[1] == [] for g in got)


def test_at_most_64_are_joined(still: Still) -> None:
    with gro(udp(still.stack, US, PORT)) as s:
        still.arrive(*[b"ab"] * 100)
        assert [s.recvmsg_into([bytearray(200)], 64)[:2] for _ in range(2)] == [
            (128, ancillary(2)), (72, ancillary(2)),
        ]  # fmt: skip


def test_what_was_joined_can_be_looked_at_cut_and_scattered(still: Still) -> None:
    with gro(udp(still.stack, US, PORT)) as s:
        still.arrive(b"abcd", b"efgh", b"i")
        assert s.recvmsg(100, 64, us.MSG_PEEK)[:3] == (b"abcdefghi", ancillary(4), 0)
        assert s.recvmsg(100, 8, us.MSG_PEEK)[1:3] == ([], 8)       # MSG_CTRUNC
        parts = [bytearray(3), bytearray(1), bytearray(3)]
        assert s.recvmsg_into(parts, 64)[:3] == (7, ancillary(4), us.MSG_TRUNC)
        assert [bytes(p) for p in parts] == [b"abc", b"d", b"efg"]
        still.arrive(b"abcd", b"efgh")
        assert s.recv(100) == b"abcdefgh"


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
def test_calls_for_many_part_what_was_joined(still: Still, most: int) -> None:
    sent = [b"%04d" % k for k in range(70)] + [b"x", b"yy"]
    with gro(udp(still.stack, US, PORT)) as s:
        for _ in range(2):
            still.arrive(*sent)
            got: list[bytes] = []
            while len(got) < len(sent):
                part = s.recvmmsg(most)
                assert 1 <= len(part) <= most
                got += [data for data, _ in part]
            assert got == sent
        with pytest.raises(BlockingIOError):
            s.recvmmsg(most)
    assert still.stack.memory()["held"] == 0


def test_joined_datagrams_are_charged_and_bounded(still: Still) -> None:
    with gro(udp(still.stack, US, PORT)) as s:
        s.setsockopt(us.SOL_SOCKET, us.SO_RCVBUF, 5000)
        still.arrive(*[bytes(100)] * 64)
        got = len(s.recvmsg(65535, 64)[0]) // 100
        assert 1 <= got < 64
        assert still.stack.stats()["udp.rcvbuf"] == 64 - got
        still.arrive(b"there is room again")
        assert s.recv(100) == b"there is room again"
