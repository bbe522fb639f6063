"""ARP through the whole stack (RFC 826, 5227), with scapy as everybody else on the Ethernet."""

import errno
import socket

import pytest
from oracle import OTHER, OUR_MAC, OURS, PEER, PEER_MAC, Wire, ip
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1Q, Ether

EVERYBODY = "ff:ff:ff:ff:ff:ff"


def request(psrc=PEER, pdst=OURS, hwsrc=PEER_MAC, dst=EVERYBODY, **more):
    return Ether(src=hwsrc, dst=dst) / ARP(op=1, hwsrc=hwsrc, psrc=psrc, pdst=pdst, **more)


def send_udp(wire, to=PEER):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (to, 9))


def test_a_request_for_our_address_is_answered(ether):
    [reply] = ether.ask(request(psrc=OTHER, hwsrc="02:00:00:00:00:77"))
    assert (reply.src, reply.dst) == (OUR_MAC, "02:00:00:00:00:77")
    arp = reply[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (2, OUR_MAC, OURS, "02:00:00:00:00:77", OTHER)


def test_requests_for_others_are_not(ether):
    ether.dropped(request(pdst=OTHER), arp_foreign=1)


@pytest.mark.parametrize("change", [
    {"hwtype": 6}, {"ptype": 0x86DD}, {"hwlen": 8}, {"plen": 16}, {"op": 0}, {"op": 9},
])
def test_malformed(ether, change):
    ether.dropped(Ether(src=PEER_MAC, dst=EVERYBODY) / ARP(
        **{"op": 1, "hwsrc": PEER_MAC, "psrc": OTHER, "pdst": OURS} | change), arp_bad=1)


def test_short(ether):
    ether.dropped(bytes(request(psrc=OTHER))[:30], arp_bad=1)


def test_gratuitous_arp_moves_who_is_known_and_adds_nobody(ether):
    moved = "02:00:00:00:00:99"
    assert ether.ask(request(psrc=PEER, pdst=PEER, hwsrc=moved)) == []
    send_udp(ether)
    assert {p.dst for p in ether.drain()} == {moved}      # it may be asked there whether that is true
    assert ether.ask(request(psrc=OTHER, pdst=OTHER, hwsrc=moved)) == []
    send_udp(ether, OTHER)
    [asked] = ether.drain()
    assert asked[ARP].op == 1        # it has to ask: what was announced unasked was not believed


def test_an_unsolicited_reply_adds_nobody(ether):
    assert ether.ask(Ether(src="02:00:00:00:00:77", dst=OUR_MAC) / ARP(
        op=2, hwsrc="02:00:00:00:00:77", psrc=OTHER, hwdst=OUR_MAC, pdst=OURS)) == []
    send_udp(ether, OTHER)
    assert ether.drain()[0][ARP].op == 1


def test_an_unknown_neighbour_is_asked_again_then_given_up():
    wire = Wire(layer=2)
    with wire.net, wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((OTHER, 9))
        s.send(b"one")
        asked = [*wire.drain(), *wire.after(10)]
        assert [(p.dst, p[ARP].op, p[ARP].psrc, p[ARP].pdst) for p in asked] == [(EVERYBODY, 1, OURS, OTHER)] * 3
        with pytest.raises(OSError, match="route") as e:
            s.send(b"two")
        assert e.value.errno == errno.EHOSTUNREACH
        assert wire.net.stats()["arp.failed"] == 1


def test_what_waits_for_the_answer_goes_out_in_order_and_is_bounded():
    wire = Wire(layer=2)
    with wire.net, wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for k in range(200):
            s.sendto(bytes([k]), (PEER, 9))
        assert [p[ARP].op for p in wire.drain()] == [1]
        out = wire.ask(Ether(src=PEER_MAC, dst=OUR_MAC) / ARP(
            op=2, hwsrc=PEER_MAC, psrc=PEER, hwdst=OUR_MAC, pdst=OURS))
        kept = [bytes(p[IP].payload.payload)[0] for p in out]
        assert kept == sorted(kept)
        assert 3 <= len(kept) < 200
        assert wire.net.stats()["arp.queue_full"] == 200 - len(kept)
        assert all(p.dst == PEER_MAC for p in out)


def test_a_flood_of_senders_is_bounded(ether):
    before = ether.net.memory()["held"]
    for k in range(3, 20_000):          # not us, nor the peer that is known
        host = f"10.9.{k >> 8 & 255}.{k & 255}"
        ether.send(request(psrc=host, hwsrc=f"02:01:00:00:{k >> 8:02x}:{k & 255:02x}"))
        if k % 500 == 0:
            ether.drain()
    ether.drain()
    assert ether.net.memory()["held"] - before < 1 << 20
    # Who was known before is still served.
    [reply] = [p for p in ether.ask(ip(ICMP(id=1, seq=1))) if IP in p]
    assert reply.dst == PEER_MAC


@pytest.mark.parametrize(("frame", "counter"), [
    (Ether(src=PEER_MAC, dst="02:00:00:00:00:55") / ip(ICMP()), "eth_foreign"),
    (Ether(src="03:00:00:00:00:01", dst=OUR_MAC) / ip(ICMP()), "eth_bad_source"),
    (Ether(src=PEER_MAC, dst=OUR_MAC, type=0x1234) / ip(ICMP()), "eth_unknown_type"),
    (Ether(src=PEER_MAC, dst=OUR_MAC, type=100) / ip(ICMP()), "eth_unknown_type"),
    (Ether(src=PEER_MAC, dst=OUR_MAC) / Dot1Q(vlan=5) / ip(ICMP()), "eth_unknown_type"),
    (bytes(13), "eth_runt"),
], ids=["foreign", "group source", "ethertype", "802.3 length", "vlan", "runt"])
def test_frames_that_are_not_for_us(ether, frame, counter):
    ether.dropped(frame, **{counter: 1})
