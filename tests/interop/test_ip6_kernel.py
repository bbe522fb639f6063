"""IPv6 against Linux over a TUN: echo of all sizes, datagrams and their fragments, streams in both directions, path
MTUs behind a router, errors both ways."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import ustack
from ustack import testbed
from ustack._cli.services import Service

pytestmark = [pytest.mark.root, pytest.mark.tun]

US, PEER = "fd00::2", "fd00::1"
OFFLOADS: dict[str, dict[str, Any]] = {"offloads": {}, "plain": {"offloads": False}, "csum": {"offloads": ["csum"]}}


@contextmanager
def wire(how: str = "offloads") -> Iterator[tuple[testbed.Bed, ustack.Stack]]:
    """The kernel at fd00::1 and 10.9.0.1, a stack at fd00::2 and 10.9.0.2."""
    with testbed.over_tap(f"{PEER}/64", f"{US}/64", tun=True, **OFFLOADS[how]) as bed, ustack.Stack() as net:
        bed.peer.add_address(bed.peer_device, "10.9.0.1/24")
        net.add_interface(bed.link, [bed.address, "10.9.0.2/24"], gateway=[PEER, "10.9.0.1"])
        yield bed, net


@pytest.fixture(params=list(OFFLOADS))
def tun(request: pytest.FixtureRequest) -> Iterator[tuple[testbed.Bed, ustack.Stack]]:
    with wire(request.param) as made:
        yield made


def kernel(bed: testbed.Bed, kind: int = socket.SOCK_STREAM) -> socket.socket:
    s = bed.peer.socket(socket.AF_INET6, kind)
    s.settimeout(20)
    return s


def send_all(s: Any, data: bytes) -> None:
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)


def digest_of_all(s: Any) -> str:
    sha = hashlib.sha256()
    while data := s.recv(1 << 18):
        sha.update(data)
    return sha.hexdigest()


def exchange(one: Any, other: Any, n: int) -> None:
    """n bytes each way at once, compared by SHA-256."""
    there, back = random.Random(1).randbytes(n), random.Random(2).randbytes(n)
    got: dict[str, str] = {}
    threads = [
        threading.Thread(target=send_all, args=(one, there)), threading.Thread(target=send_all, args=(other, back)),
        threading.Thread(target=lambda: got.update(other=digest_of_all(other))),
    ]
    for t in threads:
        t.start()
    got["one"] = digest_of_all(one)
    for t in threads:
        t.join()
    assert got == {"one": hashlib.sha256(back).hexdigest(), "other": hashlib.sha256(there).hexdigest()}


# --- echo and datagrams -----------------------------------------------------------------------------------------
@pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed")
@pytest.mark.parametrize("size", [0, 56, 1452, 1453, 20000, 65507])
def test_the_kernel_pings_us(tun, size: int):
    bed, net = tun
    done = bed.peer.run("ping", "-6", "-n", "-c", "1", "-W", "10", "-s", str(size), US)
    assert done.returncode == 0, f"{done.stdout} {net.stats()}"
    assert "wrong data" not in done.stdout
    assert net.stats()["icmp.echo"] == 1


@pytest.mark.parametrize("size", [0, 56, 1452, 1453, 20000, 65507])
def test_we_ping_the_kernel(tun, size: int):
    _, net = tun
    assert net.ping(PEER, size=size, timeout=10) > 0
    assert net.ping("fd00:0::1", size=size, timeout=10) > 0
    assert "icmp.bad_checksum" not in net.stats()


@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 30000, 65507])
def test_datagrams_both_ways(tun, size: int):
    bed, net = tun
    data = random.Random(size).randbytes(size)
    with kernel(bed, socket.SOCK_DGRAM) as theirs, net.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
        ours.settimeout(20)
        theirs.bind((PEER, 0))
        ours.bind(("::", 0))
        ours.sendto(data, theirs.getsockname())
        got, source = theirs.recvfrom(65536)
        assert (got, source[:2]) == (data, (US, ours.getsockname()[1]))
        theirs.sendto(data, source)
        assert ours.recvfrom(65536) == (data, (*theirs.getsockname()[:2], 0, 0))
    assert "udp.bad_checksum" not in net.stats()


def test_hop_limit_and_traffic_class_arrive():
    with wire() as (bed, net), kernel(bed, socket.SOCK_DGRAM) as theirs, \
            net.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
        theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        theirs.bind((PEER, 0))
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 7)
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x48)
        ours.sendto(b"x", theirs.getsockname())
        data, ancillary, _, _ = theirs.recvmsg(100, 100)
        values = {kind: int.from_bytes(value, "little") for _, kind, value in ancillary}
        assert data == b"x"
        assert values == {socket.IPV6_HOPLIMIT: 7, socket.IPV6_TCLASS: 0x48}


# --- streams ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("active", ["ours", "theirs"])
def test_streams_both_ways(tun, active: str):
    bed, net = tun
    if active == "ours":
        with kernel(bed) as listener:
            listener.bind((PEER, 0))
            listener.listen()
            one = net.create_connection(listener.getsockname()[:2], timeout=20)
            other, _ = listener.accept()
    else:
        with net.create_server(("::", 0), family=socket.AF_INET6) as listener:
            other = kernel(bed)
            other.connect((US, listener.getsockname()[1]))
            listener.settimeout(20)
            one, address = listener.accept()
            assert address[:2] == other.getsockname()[:2]
            one.settimeout(20)
    with one, other:
        other.settimeout(20)
        assert one.getpeername() == (*other.getsockname()[:2], 0, 0)
        exchange(one, other, 12 << 20)
    stats = net.stats()
    assert not stats.keys() & {"tcp.bad_checksum", "link.rx_bad", "offload.bad_gso", "link.tx_drop"}


def test_super_segments_travel_whole():
    with wire() as (bed, net), net.create_server(("::", 0), family=socket.AF_INET6) as listener, kernel(bed) as other:
        other.connect((US, listener.getsockname()[1]))
        one, _ = listener.accept()
        with one:
            exchange(one, other, 8 << 20)
        stats = net.stats()
        assert "offload.segment" not in stats
        assert stats["link.tx_bytes"] / stats["link.tx"] > 3000


@pytest.mark.parametrize("both", [True, False])
def test_a_listener_of_both_versions_or_of_one(both: bool):
    with wire() as (bed, net), \
            net.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=both) as listener:
        port = listener.getsockname()[1]
        with bed.peer.socket() as four, kernel(bed) as six:
            four.settimeout(20)
            six.connect((US, port))
            if both:
                four.connect(("10.9.0.2", port))
                with listener.accept()[0], listener.accept()[0] as second:
                    assert second.getpeername() == ("::ffff:10.9.0.1", four.getsockname()[1], 0, 0)
                    assert second.getsockname()[0] == "::ffff:10.9.0.2"
                    four.sendall(b"mapped")
                    assert second.recv(10) == b"mapped"
            else:
                with pytest.raises(ConnectionRefusedError):
                    four.connect(("10.9.0.2", port))
                listener.accept()[0].close()


def test_an_ipv6_socket_reaches_ipv4_by_its_mapped_address():
    with wire() as (bed, net), bed.peer.socket() as listener, net.socket(socket.AF_INET6) as s:
        listener.bind(("10.9.0.1", 0))
        listener.listen()
        s.settimeout(20)
        s.connect(("::ffff:10.9.0.1", listener.getsockname()[1]))
        other, address = listener.accept()
        with other:
            assert address == ("10.9.0.2", s.getsockname()[1])
            assert s.getsockname()[0] == "::ffff:10.9.0.2"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_fetches_from_us():
    with wire() as (bed, net), Service(net, "http", US, 80):
        done = bed.peer.run("curl", "-sgS", "--max-time", "30", f"http://[{US}]/bytes/3000000", text=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == bytes(3000000)


# --- path MTU ---------------------------------------------------------------------------------------------------
@contextmanager
def routed() -> Iterator[tuple[ustack.Stack, testbed.Namespace]]:
    """A host fd01::1 behind a router, over a link whose MTU is 1280."""
    with ExitStack() as stack:
        bed, net = stack.enter_context(wire())
        far = stack.enter_context(testbed.Namespace("far", ip6=True))
        testbed.veth(bed.peer, "r0", far, "f0", 1280)
        bed.peer.sysctl("net/ipv6/conf/all/forwarding", "1")
        bed.peer.add_address("r0", "fd01::fe/64")
        far.add_address("f0", "fd01::1/64")
        far.add_route("fd00::/64", "fd01::fe")
        yield net, far


def test_the_path_mtu_is_found_out_by_streams_and_datagrams():
    with routed() as (net, far), far.socket(socket.AF_INET6) as listener:
        listener.settimeout(20)
        listener.bind(("fd01::1", 0))
        listener.listen()
        far.set("f0", mtu=1500)                              # its end does not say how narrow the link is
        with net.create_connection(listener.getsockname()[:2], timeout=20) as one, listener.accept()[0] as other:
            other.settimeout(20)
            data = random.Random(3).randbytes(2 << 20)
            sending = threading.Thread(target=send_all, args=(one, data))
            sending.start()
            assert digest_of_all(other) == hashlib.sha256(data).hexdigest()
            sending.join()
            assert one.getsockopt(socket.IPPROTO_IPV6, 24) == 1280      # IPV6_MTU
        assert net.stats()["ip.path_mtu"] >= 1
        # What the stream has learnt the datagrams know: the first one arrives.
        with far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as theirs, \
                net.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
            theirs.settimeout(20)
            theirs.bind(("fd01::1", 0))
            ours.sendto(bytes(1400), theirs.getsockname())
            assert theirs.recv(2000) == bytes(1400)
            ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1)
            with pytest.raises(OSError, match="too long") as refused:
                ours.sendto(bytes(1400), theirs.getsockname())
            assert refused.value.errno == errno.EMSGSIZE


def test_echoes_find_out_the_path_mtu():
    with routed() as (net, far):
        with pytest.raises(TimeoutError):
            net.ping("fd01::1", size=1400, timeout=0.5)                  # lost: it taught us
        assert net.ping("fd01::1", size=1400, timeout=10) > 0
        done = far.run("ping", "-6", "-n", "-c", "3", "-W", "10", "-i", "0.2", "-s", "1400", US)
        assert done.returncode == 0, done.stdout


# --- errors -----------------------------------------------------------------------------------------------------
def test_closed_ports_are_told_both_ways():
    with wire() as (bed, net):
        with pytest.raises(ConnectionRefusedError):
            net.create_connection((PEER, 9), timeout=20)
        with kernel(bed) as s, pytest.raises(ConnectionRefusedError):
            s.connect((US, 9))
        with net.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours:
            ours.settimeout(20)
            ours.connect((PEER, 9))
            ours.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                ours.recv(10)
        with kernel(bed, socket.SOCK_DGRAM) as theirs:
            theirs.connect((US, 9))
            theirs.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                theirs.recv(10)


def test_no_route_and_no_neighbour_discovery_are_said():
    with testbed.over_tap() as bed, ustack.Stack() as net:
        with pytest.raises(OSError, match="neighbour discovery is not supported yet") as refused:
            net.add_interface(bed.link, ["fd00::2/64"])
        assert refused.value.errno == errno.EAFNOSUPPORT
        net.add_interface(bed.link, ["10.9.0.2/24"])
        with pytest.raises(OSError, match="unreachable") as refused:
            net.create_connection(("fd00::1", 80), timeout=5)
        assert refused.value.errno == errno.ENETUNREACH
