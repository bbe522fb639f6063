"""Datagrams, echoes and neighbours with Linux at the other end: sizes, broadcast, refusal, silence, TUN, MTUs."""

import errno
import socket
import time

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from wiring import WIRES, connect, wires

import ustack
from ustack import testbed

SIZES = [0, 1, 1471, 1472, 1473, 8972, 20000, 65507]


def data(n):
    return bytes(k * 7 & 255 for k in range(251)) * (n // 251 + 1)


@pytest.mark.parametrize("wire", wires("tap-plain", "tun", "ring-plain", "rings"), indirect=True)
def test_datagrams_both_ways(wire):
    mine, my_port = wire.ours.call("udp", wire.our_ip)
    theirs, their_port = wire.theirs.call("udp", wire.their_ip)
    for n in SIZES:
        payload = data(n)[:n]
        assert wire.ours.call("sendto", mine, payload, wire.their_ip, their_port) == n
        assert wire.theirs.call("recvfrom", theirs) == (payload, (wire.our_ip, my_port))
        assert wire.theirs.call("sendto", theirs, payload, wire.our_ip, my_port) == n
        assert wire.ours.call("recvfrom", mine) == (payload, (wire.their_ip, their_port))
    for end, h, ip in ((wire.ours, mine, wire.their_ip), (wire.theirs, theirs, wire.our_ip)):
        with pytest.raises(OSError, match="long") as e:
            end.call("sendto", h, bytes(65508), ip, 9)
        assert e.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize(
    "wire",
    [pytest.param((n, m), marks=WIRES[n], id=f"{n}-{m}") for n in ("tap", "ring") for m in (576, 9000, 65521)],
    indirect=True,
)
def test_datagrams_at_other_mtus(wire):
    mine, my_port = wire.ours.call("udp", wire.our_ip)
    theirs, their_port = wire.theirs.call("udp", wire.their_ip)
    for n in (0, wire.link.mtu - 28, wire.link.mtu - 27, 65507):
        payload = data(min(n, 65507))[:min(n, 65507)]
        wire.ours.call("sendto", mine, payload, wire.their_ip, their_port)
        assert wire.theirs.call("recvfrom", theirs)[0] == payload
        wire.theirs.call("sendto", theirs, payload, wire.our_ip, my_port)
        assert wire.ours.call("recvfrom", mine)[0] == payload
    assert wire.net.ping(wire.their_ip, size=65507, timeout=10) > 0


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_broadcast_needs_permission(wire):
    theirs, their_port = wire.theirs.call("udp", "0.0.0.0")
    timid, _ = wire.ours.call("udp", "0.0.0.0")
    bold, bold_port = wire.ours.call("udp", "0.0.0.0", 0, True)
    for address in ("10.9.0.255", "255.255.255.255"):
        with pytest.raises(PermissionError):
            wire.ours.call("sendto", timid, b"psst", address, their_port)
        wire.ours.call("sendto", bold, address.encode(), address, their_port)
        assert wire.theirs.call("recvfrom", theirs) == (address.encode(), (wire.our_ip, bold_port))
    # And theirs reach us, at a socket that is bound to any address.
    loud, _ = wire.theirs.call("udp", wire.their_ip, 0, True)
    wire.theirs.call("sendto", loud, b"to all", "10.9.0.255", bold_port)
    assert wire.ours.call("recvfrom", bold)[0] == b"to all"


@pytest.mark.parametrize("wire", wires("tap", "ring", "rings"), indirect=True)
def test_a_closed_port_refuses_connected_sockets_once(wire):
    for end, own, other in ((wire.ours, wire.our_ip, wire.their_ip), (wire.theirs, wire.their_ip, wire.our_ip)):
        h, _ = end.call("udp", own)
        end.call("udp_connect", h, other, 1)
        end.call("sock_send", h, b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            end.call("sock_recv", h)
        assert end.call("error_of", h) == 0
        end.call("close", h)
    assert wire.net.stats()["udp.no_port"] == 1


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_ping(wire):
    """The program ping against us, and our ping against the kernel."""
    for size in (0, 1, 56, 1472, 1473, 65507):
        assert wire.net.ping(wire.their_ip, size=size, timeout=10) > 0
        if wire.peer.run("sh", "-c", "command -v ping").returncode == 0:
            done = wire.peer.run("ping", "-c", "2", "-i", "0.01", "-W", "5", "-s", str(size), wire.our_ip)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "2 received" in done.stdout
    with pytest.raises(ValueError, match="65507"):
        wire.net.ping(wire.their_ip, size=65508)


@pytest.mark.parametrize("wire", wires("tap", "ring"), indirect=True)
def test_a_silent_neighbour_is_unreachable(wire):
    began = time.monotonic()
    with pytest.raises(OSError, match="route") as e:
        wire.ours.call("connect", "10.9.0.77", 80)
    assert e.value.errno == errno.EHOSTUNREACH
    assert time.monotonic() - began < 10
    assert wire.net.stats()["arp.failed"] == 1
    # The other conversations are none the worse.
    assert wire.net.ping(wire.their_ip, timeout=10) > 0


@pytest.mark.root
@pytest.mark.tun
def test_no_route(namespace):
    with ustack.Stack() as net:
        net.add_interface(namespace.tap("us0", "10.9.0.1/24"), addresses=["10.9.0.2/24"])
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with net.socket(socket.AF_INET, kind) as s, pytest.raises(OSError, match="unreachable") as e:
                s.connect(("8.8.8.8", 80))
            assert e.value.errno == errno.ENETUNREACH
        with net.socket() as s, pytest.raises(OSError, match="assign") as e:
            s.bind(("10.9.0.3", 0))
        assert e.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.root
def test_two_stacks_and_the_kernel_on_one_bridge():
    """Three stations on one Ethernet; each reaches each other, and nobody hears what is not for him."""
    with testbed.Namespace("bridge") as ns, testbed.Namespace("a") as a, testbed.Namespace("b") as b:
        ns._netlink(lambda ip: ip.link("add", ifname="br0", kind="bridge"))
        for n, (k, other) in enumerate((("pa", a), ("pb", b))):
            testbed.veth(ns, k, other, f"us{n}")
            ns.set(k, master=ns._netlink(lambda ip: ip.link_lookup(ifname="br0")[0]))
        ns.add_address("br0", "10.9.0.1/24")
        ns.up("br0")
        with a.entered():
            first = ustack.PacketRing("us0")
        with b.entered():
            second = ustack.PacketRing("us1")
        with ustack.Stack() as x, ustack.Stack() as y:
            x.add_interface(first, addresses=["10.9.0.2/24"])
            y.add_interface(second, addresses=["10.9.0.3/24"])
            assert x.ping("10.9.0.3", timeout=10) > 0
            assert y.ping("10.9.0.2", size=20000, timeout=10) > 0
            assert x.ping("10.9.0.1", timeout=10) > 0
            assert y.ping("10.9.0.1", timeout=10) > 0
            with y.create_server(("10.9.0.3", 80)) as server, x.create_connection(("10.9.0.3", 80), 10) as c:
                server.settimeout(10)
                s, (host, _) = server.accept()
                assert host == "10.9.0.2"
                with s:
                    s.sendall(b"x" * 100000)
                    s.shutdown(socket.SHUT_WR)
                    assert c.recv(200000, socket.MSG_WAITALL) == b"x" * 100000
                    c.shutdown(socket.SHUT_WR)
                    assert s.recv(1) == b""


@pytest.mark.root
@pytest.mark.tun
def test_every_packet_that_we_send_has_good_checksums():
    """With software checksums: what the kernel's end of the wire sees is what scapy computes."""
    with connect("tap-plain") as wire:
        tap = wire.peer.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        tap.bind((wire.peer_device, 0x0800))
        tap.settimeout(5)
        with tap:
            listener, port = wire.theirs.call("listen", wire.their_ip)
            accepting = wire.theirs.start("accept", listener)
            c = wire.ours.call("connect", wire.their_ip, port)
            s = accepting.result(60)
            wire.ours.call("send", c, 5000, 1)
            assert wire.theirs.call("receive", s)[0] == 5000
            wire.theirs.call("close", s)
            assert wire.ours.call("sock_recv", c) == b""
            seen = 0
            while seen < 8:
                packet = Ether(tap.recv(65536))[IP]
                if packet.src != wire.our_ip or TCP not in packet:
                    continue
                claimed = packet.chksum, packet[TCP].chksum
                del packet.chksum, packet[TCP].chksum
                again = IP(bytes(packet))
                assert claimed == (again.chksum, again[TCP].chksum)
                seen += 1
