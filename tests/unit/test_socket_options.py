"""Options and ancillary data of sockets, as ip(7), ipv6(7), socket(7), tcp(7) and udp(7) have them."""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

import ustack
from ustack import socket as us

A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "fd00::1", "fd00::2"
TIMEVAL = "qq"


@pytest.fixture
def beds() -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair()
        a.add_interface(here, [A + "/24"])
        b.add_interface(there, [B + "/24", "10.0.0.3/24"])
        yield a, b
        a.close(0)
        b.close(0)


@pytest.fixture
def alone() -> Iterator[ustack.Stack]:
    with ustack.Stack() as net:
        yield net


def connection(net: ustack.Stack) -> tuple[us.socket, us.socket]:
    with net.create_server(("127.0.0.1", 0)) as server:
        client = net.create_connection(server.getsockname(), 10)
        peer, _ = server.accept()
        peer.settimeout(10)
    return client, peer


def datagrams(a: ustack.Stack, b: ustack.Stack) -> tuple[us.socket, us.socket]:
    here, there = a.socket(us.AF_INET, us.SOCK_DGRAM), b.socket(us.AF_INET, us.SOCK_DGRAM)
    here.settimeout(10)
    there.settimeout(10)
    there.bind(("", 53))
    return here, there


# --- waiting to write ---------------------------------------------------------------------------------------------
def test_who_finds_the_buffer_nearly_full_hears_when_it_is_empty(alone: ustack.Stack) -> None:
    """It was never quite full, so no send has had to wait: the question alone must be answered in time."""
    client, peer = connection(alone)
    with client, peer:
        peer.setsockopt(us.SOL_SOCKET, us.SO_RCVBUF, 1 << 16)
        client.setsockopt(us.SOL_SOCKET, us.SO_SNDBUF, 1 << 20)
        client.setblocking(False)
        n = client.send(bytes(3 << 18))
        assert n == 3 << 18
        assert select.select([], [client], [], 0)[1] == []
        left = n
        while left:
            left -= len(peer.recv(1 << 16))
        assert select.select([], [client], [], 10)[1] == [client]


def test_a_blocking_sender_goes_on_when_enough_is_sent(alone: ustack.Stack) -> None:
    client, peer = connection(alone)
    with client, peer:
        client.setsockopt(us.IPPROTO_TCP, us.TCP_NOTSENT_LOWAT, 4096)
        sender = threading.Thread(target=client.sendall, args=(bytes(8 << 20),))
        sender.start()
        got = 0
        while got < 8 << 20:
            got += len(peer.recv(1 << 20))
        sender.join()


# --- times --------------------------------------------------------------------------------------------------------
def test_how_long_a_blocking_socket_waits(beds: tuple[ustack.Stack, ustack.Stack]) -> None:
    """SO_RCVTIMEO, SO_SNDTIMEO: EAGAIN where a timeout would be TimeoutError; settimeout() goes before them."""
    here, there = datagrams(*beds)
    client, peer = connection(beds[0])
    with here, there, client, peer:
        for s in (here, client, beds[0].create_server(("", 0))):
            with s if s not in (here, client) else socket.socket():
                s.settimeout(None)
                s.setsockopt(us.SOL_SOCKET, us.SO_RCVTIMEO, struct.pack(TIMEVAL, 0, 20000))
                assert s.getsockopt(us.SOL_SOCKET, us.SO_RCVTIMEO, 16) == struct.pack(TIMEVAL, 0, 20000)
                assert s.getsockopt(us.SOL_SOCKET, us.SO_SNDTIMEO, 16) == bytes(16)
                with pytest.raises(BlockingIOError):
                    s.accept() if s.getsockopt(us.SOL_SOCKET, us.SO_ACCEPTCONN) else s.recv(10)
        with pytest.raises(BlockingIOError):
            here.recvmsg(10)
        here.settimeout(0.01)
        with pytest.raises(TimeoutError):
            here.recv(10)
        client.settimeout(None)
        client.setsockopt(us.SOL_SOCKET, us.SO_SNDTIMEO, struct.pack(TIMEVAL, 0, 20000))
        with pytest.raises(BlockingIOError):
            client.sendall(bytes(64 << 20))


def test_a_connect_that_takes_too_long_is_in_progress(beds: tuple[ustack.Stack, ustack.Stack]) -> None:
    a, _ = beds
    with a.socket() as s:
        s.setsockopt(us.SOL_SOCKET, us.SO_SNDTIMEO, struct.pack(TIMEVAL, 0, 20000))
        assert s.connect_ex(("10.0.0.99", 80)) == errno.EINPROGRESS


@pytest.mark.parametrize(("value", "error"), [
    (1, errno.EINVAL), (bytes(8), errno.EINVAL), (struct.pack(TIMEVAL, 0, 1000000), errno.EDOM),
    (struct.pack(TIMEVAL, 0, -1), errno.EDOM)])
def test_times_that_are_none(alone: ustack.Stack, value: int | bytes, error: int) -> None:
    with alone.socket() as s:
        with pytest.raises(OSError, match=rf"Errno {error}\]"):
            s.setsockopt(us.SOL_SOCKET, us.SO_RCVTIMEO, value)


# --- shutdown of datagrams ------------------------------------------------------------------------------------------
def test_who_waits_for_a_datagram_hears_that_none_will_come(beds: tuple[ustack.Stack, ustack.Stack]) -> None:
    here, there = datagrams(*beds)
    with here, there:
        here.settimeout(None)
        here.connect((B, 53))
        heard: list[bytes] = []
        waiter = threading.Thread(target=lambda: heard.append(here.recv(10)))
        waiter.start()
        here.shutdown(us.SHUT_RDWR)
        waiter.join(10)
        assert heard == [b""]
        assert here.recvfrom(10) == (b"", None)
        assert here.recv_into(bytearray(10)) == 0
        assert here.recvmsg(10) == (b"", [], 0, None)
        assert here.recvmmsg(4) == []
        with pytest.raises(BlockingIOError):
            here.recv(10, us.MSG_DONTWAIT)


# --- options that are kept ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [us.SOCK_STREAM, us.SOCK_DGRAM])
@pytest.mark.parametrize(("option", "value"), [
    (us.SO_PRIORITY, 6), (us.SO_MARK, 77), (us.SO_DONTROUTE, 1), (us.SO_DEBUG, 1), (us.SO_KEEPALIVE, 1),
    (us.SO_OOBINLINE, 1)])
def test_what_is_set_is_read_again(alone: ustack.Stack, kind: int, option: int, value: int) -> None:
    """The kernel and the stack begin with the same, and give the same back."""
    seen = []
    for s in (socket.socket(socket.AF_INET, kind), alone.socket(us.AF_INET, kind)):
        with s:
            before = s.getsockopt(us.SOL_SOCKET, option)
            try:
                s.setsockopt(us.SOL_SOCKET, option, value)
            except PermissionError:     # the kernel asks for privileges
                pytest.skip("needs CAP_NET_ADMIN")
            seen.append((before, s.getsockopt(us.SOL_SOCKET, option), s.getsockopt(us.SOL_SOCKET, option, 4)))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", [us.SOCK_STREAM, us.SOCK_DGRAM])
@pytest.mark.parametrize(("level", "option", "value"), [
    (us.SOL_SOCKET, 25, b"lo"), (us.SOL_SOCKET, 29, 1), (us.SOL_SOCKET, 42, 0), (us.SOL_SOCKET, 49, 0),
    (us.IPPROTO_IP, 35, bytes(8)), (us.IPPROTO_TCP, 10, 1000), (us.IPPROTO_TCP, 23, 5), (us.IPPROTO_IPV6, 26, 1)])
def test_what_is_not_there_is_refused(
        alone: ustack.Stack, kind: int, level: int, option: int, value: int | bytes) -> None:
    with alone.socket(us.AF_INET, kind) as s, pytest.raises(OSError, match=rf"Errno {errno.ENOPROTOOPT}\]"):
        s.setsockopt(level, option, value)


def test_who_is_accepted_has_the_listeners_options(alone: ustack.Stack) -> None:
    with alone.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(us.SOL_SOCKET, us.SO_PRIORITY, 5)
        server.setsockopt(us.SOL_SOCKET, us.SO_RCVTIMEO, struct.pack(TIMEVAL, 7, 0))
        server.setsockopt(us.IPPROTO_TCP, us.TCP_NOTSENT_LOWAT, 12345)
        with alone.create_connection(server.getsockname()), server.accept()[0] as peer:
            assert peer.getsockopt(us.SOL_SOCKET, us.SO_PRIORITY) == 5
            assert peer.getsockopt(us.SOL_SOCKET, us.SO_RCVTIMEO) == 7
            assert peer.getsockopt(us.IPPROTO_TCP, us.TCP_NOTSENT_LOWAT) == 12345


@pytest.mark.parametrize("seconds", [0, 1, 2, 3, 5, 30, 100000])
def test_the_time_for_which_accepting_is_put_off(alone: ustack.Stack, seconds: int) -> None:
    """Rounded as the kernel rounds it."""
    seen = []
    for s in (socket.socket(), alone.socket()):
        with s:
            s.setsockopt(us.IPPROTO_TCP, us.TCP_DEFER_ACCEPT, seconds)
            seen.append(s.getsockopt(us.IPPROTO_TCP, us.TCP_DEFER_ACCEPT))
    assert seen[0] == seen[1]


# --- the error queue ------------------------------------------------------------------------------------------------
def test_there_is_no_error_queue(alone: ustack.Stack) -> None:
    """What asks for one is refused, and what reads one finds it empty, at once."""
    client, peer = connection(alone)
    with client, peer, alone.socket(us.AF_INET, us.SOCK_DGRAM) as s:
        peer.sendall(b"data")
        assert client.recv(2) == b"da"
        for call in (lambda: client.recv(10, us.MSG_ERRQUEUE), lambda: s.recv(10, us.MSG_ERRQUEUE),
                     lambda: s.recvmsg(10, 100, us.MSG_ERRQUEUE)):
            with pytest.raises(BlockingIOError):
                call()
        assert client.recv(10) == b"ta"
        with pytest.raises(OSError, match="Protocol not available") as e:
            s.setsockopt(us.IPPROTO_IP, 11, 1)      # IP_RECVERR
        assert e.value.errno == errno.ENOPROTOOPT


# --- ancillary data ---------------------------------------------------------------------------------------------------
def test_how_a_datagram_came(beds: tuple[ustack.Stack, ustack.Stack]) -> None:
    """IP_RECVTTL, IP_RECVTOS, IP_PKTINFO: in the kernel's order, as far as there is room."""
    here, there = datagrams(*beds)
    with here, there:
        for option in (us.IP_RECVTTL, us.IP_RECVTOS, us.IP_PKTINFO):
            there.setsockopt(us.IPPROTO_IP, option, 1)
            assert there.getsockopt(us.IPPROTO_IP, option) == 1
        here.setsockopt(us.IPPROTO_IP, us.IP_TTL, 9)
        here.setsockopt(us.IPPROTO_IP, us.IP_TOS, 0xB8)
        info = (us.IPPROTO_IP, us.IP_PKTINFO)
        ttl = (us.IPPROTO_IP, us.IP_TTL, struct.pack("i", 9))
        tos = (us.IPPROTO_IP, us.IP_TOS, b"\xb8")
        here.sendto(b"x", ("10.0.0.3", 53))
        _, items, flags, _ = there.recvmsg(10, 200)
        assert [items[0][:2], *items[1:]] == [info, ttl, tos]
        device, own, to = struct.unpack("=i4s4s", items[0][2])
        assert (device > 0, own, to, flags) == (True, us.inet_aton("10.0.0.3"), us.inet_aton("10.0.0.3"), 0)
        here.sendto(b"x", (B, 53))
        _, items, flags, _ = there.recvmsg(10, us.CMSG_SPACE(12))
        assert ([item[:2] for item in items], flags) == ([info], us.MSG_CTRUNC)
        here.setsockopt(us.SOL_SOCKET, us.SO_BROADCAST, 1)
        here.sendto(b"all", ("10.0.0.255", 53))
        _, items, *_ = there.recvmsg(10, 200)
        assert items[0][2][4:] == us.inet_aton(B) + us.inet_aton("10.0.0.255")


def test_a_datagram_of_its_own_manner(beds: tuple[ustack.Stack, ustack.Stack]) -> None:
    """IP_TTL, IP_TOS and IP_PKTINFO with sendmsg count for that one; the socket keeps its own."""
    here, there = datagrams(*beds)
    with here, there:
        for option in (us.IP_RECVTTL, us.IP_RECVTOS):
            here.setsockopt(us.IPPROTO_IP, option, 1)
        here.sendto(b"where are you", (B, 53))
        _, asker = there.recvfrom(100)
        source = struct.pack("=i4s4s", 0, us.inet_aton("10.0.0.3"), bytes(4))
        there.sendmsg([b"here"], [(us.IPPROTO_IP, us.IP_TTL, struct.pack("i", 7)), (us.IPPROTO_IP, us.IP_TOS, b"\x10"),
                                  (us.IPPROTO_IP, us.IP_PKTINFO, source)], 0, asker)
        there.sendto(b"and here", asker)
        assert here.recvmsg(100, 200) == (
            b"here", [(0, us.IP_TTL, struct.pack("i", 7)), (0, us.IP_TOS, b"\x10")], 0, ("10.0.0.3", 53))
        assert here.recvmsg(100, 200) == (
            b"and here", [(0, us.IP_TTL, struct.pack("i", 64)), (0, us.IP_TOS, b"\0")], 0, (B, 53))
        foreign = struct.pack("=i4s4s", 0, us.inet_aton("192.0.2.1"), bytes(4))
        for item in ((us.IPPROTO_IP, us.IP_PKTINFO, foreign), (us.IPPROTO_IP, us.IP_TTL, bytes(4)),
                     (us.IPPROTO_IP, us.IP_TTL, b"\0\1"), (us.SOL_SOCKET, 1, bytes(4))):
            with pytest.raises(OSError, match=rf"Errno {errno.EINVAL}\]"):
                there.sendmsg([b"x"], [item], 0, asker)


def test_an_address_that_nobody_has_bound_yet_is_kept_after_one_datagram_from_it(
        beds: tuple[ustack.Stack, ustack.Stack]) -> None:
    here, there = datagrams(*beds)
    with here, there, beds[1].socket(us.AF_INET, us.SOCK_DGRAM) as s:
        here.bind((A, 1000))
        source = struct.pack("=i4s4s", 0, us.inet_aton("10.0.0.3"), bytes(4))
        s.sendmsg([b"x"], [(us.IPPROTO_IP, us.IP_PKTINFO, source)], 0, (A, 1000))
        assert s.getsockname() == ("0.0.0.0", here.recvfrom(10)[1][1])


def test_how_a_datagram_came_by_ip6() -> None:
    with ustack.Stack() as a, ustack.Stack() as b:
        here, there = ustack.pair(layer=3)
        a.add_interface(here, [A6 + "/64"])
        b.add_interface(there, [B6 + "/64"])
        with a.socket(us.AF_INET6, us.SOCK_DGRAM) as client, b.socket(us.AF_INET6, us.SOCK_DGRAM) as server:
            server.settimeout(10)
            server.bind(("", 53))
            for option in (us.IPV6_RECVPKTINFO, us.IPV6_RECVHOPLIMIT, us.IPV6_RECVTCLASS):
                server.setsockopt(us.IPPROTO_IPV6, option, 1)
            client.sendmsg([b"x"], [(us.IPPROTO_IPV6, us.IPV6_HOPLIMIT, struct.pack("i", 5)),
                                    (us.IPPROTO_IPV6, us.IPV6_TCLASS, struct.pack("i", 0x20))], 0, (B6, 53))
            _, items, *_ = server.recvmsg(10, 200)
            assert [item[:2] for item in items] == [(41, us.IPV6_PKTINFO), (41, us.IPV6_HOPLIMIT), (41, us.IPV6_TCLASS)]
            assert items[0][2][:16] == us.inet_pton(us.AF_INET6, B6)
            assert [struct.unpack("i", item[2])[0] for item in items[1:]] == [5, 0x20]
            mixed = struct.pack("=i4s4s", 0, us.inet_aton("127.0.0.1"), bytes(4))
            with pytest.raises(OSError, match=rf"Errno {errno.EINVAL}\]"):
                client.sendmsg([b"x"], [(us.IPPROTO_IP, us.IP_PKTINFO, mixed)], 0, (B6, 53))


def test_the_ttl_of_what_goes_to_groups() -> None:
    pipe = ustack.Pipe(layer=3)
    with ustack.Stack(clock=ustack.VirtualClock()) as net, net.socket(us.AF_INET, us.SOCK_DGRAM) as s:
        net.add_interface(pipe, [A + "/24"])
        pipe.drain()
        for set_to, ttl in ((None, 1), (32, 32), (0, 0), (-1, 1)):
            if set_to is not None:
                s.setsockopt(us.IPPROTO_IP, us.IP_MULTICAST_TTL, set_to)
            assert s.getsockopt(us.IPPROTO_IP, us.IP_MULTICAST_TTL) == ttl
            s.sendto(b"x", ("224.0.0.9", 520))
            assert [packet[8] for _, packet in pipe.drain()] == [ttl]
        s.sendto(b"x", (B, 9))
        assert [packet[8] for _, packet in pipe.drain()] == [64]


def test_numbers_for_names() -> None:
    assert us.getnameinfo((A, 80), us.NI_NUMERICSERV) == (A, "80")
    assert us.getnameinfo((A6, 80, 0, 0), us.NI_NUMERICHOST | us.NI_NUMERICSERV) == (A6, "80")
    with pytest.raises(us.gaierror):
        us.getnameinfo((A, 80), us.NI_NAMEREQD)
