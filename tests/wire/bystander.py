"""A stack under attack, and a transfer that goes on meanwhile: every attack has to leave it alone.

    with Attacked() as a:
        for packet in ...:
            a.attack(packet)        # bytes, to the victim's interface; answers are in a.answers
    # at the end: the transfer has moved, both ways, exactly, and the victim holds no more memory than allowed

Time is virtual and moves a millisecond in every ``PACE`` packets, in which the transfer moves, too.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable
from typing import Self

from oracle import OUR_MAC, OURS, PEER, SECOND

import ustack

FRIEND, FRIEND_MAC = "10.9.0.9", "02:00:00:00:00:09"
OURS6, PEER6, FRIEND6 = "fd00::2", "fd00::1", "fd00::9"
SERVICE, FRIEND_PORT = 7, 30007
PACE = 64
CHUNK = 40_000
PATTERN = random.Random(7).randbytes(1 << 18)


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def raw_ip(payload: bytes, proto: int = 6, src: str = PEER, dst: str = OURS, ident: int = 0, frag: int = 0,
           ttl: int = 64, options: bytes = b"") -> bytes:
    """An IP packet; ``frag`` is the whole field: flags, and the offset in units of 8 bytes."""
    head = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), ident, frag, ttl,
                       proto, 0, socket.inet_aton(src), socket.inet_aton(dst)) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def raw_tcp(sport: int, dport: int, flags: int, seq: int, ack: int = 0, data: bytes = b"", window: int = 65535,
            options: bytes = b"", urgent: int = 0, src: str = PEER, dst: str = OURS, spoil: int = 0,
            offset: int | None = None) -> bytes:
    """An IP packet with a segment. Flags: F 1, S 2, R 4, P 8, A 16, U 32. ``spoil`` is added to the checksum."""
    words = 5 + len(options) // 4 if offset is None else offset
    tcp = struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, words << 4, flags, window, 0,
                      urgent) + options + data
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, 6, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp) ^ spoil) + tcp[18:]
    return raw_ip(tcp, 6, src, dst)


def address6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def raw_ip6(payload: bytes, proto: int = 6, src: str = PEER6, dst: str = OURS6, hops: int = 64,
            length: int | None = None) -> bytes:
    """A packet of IPv6; extension headers are the payload's."""
    return struct.pack("!IHBB", 6 << 28, len(payload) if length is None else length, proto, hops) + address6(
        src) + address6(dst) + payload


def summed6(payload: bytes, at: int, proto: int, src: str = PEER6, dst: str = OURS6) -> bytes:
    """The payload with its checksum, at ``at``."""
    pseudo = address6(src) + address6(dst) + struct.pack("!II", len(payload), proto)
    total = checksum(pseudo + payload[:at] + b"\0\0" + payload[at + 2:])
    return payload[:at] + struct.pack("!H", total) + payload[at + 2:]


def tcp6(sport: int, dport: int, flags: int, seq: int, ack: int = 0, data: bytes = b"", window: int = 65535,
         options: bytes = b"", src: str = PEER6, dst: str = OURS6) -> bytes:
    """A segment with its checksum, without a header of IPv6."""
    return summed6(struct.pack("!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
                               5 + len(options) // 4 << 4, flags, window, 0, 0) + options + data, 16, 6, src, dst)


class Reply:
    """A segment from the victim."""

    def __init__(self, packet: bytes) -> None:
        tcp = packet[20 if packet[0] >> 4 == 4 else 40:]
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.window = struct.unpack_from(
            "!HHIIBBH", tcp)
        self.data = tcp[(offset >> 4) * 4:]


class Attacked:
    """The victim is ``net`` at OURS on ``pipe``; the friend talks to it through the same interface. With ``version`` 6
    they are at OURS6 and FRIEND6."""

    def __init__(self, layer: int = 3, held: int = 16 << 20, listener: bool = True, version: int = 4,
                 **options: object) -> None:
        self.layer = layer
        self.family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.ours, self.peer, self.friendly = (OURS, PEER, FRIEND) if version == 4 else (OURS6, PEER6, FRIEND6)
        self.held = held
        clock = ustack.VirtualClock(SECOND)
        self.net = ustack.Stack(clock=clock, seed=1, **options)
        self.friend = ustack.Stack(clock=ustack.VirtualClock(SECOND), seed=2)
        self.pipe = ustack.Pipe(layer=layer, mac=OUR_MAC if layer == 2 else None)
        self.far = ustack.Pipe(layer=layer, mac=FRIEND_MAC if layer == 2 else None)
        prefix = "/24" if version == 4 else "/64"
        self.net.add_interface(self.pipe, addresses=[self.ours + prefix], gateway=self.peer)
        self.friend.add_interface(self.far, addresses=[self.friendly + prefix])
        self.answers: list[bytes] = []
        self.peak = 0
        self.count = 0
        self.moved = [0, 0]         # bytes that arrived: at the friend, at the victim
        self.sent = [0, 0]
        self.watch: Callable[[bytes], None] | None = None
        self.sockets = self.connect()
        self.listener = self.net.create_server((self.ours, 80), family=self.family) if listener else None

    def connect(self) -> list[socket.socket]:
        with self.net.create_server((self.ours, SERVICE), family=self.family) as server:
            client = self.friend.socket(self.family)
            client.bind((self.friendly, FRIEND_PORT))
            client.connect_ex((self.ours, SERVICE))
            self.carry()
            conn, _ = server.accept()
        return [conn, client]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.verify()
        finally:
            for s in [*self.sockets, *([self.listener] if self.listener else [])]:
                s.close()
            self.net.close(0)
            self.friend.close(0)

    # --- the friend
    def carry(self) -> None:
        """Packets between victim and friend, until both are silent; what is for others goes to ``answers``."""
        to_friend = socket.inet_pton(self.family, self.friendly)
        for _ in range(1000):
            moved = 0
            for _, raw in self.pipe.drain():
                mine = (to_friend in (raw[16:20], raw[24:40]) if self.layer == 3
                        else raw[:6] in (b"\2\0\0\0\0\x09", b"\xff" * 6))
                if mine:
                    moved += self.far.inject(raw)
                    if self.watch is not None:
                        self.watch(raw)
                if not mine or (raw[0] & 1 and self.layer == 2):
                    self.answers.append(raw)
            for _, raw in self.far.drain():
                moved += self.pipe.inject(raw)
            if not moved:
                return

    def write(self) -> None:
        for i, s in enumerate(self.sockets):
            at = self.sent[i] % len(PATTERN)
            with contextlib.suppress(BlockingIOError):
                self.sent[i] += s.send(PATTERN[at:at + CHUNK])

    def read(self) -> None:
        for i, s in enumerate(self.sockets):
            other = 1 - i
            while True:
                try:
                    data = s.recv(CHUNK)
                except BlockingIOError:
                    break
                assert data, "the transfer was closed"
                at = self.moved[other] % len(PATTERN)
                assert data == (PATTERN[at:] + PATTERN)[:len(data)], "the transfer was damaged"
                self.moved[other] += len(data)

    def step(self, seconds: float = 0.001) -> None:
        """Time passes, and the transfer moves."""
        self.write()
        self.carry()
        for net in (self.net, self.friend):
            net.advance_to(net.now_ns() + round(seconds * SECOND))
        self.carry()
        self.read()
        self.peak = max(self.peak, self.net.memory()["held"])

    def verify(self) -> None:
        before = list(self.moved)
        for _ in range(50):
            self.step(0.3)
        assert all(now > then for now, then in zip(self.moved, before, strict=True)), "the transfer stands still"
        assert min(self.moved) > 1_000_000
        assert self.peak <= self.held, f"{self.peak} bytes held"
        for s in self.sockets:
            assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    # --- the attacker
    def attack(self, *packets: bytes) -> None:
        for p in packets:
            self.pipe.inject(p)
            self.count += 1
            if self.count % PACE == 0:
                self.step()

    def replies(self) -> list[bytes]:
        """What the victim has answered, except to its friend, since the last time."""
        self.carry()
        out, self.answers = self.answers, []
        return out

    def open(self, sport: int, src: str = PEER, options: bytes = b"\2\4\5\xb4", window: int = 65535, iss: int = 1000,
             ) -> tuple[socket.socket, int]:
        """A connection of the attacker's own to the listener: (our socket, our initial number)."""
        assert self.listener is not None
        self.replies()
        self.attack(raw_tcp(sport, 80, 2, iss, options=options, window=window, src=src))
        [answer] = [r for r in map(Reply, self.replies()) if r.dport == sport]
        self.attack(raw_tcp(sport, 80, 16, iss + 1, answer.seq + 1, window=window, src=src))
        self.carry()
        conn, _ = self.listener.accept()
        return conn, answer.seq
