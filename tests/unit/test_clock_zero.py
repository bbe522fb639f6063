"""A stack whose clock starts at 0 answers as it would at any other time: 0 is no special moment."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP

import ustack

US, PEER = "10.0.0.1", "10.0.0.2"
MS = 1_000_000


class Wire:
    """A stack on a pipe of IP packets, with a listener on port 80."""

    def __init__(self, start_ns: int):
        self.stack = ustack.Stack(clock=ustack.VirtualClock(start_ns), seed=1)
        self.pipe = ustack.Pipe(layer=3)
        self.stack.add_interface(self.pipe, US + "/24")
        self.listener = self.stack.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setblocking(False)
        self.listener.bind((US, 80))
        self.listener.listen()

    def send(self, **fields: int | str) -> list[IP]:
        self.pipe.inject(bytes(IP(src=PEER, dst=US) / TCP(**{"sport": 4000, "dport": 80, **fields})))
        return self.drain()

    def drain(self) -> list[IP]:
        self.stack.poll()
        return [IP(packet) for _, packet in self.pipe.drain()]


@pytest.fixture(params=[0, 5_000_000_000])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    wire = Wire(request.param)
    with wire.stack, wire.listener:
        yield wire


def test_closed_port_is_reset_at_once(wire: Wire):
    for i in range(20):
        (answer,) = wire.send(dport=9, flags="S", seq=i)
        assert (str(answer[TCP].flags), answer[TCP].ack) == ("RA", i + 1)


def test_challenge_ack_at_once(wire: Wire):
    (synack,) = wire.send(flags="S", seq=0)
    ours = synack[TCP].seq + 1
    assert wire.send(flags="A", seq=1, ack=ours) == []
    for fields in ({"flags": "S", "seq": 10}, {"flags": "R", "seq": 10}, {"flags": "A", "seq": 1, "ack": ours + 5}):
        (answer,) = wire.send(**fields)
        assert (str(answer[TCP].flags), answer[TCP].seq, answer[TCP].ack) == ("A", ours, 1)


def test_handshake_is_timed(wire: Wire):
    """RFC 6298 2.2: the SYN is the first measurement, so the first time-out of data is that and 200 ms, not 1 s."""
    (synack,) = wire.send(flags="S", seq=0)
    wire.send(flags="A", seq=1, ack=synack[TCP].seq + 1)
    conn, _ = wire.listener.accept()
    with conn:
        conn.send(b"x")
        assert len(wire.drain()) == 1
        now = wire.stack.now_ns()
        wire.stack.advance_to(now + 199 * MS)
        assert wire.drain() == []
        wire.stack.advance_to(now + 201 * MS)
        assert len(wire.drain()) == 1
