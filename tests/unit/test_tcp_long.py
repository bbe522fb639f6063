"""Super-segments longer than an IPv4 header can say: total length 0, as Linux since 6.3 ("BIG TCP")."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tcp_script import MS, PEER, PEER_PORT, US

from ustack._core.py import probe_wire as w
from ustack._core.py.probe_tcp import Conn, Host, speak

LONG = 3 * 65536
OFFLOADS = 15  # sums, TSO, gather
MB = 1 << 20


def ends(gso_max: int = LONG) -> tuple[Host, Host, Conn, Conn]:
    """Two connected hosts whose link takes super-segments of so many bytes."""
    a, b = (Host(address, seed=address, caps=OFFLOADS, gso_max=gso_max) for address in (US, PEER))
    listener = b.socket(rcvbuf=4 * MB)
    listener.bind(PEER, PEER_PORT)
    listener.listen()
    conn = a.socket(sndbuf=4 * MB)
    conn.connect(PEER, PEER_PORT)
    while a.pump(b) + b.pump(a):
        pass
    peer = listener.accept()
    assert peer is not None
    return a, b, conn, peer


def move(a: Host, b: Host, data: bytes, conn: Conn, peer: Conn, drop: int | None = None) -> list[bytes]:
    """All of the data across, a round trip a millisecond; the packets. The one of index ``drop`` is lost."""
    packets: list[bytes] = []
    got = b""
    assert conn.send(data) == len(data)
    for _ in range(2000):
        for packet, gso, csum in a.drain():
            packets.append(packet)
            if len(packets) - 1 != drop:
                b.input(packet, csum, gso)
        while isinstance(part := peer.recv(), bytes) and part:
            got += part
        if len(got) == len(data):
            break
        b.egress()
        b.pump(a)
        a.advance(MS)
        b.advance(MS)
    assert got == data
    return packets


@pytest.fixture
def over_ip6() -> Iterator[None]:
    speak(6)
    yield
    speak(4)


def test_a_packet_is_as_long_as_the_link_takes():
    a, b, conn, peer = ends()
    packets = move(a, b, os.urandom(3 * MB), conn, peer)
    longest = max(packets, key=len)
    assert 65535 < len(longest) <= LONG
    assert (len(longest) - 20 - (longest[32] >> 4) * 4) % conn.info()["snd_mss"] == 0
    assert longest[2:4] == b"\0\0"
    assert all(int.from_bytes(p[2:4], "big") == len(p) for p in packets if len(p) <= 65535)
    del conn, peer
    assert (a.close(), b.close()) == (0, 0)


def test_a_link_that_takes_64_kb_gets_no_longer_ones():
    a, b, conn, peer = ends(65535)
    assert 60000 < max(map(len, move(a, b, os.urandom(3 * MB), conn, peer))) <= 65535


def test_ip6_has_none(over_ip6):
    """They would need a jumbo payload option (RFC 2675)."""
    a, b, conn, peer = ends()
    assert 60000 < max(map(len, move(a, b, os.urandom(3 * MB), conn, peer))) <= 65535 + 40


def test_after_a_loss_there_are_none():
    """It may have been lost for its length: an old kernel, a ring with small slots, memory in small pieces."""
    whole = move(*(e := ends())[:2], os.urandom(3 * MB), *e[2:])
    first = next(i for i, p in enumerate(whole) if len(p) > 65535)
    a, b, conn, peer = ends()
    packets = move(a, b, os.urandom(3 * MB), conn, peer, drop=first)
    assert len(packets[first]) > 65535
    resent = next(i for i, p in enumerate(packets) if i > first and p[24:28] == packets[first][24:28])
    assert max(map(len, packets[resent:])) <= 65535
    more = move(a, b, os.urandom(2 * MB), conn, peer)
    assert 60000 < max(map(len, more)) <= 65535


def test_what_is_no_super_segment_is_not_believed():
    """A length of 0 in a packet of one segment, or beside 65,535 bytes or fewer, is a header that lies."""
    a, b, conn, peer = ends()
    packet = next(p for p in move(a, b, os.urandom(3 * MB), conn, peer) if len(p) > 65535)
    heard = b.counters()["rx"]
    b.input(packet, 2, 0)
    b.input(packet[:65535], 2, 1448)
    assert b.counters()["rx"] == heard
    b.input(packet, 2, 1448)
    assert b.counters()["rx"] == heard + 1


@pytest.mark.parametrize("length", [20, 65535, 65536, LONG])
def test_the_length_in_the_header(length: int):
    fields = {"tos": 0, "total_len": length, "id": 0, "df": True, "mf": False, "frag_offset": 0, "ttl": 64, "proto": 6,
              "src": US, "dst": PEER}  # fmt: skip
    header = w.build_ip4(fields)
    assert int.from_bytes(header[2:4], "big") == (length if length <= 65535 else 0)
    assert w.check_ip4(header, length) == 0
    assert w.check_ip4(header[:2] + b"\0\0" + header[4:], length) == (0 if length > 65535 else 3)
