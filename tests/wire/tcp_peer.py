"""One TCP connection with scapy at the other end; numbers are relative to the initial sequence numbers."""

from __future__ import annotations

import errno
import itertools
import socket

from oracle import PEER, Wire, ip
from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw

PORT = 80
ports = itertools.count(20000)


class Peer:
    """The other end of one connection: ``sock`` is ours. ``seq`` 0 is the peer's SYN, ``ack`` 0 is ours."""

    def __init__(self, wire: Wire, sport: int, dport: int, iss: int = 0x7FFFFFF0) -> None:
        self.wire = wire
        self.sport, self.dport = sport, dport
        self.iss = iss
        self.their_iss = 0
        self.sock: socket.socket | None = None

    def segment(self, flags: str, seq: int, ack: int | None = None, data: bytes = b"", **more: object) -> Packet:
        """A segment with these numbers; ``ack`` None leaves the field 0."""
        fields = {"sport": self.sport, "dport": self.dport, "flags": flags, "window": 65535,
                  "seq": self.iss + seq & 0xFFFFFFFF,
                  "ack": 0 if ack is None else self.their_iss + ack & 0xFFFFFFFF} | more
        p = ip(TCP(**fields))
        return p / Raw(data) if data else p

    def ask(self, flags: str, seq: int, ack: int | None = None, data: bytes = b"", **more: object) -> list[tuple]:
        """Send a segment; what the stack answers at once, see :meth:`read`."""
        return self.read(self.wire.ask(self.segment(flags, seq, ack, data, **more)))

    def after(self, seconds: float) -> list[tuple]:
        return self.read(self.wire.after(seconds))

    def drain(self) -> list[tuple]:
        return self.read(self.wire.drain())

    def read(self, packets: list[Packet]) -> list[tuple]:
        """(flags, seq, ack, data) of each packet of this connection."""
        return [
            (str(p[TCP].flags), p[TCP].seq - self.their_iss & 0xFFFFFFFF, p[TCP].ack - self.iss & 0xFFFFFFFF,
             bytes(p[TCP].payload))
            for p in packets if TCP in p and (p[TCP].dport, p[TCP].sport) == (self.sport, self.dport)
        ]

    def reset(self) -> None:
        """End it without traces."""
        if self.sock is not None and "[closed]" not in repr(self.sock):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.sock.close()
        self.wire.drain()


def opened_by_peer(wire: Wire, listener: socket.socket, options: list | None = None) -> Peer:
    """ESTABLISHED: scapy connected to ``listener``, and we accepted."""
    peer = Peer(wire, next(ports), listener.getsockname()[1])
    [answer] = wire.ask(peer.segment("S", 0, options=options or [("MSS", 1460)]))
    assert str(answer[TCP].flags) == "SA"
    assert answer[TCP].ack == peer.iss + 1 & 0xFFFFFFFF
    peer.their_iss = answer[TCP].seq
    wire.send(peer.segment("A", 1, 1))
    peer.sock, _ = listener.accept()
    return peer


def opened_by_us(wire: Wire, options: list | None = None) -> Peer:
    """ESTABLISHED: we connected to scapy."""
    s = wire.net.socket()
    assert s.connect_ex((PEER, PORT)) == errno.EINPROGRESS
    [syn] = [p for p in wire.drain() if TCP in p]
    assert str(syn[TCP].flags) == "S"
    peer = Peer(wire, PORT, syn[TCP].sport)
    peer.their_iss = syn[TCP].seq
    peer.sock = s
    assert peer.ask("SA", 0, 1, options=options or [("MSS", 1460)]) == [("A", 1, 1, b"")]
    return peer
