"""Reassembly against a model: any order, duplicates, holes, overlaps; scapy puts our own fragments together."""

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from inet_harness import ICMP, IP, MAC, OUR_MAC, PEER, SECOND, UDP, US, Ether, Host, Raw, number
from scapy.layers.inet import defragment

PROTO = 253                                                  # RFC 3692: for experiments


def fragment(host: Host, offset: int, data: bytes, more: bool, ident: int = 7, proto: int = PROTO, **facts) -> None:
    host.frame(Ether(src=MAC, dst=OUR_MAC) / IP(src=PEER, dst=US, proto=proto, id=ident, frag=offset // 8,
                                               flags=int(more)) / Raw(data), **facts)


def delivered(host: Host) -> list[bytes]:
    return [event[7] for event in host.events]


@given(st.integers(1, 4000), st.lists(st.integers(1, 499), max_size=20, unique=True), st.randoms(),
       st.booleans())
@settings(max_examples=120, deadline=None)
def test_any_order_with_duplicates(length: int, cuts: list[int], rng: random.Random, lent: bool):
    with Host() as host:
        host.listen(PROTO)
        data = rng.randbytes(length)
        edges = [0, *sorted(8 * c for c in cuts if 8 * c < length), length]
        pieces = list(pairwise(edges))
        order = pieces[:]
        rng.shuffle(order)
        # Duplicates come before the last piece: afterwards they would begin a datagram of their own.
        order[:-1] = rng.sample(order[:-1] * 2, 2 * len(order) - 2)
        for start, end in order:
            fragment(host, start, data[start:end], end < length, lent=lent)
        assert delivered(host) == [data]
        assert host.advance(31 * SECOND) == 0 or len(pieces) > 1


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20), st.booleans()), min_size=1, max_size=25))
@settings(max_examples=200, deadline=None)
def test_arbitrary_pieces_against_a_model(pieces):
    """The model: a set of disjoint pieces; an overlap makes the datagram void; complete when they cover it."""
    with Host() as host:
        host.listen(PROTO)
        have: dict[int, bytes] = {}
        total = None
        void = False
        expected = []
        for n, (start, length, more) in enumerate(pieces):
            data = bytes([n]) * (length * 8)
            begin, end = start * 8, start * 8 + len(data)
            fragment(host, begin, data, more)
            if begin == 0 and not more:                      # no fragment at all
                expected.append(data)
                continue
            if void:
                continue
            if begin in have and len(have[begin]) == len(data):
                continue
            last = max((s + len(d) for s, d in have.items()), default=0)
            void = any(begin < s + len(d) and s < end for s, d in have.items())
            if total is not None:
                void = void or (end >= total if more else end != total)
            elif not more:
                void = void or last > end
            if void:
                continue
            have[begin] = data
            if not more:
                total = end
            if total is not None and sum(map(len, have.values())) == total:
                expected.append(b"".join(have[s] for s in sorted(have)))
                have, total = {}, None
        assert delivered(host) == expected
        assert host.counted().get("ip.frag_overlap", 0) == int(void)


@given(st.integers(0, 20000), st.sampled_from([576, 1280, 1500, 68]), st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_what_we_fragment_can_be_put_together(length: int, mtu: int, stride: int):
    with Host(mtu=mtu) as host:
        u = host.udp_socket()
        data = bytes(i * 13 & 255 for i in range(length))
        if length / mtu > 100:
            return
        assert u.send(data, (number(PEER), 9), stride=stride) == 0
        frames = host.sent()
        assert all(len(f[IP]) <= mtu for f in frames)
        whole = defragment([f[IP] for f in frames])
        assert len(whole) == 1
        assert bytes(whole[0][UDP].payload) == data
        sent = whole[0][UDP].chksum
        del whole[0][UDP].chksum
        assert IP(bytes(whole[0]))[UDP].chksum == sent
        u.close()


def test_a_time_out_is_reported_only_if_the_first_fragment_is_here():
    with Host() as host:
        fragment(host, 1480, bytes(100), False, ident=1)
        assert host.advance(29 * SECOND) == 0
        assert host.advance(2 * SECOND) == 1
        assert host.sent() == []
        assert host.counted()["ip.frag_timeout"] == 1
        fragment(host, 0, bytes(1480), True, ident=2)
        host.advance(31 * SECOND)
        (report,) = [p for p in host.sent() if ICMP in p]
        assert (report[ICMP].type, report[ICMP].code) == (11, 1)
        assert IP(bytes(report[ICMP].payload)).id == 2
        assert host.live == 0


def test_the_number_of_incomplete_datagrams_is_bounded():
    with Host() as host:
        host.listen(PROTO)
        for i in range(3000):
            fragment(host, 0, bytes(8), True, ident=i)
        assert host.live < 2 * 300
        assert host.counted()["ip.frag_limit"] == 3000 - 256
        fragment(host, 8, b"the end", False, ident=2999)     # the newest are still here
        assert delivered(host) == [bytes(8) + b"the end"]
        fragment(host, 8, b"the end", False, ident=0)
        assert len(delivered(host)) == 1


def test_the_storage_of_incomplete_datagrams_is_bounded():
    with Host() as host:
        for i in range(200):
            for offset in range(1480, 40000, 1480):
                fragment(host, offset, bytes(1480), True, ident=i)
        assert host.counted()["ip.frag_limit"] > 0
        assert host.live < 10000


def test_pieces_of_one_datagram_are_bounded():
    with Host() as host:
        for offset in range(8, 8000, 16):
            fragment(host, offset, bytes(8), True)
        assert host.live == 0
        assert host.counted()["ip.frag_limit"] == 1


def test_impossible_fragments():
    with Host() as host:
        host.listen(PROTO)
        fragment(host, 65528, bytes(100), False)             # beyond 65535: the ping of death
        fragment(host, 0, bytes(7), True)                    # not a multiple of 8
        fragment(host, 0, b"", True)                         # nothing in it
        fragment(host, 800, b"", False)
        fragment(host, 8, bytes(40), False, proto=6)         # begins inside a TCP header (RFC 1858)
        assert host.counted()["ip.frag_bad"] == 5
        assert host.live == 0


def test_teardrop():
    with Host() as host:
        host.listen(PROTO)
        fragment(host, 0, bytes(40), True)
        fragment(host, 24, bytes(4), False)
        assert host.counted()["ip.frag_overlap"] == 1
        fragment(host, 40, bytes(40), False)                 # what still comes of it is void, too
        assert delivered(host) == []
        host.advance(31 * SECOND)
        assert host.sent() == []
        fragment(host, 0, bytes(40), True)                   # afterwards the number may be used again
        fragment(host, 40, b"x", False)
        assert delivered(host) == [bytes(40) + b"x"]


def test_the_largest_datagram():
    with Host() as host:
        host.listen(PROTO)
        data = bytes(range(256)) * 255 + bytes(235)
        assert len(data) == 65515
        for offset in range(0, len(data), 1480):
            piece = data[offset:offset + 1480]
            fragment(host, offset, piece, offset + 1480 < len(data))
        assert delivered(host) == [data]
        assert host.ledger() == {}                           # put together without touching a byte
