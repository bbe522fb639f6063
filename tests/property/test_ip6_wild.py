"""IPv6 input that nobody would send: whatever arrives, nothing is read beyond it and nothing is kept for ever.

Packets lie so that the byte behind them cannot be read (``guard``): an over-read ends the test run.
"""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from inet6_harness import (
    PEER6,
    PROTO,
    SECOND,
    UDP,
    US6,
    Host6,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)

NEXT = st.sampled_from([0, 43, 44, 60, 59, 6, 17, 58, 50, 51, 255])
GROUPS = st.sampled_from([US6, "ff02::1"])


def take(packet: bytes) -> None:
    """As one block behind which nothing can be read, and in blocks of seven bytes."""
    for facts in ({"guard": True}, {"cuts": range(7, len(packet), 7)}):
        with Host6() as host:
            host.input(host.link, packet, **facts)
            host.pump(host.lo)
            host.advance(70 * SECOND)
            assert host.deadline > host.now + 3600 * SECOND


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_random_bytes(data: bytes):
    take(b"\x60" + data)


@given(GROUPS, NEXT, st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
@example(US6, 44, b"\x3a\0\0\1\0\0\0\1" + bytes(8))
def test_random_bytes_behind_a_good_header(to: str, kind: int, data: bytes):
    take(bytes(IPv6(src=PEER6, dst=to, nh=kind) / data))


@st.composite
def header(draw) -> tuple[int, bytes]:
    """(kind, bytes without the next-header field) of an extension header, right or almost so."""
    kind = draw(st.sampled_from([0, 43, 44, 60]))
    length = draw(st.integers(0, 3))
    body = draw(st.binary(min_size=6 + 8 * length, max_size=6 + 8 * length))
    if kind != 44 and draw(st.booleans()):
        body = bytes([1, 4 + 8 * length]) + bytes(4 + 8 * length) if kind != 43 else b"\0\0" + body[2:]
    claimed = length if draw(st.integers(0, 9)) else draw(st.integers(0, 255))
    return kind, bytes([claimed]) + body


@given(GROUPS, st.lists(header(), min_size=1, max_size=10), NEXT, st.binary(max_size=60), st.integers(0, 40))
@settings(max_examples=500, deadline=None)
def test_random_chains(to: str, headers: list[tuple[int, bytes]], last: int, data: bytes, cut: int):
    kinds = [kind for kind, _ in headers[1:]] + [last]
    chain = b"".join(bytes([following]) + rest for (_, rest), following in zip(headers, kinds, strict=True))
    whole = chain + data
    take(bytes(IPv6(src=PEER6, dst=to, nh=headers[0][0]) / whole[:max(0, len(whole) - cut)]))


@given(st.integers(1, 4), st.integers(0, 6), NEXT, st.binary(max_size=150))
@settings(max_examples=300, deadline=None)
def test_random_quotes(kind: int, code: int, last: int, data: bytes):
    quoted = IPv6(src=US6, dst=PEER6, nh=last) / data
    take(bytes(IPv6(src=PEER6, dst=US6) / ICMPv6DestUnreach(type=kind, code=code, unused=1300) / quoted))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20), st.booleans(), st.sampled_from([PROTO, 60, 17])),
                min_size=1, max_size=25))
@settings(max_examples=200, deadline=None)
def test_arbitrary_fragments_against_a_model(pieces):
    """The model: a set of disjoint pieces; an overlap makes the datagram void; complete when they cover it. Its
    protocol is what the first one says."""
    with Host6() as host:
        host.listen(PROTO)
        have: dict[int, bytes] = {}
        total, void, expected = None, False, []
        for n, (start, length, more, proto) in enumerate(pieces):
            data = bytes([n]) * (length * 8)
            begin, end = start * 8, start * 8 + len(data)
            if begin == 0:
                proto = PROTO                                # what else a first one must hold is tested elsewhere
            host.ip(IPv6ExtHdrFragment(nh=proto, offset=start, m=int(more), id=7) / data)
            if begin == 0 and not more:                      # an atomic one
                expected.append(data)
                continue
            if void or not data or (begin == 0 and len(data) < 8):
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
        assert [event[7] for event in host.events] == expected
        assert host.counted().get("ip.frag_overlap", 0) == int(void)


def test_many_datagrams_that_stay_incomplete_are_bounded():
    with Host6() as host:
        for n in range(2000):
            host.ip(IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=n) / UDP(sport=1, dport=2) / bytes(1200))
        assert host.live < 3 * 256 + 100
        assert host.counted()["ip.frag_limit"] == 2000 - 256
        host.ip(IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(id=1, seq=1))
        assert len(host.sent()) == 1
