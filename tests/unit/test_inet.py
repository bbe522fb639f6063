"""The internet layer: what it answers, what it refuses and under which name it counts it, and what it sends."""

import random
import struct

import pytest
from inet_harness import ARP, ICMP, IP, MAC, OUR_MAC, PEER, SECOND, TCP, UDP, US, Ether, Host, Raw, number
from scapy.layers.inet import IPOption_LSRR, IPOption_NOP, IPOption_RR, IPOption_SSRR, defragment
from scapy.layers.inet import fragment as scapy_fragment
from scapy.layers.l2 import Dot1Q, Dot3

PROTO = 253


# --- Ethernet -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("frame", "counter"), [
    (b"", "eth.runt"), (b"\x02\0\0\0\0\1" * 2 + b"\x08", "eth.runt"),
    (bytes(Ether(src=MAC, dst="02:00:00:00:00:99") / IP(src=PEER, dst=US)), "eth.foreign"),
    (bytes(Ether(src="01:00:00:00:00:02", dst=OUR_MAC) / IP(src=PEER, dst=US)), "eth.bad_source"),
    (bytes(Ether(src=MAC, dst=OUR_MAC, type=0x88CC) / b"lldp"), "eth.unknown_type"),
    (bytes(Ether(src=MAC, dst=OUR_MAC) / Dot1Q(vlan=5) / IP(src=PEER, dst=US)), "eth.unknown_type"),
    (bytes(Dot3(src=MAC, dst=OUR_MAC) / Raw(bytes(50))), "eth.unknown_type"),
    (bytes(Ether(src=MAC, dst=OUR_MAC, type=0x86DD) / bytes(40)), "ip.bad_version"),
])
def test_frames_that_are_not_for_us(frame: bytes, counter: str):
    with Host() as host:
        host.frame(frame or b"\0")
        assert host.counted() == {counter: 1}
        assert host.sent() == []


# --- ARP ------------------------------------------------------------------------------------------------------
def test_arp_answers_for_our_own_address_only():
    with Host() as host:
        host.arp(pdst=US, hwsrc="02:00:00:00:00:07", psrc="10.0.0.7")
        (reply,) = host.sent()
        assert reply.dst == "02:00:00:00:00:07"
        assert (reply[ARP].op, reply[ARP].hwsrc, reply[ARP].psrc) == (2, OUR_MAC, US)
        assert (reply[ARP].hwdst, reply[ARP].pdst) == ("02:00:00:00:00:07", "10.0.0.7")
        host.arp(pdst="10.0.0.77")
        host.arp(pdst="127.0.0.1")
        assert host.sent() == []
        assert host.counted()["arp.foreign"] == 2


def test_arp_probes_are_answered_and_teach_nothing():
    with Host(know_peer=False) as host:
        host.arp(psrc="0.0.0.0")
        (reply,) = host.sent()
        assert reply[ARP].pdst == "0.0.0.0"
        assert host.output(number(PEER), PROTO, b"x") == 0
        assert ARP in host.sent()[0]                         # we have to ask


def test_a_request_for_us_teaches_us_who_asks():
    with Host(know_peer=False) as host:
        host.arp()
        host.sent()
        assert host.output(number(PEER), PROTO, b"x") == 0
        (packet,) = host.sent()
        assert packet.dst == MAC
        assert packet[IP].dst == PEER


def test_gratuitous_arp_updates_what_is_known_and_nothing_else():
    with Host() as host:
        for op in (1, 2):
            host.arp(op=op, hwsrc="02:00:00:00:00:08", psrc=PEER, pdst=PEER)
            assert host.sent() == []
            host.output(number(PEER), PROTO, b"x")
            assert host.sent()[-1].dst == "02:00:00:00:00:08"
        host.arp(op=2, hwsrc="02:00:00:00:00:09", psrc="10.0.0.9", pdst="10.0.0.9")
        host.arp(op=2, hwsrc="02:00:00:00:00:09", psrc="10.0.0.9", pdst=US)
        host.output(number("10.0.0.9"), PROTO, b"x")
        assert host.sent()[-1][ARP].op == 1                  # an unsolicited reply made no entry


def test_unresolved_neighbours_are_asked_three_times_and_then_given_up():
    with Host() as host:
        host.listen(17)
        target = number("10.0.0.9")
        quoted = struct.pack("!HHHH", 1234, 80, 8, 0)
        assert host.output(target, 17, quoted) == 0
        for _ in range(3):
            (request,) = host.sent()
            assert (request.dst, request[ARP].pdst, request[ARP].psrc) == ("ff:ff:ff:ff:ff:ff", "10.0.0.9", US)
            host.advance(SECOND)
        assert host.sent() == []
        assert host.events == [("error", number(US), target, 17, 2, 0, 1234, 80, 0)]
        assert host.counted()["arp.failed"] == 1
        assert host.output(target, 17, quoted) == -113       # EHOSTUNREACH, at once
        host.advance(2 * SECOND)
        assert host.output(target, 17, quoted) == 0          # and then it is asked anew
        assert len(host.sent()) == 1


def test_packets_wait_for_arp_in_a_bounded_queue():
    with Host() as host:
        target = number("10.0.0.9")
        for i in range(100):
            assert host.output(target, PROTO, bytes([i])) == 0
        assert host.counted()["arp.queue_full"] == 36
        assert len(host.sent()) == 1
        host.arp(op=2, hwsrc="02:00:00:00:00:09", psrc="10.0.0.9", pdst=US, dst=OUR_MAC, hwdst=OUR_MAC)
        packets = host.sent()
        assert [bytes(p[IP].payload)[0] for p in packets] == list(range(36, 100))
        assert all(p.dst == "02:00:00:00:00:09" for p in packets)


def test_old_neighbours_are_used_and_confirmed_by_unicast():
    with Host() as host:
        host.advance(31 * SECOND)
        host.output(number(PEER), PROTO, b"x")
        request, packet = host.sent()
        assert (request.dst, request[ARP].op) == (MAC, 1)
        assert packet.dst == MAC
        host.arp(op=2, pdst=US, dst=OUR_MAC, hwdst=OUR_MAC)
        host.output(number(PEER), PROTO, b"x")
        assert len(host.sent()) == 1
        host.advance(20 * SECOND)
        host.output(number(PEER), PROTO, b"x", confirm=True)
        host.advance(20 * SECOND)
        host.output(number(PEER), PROTO, b"x")               # a transport has vouched for it meanwhile
        assert len(host.sent()) == 2


def test_a_neighbour_that_went_silent_is_asked_by_broadcast():
    with Host() as host:
        host.advance(31 * SECOND)
        host.output(number(PEER), PROTO, b"x")
        host.advance(4 * SECOND)
        assert [p.dst for p in host.sent() if ARP in p] == [MAC] * 3
        host.output(number(PEER), PROTO, b"x")
        (request,) = host.sent()
        assert request.dst == "ff:ff:ff:ff:ff:ff"


def test_a_flood_of_senders_evicts_nobody():
    with Host() as host:
        rng = random.Random(1)
        for i in range(5000):
            host.arp(hwsrc=f"02:00:00:01:{i >> 8:02x}:{i & 255:02x}", psrc=f"10.0.0.{rng.randrange(2, 250)}")
            host.arp(hwsrc="02:00:00:00:00:01", psrc=f"10.{i >> 8}.{i & 255}.9")
        for i in range(3000):
            host.arp(hwsrc="02:00:00:00:77:77", psrc=f"10.1.{i >> 8}.{i & 255}")
        assert "arp.evicted" not in host.counted()
        host.sent()
        host.arp(hwsrc=MAC, psrc=PEER)
        host.sent()
        host.output(number(PEER), PROTO, b"x")
        assert host.sent()[0].dst == MAC


def test_the_cache_is_bounded():
    with Host() as host:
        host.add_addr(host.eth, number("172.16.0.1"), 16)
        for i in range(2000):
            host.output(number("172.16.4.0") + i, PROTO, b"x")
        assert host.counted()["arp.evicted"] == 2000 + 1 - 1024
        assert host.live < 3000


@pytest.mark.parametrize("change", [
    {"hwlen": 5}, {"plen": 16}, {"op": 9}, {"hwsrc": "01:00:00:00:00:02"}, {"hwsrc": "00:00:00:00:00:00"},
    {"hwsrc": "ff:ff:ff:ff:ff:ff"}, {"psrc": "224.0.0.1"}, {"psrc": "255.255.255.255"}, {"psrc": "127.0.0.1"},
])
def test_malformed_arp(change: dict[str, object]):
    with Host() as host:
        fields = {"op": 1, "hwsrc": MAC, "psrc": PEER, "pdst": US, "hwlen": 6, "plen": 4, **change}
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(**fields))
        assert host.counted() == {"arp.rx": 1, "arp.bad": 1}
        assert host.sent() == []


def test_a_conflict_is_counted_and_defended_against_once_in_ten_seconds():
    with Host() as host:
        for _ in range(5):
            host.arp(hwsrc="02:00:00:00:00:66", psrc=US, pdst=US)
        (defence,) = host.sent()
        assert (defence.dst, defence[ARP].psrc, defence[ARP].pdst) == ("ff:ff:ff:ff:ff:ff", US, US)
        assert defence[ARP].hwsrc == OUR_MAC
        assert host.counted() == {"arp.rx": 5, "arp.conflict": 5, "arp.tx": 1}
        host.advance(11 * SECOND)
        host.arp(hwsrc="02:00:00:00:00:66", psrc=US, pdst=PEER)
        assert len(host.sent()) == 1


def test_a_new_address_is_announced():
    with Host() as host:
        host.add_addr(host.eth, number("10.9.0.1"), 24)
        (announcement,) = host.sent()
        assert announcement[ARP].psrc == announcement[ARP].pdst == "10.9.0.1"


# --- IPv4 in --------------------------------------------------------------------------------------------------
def corrupt(packet: bytes, offset: int, value: bytes, fix: bool = True) -> bytes:
    data = bytearray(packet)
    data[offset:offset + len(value)] = value
    if fix:
        data[10:12] = b"\0\0"
        header = data[:max((data[0] & 15) * 4, 20)]
        total = sum(struct.unpack(f"!{len(header) // 2}H", header[:len(header) & ~1]))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        data[10:12] = struct.pack("!H", ~total & 0xFFFF)
    return bytes(data)


GOOD = bytes(IP(src=PEER, dst=US, proto=PROTO) / Raw(bytes(40)))


@pytest.mark.parametrize(("packet", "counter"), [
    (corrupt(GOOD, 0, b"\x65"), "ip.bad_version"), (corrupt(GOOD, 0, b"\x44"), "ip.bad_header"),
    (GOOD[:19], "ip.short"), (corrupt(GOOD, 2, b"\0\x13"), "ip.bad_header"),
    (corrupt(GOOD, 2, b"\x01\0"), "ip.bad_header"), (corrupt(GOOD, 8, b"\x63", fix=False), "ip.bad_checksum"),
    (corrupt(GOOD, 8, b"\0"), "ip.ttl"), (corrupt(GOOD, 16, b"\x0a\0\0\x63"), "ip.foreign"),
    (corrupt(GOOD, 16, b"\xef\1\1\1"), "ip.foreign"), (corrupt(GOOD, 16, b"\x7f\0\0\1"), "ip.martian"),
    (corrupt(GOOD, 12, b"\x7f\0\0\1"), "ip.martian"), (corrupt(GOOD, 12, b"\xe0\0\0\1"), "ip.bad_source"),
    (corrupt(GOOD, 12, b"\xff\xff\xff\xff"), "ip.bad_source"), (corrupt(GOOD, 12, b"\0\0\0\0"), "ip.bad_source"),
    (corrupt(GOOD, 12, b"\x0a\0\0\xff"), "ip.bad_source"), (corrupt(GOOD, 12, b"\x0a\0\0\1"), "ip.bad_source"),
    (corrupt(GOOD, 12, b"\xf0\0\0\1"), "ip.bad_source"),
    (bytes(IP(src=PEER, dst=US, proto=PROTO, options=[IPOption_LSRR(routers=["1.2.3.4"])])), "ip.source_route"),
    (bytes(IP(src=PEER, dst=US, proto=PROTO, options=[IPOption_SSRR(routers=["1.2.3.4"])])), "ip.source_route"),
])
def test_packets_that_are_dropped_in_silence(packet: bytes, counter: str):
    with Host() as host:
        host.listen(PROTO)
        host.frame(bytes(Ether(src=MAC, dst=OUR_MAC, type=0x800)) + packet)
        assert host.counted() == {"ip.rx": 1, counter: 1}
        assert host.events == []
        assert host.sent() == []


@pytest.mark.parametrize(("options", "where"), [(b"\x07\x09\1\1", 20), (b"\1\1\x07\0", 22), (b"\1\1\1\x44", 23)])
def test_an_option_without_a_length_is_a_parameter_problem(options: bytes, where: int):
    """RFC 1122 3.2.2.5; dropped all the same."""
    bad = corrupt(bytes(IP(src=PEER, dst=US, proto=PROTO, options=[IPOption_NOP()] * 4)), 20, options)
    with Host() as host:
        host.listen(PROTO)
        host.frame(bytes(Ether(src=MAC, dst=OUR_MAC, type=0x800)) + bad)
        assert host.counted()["ip.bad_option"] == 1
        assert host.events == []
        [sent] = host.sent()
        assert (sent[ICMP].type, sent[ICMP].code, sent[ICMP].ptr) == (12, 0, where)
        assert bytes(sent[ICMP].payload) == bad
        later = corrupt(bad, 6, b"\0\1")          # about a later fragment: nothing
        host.frame(bytes(Ether(src=MAC, dst=OUR_MAC, type=0x800)) + later)
        host.frame(bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff", type=0x800)) + bad)
        assert host.sent() == []


@pytest.mark.parametrize("cuts", [(), (14,), (34,), (15, 16, 17, 35), tuple(range(1, 60))])
def test_options_are_skipped_and_padding_is_ignored_however_blocks_are_cut(cuts: tuple[int, ...]):
    with Host() as host:
        host.listen(PROTO)
        for options in ([], [IPOption_NOP()] * 4, [IPOption_RR(routers=["1.2.3.4"])]):
            packet = IP(src=PEER, dst=US, proto=PROTO, options=options) / Raw(b"payload")
            frame = bytes(Ether(src=MAC, dst=OUR_MAC) / packet) + b"padding"
            host.frame(frame, cuts=[cut for cut in cuts if cut < len(frame)])
        assert [event[7] for event in host.events] == [b"payload"] * 3


@pytest.mark.parametrize(("dst", "mac", "flag"), [
    (US, OUR_MAC, False), (US, "ff:ff:ff:ff:ff:ff", True), ("255.255.255.255", "ff:ff:ff:ff:ff:ff", True),
    ("10.0.0.255", "ff:ff:ff:ff:ff:ff", True), ("224.0.0.1", "01:00:5e:00:00:01", True),
])
def test_broadcasts_are_flagged(dst: str, mac: str, flag: bool):
    with Host() as host:
        host.listen(PROTO)
        host.frame(Ether(src=MAC, dst=mac) / IP(src=PEER, dst=dst, proto=PROTO) / Raw(b"x"))
        assert [event[6] for event in host.events] == [flag]


# --- ICMP -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 56, 1472, 1473, 5000, 65507])
@pytest.mark.parametrize("room", [0, 64])
def test_echo(size: int, room: int):
    with Host() as host:
        data = bytes(i * 3 & 255 for i in range(size))
        request = IP(src=PEER, dst=US, id=99, tos=8) / ICMP(id=77, seq=5) / Raw(data)
        for piece in scapy_fragment(request, 1480) if size > 1472 else [request]:
            host.frame(bytes(Ether(src=MAC, dst=OUR_MAC) / piece), room=room)
        replies = host.sent()
        assert all(len(r[IP]) <= 1500 for r in replies)
        (reply,) = defragment([r[IP] for r in replies]) if len(replies) > 1 else [replies[0][IP]]
        icmp = IP(bytes(reply))[ICMP]
        assert (icmp.type, icmp.code, icmp.id, icmp.seq) == (0, 0, 77, 5)
        assert bytes(icmp.payload)[:size] == data
        assert (reply.src, reply.dst, reply.ttl) == (US, PEER, 64)
        del icmp.chksum
        assert ICMP(bytes(icmp)).chksum == IP(bytes(reply))[ICMP].chksum
        assert host.counted()["icmp.echo"] == 1


def test_echo_leaves_the_payload_where_it_is():
    with Host() as host:
        host.frame(bytes(Ether(src=MAC, dst=OUR_MAC) / IP(src=PEER, dst=US) / ICMP() / Raw(bytes(1400))))
        assert host.ledger().keys() <= {"rx.checksum"}


@pytest.mark.parametrize("dst", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_no_echo_for_broadcasts(dst: str):
    with Host() as host:
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst=dst) / ICMP())
        assert host.sent() == []
        assert host.counted()["icmp.ignored"] == 1


def test_bad_icmp():
    with Host() as host:
        host.ip(ICMP(chksum=1))
        host.ip(Raw(b"\x08\0\0\0"), proto=1)
        host.ip(ICMP(type=4))                                # source quench (RFC 6633)
        host.ip(ICMP(type=5, gw="10.0.0.66") / IP(src=US, dst=PEER) / UDP())
        host.ip(ICMP(type=17))
        host.ip(ICMP(type=0, id=5))
        counted = host.counted()
        assert counted["icmp.bad_checksum"] == 1
        assert counted["icmp.bad"] == 1
        assert counted["icmp.ignored"] == 4
        assert host.sent() == []


def unreachable(host: Host) -> list[tuple[int, int]]:
    return [(p[ICMP].type, p[ICMP].code) for p in host.sent() if ICMP in p]


def test_errors_are_sent_about_what_deserves_them():
    with Host() as host:
        host.ip(UDP(sport=9, dport=9) / Raw(b"x" * 30))
        (report,) = host.sent()
        assert (report[ICMP].type, report[ICMP].code) == (3, 3)
        assert bytes(report[ICMP].payload) == bytes(IP(src=PEER, dst=US) / UDP(sport=9, dport=9) / Raw(b"x" * 30))
        host.ip(Raw(b"what"), proto=200)
        assert unreachable(host) == [(3, 2)]
        assert host.counted() == {"ip.rx": 2, "ip.tx": 2, "udp.no_port": 1, "ip.unknown_protocol": 1,
                                  "icmp.error_tx": 2, "icmp.tx": 2}


def test_errors_quote_no_more_than_fits_576_bytes():
    with Host() as host:
        host.ip(UDP(sport=9, dport=9) / Raw(bytes(1400)))
        (report,) = host.sent()
        assert len(report[IP]) == 576


def test_errors_are_never_sent_about_errors_broadcasts_and_fragments():
    with Host() as host:
        quote = IP(src=US, dst=PEER) / UDP(sport=1, dport=2)
        for kind in (3, 4, 5, 11, 12):
            host.ip(ICMP(type=kind, code=1) / quote)
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst="10.0.0.255") / UDP(dport=9))
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst="255.255.255.255", proto=200))
        host.frame(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src=PEER, dst=US) / UDP(dport=9))
        host.ip(Raw(bytes(40)), proto=200, frag=100, id=5)
        host.advance(40 * SECOND)
        assert host.sent() == []


def test_errors_are_rate_limited():
    with Host() as host:
        for _ in range(500):
            host.ip(UDP(sport=9, dport=9))
        assert len(host.sent()) == 50
        assert host.counted()["icmp.rate_limited"] == 450
        host.advance(SECOND // 100)                          # ten more are allowed by then
        for _ in range(50):
            host.ip(UDP(sport=9, dport=9))
        assert len(host.sent()) == 10


def report(host: Host, kind: int, code: int, quote: object, mtu: int = 0) -> list[tuple]:
    host.events.clear()
    fields = {"nexthopmtu": mtu} if (kind, code) == (3, 4) else {}
    host.ip(ICMP(type=kind, code=code, **fields) / quote)
    return list(host.events)


@pytest.mark.parametrize(("kind", "code", "meaning"), [
    (3, 0, 1), (3, 1, 2), (3, 2, 3), (3, 3, 4), (3, 9, 6), (3, 10, 6), (3, 13, 6), (11, 0, 7), (12, 0, 8), (3, 7, 2)])
def test_errors_reach_the_transport_that_they_quote(kind: int, code: int, meaning: int):
    with Host() as host:
        host.listen(6)
        quote = IP(src=US, dst=PEER) / TCP(sport=5, dport=80, seq=12345)
        assert report(host, kind, code, quote) == [
            ("error", number(US), number(PEER), 6, meaning, 0, 5, 80, 12345)]


def test_too_big_needs_a_plausible_mtu():
    with Host() as host:
        host.listen(6)
        host.listen(17)
        for transport in (TCP(sport=5, dport=80, seq=1), UDP(sport=5, dport=80)):
            quote = IP(src=US, dst=PEER, flags="DF", len=1500) / transport
            assert report(host, 3, 4, quote, 1400)[0][4:6] == (5, 1400)
            assert report(host, 3, 4, quote, 0)[0][4:6] == (5, 1492)     # an old router: the next plateau (RFC 1191)
            for mtu in (68, 551):
                assert report(host, 3, 4, quote, mtu) == []
        for mtu in (1500, 9000):
            assert report(host, 3, 4, quote, mtu) == []
        assert report(host, 3, 4, IP(src=US, dst=PEER, len=1500) / UDP(), 1400) == []      # was not DF


def test_tcp_judges_by_what_is_in_flight_not_by_the_quote():
    """On the way quotes get changed: TCP is told whatever their length and DF say."""
    with Host() as host:
        host.listen(6)
        quote = IP(src=US, dst=PEER, len=40) / TCP(sport=5, dport=80, seq=1)
        assert report(host, 3, 4, quote, 1400)[0][4:6] == (5, 1400)
        assert report(host, 3, 4, quote, 0)[0][4:6] == (5, 0)


@pytest.mark.parametrize("quote", [
    IP(src="10.0.0.77", dst=PEER) / TCP(), IP(src=US, dst=PEER, frag=9) / TCP(), Raw(bytes(20)), Raw(b""),
    Raw(bytes(IP(src=US, dst=PEER, proto=6))), Raw(b"\x4f" + bytes(IP(src=US, dst=PEER, proto=6) / TCP())[1:]),
])
def test_quotes_of_what_we_cannot_have_sent(quote: object):
    with Host() as host:
        host.listen(6)
        assert report(host, 3, 1, quote) == []
        assert host.counted()["icmp.bad_quote"] == 1


# --- out ------------------------------------------------------------------------------------------------------
def test_identification():
    with Host() as host:
        host.add_route(number("192.168.0.0"), 16, number(PEER))
        ids = []
        for i in range(200):
            assert host.output(number(PEER), PROTO, b"x") == 0
            assert host.output(number("192.168.0.0") + i, PROTO, b"x") == 0
            assert host.output(number(PEER), PROTO, b"x", flags=1) == 0
        packets = [p[IP] for p in host.sent()]
        ids = [p.id for p in packets if p.dst == PEER and p.flags != "DF"]
        assert len(set(ids)) == 200                          # not reused for a peer and protocol (RFC 6864)
        assert {p.id for p in packets if p.flags == "DF"} == {0}
        others = {p.id for p in packets if p.dst != PEER}
        assert len(others) > 150                             # no one counter for everybody to read


def test_what_may_not_be_fragmented():
    with Host() as host:
        assert host.output(number(PEER), PROTO, bytes(1481), flags=1) == -90     # EMSGSIZE
        assert host.output(number(PEER), PROTO, bytes(1480), flags=1) == 0
        assert host.output(number(PEER), PROTO, bytes(65516)) == -90
        assert host.counted()["ip.too_big"] == 2


def test_super_segments_whose_facts_do_not_fit_are_dropped():
    with Host() as host:
        assert host.output(number(PEER), PROTO, bytes(3000), gso_size=1000, gso_type=1) == 0
        assert host.output(number(PEER), 6, bytes(3000), gso_size=1000, gso_type=1) == 0
        assert host.sent() == []
        assert host.counted() == {"ip.tx": 2, "offload.bad_gso": 2}


def test_a_full_interface_takes_no_more():
    with Host() as host:
        host.eth.room = 0
        assert host.output(number(PEER), PROTO, b"x") == -105
        assert host.counted() == {"link.tx_queue_full": 1}


def test_memory_that_runs_out_is_counted():
    with Host(budget=20_000) as host:
        u = host.udp_socket()
        outcomes = [u.send(b"", (number("10.0.0.77"), 7)) for _ in range(60)]     # they wait for ARP
        outcomes += [u.send(b"", (number("10.0.0.78"), 7)) for _ in range(60)]
        assert set(outcomes) == {0, -105}                   # ENOBUFS
        assert host.counted()["ip.nomem"] > 0
        u.close()


def test_what_is_not_read_leaves_memory_for_what_is_sent():
    with Host(budget=3_000_000) as host:
        u = host.udp_socket()
        u.option(rcvbuf=1 << 30)
        assert u.bind(0, 7) == 0
        for _ in range(3000):
            host.ip(UDP(sport=5, dport=7) / Raw(bytes(1400)))
        assert host.counted()["udp.rcvbuf"] > 0
        assert u.send(b"", (number(PEER), 7)) == 0
        while u.recv():
            pass
        u.close()


# --- routes ---------------------------------------------------------------------------------------------------
def test_paths():
    with Host() as host:
        other = host.add_if(mac=b"\x02\0\0\0\0\x03", mtu=9000)
        assert host.add_addr(other, number("192.168.1.1"), 24) == 0
        assert host.resolve(number("10.0.0.7")) == (0, number(US), number("10.0.0.7"), 1500, False)
        assert host.resolve(number("192.168.1.9"))[:4] == (2, number("192.168.1.1"), number("192.168.1.9"), 9000)
        assert host.resolve(number("8.8.8.8"))[:3] == (0, number(US), number("10.0.0.254"))
        assert host.add_route(number("8.8.0.0"), 16, number("192.168.1.254")) == 0
        assert host.resolve(number("8.8.8.8"))[:3] == (2, number("192.168.1.1"), number("192.168.1.254"))
        assert host.resolve(number("8.8.8.8"), number(US))[:3] == (2, number(US), number("192.168.1.254"))
        other.up = False
        assert host.resolve(number("8.8.8.8"))[0] == 0       # the next best route
        other.up = True
        assert host.del_route(number("8.8.0.0"), 16) == 0
        assert host.del_route(number("8.8.0.0"), 16) == -3
        assert host.resolve(number("8.8.8.8"))[0] == 0
        assert host.resolve(number("8.8.8.8"), number("10.0.0.99")) == -99       # EADDRNOTAVAIL
        assert host.resolve(number("8.8.8.8"), number("127.0.0.1")) == -22
        assert host.resolve(number("127.0.0.1"))[:3] == (1, number("127.0.0.1"), number("127.0.0.1"))
        assert host.resolve(number(US))[:2] == (1, number(US))
        assert host.resolve(0)[1] == number("127.0.0.1")
        assert host.resolve(number("10.0.0.255"))[4]
        assert host.resolve(number("255.255.255.255"))[4]
        assert host.resolve(number("255.255.255.255"), number("192.168.1.1"))[0] == 2
        assert host.add_route(number("1.0.0.0"), 8, number("5.5.5.5")) == -101   # nothing reaches the gateway
        assert host.add_route(0, 0, number("10.0.0.253")) == -17
        host.remove_if(other)
        assert host.resolve(number("192.168.1.9"))[2] == number("10.0.0.254")
        assert host.del_route(0, 0) == 0
        assert host.resolve(number("192.168.1.9")) == -101   # ENETUNREACH
        assert host.counted()["ip.no_route"] == 1


def test_longest_prefix_against_a_model():
    rng = random.Random(7)
    with Host() as host:
        host.del_route(0, 0)
        model = {(number("10.0.0.0"), 24): 0}
        for _ in range(300):
            bits = rng.randrange(0, 33)
            prefix = rng.choice([number("10.0.0.0"), number("172.16.0.0"), number("198.51.100.0")]) ^ rng.randrange(
                0, 1 << rng.randrange(1, 17))
            prefix = prefix >> (32 - bits) << (32 - bits) if bits else 0
            gateway = number("10.0.0.0") + rng.randrange(10, 250)
            result = host.add_route(prefix, bits, gateway)
            if (prefix, bits) == (number("10.0.0.0"), 24):
                continue
            assert result == (-17 if (prefix, bits) in model else 0)
            model.setdefault((prefix, bits), gateway)
        for _ in range(2000):
            dst = rng.choice([*model])[0] ^ rng.randrange(0, 1 << rng.randrange(1, 17))
            best = max((bits for prefix, bits in model
                        if prefix >> (32 - bits) == dst >> (32 - bits)), default=None)
            got = host.resolve(dst)
            if isinstance(got, tuple) and (got[4] or got[0] == 1):
                continue                                     # broadcast, or ourselves
            if best is None:
                assert got == -101
            else:
                prefix = dst >> (32 - best) << (32 - best) if best else 0
                assert got[2] == (model[prefix, best] or dst)


# --- echo endpoints -------------------------------------------------------------------------------------------
def test_ping():
    with Host() as host:
        p = host.ping_socket()
        assert p.send(b"data", number(PEER), 3) == 0
        (request,) = host.sent()
        assert (request[ICMP].type, request[ICMP].id, request[ICMP].seq) == (8, p.id, 3)
        assert bytes(request[ICMP].payload) == b"data"
        sum_sent = request[ICMP].chksum
        del request[ICMP].chksum
        assert Ether(bytes(request))[ICMP].chksum == sum_sent
        host.ip(ICMP(type=0, id=p.id ^ 1, seq=3) / Raw(b"data"))
        assert p.recv() is None
        host.ip(ICMP(type=0, id=p.id, seq=3) / Raw(b"data"))
        assert host.ready() == 1
        assert p.recv() == (b"data", number(PEER), 3)
        host.ip(ICMP(type=3, code=1) / IP(src=US, dst=PEER) / ICMP(type=8, id=p.id, seq=4))
        assert p.error == (113, 3, 1)
        assert p.send(b"", number(PEER), 5) == -113
        assert p.send(b"", number(PEER), 5) == 0
        assert p.send(b"", number("10.0.0.255"), 6) == -13
        host.sent()
        p.close()


def test_replies_that_nobody_reads_are_bounded():
    with Host() as host:
        p = host.ping_socket(7)
        for i in range(1000):
            host.ip(ICMP(type=0, id=7, seq=i) / Raw(bytes(1000)))
        counted = host.counted()
        assert counted["icmp.rx"] == 1000
        assert 500 < counted["icmp.rcvbuf"] < 1000
        assert p.recv() == (bytes(1000), number(PEER), 0)    # the newest are dropped
        p.close()


def test_ping_ourselves():
    with Host() as host:
        p = host.ping_socket(7)
        for to in ("127.0.0.1", US):
            assert p.send(b"here", number(to), 1) == 0
            assert host.pump(host.lo) == 2
            assert p.recv() == (b"here", number(to), 1)
        with pytest.raises(OSError, match="ping_open"):
            host.ping_socket(7)
        p.close()


# --- hostile --------------------------------------------------------------------------------------------------
def test_mutated_frames():
    """10^5 packets, each a good one with a few bytes changed, or cut short; a third of them end at a forbidden page."""
    rng = random.Random(20)
    quote = bytes(IP(src=US, dst=PEER) / TCP(sport=5, dport=6))
    good = [bytes(Ether(src=MAC, dst=OUR_MAC) / packet) for packet in (
        IP(src=PEER, dst=US) / ICMP() / Raw(bytes(64)), IP(src=PEER, dst=US) / UDP(sport=5, dport=7) / Raw(bytes(64)),
        IP(src=PEER, dst=US, flags="MF", id=5) / UDP(sport=5, dport=7) / Raw(bytes(64)),
        IP(src=PEER, dst=US, frag=9, id=5) / Raw(bytes(64)), IP(src=PEER, dst=US) / ICMP(type=3, code=4) / Raw(quote),
        IP(src=PEER, dst=US, options=[IPOption_RR(routers=["1.2.3.4"])]) / TCP(options=[("MSS", 1460)]),
        ARP(op=1, hwsrc=MAC, psrc=PEER, pdst=US), ARP(op=2, hwsrc=MAC, psrc=PEER, pdst=US))]
    with Host() as host:
        host.listen(6)
        u = host.udp_socket()
        assert u.bind(0, 7) == 0
        p = host.ping_socket(0x1234)
        for i in range(100_000):
            frame = bytearray(rng.choice(good))
            for _ in range(rng.randrange(4)):
                frame[rng.randrange(14 if rng.random() < 0.9 else 0, len(frame))] = rng.randrange(256)
            if rng.random() < 0.2:
                del frame[rng.randrange(1, len(frame)):]
            if frame[12:14] == b"\x08\0" and len(frame) >= 34 and rng.random() < 0.8:
                frame = frame[:14] + corrupt(bytes(frame[14:]), 9, bytes(frame[23:24]))
            cuts = sorted({rng.randrange(1, len(frame)) for _ in range(2)}) if len(frame) > 1 and i % 3 == 0 else ()
            host.frame(bytes(frame), cuts=cuts, guard=i % 3 == 1)
            if i % 1000 == 0:
                host.advance(SECOND // 10)
                host.eth.drain()
                host.events.clear()
                while u.recv():
                    pass
        assert host.live < 20000
        u.close()
        p.close()
        host.advance(60 * SECOND)
