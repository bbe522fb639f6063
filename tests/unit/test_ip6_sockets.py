"""Sockets of AF_INET6 over a cable in memory, and what around them knows of addresses."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator

import pytest

import ustack
import ustack.socket
from ustack import sim
from ustack._cli import common, ss
from ustack.socket import AF_INET, AF_INET6, IPPROTO_ICMPV6, IPPROTO_IPV6, IPV6_MTU, IPV6_V6ONLY, SOCK_DGRAM

A, B = "fd00::a", "fd00::b"


@pytest.fixture
def two() -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Two stacks, each with an address of either version."""
    near, far = ustack.pair()
    with ustack.Stack() as a, ustack.Stack() as b:
        a.add_interface(near, [f"{A}/64", "10.9.0.1/24"])
        b.add_interface(far, [f"{B}/64", "10.9.0.2/24"])
        yield a, b


def datagrams(net: ustack.Stack, family: int = AF_INET6, **options: int) -> ustack.socket.socket:
    s = net.socket(family, SOCK_DGRAM)
    s.settimeout(10)
    return s


# --- addresses --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("address", [
    (B, 0), (B, 0, 0), (B, 0, 7, 3), ("FD00:0::B", 0), (B.encode(), 0), (ipaddress.IPv6Address(B), 0), (f"{B}%4", 0),
])
def test_what_is_taken_for_an_address(two, address):
    _, b = two
    with b.socket(AF_INET6) as s:
        s.bind(address)
        assert s.getsockname()[0] == B
        assert s.getsockname()[2:] == (0, 0)


@pytest.mark.parametrize(("address", "error"), [
    (("10.9.0.2", 80), socket.gaierror), (("fd00::g", 80), socket.gaierror), ((f"{B}%eth0", 80), socket.gaierror),
    (("example.org", 80), socket.gaierror), ((B,), TypeError), ((B, 80, 0, 0, 0), TypeError), ([B, 80], TypeError),
    ((B, 80, 1 << 20), OverflowError), ((B, 80, -1), OverflowError), ((B, 65536), OverflowError), ((5, 80), TypeError),
])
def test_what_is_not(two, address, error):
    a, _ = two
    with a.socket(AF_INET6) as s, pytest.raises(error):
        s.connect(address)


def test_an_ipv4_socket_takes_no_ipv6_address(two):
    a, _ = two
    with a.socket() as s:
        with pytest.raises(socket.gaierror, match="AF_INET6"):
            s.connect((B, 80))
        with pytest.raises(TypeError):
            s.connect(("10.9.0.2", 80, 0, 0))


def test_names_of_sockets_that_have_none(two):
    a, _ = two
    with a.socket(AF_INET6) as s, datagrams(a) as u:
        assert s.getsockname() == u.getsockname() == ("::", 0, 0, 0)
        assert s.family == AF_INET6
        assert s.getsockopt(ustack.socket.SOL_SOCKET, ustack.socket.SO_DOMAIN) == AF_INET6
        with pytest.raises(OSError, match="not connected"):
            s.getpeername()
    with pytest.raises(OSError, match="AF_INET6") as refused:
        a.socket(1)
    assert refused.value.errno == errno.EAFNOSUPPORT


# --- streams ----------------------------------------------------------------------------------------------------
def test_create_connection_and_create_server(two):
    a, b = two
    with b.create_server((B, 0), family=AF_INET6) as listener:
        port = listener.getsockname()[1]
        with a.create_connection((B, port), 10, (A, 0)) as s:
            other, address = listener.accept()
            with other:
                assert address == s.getsockname() == (A, address[1], 0, 0)
                assert s.getpeername() == other.getsockname() == (B, port, 0, 0)
                s.sendall(b"hello")
                assert other.recv(10) == b"hello"
                assert s.getsockopt(IPPROTO_IPV6, IPV6_MTU) == 65535
                rows = {row["state"]: row for row in b.sockets()}
                assert (rows["LISTEN"]["local"], rows["LISTEN"]["family"]) == ((B, port), AF_INET6)
                assert rows["ESTABLISHED"]["remote"] == (A, address[1])
    with pytest.raises(ConnectionRefusedError):
        a.create_connection((B, port), 10)


def test_a_dual_stack_listener_and_one_of_its_own_version(two):
    a, b = two
    with b.create_server(("", 0), family=AF_INET6, dualstack_ipv6=True) as both:
        port = both.getsockname()[1]
        with a.create_connection(("10.9.0.2", port), 10), a.create_connection((B, port), 10):
            peers = []
            for _ in range(2):
                s, address = both.accept()
                s.close()
                peers.append(address[0])
            assert peers == ["::ffff:10.9.0.1", A]
        with pytest.raises(OSError, match="cannot bind") as refused:
            b.create_server(("", port))
        assert refused.value.errno == errno.EADDRINUSE
    with b.create_server(("", 0), family=AF_INET6) as six:
        port = six.getsockname()[1]
        with b.create_server(("", port)) as four:
            for host, listener in (("10.9.0.2", four), (B, six)):
                with a.create_connection((host, port), 10):
                    listener.accept()[0].close()
    with pytest.raises(ValueError, match="AF_INET6"):
        b.create_server(("", 0), dualstack_ipv6=True)


def test_mapped_addresses(two):
    a, b = two
    with b.create_server(("10.9.0.2", 0)) as listener, a.socket(AF_INET6) as s, a.socket(AF_INET6) as only:
        s.settimeout(10)
        s.connect(("::ffff:10.9.0.2", listener.getsockname()[1]))
        assert s.getpeername()[0] == "::ffff:10.9.0.2"
        other, address = listener.accept()
        other.close()
        assert address == ("10.9.0.1", s.getsockname()[1])
        only.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        assert only.connect_ex(("::ffff:10.9.0.2", 80)) == errno.ENETUNREACH
        with pytest.raises(OSError, match="cannot bind") as refused:
            only.bind(("::ffff:10.9.0.1", 0))
        assert refused.value.errno == errno.EINVAL


def test_loopback(two):
    a, _ = two
    with a.create_server(("localhost", 0), family=AF_INET6) as listener:
        assert listener.getsockname()[0] == "::1"
        with a.create_connection(("::1", listener.getsockname()[1]), 10) as s:
            assert s.getsockname()[0] == "::1"
            listener.accept()[0].close()
    assert a.ping("::1", size=3000) > 0


# --- datagrams --------------------------------------------------------------------------------------------------
def test_datagrams_of_all_kinds(two):
    a, b = two
    with datagrams(a) as one, datagrams(b) as other:
        other.bind(("::", 0))
        there = (B, other.getsockname()[1])
        one.sendto(b"first", there)
        data, back = other.recvfrom(100)
        assert (data, back) == (b"first", (A, one.getsockname()[1], 0, 0))
        assert other.sendmmsg([b"x", b"y"], address=back) == 2
        assert one.recvmmsg(1)[0] == (b"x", (*there, 0, 0))
        assert one.recvmmsg(1)[0] == (b"y", (*there, 0, 0))
        one.connect(there)
        assert (one.getpeername(), one.getsockname()[0]) == ((*there, 0, 0), A)
        one.send(bytes(60000))
        buffer = bytearray(65536)
        assert other.recvfrom_into(buffer) == (60000, back)
        with datagrams(a, AF_INET) as four:
            four.sendto(b"mapped", ("10.9.0.2", there[1]))
            data, source = other.recvfrom(100)
            assert (data, source[0]) == (b"mapped", "::ffff:10.9.0.1")
            other.sendto(b"back", source)
            assert four.recvfrom(100) == (b"back", ("10.9.0.2", there[1]))


def test_echo_sockets(two):
    a, _ = two
    assert a.ping(B, size=5000, timeout=10) > 0
    with a.socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6) as s:
        s.settimeout(10)
        s.bind(("::", 321))
        with pytest.raises(OSError, match="type 128") as refused:
            s.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 5), (B, 0))
        assert refused.value.errno == errno.EINVAL
        s.sendto(struct.pack("!BBHHH", 128, 0, 0, 0, 5) + b"data", (B, 0))
        data, address = s.recvfrom(100)
        assert struct.unpack("!BBxxHH", data[:8]) == (129, 0, 321, 5)
        assert (data[8:], address) == (b"data", (B, 0, 0, 0))


# --- options ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [ustack.socket.SOCK_STREAM, SOCK_DGRAM])
def test_options(two, kind: int):
    a, _ = two
    s = ustack.socket
    with a.socket(AF_INET6, kind) as six, a.socket(AF_INET, kind) as four:
        for name, value, first in ((s.IPV6_UNICAST_HOPS, 9, 64), (s.IPV6_TCLASS, 0x20, 0), (s.IPV6_V6ONLY, 1, 0)):
            assert six.getsockopt(IPPROTO_IPV6, name) == first
            six.setsockopt(IPPROTO_IPV6, name, value)
            assert six.getsockopt(IPPROTO_IPV6, name) == value
            with pytest.raises(OSError, match="option") as refused:
                four.setsockopt(IPPROTO_IPV6, name, value)
            assert refused.value.errno == errno.ENOPROTOOPT
        for name, first in ((s.IPV6_UNICAST_HOPS, 64), (s.IPV6_TCLASS, 0)):
            six.setsockopt(IPPROTO_IPV6, name, -1)
            assert six.getsockopt(IPPROTO_IPV6, name) == first
        assert six.getsockopt(IPPROTO_IPV6, s.IPV6_MTU_DISCOVER) == 1
        with pytest.raises(OSError, match="option") as refused:
            six.getsockopt(IPPROTO_IPV6, IPV6_MTU)
        assert refused.value.errno == errno.ENOTCONN
        with pytest.raises(OSError, match="option"):
            six.setsockopt(IPPROTO_IPV6, s.IPV6_UNICAST_HOPS, 256)
        six.bind((A, 0))
        with pytest.raises(OSError, match="option") as refused:
            six.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 0)
        assert refused.value.errno == errno.EINVAL


# --- the module -------------------------------------------------------------------------------------------------
def test_getaddrinfo():
    s = ustack.socket
    assert s.has_ipv6
    assert s.has_dualstack_ipv6()
    assert s.getaddrinfo("FD00::0:1", "80", type=s.SOCK_STREAM) == [
        (AF_INET6, s.SOCK_STREAM, s.IPPROTO_TCP, "", ("fd00::1", 80, 0, 0))]
    assert [row[4] for row in s.getaddrinfo(None, 80, type=SOCK_DGRAM)] == [("127.0.0.1", 80), ("::1", 80, 0, 0)]
    assert [row[4] for row in s.getaddrinfo(None, 80, AF_INET6, SOCK_DGRAM, 0, s.AI_PASSIVE)] == [("::", 80, 0, 0)]
    assert [row[4] for row in s.getaddrinfo("localhost", 1, type=SOCK_DGRAM)] == [("127.0.0.1", 1), ("::1", 1, 0, 0)]
    for host, family, number in (("fd00::1", AF_INET, s._std.EAI_ADDRFAMILY), ("10.0.0.1", AF_INET6, -9),
                                 ("fd00::z", 0, s.EAI_NONAME), ("fd00::1", 99, s.EAI_FAMILY)):
        with pytest.raises(socket.gaierror) as refused:
            s.getaddrinfo(host, 80, family)
        assert refused.value.errno == number


# --- configuration ----------------------------------------------------------------------------------------------
def test_what_is_refused_of_configurations():
    with ustack.Stack() as net:
        ether = ustack.Pipe(layer=2)
        with pytest.raises(OSError, match="neighbour discovery is not supported yet") as refused:
            net.add_interface(ether, ["fd00::1/64"])
        assert refused.value.errno == errno.EAFNOSUPPORT
        net.add_interface(ether, ["10.0.0.1/24"])                # it is still the caller's
        with pytest.raises(OSError, match="neighbour discovery"):
            net.add_address(ether, "fd00::1/64")
        with ustack.Pipe(layer=3, mtu=1279) as narrow, pytest.raises(OSError, match="1280"):
            net.add_interface(narrow, ["fd00::1/64"])
        with ustack.Pipe() as link, pytest.raises(ValueError, match="written as such"):
            net.add_interface(link, ["::ffff:10.0.0.1/120"])
        with pytest.raises(ValueError, match="same version"):
            net.add_route("fd01::/16", gateway="10.0.0.2")
        with pytest.raises(OSError, match="cannot route") as refused:
            net.add_route("fd01::/16", gateway="fd00::1")
        assert refused.value.errno == errno.ENETUNREACH
        with pytest.raises(OSError, match="cannot connect") as refused:
            net.create_connection(("fd00::1", 80))
        assert refused.value.errno == errno.ENETUNREACH


def test_gateways_of_both_versions():
    pipe = ustack.Pipe(layer=3, mtu=1500, offloads=False)
    with ustack.Stack(clock=ustack.VirtualClock(), seed=1) as net:
        face = net.add_interface(pipe, ["10.0.0.1/24", "fd00::1/64"], gateway=["10.0.0.2", "fd00::2"])
        assert face.addresses == ("10.0.0.1/24", "fd00::1/64")
        with net.socket(AF_INET6, SOCK_DGRAM) as six, net.socket(AF_INET, SOCK_DGRAM) as four:
            six.sendto(b"x", ("2001:db8::1", 9))
            four.sendto(b"x", ("192.0.2.1", 9))
        assert [packet[0] >> 4 for _, packet in pipe.drain()] == [6, 4]
        net.remove_route("::/0")
        with net.socket(AF_INET6, SOCK_DGRAM) as six, pytest.raises(OSError, match="unreachable"):
            six.sendto(b"x", ("2001:db8::1", 9))


# --- around it --------------------------------------------------------------------------------------------------
def test_simulated_hosts_have_addresses_of_either_version():
    def run(*addresses: str) -> str:
        with sim.Network(5) as net:
            a, b = net.host("a", addresses[0]), net.host("b", addresses[1])
            net.link(a, b, loss=0.05, delay=0.01, reorder=0.1, duplicate=0.1)
            flow = net.flow(a, b, size=200_000)
            net.run()
            assert flow.exact
            return net.digest()

    assert run("fd00::1", "fd00::2") == run("fd00::1", "fd00::2") != run("10.0.0.1", "10.0.0.2")


def test_a_simulated_router_tells_how_narrow_its_link_is():
    with sim.Network(6) as net:
        a, b = net.host("a", "fd00::1"), net.host("b", "fd00::2")
        cable = net.link(a, b, delay=0.01)
        flow = net.flow(a, b, size=3_000_000)
        net.run(until_ns=net.now_ns + 50_000_000)
        assert not flow.exact
        cable.mtu = 1280
        net.run()
        assert flow.exact
        assert a.stack.stats()["ip.path_mtu"] == 1


def test_texts_of_the_command():
    assert common.endpoint_text("fd00::1", 80) == "[fd00::1]:80"
    assert common.endpoint_text("10.0.0.1", 80) == "10.0.0.1:80"
    assert ss._endpoint(["::", 80]) == "[::]:80"
    assert common.interface_address("fd00::2/64") == "fd00::2/64"
    assert common.host_address("FD00::2") == "fd00::2"
    assert common.link_spec("tun:us0") == common.LinkSpec("tun", "us0")
    assert common.pair_peer("fd00::2/64", None) == "fd00::1/64"
    assert common.pair_peer("fd00::2/64", "fd00::9") == "fd00::9/64"
