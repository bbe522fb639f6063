"""IPv6 without an engine: what is answered, what is refused and under which name it is counted, and what is sent."""

import random
import struct

import pytest
from inet6_harness import (
    PEER6,
    PROTO,
    SECOND,
    TCP,
    UDP,
    US6,
    Host6,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
)
from inet_harness import IP, Host
from scapy.layers.inet6 import HBHOptUnknown, Pad1, PadN, defragment6

EINVAL, ENETUNREACH, EMSGSIZE, EADDRNOTAVAIL, EAFNOSUPPORT = 22, 101, 90, 99, 97


def echo(size: int = 8, seq: int = 3) -> ICMPv6EchoRequest:
    return ICMPv6EchoRequest(id=7, seq=seq, data=bytes(k & 255 for k in range(size)))


def sound(packet: IPv6) -> bool:
    """Whether the length and the checksum of a packet of ours without extension headers hold."""
    raw = bytes(packet)
    data = raw[40:] + b"\0" * (len(raw) % 2)
    pseudo = raw[8:40] + struct.pack("!II", len(raw) - 40, raw[6])
    total = sum(struct.unpack(f"!{len(pseudo + data) // 2}H", pseudo + data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF and len(raw) == 40 + packet.plen


# --- what is not for us -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("source", "destination", "counter"), [
    (PEER6, "fd00::9", "ip.foreign"), (PEER6, "::", "ip.foreign"), (PEER6, "ff02::2", "ip.foreign"),
    (PEER6, "ff12::1", "ip.foreign"),
    (PEER6, "ff05::1", "ip.foreign"), (PEER6, "ff01::1", "ip.martian"), ("::1", US6, "ip.martian"),
    (PEER6, "::1", "ip.martian"), ("::ffff:10.0.0.1", US6, "ip.martian"), (PEER6, "::ffff:10.0.0.1", "ip.martian"),
    ("ff02::1", US6, "ip.bad_source"), ("::", US6, "ip.bad_source"), (US6, US6, "ip.bad_source"),
])
def test_addresses_that_are_refused(source: str, destination: str, counter: str):
    with Host6() as host:
        host.ip(echo(), src=source, dst=destination)
        assert host.sent() == []
        assert host.counted() == {"ip.rx": 1, counter: 1}


@pytest.mark.parametrize(("packet", "counter"), [
    (b"\x60", "ip.short"), (b"\x60" + bytes(38), "ip.short"), (b"\x70" + bytes(60), "ip.bad_version"),
    (bytes(IPv6(src=PEER6, dst=US6, plen=9) / bytes(8)), "ip.bad_header"),
])
def test_headers_that_are_none(packet: bytes, counter: str):
    with Host6() as host:
        host.input(host.link, packet)
        assert host.counted() == {"ip.rx": 1, counter: 1}


def test_an_interface_without_ipv6_addresses_takes_none():
    with Host6() as host:
        other = host.add_if(layer=3)
        host.input(other, bytes(IPv6(src=PEER6, dst=US6) / echo()))
        assert host.counted() == {"ip.bad_version": 1}


def test_ipv6_needs_layer_3_and_an_mtu_of_1280():
    with Host() as host:
        assert host.add_addr(host.eth, US6, 64) == -EAFNOSUPPORT
        assert host.add_addr(host.add_if(layer=3, mtu=1279), US6, 64) == -EMSGSIZE
        assert host.add_addr(host.add_if(layer=3, mtu=1280), US6, 64) == 0


def test_a_hop_limit_of_0_is_no_reason_to_drop_and_padding_is_cut_off():
    with Host6() as host:
        host.input(host.link, bytes(IPv6(src=PEER6, dst=US6, hlim=0) / echo(4)) + b"padding")
        (reply,) = host.sent()
        assert reply[ICMPv6EchoReply].data == bytes(range(4))


def test_protocols_of_the_other_version_are_unknown():
    with Host6() as host:
        host.ip(b"\x08\0\xf7\xff\0\0\0\0", nh=1)
        assert host.problem() == (1, 6)
        assert host.counted()["ip.unknown_protocol"] == 1
    with Host() as host4:
        host4.ip(echo(), proto=58)
        assert host4.counted()["ip.unknown_protocol"] == 1
        assert ICMPv6EchoReply not in host4.sent()[0]


# --- echo -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 7, 1000, 1452])
def test_an_echo_is_answered(size: int):
    with Host6() as host:
        host.ip(echo(size), tc=0x10)
        (reply,) = host.sent()
        assert (reply.src, reply.dst, reply.hlim, reply.tc) == (US6, PEER6, 64, 0x10)
        assert reply[ICMPv6EchoReply].id == 7
        assert bytes(reply[ICMPv6EchoReply].data) == bytes(k & 255 for k in range(size))
        assert sound(reply)


def test_an_echo_to_all_nodes_is_answered_from_an_address_of_ours_within_the_rate_limit():
    with Host6() as host:
        for _ in range(100):
            host.ip(echo(), dst="ff02::1")
        replies = host.sent()
        assert len(replies) == 50
        assert replies[0].src == US6
        assert all(sound(reply) for reply in replies)
        assert host.counted()["icmp.rate_limited"] == 50


def test_a_wrong_checksum_is_counted_and_not_answered():
    with Host6() as host:
        host.ip(ICMPv6EchoRequest(id=1, seq=1, data=b"x", cksum=1))
        host.ip(b"\x80\0", nh=58)
        assert host.sent() == []
        counted = host.counted()
        assert (counted["icmp.bad_checksum"], counted["icmp.bad"]) == (1, 1)


def test_what_is_not_served_of_icmpv6_is_ignored():
    with Host6() as host:
        for kind in (5, 100, 127, 130, 133, 134, 135, 136, 137, 143, 200, 255):
            host.ip(ICMPv6EchoRequest(type=kind, data=bytes(24)), dst="ff02::1" if kind == 134 else US6)
        assert host.sent() == []
        assert host.counted()["icmp.ignored"] == 12


# --- extension headers ------------------------------------------------------------------------------------------
def test_a_chain_of_headers_is_walked():
    with Host6() as host:
        host.ip(IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]) / IPv6ExtHdrDestOpt(options=[Pad1(), Pad1()])
                / IPv6ExtHdrRouting(type=4, segleft=0, addresses=[PEER6]) / IPv6ExtHdrFragment(id=9)
                / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"x")]) / echo())
        (reply,) = host.sent()
        assert reply[ICMPv6EchoReply].id == 7
        assert sound(reply)


@pytest.mark.parametrize("cuts", [(40,), (41, 44, 48), (39, 50), tuple(range(1, 70))])
def test_headers_that_lie_in_several_blocks_are_walked(cuts: tuple[int, ...]):
    with Host6() as host:
        host.ip(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / echo(), facts={"cuts": cuts})
        assert host.sent()[0][ICMPv6EchoReply].id == 7


@pytest.mark.parametrize(("kind", "group", "answer"), [
    (0x3E, False, "echo"), (0x7E, False, None), (0xBE, False, "problem"), (0xFE, False, "problem"),
    (0x3E, True, "echo"), (0x7E, True, None), (0xBE, True, "problem"), (0xFE, True, None), (0xC2, False, "problem"),
])
@pytest.mark.parametrize("header", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
def test_unknown_options_by_their_two_highest_bits(kind: int, group: bool, answer: str | None, header: type):
    with Host6() as host:
        host.ip(header(options=[PadN(optdata=b""), HBHOptUnknown(otype=kind, optdata=b"ab")]) / echo(),
                dst="ff02::1" if group else US6)
        if answer == "problem":
            assert host.problem() == (2, 44)
        else:
            sent = host.sent()
            assert [ICMPv6EchoReply in packet for packet in sent] == [True] * (answer == "echo")
        assert host.counted().get("ip.unknown_option", 0) == (answer != "echo")


def test_an_option_that_runs_past_its_header_is_dropped():
    with Host6() as host:
        for raw in (b"\x3a\0\x01\x05\0\0\0\0", b"\x3a\0\x05\0\x05\0\x01\xff", b"\x3a\0\0\0\0\0\0\x01"):
            host.ip(raw + bytes(echo()), nh=60)
        assert host.sent() == []
        assert host.counted()["ip.bad_option"] == 3


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 200])
def test_a_routing_header_that_is_not_spent_is_refused(kind: int):
    with Host6() as host:
        host.ip(IPv6ExtHdrRouting(type=kind, segleft=1, addresses=["fd00::77"]) / echo())
        assert host.problem() == (0, 42)
        assert host.counted()["ip.source_route"] == 1


def test_hop_by_hop_options_come_first_or_not_at_all():
    with Host6() as host:
        host.ip(IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / echo())
        assert host.problem() == (1, 40)


def test_an_unknown_protocol_is_named_where_it_is_named():
    with Host6() as host:
        host.ip(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(nh=PROTO) / Raw(b"who?"))
        assert host.problem() == (1, 48)
        host.ip(IPv6ExtHdrDestOpt(nh=59) / Raw(b"nothing follows"))
        assert host.sent() == []


def test_chains_that_are_too_long_or_cut_off_are_dropped():
    with Host6() as host:
        host.ip(bytes(IPv6ExtHdrDestOpt(nh=60)) * 9 + bytes(IPv6ExtHdrDestOpt(nh=58)) + bytes(echo()), nh=60)
        long = bytes([60, 127]) + bytes([1, 255]) + bytes(255) + bytes([1, 255]) + bytes(255) + bytes([1, 255])
        host.ip(long + bytes(1200), nh=60)
        assert host.counted() == {"ip.rx": 2, "ip.ext_limit": 2}
        host.ip(b"\x3a\1\1\4\0\0\0\0", nh=60)
        host.ip(b"\x3a\0", nh=60)
        assert host.counted() == {"ip.rx": 2, "ip.bad_header": 2}
        assert host.sent() == []


# --- fragments --------------------------------------------------------------------------------------------------
def fragment(host: Host6, offset: int, data: bytes, more: bool, ident: int = 7, proto: int = PROTO, **fields) -> None:
    host.ip(IPv6ExtHdrFragment(nh=proto, offset=offset // 8, m=int(more), id=ident) / Raw(data), **fields)


def delivered(host: Host6) -> list[bytes]:
    return [event[7] for event in host.events]


def test_fragments_are_put_together_in_any_order():
    with Host6() as host:
        host.listen(PROTO)
        data = random.Random(1).randbytes(3000)
        fragment(host, 2400, data[2400:], False)
        fragment(host, 1200, data[1200:2400], True)
        fragment(host, 0, data[:1200], True)
        assert delivered(host) == [data]
        assert host.counted()["ip.frag_reassembled"] == 1
        assert host.advance(61 * SECOND) == 0


def test_headers_behind_the_fragment_header_are_walked_after_reassembly():
    with Host6() as host:
        whole = bytes(IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E, optdata=b"abcd")]) / echo(2000))
        fragment(host, 0, whole[:1200], True, proto=60)
        assert host.sent() == []
        fragment(host, 1200, whole[1200:], False, proto=44)     # only that of the first one counts
        assert host.problem() == (2, 42)
        whole = bytes(IPv6ExtHdrDestOpt()) + bytes(IPv6(src=PEER6, dst=US6) / echo(2000))[40:]
        whole = b"\x3a" + whole[1:]
        fragment(host, 1200, whole[1200:], False, 8, 60)
        fragment(host, 0, whole[:1200], True, 8, 60)
        reply = defragment6(host.sent())
        assert bytes(reply)[44:] == whole[12:]


@pytest.mark.parametrize(("before", "named"), [
    (b"", 6), (bytes(IPv6ExtHdrHopByHop(nh=44)), 40),
    (bytes(IPv6ExtHdrHopByHop(nh=60)) + bytes(IPv6ExtHdrDestOpt(nh=44, options=[PadN(optdata=bytes(12))])), 48)])
def test_an_error_about_what_came_in_fragments_tells_of_the_whole(before: bytes, named: int):
    with Host6() as host:
        data, kind = bytes(range(100)), 0 if before else 44
        host.ip(IPv6ExtHdrFragment(nh=PROTO, offset=5, m=0, id=9) / Raw(data[40:]), nh=44)
        host.ip(before + bytes(IPv6ExtHdrFragment(nh=PROTO, m=1, id=9)) + data[:40], nh=kind, tc=0x10, hlim=9)
        (packet,) = host.sent()
        message = packet[ICMPv6ParamProblem]
        assert (message.code, message.ptr) == (1, named)
        whole = bytearray(bytes(IPv6(src=PEER6, dst=US6, nh=kind, tc=0x10, hlim=9) / Raw(before + data)))
        whole[named] = PROTO
        assert bytes(message.payload) == whole


def test_an_overlap_makes_all_of_it_void():
    with Host6() as host:
        host.listen(PROTO)
        fragment(host, 0, bytes(800), True)
        fragment(host, 792, bytes(800), True)
        fragment(host, 800, bytes(800), False)
        fragment(host, 0, bytes(800), True)
        assert delivered(host) == []
        assert host.counted()["ip.frag_overlap"] == 1
        host.advance(61 * SECOND)
        assert host.sent() == []


def test_an_atomic_fragment_has_nothing_to_do_with_the_others():
    with Host6() as host:
        host.listen(PROTO)
        fragment(host, 0, b"A" * 8, True)
        fragment(host, 0, b"atomic", False)
        fragment(host, 8, b"B" * 8, False)
        assert delivered(host) == [b"atomic", b"A" * 8 + b"B" * 8]
        assert "ip.frag_overlap" not in host.counted()


def test_fragments_of_a_wrong_length_are_reported():
    with Host6() as host:
        fragment(host, 0, bytes(15), True)
        assert host.problem() == (0, 4)
        fragment(host, 65528, bytes(16), False)
        assert host.problem() == (0, 42)
        fragment(host, 8, b"", False)
        assert host.sent() == []
        assert host.counted()["ip.frag_bad"] == 3


def test_a_first_fragment_has_all_headers():
    with Host6() as host:
        fragment(host, 0, bytes(TCP(sport=1, dport=2))[:16], True, proto=6)
        assert host.problem() == (3, 0)
        fragment(host, 0, bytes(IPv6ExtHdrDestOpt(nh=6)), True, proto=60)
        assert host.problem() == (3, 0)
        assert host.counted()["ip.frag_bad"] == 2


@pytest.mark.parametrize("first", [True, False])
def test_what_stays_incomplete_is_given_up_after_a_minute(first: bool):
    with Host6() as host:
        fragment(host, 0 if first else 800, bytes(800), True)
        host.advance(59 * SECOND)
        assert host.sent() == []
        host.advance(2 * SECOND)
        sent = host.sent()
        assert len(sent) == first
        if first:
            assert sent[0][ICMPv6TimeExceeded].code == 1
            assert bytes(sent[0][ICMPv6TimeExceeded].payload)[:40] == bytes(
                IPv6(src=PEER6, dst=US6, nh=44, plen=808))
            assert sound(sent[0])
        assert host.counted()["ip.frag_timeout"] == 1


def test_both_versions_have_fragments_of_one_identification():
    with Host6() as host:
        assert host.add_addr(host.link, 0x0A000001, 24) == 0
        host.listen(PROTO)
        fragment(host, 0, b"6" * 8, True)
        host.input(host.link, bytes(IP(src="10.0.0.2", dst="10.0.0.1", id=7, proto=PROTO, flags="MF") / (b"4" * 8)))
        fragment(host, 8, b"6", False)
        host.input(host.link, bytes(IP(src="10.0.0.2", dst="10.0.0.1", id=7, proto=PROTO, frag=1) / b"4"))
        assert delivered(host) == [b"6" * 9, b"4" * 9]


# --- errors out -------------------------------------------------------------------------------------------------
def test_a_closed_port_is_told_with_as_much_as_fits_into_1280_bytes():
    with Host6() as host:
        host.ip(UDP(sport=1, dport=2) / Raw(bytes(1400)))
        (raw,) = host.link.drain()
        packet = IPv6(raw)
        assert len(raw) == 1280
        assert packet[ICMPv6DestUnreach].code == 4
        assert sound(packet)
        assert raw[48:] == bytes(IPv6(src=PEER6, dst=US6) / UDP(sport=1, dport=2) / Raw(bytes(1400)))[:1232]


def test_a_closed_port_behind_extension_headers_is_told_with_them():
    with Host6() as host:
        sent = IPv6(src=PEER6, dst=US6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / b"hello"
        host.input(host.link, bytes(sent))
        (packet,) = host.sent()
        assert bytes(packet[ICMPv6DestUnreach].payload) == bytes(sent)


@pytest.mark.parametrize("message", [
    ICMPv6DestUnreach(code=4) / IPv6(src=US6, dst=PEER6) / UDP(), ICMPv6ParamProblem() / bytes(48),
    ICMPv6EchoRequest(type=127), ICMPv6EchoRequest(type=137, data=bytes(32)),
])
def test_no_error_is_sent_about_an_error(message):
    with Host6() as host:
        # An option that asks for a report, in front of an error.
        host.ip(IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x80, optdata=b"")]) / message)
        assert host.sent() == []
        host.ip(IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x80, optdata=b"")]) / echo())
        assert len(host.sent()) == 1


def test_no_error_is_sent_about_a_packet_to_a_group():
    with Host6() as host:
        host.ip(UDP(sport=1, dport=2), dst="ff02::1")
        host.ip(b"who?", dst="ff02::1", nh=PROTO)
        assert host.sent() == []


def test_errors_are_limited():
    with Host6() as host:
        for _ in range(200):
            host.ip(UDP(sport=1, dport=2))
        assert len(host.sent()) == 50
        assert host.counted()["icmp.rate_limited"] == 150


# --- errors in --------------------------------------------------------------------------------------------------
def quote(length: int = 1400, src: str = US6, dst: str = PEER6) -> bytes:
    return bytes(IPv6(src=src, dst=dst, plen=length) / UDP(sport=40, dport=50, len=length, chksum=1) / bytes(40))


@pytest.mark.parametrize(("message", "kind"), [
    (ICMPv6DestUnreach(code=0), 1), (ICMPv6DestUnreach(code=1), 9), (ICMPv6DestUnreach(code=2), 2),
    (ICMPv6DestUnreach(code=3), 2), (ICMPv6DestUnreach(code=4), 4), (ICMPv6DestUnreach(code=5), 9),
    (ICMPv6DestUnreach(code=6), 9), (ICMPv6TimeExceeded(code=0), 7), (ICMPv6TimeExceeded(code=1), 7),
    (ICMPv6ParamProblem(code=0), 8), (ICMPv6ParamProblem(code=1), 3), (ICMPv6PacketTooBig(mtu=1300), 5),
])
def test_errors_reach_the_transport_that_they_are_about(message, kind: int):
    with Host6() as host:
        host.listen(17)
        host.ip(message / quote(), src="fd00::99")
        assert host.events == [("error", US6, PEER6, 17, kind, 1300 if kind == 5 else 0, 40, 50, 0)]


def test_the_quote_may_have_extension_headers():
    with Host6() as host:
        host.listen(17)
        host.ip(ICMPv6DestUnreach(code=4) / IPv6(src=US6, dst=PEER6) / IPv6ExtHdrDestOpt()
                / IPv6ExtHdrFragment(m=1) / UDP(sport=40, dport=50))
        assert host.events == [("error", US6, PEER6, 17, 4, 0, 40, 50, 0)]


@pytest.mark.parametrize("message", [
    ICMPv6DestUnreach(code=4) / quote(src="fd00::77"), ICMPv6DestUnreach(code=4) / quote()[:47],
    ICMPv6DestUnreach(code=4) / bytes(60), ICMPv6DestUnreach(code=4),
    ICMPv6DestUnreach(code=4) / IPv6(src=US6, dst=PEER6) / IPv6ExtHdrFragment(offset=1) / UDP(),
    ICMPv6DestUnreach(code=4) / IPv6(src=US6, dst=PEER6, nh=60) / bytes([60, 255]),
    ICMPv6DestUnreach(code=4) / IPv6(src=US6, dst=PEER6) / ICMPv6EchoReply(data=bytes(8)),
    ICMPv6PacketTooBig(mtu=1279) / quote(), ICMPv6PacketTooBig(mtu=0) / quote(),
    ICMPv6PacketTooBig(mtu=1440) / quote(), ICMPv6PacketTooBig(mtu=1280) / quote(1240),
])
def test_errors_about_what_we_cannot_have_sent_are_refused(message):
    with Host6() as host:
        host.listen(17)
        host.listen(58)                                      # not asked: the internet layer's own is replaced ...
    with Host6() as host:                                    # ... so here it is in place
        host.listen(17)
        host.ip(message)
        assert host.events == []
        assert host.counted()["icmp.bad_quote"] == 1


# --- out --------------------------------------------------------------------------------------------------------
def test_routes_and_sources():
    with Host6() as host:
        second = host.add_if(layer=3, mtu=1280)
        for address, bits in (("fe80::1", 64), ("fd01::1", 64), ("fd02:0:0:1::1", 64), ("fd02:0:0:2::1", 64)):
            assert host.add_addr(second, address, bits) == 0
        assert host.add_route("fd02::", 16, i=second) == 0
        assert host.resolve(PEER6) == (0, US6, PEER6, 1500, False)
        assert host.resolve("2001:db8::1") == (0, US6, "fd00::fe", 1500, False)
        assert host.resolve("fd01::9") == (2, "fd01::1", "fd01::9", 1280, False)
        # The longest common prefix, and a scope that is large enough but no larger (RFC 6724).
        assert host.resolve("fd02:0:0:2:8::")[1] == "fd02:0:0:2::1"
        assert host.resolve("fd02:0:0:1:8::")[1] == "fd02:0:0:1::1"
        assert host.resolve("fe80::9") == (2, "fe80::1", "fe80::9", 1280, False)
        assert host.resolve("fd01::9", "fd01::1")[1] == "fd01::1"
        assert host.resolve("fd01::9", "fd01::2") == -EADDRNOTAVAIL
        assert host.resolve("fd01::9", "::1") == -EINVAL
        assert host.resolve(US6) == (1, US6, US6, 65535, False)
        assert host.resolve("::1") == (1, "::1", "::1", 65535, False)
        assert host.resolve("::") == (1, "::1", "::1", 65535, False)
        assert host.resolve("ff02::1")[4]
        # The default route of one version is none for the other.
        assert host.resolve(0x08080808) == -ENETUNREACH
        assert host.del_route("::", 0) == 0
        assert host.resolve("2001:db8::1") == -ENETUNREACH


@pytest.mark.parametrize("size", [1453, 1448, 4000, 65535 - 8])
def test_what_we_fragment_can_be_put_together(size: int):
    with Host6() as host:
        u = host.udp_socket(v6=True)
        data = random.Random(size).randbytes(size)
        assert u.send(data, (PEER6, 9)) == 0
        packets = host.sent()
        assert len(packets) == (1 if size <= 1452 else -(-(size + 8) // 1448))
        assert all(len(packet) <= 1500 for packet in packets)
        if len(packets) > 1:
            whole = b"".join(bytes(packet)[48:] for packet in packets)
            assert [packet[IPv6ExtHdrFragment].m for packet in packets] == [1] * (len(packets) - 1) + [0]
            assert whole[8:] == data
            assert sound(IPv6(bytes(IPv6(src=US6, dst=PEER6, nh=17) / Raw(whole))))
        else:
            assert sound(packets[0])
        u.close()


def test_each_flow_has_a_label_that_is_its_own():
    with Host6() as host:
        labels = {}
        for port in range(50):
            u = host.udp_socket(v6=True)
            for size in (0, 100, 4000):
                assert u.send(bytes(size), (PEER6, 9 + port % 2)) == 0
            labels[u] = {packet.fl for packet in host.sent()}
            assert len(labels[u]) == 1          # of fragments too
        assert len(set().union(*labels.values())) >= 49
        for u in labels:
            u.close()
        host.ip(echo(2000), src="fd00::3")
        host.ip(echo(), src="fd00::4")
        replies = host.sent()
        assert replies[0].fl == replies[1].fl != replies[2].fl
        assert max(set().union(*labels.values())) >> 16         # all twenty bits are used


def test_datagrams_larger_than_65527_bytes_are_refused():
    with Host6() as host:
        u = host.udp_socket(v6=True)
        assert u.send(bytes(65528), (PEER6, 9)) == -EMSGSIZE
        u.close()


def test_a_packet_too_big_is_remembered_for_ten_minutes():
    with Host6() as host:
        u = host.udp_socket(v6=True)
        assert u.bind("::", 40) == 0
        assert u.send(bytes(1400), (PEER6, 50)) == 0
        (whole,) = host.sent()
        host.ip(ICMPv6PacketTooBig(mtu=1300) / Raw(bytes(whole)[:1232]), src="fd00::99")
        assert host.counted()["ip.path_mtu"] == 1
        assert u.send(bytes(1400), (PEER6, 50)) == 0
        assert [len(packet) for packet in host.sent()] == [1296, 48 + 1408 - 1248]
        assert u.send(bytes(1400), ("fd00::3", 50)) == 0
        assert len(host.sent()) == 1                         # another destination
        u.option(df=1)
        assert u.send(bytes(1253), (PEER6, 50)) == -EMSGSIZE
        assert u.send(bytes(1252), (PEER6, 50)) == 0
        u.option(df=0)
        host.sent()
        # A larger one does not undo it, and its time is not prolonged for ever.
        host.ip(ICMPv6PacketTooBig(mtu=1400) / Raw(bytes(whole)[:1232]))
        assert host.resolve(PEER6)[3] == 1300
        host.advance(601 * SECOND)
        assert host.resolve(PEER6)[3] == 1500
        assert u.send(bytes(1400), (PEER6, 50)) == 0
        assert len(host.sent()) == 1
        u.close()


def test_a_packet_too_big_for_nobody_is_not_believed():
    with Host6() as host:
        host.ip(ICMPv6PacketTooBig(mtu=1300) / quote())
        assert host.resolve(PEER6)[3] == 1500
        assert "ip.path_mtu" not in host.counted()


def test_a_packet_too_big_about_an_echo_of_ours_is_believed():
    with Host6() as host:
        host.ip(echo(1400))
        (reply,) = host.sent()
        host.ip(ICMPv6PacketTooBig(mtu=1280) / Raw(bytes(reply)[:1000]))
        host.ip(echo(1400))
        assert [len(packet) for packet in host.sent()] == [1280, 48 + 1408 - 1232]


# --- udp --------------------------------------------------------------------------------------------------------
def test_a_datagram_without_a_checksum_is_dropped_and_counted():
    with Host6() as host:
        u = host.udp_socket(v6=True)
        assert u.bind("::", 9) == 0
        host.ip(UDP(sport=5, dport=9, chksum=0) / b"x")
        assert u.recv() is None
        assert host.counted()["udp.no_checksum"] == 1
        host.ip(UDP(sport=5, dport=9, chksum=1) / b"x")
        assert host.counted()["udp.bad_checksum"] == 1
        host.ip(UDP(sport=5, dport=9) / b"x", hlim=9)
        assert u.recv() == (b"x", PEER6, 5, 9)
        u.close()


def test_an_endpoint_serves_both_versions_unless_it_says_that_it_does_not():
    with Host6() as host:
        assert host.add_addr(host.link, 0x0A000001, 24) == 0
        four = bytes(IP(src="10.0.0.2", dst="10.0.0.1") / UDP(sport=5, dport=9) / b"4")
        both = host.udp_socket(v6=True)
        assert both.bind("::", 9) == 0
        host.input(host.link, four)
        assert both.recv() == (b"4", 0x0A000002, 5, 64)
        assert both.send(b"4", (0x0A000002, 5)) == 0
        assert IP(host.link.drain()[0]).dst == "10.0.0.2"
        plain = host.udp_socket()
        assert plain.bind(0, 9) == -98
        both.close()
        six = host.udp_socket(v6=True, v6only=True)
        assert six.bind("::", 9) == 0
        assert six.send(b"4", (0x0A000002, 5)) == -ENETUNREACH
        assert six.connect(0x0A000002, 5) == -ENETUNREACH
        host.input(host.link, four)
        assert six.recv() is None
        assert plain.bind(0, 9) == 0
        host.input(host.link, four)
        host.ip(UDP(sport=5, dport=9) / b"6")
        assert plain.recv()[0] == b"4"
        assert six.recv()[:2] == (b"6", PEER6)
        plain.close()
        six.close()


def test_groups_reach_endpoints_of_their_version_only():
    with Host6() as host:
        six, four = host.udp_socket(v6=True), host.udp_socket()
        six.option(reuse_addr=1)
        four.option(reuse_addr=1)
        assert (six.bind("::", 9), four.bind(0, 9)) == (0, 0)
        host.ip(UDP(sport=5, dport=9) / b"all", dst="ff02::1")
        assert six.recv()[0] == b"all"
        assert four.recv() is None
        six.close()
        four.close()


# --- echo endpoints ---------------------------------------------------------------------------------------------
def test_an_echo_endpoint_speaks_its_version():
    with Host6() as host:
        assert host.add_addr(host.link, 0x0A000001, 24) == 0
        p = host.ping_socket(77, v6=True)
        assert p.send(b"hello", PEER6, 5) == 0
        assert p.send(b"hello", 0x0A000002, 5) == -EAFNOSUPPORT
        (request,) = host.sent()
        assert sound(request)
        assert (request[ICMPv6EchoRequest].id, request[ICMPv6EchoRequest].seq) == (77, 5)
        host.ip(ICMPv6EchoReply(id=77, seq=5, data=b"hello"))
        assert p.recv() == (b"hello", PEER6, 5)
        host.input(host.link, bytes(IP(src="10.0.0.2", dst="10.0.0.1") / struct.pack("!BBHHH", 0, 0, 0xFFB2, 77, 0)))
        assert p.recv() is None
        host.ip(ICMPv6DestUnreach(code=3) / Raw(bytes(request)))
        assert p.error == (113, 1, 3)
        p.close()
