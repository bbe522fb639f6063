"""Super-segments longer than 64 KB, and the kernels, routers and rings that get them."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest
from scapy.utils import RawPcapReader

import ustack
from ustack import testbed

pytestmark = pytest.mark.root
tun = pytest.mark.tun

LONG = 3 * 65536
N = 48 << 20
BLOCK = bytes(range(256)) * 4096


@contextlib.contextmanager
def tap() -> Iterator[tuple[testbed.Namespace, ustack.Link]]:
    with testbed.over_tap() as bed:
        yield bed.peer, bed.link


@contextlib.contextmanager
def ring() -> Iterator[tuple[testbed.Namespace, ustack.Link]]:
    """A veth whose end on our side has been set to take them."""
    with testbed.Namespace("peer") as peer, testbed.Namespace("ours") as ours:
        testbed.veth(peer, "k0", ours, "us0")
        peer.add_address("k0", "10.9.0.1/24")
        ours.gso_max("us0", LONG)
        with ours.entered(), ustack.PacketRing("us0") as link:
            yield peer, link


def server(namespace: testbed.Namespace, ip: str) -> tuple[socket.socket, list[str]]:
    """A kernel's TCP that digests what one connection brings."""
    listener = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((ip, 0))
    listener.listen()
    listener.settimeout(20)
    digests: list[str] = []

    def serve() -> None:
        with listener, listener.accept()[0] as s:
            s.settimeout(20)
            digest = hashlib.sha256()
            while part := s.recv(1 << 20):
                digest.update(part)
            digests.append(digest.hexdigest())
            s.sendall(b"done")

    threading.Thread(target=serve, daemon=True).start()
    return listener, digests


def send(net: ustack.Stack, to: tuple[str, int], n: int) -> str:
    digest = hashlib.sha256()
    with net.create_connection(to, timeout=20) as s:
        while n:
            s.sendall(BLOCK)
            digest.update(BLOCK)
            n -= len(BLOCK)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(10) == b"done"
    return digest.hexdigest()


def longest(path: str) -> int:
    """Bytes of the longest IP packet in a capture."""
    with RawPcapReader(path) as packets:
        return max(facts.wirelen for _, facts in packets) - 14


@pytest.mark.parametrize("wire", [pytest.param(tap, marks=tun), ring])
def test_linux_takes_them(wire, tmp_path):
    path = str(tmp_path / "packets.pcap")
    with wire() as (peer, link), ustack.Stack() as net:
        assert link.gso_max == LONG
        net.add_interface(ustack.Capture(link, path, snaplen=96), addresses=["10.9.0.2/24"])
        listener, digests = server(peer, "10.9.0.1")
        assert [send(net, listener.getsockname(), N)] == digests
    assert 65535 < longest(path) <= LONG


@tun
def test_a_router_cuts_them_up():
    """Behind the kernel of the TAP is a wire that takes 64 KB: nothing is lost."""
    with tap() as (router, link), testbed.Namespace("far") as far, ustack.Stack() as net:
        testbed.veth(router, "r0", far, "f0")
        router.add_address("r0", "10.9.1.1/24")
        far.add_address("f0", "10.9.1.2/24")
        far.add_route("10.9.0.0/24", "10.9.1.1")
        router.sysctl("net/ipv4/ip_forward", "1")
        net.add_interface(link, addresses=["10.9.0.2/24"], gateway="10.9.0.1")
        listener, digests = server(far, "10.9.1.2")
        before = net.stats()
        assert [send(net, listener.getsockname(), N)] == digests
        after = net.stats()
        assert after["link.tx"] - before["link.tx"] < N // 30_000  # not by a retreat to packets of the MTU


def test_a_ring_with_smaller_slots_loses_one_and_the_rest_arrives():
    with testbed.Namespace("a") as a, testbed.Namespace("b") as b, ustack.Stack() as near, ustack.Stack() as far:
        testbed.veth(a, "a0", b, "b0")
        a.gso_max("a0", LONG)
        with a.entered():
            near.add_interface(ustack.PacketRing("a0"), addresses=["10.9.0.1/24"])
        with b.entered():
            far.add_interface(ustack.PacketRing("b0"), addresses=["10.9.0.2/24"])
        digests: list[str] = []
        with far.create_server(("10.9.0.2", 0)) as listener:
            listener.settimeout(20)

            def serve() -> None:
                with listener.accept()[0] as s:
                    digest = hashlib.sha256()
                    while part := s.recv(1 << 20):
                        digest.update(part)
                    digests.append(digest.hexdigest())
                    s.sendall(b"done")

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            assert [send(near, listener.getsockname(), N)] == digests
            thread.join(20)


@pytest.mark.parametrize("wished", [65534, LONG + 1])
def test_lengths_that_no_link_takes(wished):
    with testbed.Namespace("a") as a, a.entered(), pytest.raises(ValueError, match="gso_max"):
        ustack.Tap("us0", gso_max=wished)


@tun
def test_a_tap_told_to_take_64_kb_gets_no_longer_ones():
    with testbed.Namespace("a") as a, a.entered(), ustack.Tap("us0", gso_max=65535) as link:
        assert link.gso_max == 65535


def test_a_ring_that_sends_through_slots_takes_what_fits_them():
    with testbed.Namespace("a") as a, testbed.Namespace("b") as b:
        testbed.veth(a, "a0", b, "b0")
        a.gso_max("a0", LONG)
        with a.entered():
            with ustack.PacketRing("a0", tx="ring") as link:
                assert link.gso_max == 65535
            with pytest.raises(ValueError, match="slot"):
                ustack.PacketRing("a0", tx="ring", gso_max=LONG)
            with ustack.PacketRing("a0", gso_max=100_000) as link:
                assert link.gso_max == 100_000
            with ustack.PacketRing("a0", offloads=False) as link:
                assert link.gso_max == link.mtu == 1500
