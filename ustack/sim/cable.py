"""Point-to-point links of a simulated network, and what they do to packets."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ustack.sim.apps import SECOND

if TYPE_CHECKING:
    from ustack.sim import Host


class Port(Protocol):
    """An end of a cable, as the network sees it: a Pipe of a stack, or what stands in for one."""

    def inject(self, packet: bytes, /) -> bool:
        """A packet arrives."""

    def drain(self) -> list[tuple[int, bytes]]:
        """What the host has sent: (time in ns, packet)."""


class Packet(NamedTuple):
    """One packet that a host sent: when (ns), from and to which host, its bytes, and what became of it.

    fate: "" for nothing special, or words out of lost, cut, full, big, duplicated, corrupted, late; joined by commas.
    """

    time_ns: int
    source: str
    sink: str
    data: bytes
    fate: str


class Way:
    """One direction of a cable: its dice, and what is on it."""

    def __init__(self, cable: Cable, source: Host, sink: Host, dice: Random):
        self.cable = cable
        self.source = source
        self.sink = sink
        self.out: Port                  # the source's end
        self.into: Port                 # the sink's
        self.dice = dice
        self.free_ns = 0                # when the last bit of what was sent has left
        self.last_ns = 0                # when the last packet that was not held back arrives


class Cable:
    """A point-to-point link for IP packets between two hosts; made by ``Network.link``, which explains the values.

    Every attribute may be changed while the network runs. ``counts``: what became of the packets, by fate.
    """

    def __init__(
        self, a: Host, b: Host, loss: float, duplicate: float, reorder: float, corrupt: float, delay: float,
        jitter: float, rate: float | None, mtu: int, queue: int,
    ):
        self.a = a
        self.b = b
        self.loss = loss
        self.duplicate = duplicate
        self.reorder = reorder
        self.corrupt = corrupt
        self.delay = delay
        self.jitter = jitter
        self.rate = rate
        self.mtu = mtu
        self.queue = queue
        self.up = True
        self.silent = False             # no word to the sender of a packet that is too large
        self.counts: Counter[str] = Counter()
        self.filter: Callable[[Host, bytes], bytes | None] | None = None

    def __repr__(self) -> str:
        return f"<Cable {self.a.name}-{self.b.name}>"

    def cut(self) -> None:
        """From now on every packet is lost, in both directions; what is under way still arrives."""
        self.up = False

    def mend(self) -> None:
        """Undo ``cut``."""
        self.up = True

    def _notice(self, way: Way, data: bytes) -> bytes | None:
        """What a router says of a packet that is too large: fragmentation needed (RFC 1191 4), or packet too big (RFC
        4443 3.2). None: nothing."""
        if self.silent:
            return None
        if data[0] >> 4 == 6:
            return self._notice6(data)
        quote = data[:28]
        body = struct.pack("!BBHHH", 3, 4, 0, 0, self.mtu) + quote
        body = body[:2] + struct.pack("!H", _checksum(body)) + body[4:]
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0, data[16:20], data[12:16])
        return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body

    def _notice6(self, data: bytes) -> bytes:
        addresses = data[24:40] + data[8:24]
        body = struct.pack("!BBHI", 2, 0, 0, self.mtu) + data[:1232] + bytes(len(data[:1232]) % 2)
        body = body[:2] + struct.pack("!H", _checksum(addresses + struct.pack("!II", len(body), 58) + body)) + body[4:]
        return struct.pack("!IHBB", 0x60000000, len(body), 58, 64) + addresses + body

    def _carry(self, way: Way, now: int, data: bytes) -> tuple[str, list[tuple[int, bytes]]]:
        """What becomes of a packet: its fate, and (when, bytes) of what arrives. The dice are rolled in any case, so
        that changing one probability does not shift the others."""
        lost, doubled, late, broken, where, slow = (way.dice.random() for _ in range(6))
        if not self.up:
            return "cut", []
        if self.filter is not None:
            changed = self.filter(way.source, data)
            if changed is None:
                return "lost", []
            data = changed
        if len(data) > self.mtu:
            return "big", []
        leaves = now
        if self.rate:
            bits = len(data) * 8 * SECOND
            if way.free_ns - now > self.queue * bits / self.rate:
                return "full", []
            leaves = way.free_ns = max(now, way.free_ns) + round(bits / self.rate)
        if lost < self.loss:
            return "lost", []
        fate = []
        if broken < self.corrupt:
            fate.append("corrupted")
            data = _flip(data, int(where * len(data) * 8))
        arrives = leaves + round((self.delay + slow * self.jitter) * SECOND)
        if late < self.reorder:
            # Held back by up to three times what a packet needs, at least a millisecond.
            fate.append("late")
            arrives += round((0.001 + 3 * (self.delay + self.jitter)) * (late / self.reorder) * SECOND)
        else:
            arrives = way.last_ns = max(arrives, way.last_ns)
        if doubled < self.duplicate:
            fate.append("duplicated")
            again = arrives + round((0.001 + self.delay) * (doubled / self.duplicate) * SECOND)
            return ",".join(fate), [(arrives, data), (again, data)]
        return ",".join(fate), [(arrives, data)]


def _checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _flip(data: bytes, bit: int) -> bytes:
    """One bit changed: what every checksum finds."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
