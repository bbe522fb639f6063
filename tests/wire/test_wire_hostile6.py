"""Attacks on a stack that speaks IPv6, each while an established transfer goes on through the same interface."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import pytest
from bystander import (
    FRIEND6,
    FRIEND_PORT,
    OURS6,
    PEER6,
    SERVICE,
    Attacked,
    Reply,
    address6,
    raw_ip6,
    summed6,
    tcp6,
)

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
HOPOPTS, TCP, UDP, ROUTING, FRAGMENT, ICMP6, NONE, DSTOPTS = 0, 6, 17, 43, 44, 58, 59, 60


@pytest.fixture
def victim() -> Iterator[Attacked]:
    with Attacked(version=6) as a:
        a.step()
        yield a


@pytest.fixture
def dice() -> random.Random:
    return random.Random(6)


class Edge:
    """What the victim says to its friend: an attacker who could see this would not be blind."""

    def __init__(self, a: Attacked) -> None:
        self.rcv_nxt = self.snd_nxt = 0
        a.watch = self.see
        a.step()

    def see(self, packet: bytes) -> None:
        r = Reply(packet)
        self.rcv_nxt = r.ack
        self.snd_nxt = (r.seq + len(r.data)) & 0xFFFFFFFF


def stats(victim: Attacked, name: str) -> int:
    return victim.net.stats().get(name, 0)


def icmp6(kind: int, code: int, word: int, quoted: bytes, src: str = PEER6, dst: str = OURS6) -> bytes:
    return raw_ip6(summed6(struct.pack("!BBHI", kind, code, 0, word) + quoted, 2, ICMP6, src, dst), ICMP6, src, dst)


def quote(seq: int, sport: int = SERVICE, dport: int = FRIEND_PORT, src: str = OURS6, dst: str = FRIEND6) -> bytes:
    """The beginning of a large segment of the victim's."""
    return raw_ip6(tcp6(sport, dport, ACK, seq, src=src, dst=dst)[:8], TCP, src, dst, length=1460)


def piece(ident: int, offset: int, more: bool, payload: bytes, proto: int = UDP) -> bytes:
    """A fragment; offset in bytes."""
    return raw_ip6(struct.pack("!BBHI", proto, 0, offset & 0xFFF8 | more, ident) + payload, FRAGMENT)


def mss(victim: Attacked) -> int:
    return victim.sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


# --- H1: blind injection ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", [RST, RST | ACK, SYN, ACK, PSH | ACK, FIN | ACK])
def test_blind_segments_swept_over_the_numbers(victim: Attacked, dice: random.Random, flags: int) -> None:
    edge = Edge(victim)
    for i in range(1500):
        seq = edge.rcv_nxt + 1 + dice.randrange(60_000) if i % 2 else dice.getrandbits(32)
        if seq == edge.rcv_nxt:
            continue
        data = b"evil" if not flags & (RST | SYN) else b""
        victim.attack(raw_ip6(tcp6(FRIEND_PORT, SERVICE, flags, seq, edge.snd_nxt + (1 << 30) + i, data, src=FRIEND6),
                              src=FRIEND6))
    assert stats(victim, "tcp.challenge_ack") < 1500


# --- H2: ICMPv6 about the transfer --------------------------------------------------------------------------------
@pytest.mark.parametrize("mtu", [0, 1, 68, 1279, 1280, 1400, 1499, 1500, 65535, 0xFFFFFFFF])
def test_blind_packets_too_big(victim: Attacked, dice: random.Random, mtu: int) -> None:
    edge = Edge(victim)
    before = mss(victim)
    for _ in range(300):
        victim.attack(icmp6(2, 0, mtu, quote(edge.snd_nxt + 1 + dice.randrange(1 << 31))))
    assert mss(victim) == before
    assert stats(victim, "ip.path_mtu") == 0
    assert stats(victim, "tcp.icmp_ignored") + stats(victim, "icmp.bad_quote") >= 300


def test_packets_too_big_for_every_destination_fill_a_table_and_no_more(victim: Attacked, dice: random.Random) -> None:
    """About echo replies, the one thing that anybody can make us send anywhere: 5000 change nothing for others."""
    before = mss(victim)
    for i in range(5000):
        far = f"fd00::1:{i:x}"
        message = summed6(struct.pack("!BBHHH", 129, 0, 0, 7, i), 2, ICMP6, OURS6, far)
        victim.attack(icmp6(2, 0, 1280 + dice.randrange(100), raw_ip6(message, ICMP6, OURS6, far, length=1460)))
    assert stats(victim, "ip.path_mtu") == 5000
    assert mss(victim) == before


@pytest.mark.parametrize("kind", [1, 3, 4, 127])
def test_blind_errors(victim: Attacked, dice: random.Random, kind: int) -> None:
    edge = Edge(victim)
    for code in range(256):
        victim.attack(icmp6(kind, code, dice.getrandbits(32), quote(edge.snd_nxt + 1 + dice.randrange(1 << 31))))
        victim.attack(icmp6(kind, code, dice.getrandbits(32), quote(edge.snd_nxt - 1)))     # one that is not blind


def test_errors_that_quote_nonsense(victim: Attacked, dice: random.Random) -> None:
    edge = Edge(victim)
    good = quote(edge.snd_nxt)
    nonsense = [
        b"", b"\x60", good[:39], good[:40], good[:47], bytes(48), bytes(1232), b"\x40" + good[1:],
        quote(edge.snd_nxt, src=PEER6), quote(edge.snd_nxt, src="ff02::1"), quote(edge.snd_nxt, src="::1"),
        quote(edge.snd_nxt, src="::ffff:10.9.0.2"),
        raw_ip6(struct.pack("!BBHI", TCP, 0, 0x0800, 1) + good[40:], FRAGMENT, OURS6, FRIEND6),     # not a first one
        raw_ip6(bytes((DSTOPTS, 255)) + bytes(60), DSTOPTS, OURS6, FRIEND6),                        # runs past the end
        raw_ip6(bytes((DSTOPTS, 0)) * 200, DSTOPTS, OURS6, FRIEND6),
        raw_ip6(bytes((HOPOPTS, 0)) * 32, HOPOPTS, OURS6, FRIEND6),
        raw_ip6(summed6(bytes((1, 0)) + bytes(10), 2, ICMP6, OURS6, FRIEND6), ICMP6, OURS6, FRIEND6),   # our error
        raw_ip6(bytes(20), 253, OURS6, FRIEND6), raw_ip6(bytes(8), UDP, OURS6, FRIEND6),
    ]
    nonsense += [dice.randbytes(dice.randrange(1, 200)) for _ in range(300)]
    for body in nonsense:
        damaged = bytearray(good + b"text")
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        for kind in (1, 2, 3, 4):
            victim.attack(icmp6(kind, dice.randrange(8), 1300, body))
            victim.attack(icmp6(kind, 0, 1300, bytes(damaged), src=dice.choice((PEER6, FRIEND6))))
    assert stats(victim, "icmp.bad_quote") > 300
    assert victim.replies() == []


# --- H4, H5 -------------------------------------------------------------------------------------------------------
def test_a_flood_of_syns_from_everywhere(victim: Attacked, dice: random.Random) -> None:
    for _ in range(10_000):
        src = f"2001:db8::{dice.getrandbits(16):x}:{dice.getrandbits(16):x}:{1 + dice.getrandbits(15):x}"
        victim.attack(raw_ip6(tcp6(dice.randrange(1, 65536), 80, SYN, dice.getrandbits(32), options=b"\2\4\5\xa0",
                                   src=src), src=src))
    assert stats(victim, "tcp.cookie_sent") > 5000
    assert len(victim.net.sockets()) < 2000


def test_land(victim: Attacked) -> None:
    for port in (80, SERVICE, 9):
        for flags in range(64):
            victim.attack(raw_ip6(tcp6(port, port, flags, 1, 1, src=OURS6), src=OURS6))
    assert victim.replies() == []


# --- H6, H7: fragments --------------------------------------------------------------------------------------------
def test_fragments_that_overlap_and_their_kin(victim: Attacked, dice: random.Random) -> None:
    """RFC 5722: the whole datagram is void."""
    for i in range(300):
        victim.attack(piece(i, 0, True, bytes(40)), piece(i, 24, False, bytes(8)))                     # teardrop
        victim.attack(piece(i + 1000, 0, True, bytes(800)), piece(i + 1000, 400, True, bytes(800)))
        victim.attack(piece(i + 2000, 0, True, b""), piece(i + 2000, 64, False, b""))                  # empty
        victim.attack(piece(i + 3000, 0, True, bytes(8), TCP), piece(i + 3000, 8, True, bytes(8), TCP))
        victim.attack(piece(i + 4000, 800, False, bytes(100)))                                         # without first
        victim.attack(piece(i + 5000, 0, True, bytes(9)))                                             # no multiple of 8
        victim.attack(piece(i % 50 + 6000, dice.randrange(65536), dice.random() < 0.5,
                            bytes(dice.randrange(1, 1400)), dice.choice((TCP, UDP, ICMP6, NONE, FRAGMENT))))
    assert stats(victim, "ip.frag_overlap") >= 600
    assert stats(victim, "ip.frag_bad") >= 300
    assert len(victim.replies()) <= 1000


def test_what_an_overlap_has_spoilt_is_not_delivered(victim: Attacked) -> None:
    with victim.net.socket(socket.AF_INET6, socket.SOCK_DGRAM) as u:
        u.bind((OURS6, 9))
        u.setblocking(False)
        whole = summed6(struct.pack("!HHHH", 5, 9, 24, 0) + b"A" * 16, 6, UDP)
        victim.attack(piece(1, 0, True, whole[:16]), piece(1, 8, True, whole[8:16]), piece(1, 16, False, whole[16:]))
        with pytest.raises(BlockingIOError):
            u.recv(100)
        victim.attack(piece(2, 0, True, whole[:16]), piece(2, 16, False, whole[16:]))
        assert u.recv(100) == b"A" * 16


def test_a_flood_of_first_fragments(victim: Attacked) -> None:
    """FragmentSmack (CVE-2018-5391)."""
    for i in range(20_000):
        victim.attack(piece(i, 0, True, bytes(8)))
    assert stats(victim, "ip.frag_limit") > 18_000


def test_datagrams_beyond_65535_bytes(victim: Attacked) -> None:
    for i in range(200):
        victim.attack(piece(i, 0, True, bytes(1400), ICMP6))
        victim.attack(piece(i, 65528, False, bytes(1400), ICMP6))
    assert stats(victim, "ip.frag_bad") >= 200


# --- H12, H14: headers --------------------------------------------------------------------------------------------
def chain(kinds: list[int], last: int) -> tuple[int, bytes]:
    """Extension headers of eight bytes each, without options; and what the first one is."""
    out = b""
    for k, kind in enumerate(kinds):
        following = kinds[k + 1] if k + 1 < len(kinds) else last
        out += struct.pack("!BBHI", following, 0, 0, k) if kind == FRAGMENT else bytes((following, 0, 1, 4, 0, 0, 0, 0))
    return (kinds[0] if kinds else last), out


def test_chains_of_extension_headers(victim: Attacked, dice: random.Random) -> None:
    syn = tcp6(7000, 80, SYN, 1)
    for n in (9, 20, 100, 170):
        for kind in (DSTOPTS, ROUTING, FRAGMENT):
            first, headers = chain([kind] * n, TCP)
            victim.attack(raw_ip6(headers + syn, first))
    assert stats(victim, "ip.ext_limit") >= 4
    for _ in range(2000):
        kinds = [dice.choice((HOPOPTS, DSTOPTS, ROUTING, FRAGMENT)) for _ in range(dice.randrange(1, 12))]
        first, headers = chain(kinds, dice.choice((TCP, UDP, ICMP6, NONE, 253)))
        packet = bytearray(raw_ip6(headers + syn, first))
        for _ in range(dice.randrange(3)):
            packet[dice.randrange(40, len(packet))] = dice.getrandbits(8)
        victim.attack(bytes(packet), bytes(packet[:dice.randrange(40, len(packet))]))


def test_floods_of_options(victim: Attacked, dice: random.Random) -> None:
    """As many as fit into the largest header (2,048 bytes), known, unknown, and cut off (RFC 8504 5.3)."""
    for body in (bytes(2046), b"\x1e\0" * 1023, b"\x3e\0" * 1023, b"\x9e\0" * 1023, b"\xde\0" * 1023, b"\1\xff" * 1023,
                 b"\xc2\4\0\1\0\0" * 341, b"\5\2\0\0" * 511 + b"\0\0"):
        for kind in (HOPOPTS, DSTOPTS):
            for _ in range(50):
                victim.attack(raw_ip6(bytes((TCP, 255)) + body + tcp6(7001, 80, SYN, 1), kind))
                n = dice.randrange(1, 20)
                victim.attack(raw_ip6(bytes((TCP, n)) + body[:8 * n + 6] + tcp6(7001, 80, SYN, 1), kind))
    errors = [r for r in victim.replies() if r[6] == ICMP6]
    assert 0 < len(errors) < 300                            # parameter problems, within the limit


def test_headers_that_lie(victim: Attacked, dice: random.Random) -> None:
    segment = tcp6(7002, 80, SYN, 1)
    good = raw_ip6(segment)
    for n in range(len(good)):
        victim.attack(good[:n] or b"\x60")
    for length in (0, 1, 19, 21, 1400, 65535):
        victim.attack(raw_ip6(segment, length=length))
    for version in range(16):
        victim.attack(bytes((version << 4,)) + good[1:])
    victim.attack(raw_ip6(segment, hops=0), raw_ip6(tcp6(7002, 80, SYN, 1)[:-1], TCP))
    for segments_left in (1, 2, 255):
        for kind in (0, 2, 3, 4, 253):                      # type 0: RFC 5095
            victim.attack(raw_ip6(bytes((TCP, 2, kind, segments_left)) + bytes(4) + address6(PEER6) + segment, ROUTING))
    for _ in range(2000):
        packet = bytearray(good)
        packet[dice.randrange(len(packet))] = dice.getrandbits(8)
        victim.attack(bytes(packet))


def test_sources_that_are_nobody(victim: Attacked) -> None:
    for src in ("::", "::1", "ff02::1", "ff05::1:3", OURS6, "::ffff:10.9.0.2", "::ffff:127.0.0.1"):
        for port in (80, SERVICE, 9):
            victim.attack(raw_ip6(tcp6(7003, port, SYN, 1, src=src), src=src))
        victim.attack(raw_ip6(summed6(struct.pack("!HHHH", 7, 9, 8, 0), 6, UDP, src), UDP, src))
        victim.attack(raw_ip6(summed6(b"\x80\0\0\0\0\1\0\1", 2, ICMP6, src), ICMP6, src))
        victim.attack(raw_ip6(bytes(8), 253, src))
    assert victim.replies() == []


def test_a_checksum_of_zero_or_wrong(victim: Attacked) -> None:
    victim.attack(raw_ip6(struct.pack("!HHHH", 7, 9, 8, 0), UDP))                  # RFC 8200 8.1: not for UDP over IPv6
    bad = bytearray(tcp6(7004, 80, SYN, 1))
    bad[16] ^= 1
    victim.attack(raw_ip6(bytes(bad)), raw_ip6(b"\x80\0\x12\x34\0\1\0\1", ICMP6))
    assert victim.replies() == []
    assert stats(victim, "tcp.bad_checksum") == 1
    assert stats(victim, "icmp.bad_checksum") == 1
    assert stats(victim, "udp.no_checksum") + stats(victim, "udp.bad_checksum") == 1


# --- H21 ----------------------------------------------------------------------------------------------------------
def test_damaged_packets(victim: Attacked, dice: random.Random) -> None:
    """Each byte of a few good packets, and several at once."""
    good = [
        raw_ip6(tcp6(7005, 80, SYN, 1, options=b"\2\4\5\xa0\4\2\1\1")), raw_ip6(tcp6(7005, 80, ACK, 2, 2, b"text")),
        raw_ip6(summed6(struct.pack("!HHHH", 7, 9, 12, 0) + b"text", 6, UDP), UDP), piece(1, 0, True, bytes(64)),
        icmp6(2, 0, 1280, quote(1)), icmp6(128, 0, 1, b"ping"),
        raw_ip6(bytes((DSTOPTS, 0, 1, 4, 0, 0, 0, 0, TCP, 0, 5, 2, 0, 0, 1, 0)) + tcp6(7006, 80, SYN, 1), HOPOPTS),
    ]
    for packet in good:
        for at in range(len(packet)):
            for value in (0, 0xFF, packet[at] ^ 0x80, dice.getrandbits(8)):
                victim.attack(packet[:at] + bytes((value,)) + packet[at + 1:])
    for _ in range(3000):
        packet = bytearray(dice.choice(good))
        for _ in range(dice.randrange(1, 5)):
            packet[dice.randrange(len(packet))] = dice.getrandbits(8)
        victim.attack(bytes(packet[:dice.randrange(1, len(packet) + 1)]))
