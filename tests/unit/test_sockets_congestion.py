"""TCP_CONGESTION, SO_MAX_PACING_RATE, SO_RCVBUF of sockets, and what a stack gives its sockets."""

from __future__ import annotations

import errno
import struct

import pytest

import ustack
from ustack import socket as us

TCP_CONGESTION, SO_MAX_PACING_RATE = 13, 47


@pytest.fixture
def sock():
    with ustack.Stack() as net, net.socket() as made:
        yield made


def congestion(s: us.socket) -> bytes:
    name = s.getsockopt(us.IPPROTO_TCP, TCP_CONGESTION, 16)
    assert isinstance(name, bytes)
    assert len(name) == 16
    return name.rstrip(b"\0")


def test_congestion_control_of_a_socket(sock: us.socket):
    assert congestion(sock) == b"cubic"
    sock.setsockopt(us.IPPROTO_TCP, TCP_CONGESTION, b"reno")
    assert congestion(sock) == b"reno"
    sock.setsockopt(us.IPPROTO_TCP, TCP_CONGESTION, b"cubic\0\0\0\0\0")
    assert congestion(sock) == b"cubic"


@pytest.mark.parametrize("name", [b"bbr", b"", b"\0", b"x" * 1000])
def test_an_unknown_congestion_control(sock: us.socket, name: bytes):
    with pytest.raises(FileNotFoundError) as raised:
        sock.setsockopt(us.IPPROTO_TCP, TCP_CONGESTION, name)
    assert raised.value.errno == errno.ENOENT
    assert congestion(sock) == b"cubic"


def test_datagrams_have_no_congestion_control():
    with ustack.Stack() as net, net.socket(type=us.SOCK_DGRAM) as s:
        with pytest.raises(OSError, match="Protocol not available"):
            s.setsockopt(us.IPPROTO_TCP, TCP_CONGESTION, b"cubic")
        with pytest.raises(OSError, match="Protocol not available"):
            s.getsockopt(us.IPPROTO_TCP, TCP_CONGESTION, 16)


def test_a_stack_has_a_default_and_a_listener_hands_on_its_own():
    with ustack.Stack(congestion="reno") as net:
        server = net.create_server(("127.0.0.1", 7))
        server.setsockopt(us.IPPROTO_TCP, TCP_CONGESTION, b"cubic")
        with server, net.create_connection(("127.0.0.1", 7), 60) as client:
            conn, _ = server.accept()
            with conn:
                assert congestion(client) == b"reno"
                assert congestion(conn) == b"cubic"


@pytest.mark.parametrize(("value", "read"), [
    (5_000_000, 5_000_000), (struct.pack("I", 70_000), 70_000), (struct.pack("Q", 1 << 40), 1 << 40),
    (struct.pack("Q", (1 << 64) - 1), -1), (struct.pack("I", 0xFFFFFFFF), -1), (-1, -1), (0, -1),
])
def test_a_rate_is_set_and_read(sock: us.socket, value: int | bytes, read: int):
    sock.setsockopt(us.SOL_SOCKET, SO_MAX_PACING_RATE, 1000)
    sock.setsockopt(us.SOL_SOCKET, SO_MAX_PACING_RATE, value)
    assert sock.getsockopt(us.SOL_SOCKET, SO_MAX_PACING_RATE) == read
    raw = sock.getsockopt(us.SOL_SOCKET, SO_MAX_PACING_RATE, 8)
    assert isinstance(raw, bytes)
    assert struct.unpack("Q", raw)[0] == read & (1 << 64) - 1
    with pytest.raises(OSError, match="Errno 22"):
        sock.setsockopt(us.SOL_SOCKET, SO_MAX_PACING_RATE, b"12")


def test_the_receive_buffer_of_a_socket_follows_until_it_is_set(sock: us.socket):
    assert sock.getsockopt(us.SOL_SOCKET, us.SO_RCVBUF) == 512 * 1024
    sock.setsockopt(us.SOL_SOCKET, us.SO_RCVBUF, 1 << 20)
    assert sock.getsockopt(us.SOL_SOCKET, us.SO_RCVBUF) == 1 << 20


@pytest.mark.parametrize("mode", ["always", "auto", "never"])
def test_connections_by_cookie_carry_data(mode: str):
    with ustack.Stack(syn_cookies=mode) as net, net.create_server(("127.0.0.1", 7)) as server:
        for _ in range(3):
            with net.create_connection(("127.0.0.1", 7), 60) as client:
                client.sendall(b"hello")
                conn, _ = server.accept()
                with conn:
                    conn.settimeout(60)
                    assert conn.recv(10) == b"hello"
                    conn.sendall(bytes(100_000))
                    conn.shutdown(us.SHUT_WR)
                    with client.makefile("rb") as f:
                        assert f.read() == bytes(100_000)
        assert net.stats().get("tcp.cookie_ok", 0) == (3 if mode == "always" else 0)
