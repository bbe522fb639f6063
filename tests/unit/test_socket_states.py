"""Method by method, in each state: what a socket raises and returns is what the kernel's raises and returns there."""

from __future__ import annotations

import contextlib
import errno
import itertools
import select
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ustack
from ustack import socket as us

HOST = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)


class Side:
    """One kind of socket over its loopback: the kernel's, or a stack's."""

    def __init__(self, kernel: bool) -> None:
        self.net = None if kernel else ustack.Stack()
        self.made: list[Any] = []

    def make(self, kind: int = socket.SOCK_STREAM) -> Any:
        s = socket.socket(socket.AF_INET, kind) if self.net is None else self.net.socket(us.AF_INET, kind)
        s.settimeout(10)
        self.made.append(s)
        return s

    def bound(self, kind: int = socket.SOCK_STREAM) -> Any:
        s = self.make(kind)
        s.bind((HOST, 0))
        return s

    def listening(self) -> Any:
        s = self.bound()
        s.listen()
        return s

    def pair(self) -> tuple[Any, Any]:
        server = self.listening()
        client = self.make()
        client.connect(server.getsockname())
        peer, _ = server.accept()
        peer.settimeout(10)
        self.made.append(peer)
        return client, peer

    def datagrams(self) -> tuple[Any, Any]:
        peer = self.bound(socket.SOCK_DGRAM)
        client = self.make(socket.SOCK_DGRAM)
        client.connect(peer.getsockname())
        return client, peer

    def close(self) -> None:
        for s in self.made:
            s.close()
        if self.net is not None:
            self.net.close()


def until(s: Any, events: int) -> None:
    """Until poll says one of them: what the other side did has come."""
    poll = select.poll()
    poll.register(s, events)
    assert poll.poll(10000)


def fresh(side: Side) -> Any:
    return side.make()


def bound(side: Side) -> Any:
    return side.bound()


def connected(side: Side) -> Any:
    return side.pair()[0]


def with_data(side: Side) -> Any:
    client, peer = side.pair()
    peer.sendall(b"hello world")
    until(client, select.POLLIN)
    return client


def shut_writing(side: Side) -> Any:
    client, _ = side.pair()
    client.shutdown(socket.SHUT_WR)
    return client


def shut_reading(side: Side) -> Any:
    client, _ = side.pair()
    client.shutdown(socket.SHUT_RD)
    return client


def ended_by_the_peer(side: Side) -> Any:
    client, peer = side.pair()
    peer.sendall(b"bye")
    peer.shutdown(socket.SHUT_WR)
    until(client, select.POLLIN)
    return client


def reset(side: Side) -> Any:
    client, peer = side.pair()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    peer.close()
    until(client, select.POLLIN)
    return client


def refused(side: Side) -> Any:
    nobody = side.bound()
    client = side.make()
    client.setblocking(False)
    assert client.connect_ex(nobody.getsockname()) in (errno.EINPROGRESS, errno.ECONNREFUSED)
    until(client, select.POLLIN | select.POLLOUT)
    return client


def closed(side: Side) -> Any:
    client, _ = side.pair()
    client.close()
    return client


def never_used_and_closed(side: Side) -> Any:
    s = side.make()
    s.close()
    return s


def datagram(side: Side) -> Any:
    return side.make(socket.SOCK_DGRAM)


def datagram_connected(side: Side) -> Any:
    return side.datagrams()[0]


def datagram_with_data(side: Side) -> Any:
    client, peer = side.datagrams()
    peer.sendto(b"hello world", client.getsockname())
    until(client, select.POLLIN)
    return client


def datagram_shut(side: Side) -> Any:
    client, _ = side.datagrams()
    client.shutdown(socket.SHUT_RDWR)
    client.settimeout(None)             # with a timeout the standard module asks poll and recv in turn until it is over
    return client


def datagram_refused(side: Side) -> Any:
    client, peer = side.datagrams()
    peer.close()
    client.send(b"x")
    until(client, select.POLLIN)
    return client


def datagram_closed(side: Side) -> Any:
    client, _ = side.datagrams()
    client.close()
    return client


STREAMS = [fresh, bound, connected, with_data, shut_writing, shut_reading, ended_by_the_peer, reset, refused, closed,
           never_used_and_closed]
DATAGRAMS = [datagram, datagram_connected, datagram_with_data, datagram_shut, datagram_refused, datagram_closed]
CLOSED = [closed, never_used_and_closed, datagram_closed]
# Where waiting is what both do: nothing is there, and nothing comes.
SILENT = [connected, shut_writing, datagram, datagram_connected]

Call = Callable[[Any], Any]
ANYWHERE: dict[str, Call] = {
    "getsockname": lambda s: type(s.getsockname()),
    "getpeername": lambda s: type(s.getpeername()),
    "gettimeout": lambda s: s.gettimeout(),
    "getblocking": lambda s: s.getblocking(),
    "settimeout": lambda s: (s.settimeout(3), s.gettimeout()),
    "settimeout(None)": lambda s: (s.settimeout(None), s.gettimeout()),
    "settimeout(-1)": lambda s: s.settimeout(-1),
    "settimeout(far too long)": lambda s: s.settimeout(1e30),
    "setblocking": lambda s: (s.setblocking(False), s.getblocking()),
    "family": lambda s: (s.family, type(s.family)),
    "type": lambda s: (s.type, type(s.type)),
    "proto": lambda s: s.proto,
    "fileno": lambda s: s.fileno() >= 0,
    "close": lambda s: (s.close(), s.close(), s.fileno()),
    "get_inheritable": lambda s: s.get_inheritable(),
    "set_inheritable": lambda s: s.set_inheritable(False),
    "makefile": lambda s: type(s.makefile("rb")).__name__,
    "makefile(unbuffered text)": lambda s: s.makefile("r", buffering=0),
    "makefile(x)": lambda s: s.makefile("x"),
    "with": lambda s: s.__enter__() is s,
    "SO_ERROR": lambda s: [s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for _ in range(2)],
    "SO_TYPE": lambda s: s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, 4),
    "SO_KEEPALIVE": lambda s: s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "set SO_KEEPALIVE": lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "set SO_TYPE": lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_TYPE, 1),
    "set to nothing": lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, None, 4),
    "set to a str": lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, "1"),
    "set to a long": lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1 << 40),
    "getsockopt(-1)": lambda s: s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, -1),
    "shutdown(9)": lambda s: s.shutdown(9),
    "shutdown": lambda s: s.shutdown(socket.SHUT_WR),
    "connect(a str)": lambda s: s.connect("x"),
    "connect(port too large)": lambda s: s.connect((HOST, 70000)),
    "recv(-1)": lambda s: s.recv(-1),
    "recv(0)": lambda s: s.recv(0),
    "recv_into(nothing)": lambda s: s.recv_into(bytearray()),
    "recv_into(bytes)": lambda s: s.recv_into(b"abc"),
    "recvmsg(-1)": lambda s: s.recvmsg(-1),
    "send(a str)": lambda s: s.send("abc") if s.fileno() >= 0 else None,
    "sendto(without address)": lambda s: s.sendto(b"abc"),
    "sendmsg(a str)": lambda s: s.sendmsg(["abc"]),
}
WHERE_NOTHING_WAITS: dict[str, Call] = {
    "recv": lambda s: s.recv(5),
    "peek": lambda s: (s.recv(5, socket.MSG_PEEK), s.recv(5)),
    "recv_into": lambda s: s.recv_into(bytearray(5)),
    "recv_into(too much)": lambda s: s.recv_into(bytearray(3), 5),
    "recvfrom": lambda s: (s.recvfrom(5)[0]),
    "recvmsg": lambda s: s.recvmsg(5)[:3],
    "recvmsg_into": lambda s: s.recvmsg_into([bytearray(3), bytearray(4)])[:3],
    "everything": lambda s: [s.recv(100) for _ in range(3)] if s.type == socket.SOCK_STREAM else None,
}
SENDING: dict[str, Call] = {
    "send": lambda s: s.send(b"abc"),
    "send(nothing)": lambda s: s.send(b""),
    "sendall": lambda s: s.sendall(b"abc"),
    "sendall(nothing)": lambda s: s.sendall(b""),
    "sendmsg": lambda s: s.sendmsg([b"ab", b"cd"]),
    "sendmsg(nothing)": lambda s: s.sendmsg([]),
    "send twice": lambda s: [outcome(lambda s: s.send(b"abc"), s) for _ in range(2)],
}


def outcome(call: Call, s: Any) -> object:
    try:
        result = call(s)
    except Exception as error:
        return type(error), error.errno if isinstance(error, OSError) else None
    return result


def both(state: Callable[[Side], Any], call: Call) -> list[object]:
    seen = []
    for kernel in (True, False):
        with contextlib.closing(Side(kernel)) as side:
            s = state(side)
            seen.append(outcome(call, s))
    return seen


def cases() -> Iterator[object]:
    for state, (name, call) in itertools.product(STREAMS + DATAGRAMS, ANYWHERE.items()):
        yield pytest.param(state, call, id=f"{state.__name__}-{name}")
    for state, (name, call) in itertools.product(STREAMS + DATAGRAMS, WHERE_NOTHING_WAITS.items()):
        if state not in SILENT and not (state in (with_data, datagram_with_data) and name == "everything"):
            yield pytest.param(state, call, id=f"{state.__name__}-{name}")
    for state, (name, call) in itertools.product(STREAMS + DATAGRAMS, SENDING.items()):
        if state not in (datagram_refused, ) and not (state is datagram and name == "sendmsg(nothing)"):
            yield pytest.param(state, call, id=f"{state.__name__}-{name}")


@pytest.mark.parametrize(("state", "call"), list(cases()))
def test_a_call_does_what_it_does_on_a_socket_of_the_kernel(state: Callable[[Side], Any], call: Call) -> None:
    kernel, ours = both(state, call)
    assert ours == kernel


@pytest.mark.parametrize("state", CLOSED)
def test_what_a_closed_socket_gives_back_as_a_number(state: Callable[[Side], Any]) -> None:
    kernel, ours = both(state, lambda s: s.connect_ex((HOST, 9)))
    assert ours == kernel == errno.EBADF


def test_nothing_of_the_standard_socket_is_missing() -> None:
    """What has to do with other families of sockets, and what is private, aside."""
    theirs = {name for name in dir(socket.socket) if not name.startswith("_")} - {"sendmsg_afalg"}
    assert theirs <= set(dir(us.socket))


def test_what_needs_a_descriptor_says_so() -> None:
    with ustack.Stack() as net, net.socket() as s:
        for call in (s.dup, s.detach, lambda: s.set_inheritable(True)):
            with pytest.raises(OSError, match="user space") as e:
                call()
            assert e.value.errno == errno.EOPNOTSUPP
