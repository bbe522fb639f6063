"""The internet layer and UDP against Linux: echo of all sizes, fragments both ways, errors both ways, checksums."""

import errno
import socket
import struct
from contextlib import contextmanager

import pytest
from scapy.layers.inet import ICMP, IP, UDP, defragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

import ustack
from ustack import testbed

pytestmark = [pytest.mark.root, pytest.mark.tun]


@contextmanager
def tap():
    with testbed.over_tap() as bed:
        yield bed


@contextmanager
def tap_without_offloads():
    with testbed.over_tap(offloads=False) as bed:
        yield bed


@contextmanager
def veth():
    with testbed.over_veth(rx_slots=64) as bed:              # the fragments of 64 KB come in one burst
        yield bed


@pytest.fixture(params=[tap, tap_without_offloads, veth], ids=lambda f: f.__name__)
def wire(request):
    with request.param() as bed, ustack.Stack() as net:
        net.add_interface(bed.link, addresses=[bed.address], gateway=bed.peer_ip)
        yield bed, net


def kernel_udp(bed):
    s = bed.peer.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.bind((bed.peer_ip, 0))
    return s


def our_udp(net, port=0):
    s = net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.bind(("0.0.0.0", port))
    return s


@contextmanager
def capture(bed):
    """What the kernel's end of the wire sees, both ways."""
    s = bed.peer.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((bed.peer_device, 3))
    s.settimeout(5)
    try:
        yield s
    finally:
        s.close()


@pytest.mark.parametrize("size", [0, 56, 1472, 1473, 20000, 65507])
def test_the_kernel_pings_us(wire, size):
    bed, _ = wire
    data = bytes(i * 7 & 255 for i in range(size))
    with bed.peer.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
        s.settimeout(5)
        s.sendto(bytes(ICMP(id=77, seq=3) / Raw(data)), (bed.ip, 0))
        reply = IP(s.recv(65536))
    assert (reply.src, reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (bed.ip, 0, 77, 3)
    assert bytes(reply[ICMP].payload)[:size] == data
    sum_received = reply[ICMP].chksum
    del reply[ICMP].chksum
    assert ICMP(bytes(reply[ICMP])).chksum == sum_received


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 8000, 65507])
def test_datagrams_of_all_sizes_both_ways(wire, size):
    bed, net = wire
    data = bytes(i * 11 & 255 for i in range(size))
    with kernel_udp(bed) as theirs, our_udp(net) as ours:
        port = ours.getsockname()[1]
        theirs.sendto(data, (bed.ip, port))
        received, sender = ours.recvfrom(65536)
        assert received == data
        assert sender == theirs.getsockname()
        ours.sendto(data, sender)
        received, sender = theirs.recvfrom(65536)
        assert received == data
        assert sender == (bed.ip, port)


def test_a_closed_port_of_ours_refuses(wire):
    bed, _ = wire
    with kernel_udp(bed) as theirs:
        theirs.connect((bed.ip, 9))
        theirs.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            theirs.recv(10)


def test_a_closed_port_of_theirs_refuses_once(wire):
    bed, net = wire
    with our_udp(net) as ours:
        ours.connect((bed.peer_ip, 9))
        ours.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            ours.recv(10)
        ours.send(b"anyone?")


def test_nobody_there(wire):
    bed, net = wire
    with our_udp(net) as ours:
        ours.connect((bed.peer_ip.rpartition(".")[0] + ".77", 9))
        ours.settimeout(10)
        ours.send(b"anyone?")
        with pytest.raises(OSError, match="No route to host") as caught:
            ours.recv(10)
        assert caught.value.errno == errno.EHOSTUNREACH
        assert net.stats()["arp.failed"] == 1


def test_what_we_send_has_the_checksums_that_scapy_computes(wire):
    """What a device was asked to complete is not there yet on a capture; everything else is right."""
    bed, net = wire
    with capture(bed) as tap, kernel_udp(bed) as theirs, our_udp(net) as ours:
        for size in (0, 1, 2, 1471, 1472, 1473, 4000):
            ours.sendto(bytes(i * 3 & 255 for i in range(size)), theirs.getsockname())
        seen = []
        fragments = []
        while len(seen) < 7:
            frame = Ether(tap.recv(70000))
            if IP not in frame or frame[IP].src != bed.ip or frame[IP].proto != 17:
                continue
            header = frame[IP].copy()
            sum_sent = header.chksum
            del header.chksum
            assert IP(bytes(header)).chksum == sum_sent
            if frame[IP].flags & 1 or frame[IP].frag:
                fragments.append(frame[IP])
                if frame[IP].flags & 1:
                    continue
                seen += defragment(fragments)
                fragments = []
            else:
                seen.append(frame[IP])
        partial = "tx_csum" in bed.link.capabilities
        for packet in seen:
            packet = IP(bytes(packet))
            sum_sent = packet[UDP].chksum
            del packet[UDP].chksum
            assert partial or IP(bytes(packet))[UDP].chksum == sum_sent
        assert [len(theirs.recv(5000)) for _ in range(7)] == [0, 1, 2, 1471, 1472, 1473, 4000]


def test_gratuitous_arp_moves_us_to_another_station(wire):
    bed, net = wire
    with capture(bed) as tap, kernel_udp(bed) as theirs, our_udp(net) as ours:
        ours.sendto(b"here", theirs.getsockname())
        assert theirs.recv(10) == b"here"
        tap.send(bytes(Ether(src="02:00:00:00:00:99", dst="ff:ff:ff:ff:ff:ff")
                       / ARP(op=1, hwsrc="02:00:00:00:00:99", psrc=bed.peer_ip, pdst=bed.peer_ip,
                             hwlen=6, plen=4, hwdst="00:00:00:00:00:00")))
        theirs.sendto(b"sync", (bed.ip, ours.getsockname()[1]))
        assert ours.recv(10) == b"sync"
        ours.sendto(b"elsewhere", theirs.getsockname())
        while True:
            frame = Ether(tap.recv(70000))
            if UDP in frame and bytes(frame[UDP].payload)[:9] == b"elsewhere":
                break
        assert frame.dst == "02:00:00:00:00:99"


def test_two_thousand_datagrams_each_way(wire):
    bed, net = wire
    with kernel_udp(bed) as theirs, our_udp(net) as ours:
        to, back = (bed.ip, ours.getsockname()[1]), theirs.getsockname()
        for i in range(2000):
            theirs.sendto(struct.pack("!I", i), to)
            data, _ = ours.recvfrom(100)
            ours.sendto(data, back)
            assert theirs.recv(100) == struct.pack("!I", i)
