"""IPv4 (RFC 791, 1122, 5722, 6864) as scapy sends and reads it."""

import random
import socket

import pytest
from oracle import OTHER, OURS, PEER, Wire, ip
from scapy.layers.inet import ICMP, IP, UDP, IPOption_LSRR, IPOption_NOP, IPOption_RR, defragment, fragment
from scapy.packet import Raw

DATA = bytes(range(256)) * 20


def echo(data=DATA[:100], **fields):
    return ip(ICMP(id=7, seq=3) / Raw(data), **fields)


def is_echo_of(packets, data):
    [reply] = defragment(packets)
    reply = IP(bytes(reply))
    return (reply.src, reply.dst, reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (OURS, PEER, 0, 7, 3) and (
        bytes(reply[ICMP].payload) == data)


def bad(offset, value):
    raw = bytearray(bytes(echo()))
    raw[offset:offset + len(value)] = value
    header = bytes(raw[:20])
    if offset != 10:        # its checksum is right all the same
        raw[10:12] = b"\0\0"
        total = sum(int.from_bytes(raw[i:i + 2], "big") for i in range(0, 20, 2))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        raw[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
    assert header
    return bytes(raw)


@pytest.mark.parametrize(("packet", "counter"), [
    (bad(0, b"\x55"), "ip_bad_version"),
    (bad(0, b"\x44"), "ip_bad_header"),
    (bad(0, b"\x4f"), "ip_bad_checksum"),           # a longer header, which then has a wrong sum
    (bad(2, b"\x00\x13"), "ip_bad_header"),
    (bad(2, b"\xff\xff"), "ip_bad_header"),
    (bad(10, b"\x12\x34"), "ip_bad_checksum"),
    (bytes(echo())[:19], "ip_short"),
    (b"\x45", "ip_short"),
    (echo(ttl=0), "ip_ttl"),
    (echo(src="255.255.255.255"), "ip_bad_source"),
    (echo(src="224.0.0.1"), "ip_bad_source"),
    (echo(src="240.0.0.1"), "ip_bad_source"),
    (echo(src="10.9.0.255"), "ip_bad_source"),
    (echo(src=OURS), "ip_bad_source"),
    (echo(src="127.0.0.1"), "ip_martian"),
    (echo(dst="127.0.0.1"), "ip_martian"),
    (echo(dst=OTHER), "ip_foreign"),
    (echo(options=[IPOption_LSRR(routers=["1.2.3.4"])]), "ip_source_route"),
])
def test_dropped_in_silence(wire, packet, counter):
    wire.dropped(packet, **{counter: 1})


@pytest.mark.parametrize("option", [b"\x07\x00\x00\x00", b"\x07\xff\x04\x00"])
def test_an_option_that_cannot_be_is_a_parameter_problem(wire, option):
    with wire.counts(ip_bad_option=1, icmp_error_tx=1):
        [answer] = wire.ask(echo(options=[Raw(option)]))
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].ptr) == (12, 0, 20)


@pytest.mark.parametrize("options", [[IPOption_NOP()] * 4, [IPOption_RR(routers=["0.0.0.0"])]])
def test_options_are_skipped(wire, options):
    assert is_echo_of(wire.ask(echo(options=options)), DATA[:100])


def test_padding_behind_the_packet_is_ignored(wire):
    assert is_echo_of(wire.ask(bytes(echo(b"ab")) + bytes(24)), b"ab")


def test_an_unknown_protocol_is_unreachable(wire):
    with wire.counts(ip_unknown_protocol=1, icmp_error_tx=1):
        [error] = wire.ask(ip(Raw(b"x" * 30), proto=200))
    assert (error[ICMP].type, error[ICMP].code) == (3, 2)


# --- fragments (E3)

def pieces(data, size=1480, **fields):
    return fragment(echo(data, id=77, **fields), fragsize=size)


@pytest.mark.parametrize("order", ["in order", "reverse", "shuffled", "doubled"])
def test_reassembly(wire, order):
    parts = pieces(DATA, 800)
    if order == "reverse":
        parts.reverse()
    elif order == "shuffled":
        random.Random(5).shuffle(parts)
    elif order == "doubled":
        parts = [p for p in parts[:-1] for _ in range(2)] + parts[-1:]
    with wire.counts(ip_frag_reassembled=1, icmp_echo=1, ip_frag_tx=4):
        assert is_echo_of(wire.ask(*parts), DATA)


@pytest.mark.parametrize(("first", "second", "whole"), [
    (2, 2, 2), (2, 3, 3), (3, 2, 3), (1, 3, 3), (1, 2, 1), (0, 0, 0)])
def test_congestion_that_one_fragment_saw_is_that_of_the_datagram(wire, first, second, whole):
    """RFC 3168 5.3; the answer to an echo has its TOS."""
    a, b = pieces(DATA[:1000], 800)
    a.tos, b.tos = 0x10 | first, 0x10 | second
    out = wire.ask(b, a)
    assert is_echo_of(out, DATA[:1000])
    assert out[0].tos == 0x10 | whole


@pytest.mark.parametrize("marks", [(0, 3), (3, 0), (0, 2), (1, 0)])
def test_fragments_of_which_some_know_no_ecn_are_no_datagram(wire, marks):
    a, b = pieces(DATA[:1000], 800)
    a.tos, b.tos = marks
    wire.dropped(a, b, ip_frag_bad=1)


def test_the_largest_datagram(wire):
    data = (DATA * 13)[:65507]
    assert is_echo_of(wire.ask(*pieces(data)), data)


def test_overlap_drops_the_whole(wire):
    a, b, c = pieces(DATA[:2400], 808)
    b.frag -= 1
    wire.dropped(a, b, ip_frag_overlap=1)
    assert wire.net.memory()["held"] == 0
    wire.dropped(c, ip_frag_bad=1)          # what comes later of it is dropped too (RFC 5722 4)


def test_beyond_65535_is_dropped(wire):
    wire.dropped(ip(Raw(b"x" * 1000), proto=1, id=9, frag=8189 - 125, flags="MF"),
                 ip(Raw(b"x" * 1000), proto=1, id=9, frag=8189), ip_frag_bad=1)
    wire.dropped(ip(Raw(b"x" * 1000), proto=1, id=11, frag=8189, flags="MF"), ip_frag_bad=1)


def test_fragments_that_cannot_be(wire):
    wire.dropped(ip(Raw(b"x" * 1001), proto=1, id=9, frag=2, flags="MF"), ip_frag_bad=1)     # not a multiple of 8
    wire.dropped(ip(proto=1, id=10, frag=2, flags="MF"), ip_frag_bad=1)                      # nothing in it


@pytest.mark.parametrize("first", [True, False])
def test_time_out(wire, first):
    """RFC 1122 3.3.2: after 30 s to 60 s, with an ICMP time exceeded if the first fragment was there."""
    parts = pieces(DATA, 1480)
    assert wire.ask(parts[0] if first else parts[1]) == []
    assert wire.after(29) == []
    with wire.counts(ip_frag_timeout=1, **({"icmp_error_tx": 1} if first else {})):
        out = wire.after(31)
    assert [(p[ICMP].type, p[ICMP].code) for p in out] == ([(11, 1)] if first else [])
    assert wire.net.memory()["held"] == 0


def test_a_flood_of_first_fragments_is_bounded(wire):
    peak = 0
    for k in range(5000):
        wire.send(ip(Raw(b"x" * 1400), proto=17, id=k & 0xFFFF, flags="MF", src=f"10.9.0.{3 + k % 200}"))
        peak = max(peak, wire.net.memory()["held"])
    assert peak < 8 << 20
    assert wire.net.stats()["ip.frag_limit"] > 0
    assert is_echo_of(wire.ask(echo()), DATA[:100])


def test_what_we_send_is_fragmented_and_numbered():
    """RFC 6864: fragments of one datagram share an ID that the next one does not have."""
    wire = Wire(mtu=576)
    with wire.net, wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        ids = []
        for _ in range(3):
            s.sendto(DATA, (PEER, 9))
            parts = wire.drain()
            assert all(len(p) <= 576 for p in parts)
            assert len({p.id for p in parts}) == 1
            ids.append(parts[0].id)
            [whole] = defragment(parts)
            whole = IP(bytes(whole))
            assert bytes(whole[UDP].payload) == DATA
            claimed = whole[UDP].chksum
            del whole[UDP].chksum
            assert IP(bytes(whole))[UDP].chksum == claimed
        assert len(set(ids)) == 3
