"""``ustack.Stack``: the core's stack with sockets as Python programs know them. No protocol logic."""

from __future__ import annotations

import struct
from time import monotonic_ns
from typing import Any

from ustack._core.py.stack import Stack as _Stack
from ustack.socket import AF_INET, AF_INET6, IPPROTO_ICMP, IPPROTO_ICMPV6, SOCK_DGRAM, SOCK_STREAM, inet_pton
from ustack.socket import create_connection as _create_connection
from ustack.socket import create_server as _create_server
from ustack.socket import socket as _socket


class Stack(_Stack):
    """A TCP/IP stack in user space, as a value.

    ::

        with ustack.Stack() as net:
            net.add_interface(ustack.Tap("us0"), addresses=["10.9.0.2/24"], gateway="10.9.0.1")
            with net.create_connection(("10.9.0.1", 80)) as s:
                s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")

    ``clock``: None for the machine's monotonic clock, or a VirtualClock: then nothing happens by itself, no call
    ever waits, and the same seed gives the same packets. ``seed``: int, bytes or str that determines all randomness;
    None for real entropy. ``memory``: hard budget in bytes for packet storage; None for no bound. ``busy_poll``:
    seconds for which a waiting call spins before it sleeps; None adapts between 0 and 20 microseconds.
    ``congestion``: congestion control of its TCP sockets, "cubic" (RFC 9438) or "reno"; a socket changes its own by the
    option TCP_CONGESTION. ``syn_cookies``: "auto" answers with SYN cookies (RFC 4987) while a listener's queue of
    handshakes is full, "always" to every SYN, "never" forgets the oldest handshake instead.

    Threads: every method may be called from any thread. A stack does not survive ``fork``.
    Raises ValueError for arguments that make no sense, OSError where the system refuses something.
    """

    def socket(self, family: int = AF_INET, type: int = SOCK_STREAM, proto: int = 0) -> _socket:
        """A new socket on this stack, as ``socket.socket(family, type, proto)``."""
        return _socket(family, type, proto, stack=self)

    def create_connection(
        self, address: tuple[Any, ...], timeout: Any = ..., source_address: tuple[Any, ...] | None = None,
    ) -> _socket:
        """Connect to (host, port), of either version; ``timeout`` in seconds holds for the connect and afterwards.

        Raises ConnectionRefusedError, TimeoutError, OSError (ENETUNREACH, EHOSTUNREACH, ...).
        """
        return _create_connection(address, timeout, source_address, stack=self)

    def create_server(
        self, address: tuple[Any, ...], *, family: int = AF_INET, backlog: int | None = None, reuse_port: bool = False,
        dualstack_ipv6: bool = False,
    ) -> _socket:
        """A listening socket bound to (host, port). Raises OSError (EADDRINUSE, EADDRNOTAVAIL).

        With AF_INET6 it serves IPv6 alone, or with ``dualstack_ipv6`` IPv4 too.
        """
        return _create_server(address, family=family, backlog=backlog, reuse_port=reuse_port,
                              dualstack_ipv6=dualstack_ipv6, stack=self)

    def ping(self, host: str, *, size: int = 56, timeout: float = 1.0, sequence: int = 1) -> float:
        """One ICMP echo (RFC 792, 4443) with ``size`` bytes of payload, 0 to 65507: seconds until the answer came.

        Raises TimeoutError, OSError (ENETUNREACH, EHOSTUNREACH, EMSGSIZE).
        """
        if not 0 <= size <= 65507:
            raise ValueError("size is the payload of an echo request, 0 to 65507 bytes")
        if not 0 <= sequence <= 65535:
            raise ValueError("sequence is a number of 16 bits, 0 to 65535")
        v6 = ":" in host
        family, proto, kind = (AF_INET6, IPPROTO_ICMPV6, 128) if v6 else (AF_INET, IPPROTO_ICMP, 8)
        request = struct.pack("!BBHHH", kind, 0, 0, 0, sequence) + bytes(k & 0xFF for k in range(size))
        with self.socket(family, SOCK_DGRAM, proto) as s:
            sought = inet_pton(family, host.partition("%")[0]) if v6 else None
            s.settimeout(timeout)
            began = monotonic_ns()
            s.sendto(request, (host, 0))
            while True:
                answer, source = s.recvfrom(65535)
                same = source[0] == host or (v6 and inet_pton(family, source[0]) == sought)
                if same and answer[6:] == request[6:]:
                    return (monotonic_ns() - began) / 1e9
