"""UDP (RFC 768, 1122 4.1) through sockets, with scapy's datagrams."""

import contextlib
import errno
import itertools
import socket

import pytest
from oracle import OTHER, OURS, PEER, ip
from scapy.layers.inet import ICMP, UDP
from scapy.packet import Raw

PORT = 5000


@pytest.fixture
def bound(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("0.0.0.0", PORT))
        yield s


def datagram(data=b"hello", src=PEER, dst=OURS, **udp):
    return ip(UDP(**{"sport": 1234, "dport": PORT} | udp) / Raw(data), src=src, dst=dst)


@pytest.mark.parametrize("data", [b"", b"x", b"xy", bytes(range(256)) * 5])
def test_both_ways(wire, bound, data):
    with wire.counts(udp_rx=1):
        wire.send(datagram(data))
    assert bound.recvfrom(2000) == (data, (PEER, 1234))
    assert bound.sendto(data, (PEER, 1234)) == len(data)
    [sent] = wire.drain()
    assert (sent.src, sent.dst, sent[UDP].sport, sent[UDP].dport) == (OURS, PEER, PORT, 1234)
    assert bytes(sent[UDP].payload) == data


@pytest.mark.parametrize(("packet", "counter"), [
    (datagram(chksum=0x1234), "udp_bad_checksum"),
    (datagram(len=7), "udp_short"),
    (datagram(len=0), "udp_short"),
    (datagram(len=100), "udp_short"),
    (ip(Raw(b"\x04\xd2\x13\x88\x00\x07"), proto=17), "udp_short"),
    (datagram(src="10.9.0.255"), "ip_bad_source"),
])
def test_dropped(wire, bound, packet, counter):
    wire.dropped(packet, **{counter: 1})
    with pytest.raises(BlockingIOError):
        bound.recv(1)


def test_a_checksum_of_zero_is_none(wire, bound):
    wire.send(datagram(chksum=0))
    assert bound.recv(10) == b"hello"


def test_bytes_behind_the_length_are_ignored(wire, bound):
    raw = bytes(datagram(b"hello"))
    wire.send(ip(Raw(raw[20:] + b"garbage"), proto=17))
    assert bound.recv(100) == b"hello"


def test_connect_filters(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((OURS, PORT))
        s.connect((PEER, 1234))
        wire.send(datagram(src=OTHER))
        wire.send(datagram(sport=1235))
        with pytest.raises(BlockingIOError):
            s.recv(10)
        wire.send(datagram())
        assert s.recv(10) == b"hello"


def test_refused_once(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((PEER, 53))
        s.send(b"q")
        [sent] = wire.drain()
        with wire.counts(udp_icmp_errors=1):
            wire.send(ip(ICMP(type=3, code=3) / sent))
        with pytest.raises(ConnectionRefusedError):
            s.send(b"q")
        assert s.send(b"q") == 1


def test_truncation(wire, bound):
    wire.send(datagram(b"0123456789"), datagram(b"next"))
    data, _, flags, _ = bound.recvmsg(4)
    assert (data, flags & socket.MSG_TRUNC) == (b"0123", socket.MSG_TRUNC)
    assert bound.recv(100) == b"next"
    with pytest.raises(OSError, match="long") as e:
        bound.sendto(bytes(65508), (PEER, 1))
    assert e.value.errno == errno.EMSGSIZE


def test_the_buffer_is_bounded_and_drops_the_newest(wire, bound):
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    wire.send(*(datagram(bytes([k]) * 1000) for k in range(200)))
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(bound.recv(2000)[0])
    assert got == list(range(len(got)))
    assert 4 <= len(got) < 200
    assert wire.net.stats()["udp.rcvbuf"] == 200 - len(got)


def test_broadcast(wire, bound):
    wire.send(datagram(dst="10.9.0.255"), datagram(dst="255.255.255.255"))
    assert [bound.recv(10), bound.recv(10)] == [b"hello"] * 2
    with pytest.raises(PermissionError):
        bound.sendto(b"x", ("255.255.255.255", 9))


def test_ephemeral_ports_are_not_in_order(wire):
    """RFC 6056."""
    sockets = [wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
    ports = []
    for s in sockets:
        s.bind(("0.0.0.0", 0))
        ports.append(s.getsockname()[1])
        s.close()
    assert len(set(ports)) > 45
    steps = {b - a for a, b in itertools.pairwise(ports)}
    assert len(steps) > 40
