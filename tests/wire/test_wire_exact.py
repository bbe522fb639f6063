"""What a frame, a packet or an error is not for: answers that must not come, and what must not be put together."""

import errno
import socket

import pytest
from oracle import OUR_MAC, OURS, PEER, PEER_MAC, Wire, ip
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

EVERYBODY, GROUP = "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"
DATA = bytes(k & 255 for k in range(4000))


# --- unicast in a frame to everybody (RFC 1122 3.2.2, 3.3.6) -------------------------------------------------------
@pytest.mark.parametrize("mac", [EVERYBODY, GROUP])
@pytest.mark.parametrize("packet", [
    ip(TCP(sport=7, dport=4711, flags="S")), ip(TCP(sport=7, dport=4711, flags="A", ack=5)),
    ip(UDP(sport=7, dport=4711) / Raw(b"x")), ip(ICMP(id=1, seq=1)), ip(Raw(b"x" * 20), proto=200),
], ids=["SYN", "ACK", "UDP", "echo", "protocol"])
def test_nothing_is_answered_that_came_in_a_frame_to_everybody(ether, mac, packet):
    assert ether.ask(Ether(src=PEER_MAC, dst=mac) / packet) == []


def test_a_listener_hears_no_syn_in_a_frame_to_everybody(ether):
    with ether.net.create_server((OURS, 80)):
        ether.dropped(Ether(src=PEER_MAC, dst=EVERYBODY) / ip(TCP(dport=80, flags="S")), tcp_broadcast=1)
        [answer] = ether.ask(ip(TCP(dport=80, flags="S")))
        assert answer[TCP].flags == "SA"
        ether.send(ip(TCP(dport=80, flags="R", seq=1)))


# --- groups -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dst", ["224.0.0.1", "224.0.0.22", "239.1.2.3", "10.9.0.255", "255.255.255.255"])
def test_what_goes_to_a_group_draws_no_error(wire, dst):
    """No IGMP is spoken: nobody here joins a group."""
    for payload in (Raw(b"\x11\x64\xee\x9b\0\0\0\0"), Raw(b"x" * 30)):
        assert wire.ask(ip(payload, dst=dst, proto=2, ttl=1)) == []
    assert wire.ask(ip(UDP(sport=1, dport=4711) / Raw(b"x"), dst=dst)) == []
    assert wire.ask(ip(TCP(dport=4711, flags="S"), dst=dst)) == []
    assert wire.ask(ip(ICMP(id=1, seq=1), dst=dst)) == []
    assert wire.ask(ip(Raw(b"x"), dst=dst, proto=201)) == []


def test_a_stack_that_starts_says_nothing_but_its_address():
    wire = Wire(layer=3)
    assert wire.after(3600) == []
    wire.close()


# --- where an echo's answer comes from ------------------------------------------------------------------------------
def test_the_answer_comes_from_the_address_that_was_asked():
    wire = Wire()
    with wire.net:
        [reply] = wire.ask(ip(ICMP(id=1, seq=2) / Raw(b"abc"), tos=0x10, ttl=1))
        assert (reply.src, reply.dst, reply.ttl) == (OURS, PEER, 64)


@pytest.mark.parametrize("ttl", [1, 2, 255])
def test_what_is_for_us_may_have_come_a_long_way(wire, ttl):
    [reply] = wire.ask(ip(ICMP(id=1, seq=2), ttl=ttl))
    assert reply[ICMP].type == 0


# --- fragments (RFC 791 3.2, RFC 815) -------------------------------------------------------------------------------
def pieces(**fields):
    return fragment(ip(ICMP(id=1, seq=1) / Raw(DATA), **({"id": 9} | fields)), 1480)


@pytest.mark.parametrize("other", [{"id": 10}, {"src": "10.9.0.77"}, {"proto": 17}])
def test_fragments_of_different_datagrams_are_not_put_together(wire, other):
    """Source, destination, protocol and identification: all four name a datagram."""
    first, *rest = pieces()
    strangers = pieces()
    for p in strangers:
        for name, value in other.items():
            setattr(p, name, value)
        del p.chksum
    assert wire.ask(first, *strangers[1:]) == []
    [*_, last] = wire.ask(*rest)
    assert last[ICMP].type == 0 if ICMP in last else last.frag


def test_the_clock_of_a_datagram_runs_from_its_first_fragment(wire):
    """RFC 791 and 1122 3.3.2: what comes later does not extend it."""
    first, second, third = pieces()
    assert wire.ask(first) == []
    assert wire.after(20) == []
    assert wire.ask(second) == []
    out = wire.after(15)
    assert [(p[ICMP].type, p[ICMP].code) for p in out] == [(11, 1)]
    assert wire.ask(third) == []


def test_the_same_identification_serves_again(wire):
    for _ in range(3):
        out = wire.ask(*pieces())
        assert sum(len(p.payload) for p in out) == 8 + len(DATA)


def test_a_segment_in_fragments_is_a_segment(wire):
    with wire.net.create_server((OURS, 80)) as server:
        syn = ip(TCP(sport=5, dport=80, flags="S", seq=100, options=[("MSS", 1460), ("NOP", None), ("NOP", None)] * 2),
                 id=3)
        [answer] = wire.ask(*fragment(syn, 24))
        assert answer[TCP].flags == "SA"
        assert answer[TCP].ack == 101
        wire.send(ip(TCP(sport=5, dport=80, flags="A", seq=101, ack=answer[TCP].seq + 1)))
        server.accept()[0].close()
        wire.drain()
        wire.send(ip(TCP(sport=5, dport=80, flags="RA", seq=101, ack=answer[TCP].seq + 2)))


# --- errors about datagrams (RFC 1122 4.1.3.3) ------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "code"), [(11, 0), (11, 1), (4, 0), (3, 0), (3, 1), (3, 5)])
def test_what_may_pass_is_no_error_of_a_datagram_socket(wire, kind, code):
    """As Linux without IP_RECVERR: only what says that it is final is told (port, protocol, prohibited)."""
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((PEER, 9))
        s.send(b"x")
        [sent] = wire.drain()
        wire.send(ip(ICMP(type=kind, code=code) / Raw(bytes(sent)[:28])))
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_a_refusal_is_read_once_and_positive(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((PEER, 9))
        s.send(b"x")
        [sent] = wire.drain()
        wire.send(ip(ICMP(type=3, code=3) / Raw(bytes(sent)[:28])))
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        s.send(b"y")


def test_an_unconnected_socket_is_told_nothing(wire):
    with wire.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", (PEER, 9))
        [sent] = wire.drain()
        wire.send(ip(ICMP(type=3, code=3) / Raw(bytes(sent)[:28])))
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        s.sendto(b"y", (PEER, 9))
        assert len(wire.drain()) == 1


def test_an_empty_datagram_to_a_closed_port_is_answered_as_well(wire):
    [error] = wire.ask(ip(UDP(sport=1, dport=4711)))
    assert (error[ICMP].type, error[ICMP].code) == (3, 3)


# --- ARP ------------------------------------------------------------------------------------------------------------
def test_a_request_that_is_sent_to_us_alone_is_answered(ether):
    [reply] = ether.ask(Ether(src=PEER_MAC, dst=OUR_MAC) / ARP(op=1, hwsrc=PEER_MAC, psrc=PEER, pdst=OURS))
    assert reply[ARP].op == 2


def test_frames_of_ours_that_come_back_are_no_conflict(ether):
    """A bridge may send a broadcast back to where it came from."""
    before = ether.net.stats().get("arp.conflict", 0)
    ether.ask(Ether(src=OUR_MAC, dst=EVERYBODY) / ARP(op=1, hwsrc=OUR_MAC, psrc=OURS, pdst=OURS))
    assert ether.net.stats().get("arp.conflict", 0) == before


def test_what_waits_for_a_neighbour_is_one_error_each(ether):
    with ether.net.socket() as s:
        s.setblocking(False)
        assert s.connect_ex(("10.9.0.99", 80)) == errno.EINPROGRESS
        out = [*ether.drain(), *ether.after(5)]
        assert [p[ARP].op for p in out] == [1, 1, 1]
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EHOSTUNREACH


def test_an_address_of_the_link_is_not_sent_through_the_gateway(ether):
    with ether.net.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"far", ("192.0.2.1", 9))
        [far] = ether.drain()
        assert (far.dst, far[IP].dst) == (PEER_MAC, "192.0.2.1")
        s.sendto(b"near", ("10.9.0.98", 9))
        [asked] = ether.drain()
        assert asked[ARP].pdst == "10.9.0.98"
