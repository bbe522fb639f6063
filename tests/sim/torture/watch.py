"""What must hold: of every packet that a stack sends, and of every stack after every event."""

from __future__ import annotations

from ipaddress import ip_address

from torture.stream import Stream
from torture.wire import ACK, FIN, MASK, RST, SYN, Segment, ahead, parse, read_options
from ustack import sim

Key = tuple[bytes, int, bytes, int]
STILL = 20_000              # events at one instant that are no progress any more
HORIZON = 3 * 3600 * 10**9  # no timer is set for later than this


class Broken(AssertionError):
    """Something that must hold does not."""


class Half:
    """One direction of a connection, as seen on the wire."""

    def __init__(self, iss: int, wscale: int | None):
        self.iss = iss
        self.wscale = wscale
        self.fresh = True               # its SYN has not been answered
        self.sent = iss + 1 & MASK      # behind the highest number sent
        self.edge: int | None = None    # the right edge of the window that it has offered, at its farthest
        self.ack: int | None = None     # the highest that it has acknowledged
        self.before: int | None = None  # `sent` of the incarnation before, which its peer may still acknowledge


class Watch:
    """Looks at all packets of a network, and at its stacks; raises Broken.

    Of a stack: the window's edge and the acknowledgement never go back, nothing is acknowledged that was not sent,
    no data is sent beyond the window, and every byte sent, also when it is sent again, is the one of its stream.
    """

    def __init__(self, net: sim.Network, *, honest: set[str]):
        self.net = net
        self.honest = honest            # the hosts that are stacks
        self.halves: dict[Key, Half] = {}
        self.streams: dict[Key, Stream] = {}
        self.still = 0
        self.last_ns = -1
        self.bytes = 0
        net.watch = self.packet

    def expect(self, source: tuple[str, int], sink: tuple[str, int], stream: Stream) -> None:
        """What goes from one endpoint to the other from now on is this stream."""
        self.streams[ip_address(source[0]).packed, source[1], ip_address(sink[0]).packed, sink[1]] = stream

    # --- packets --------------------------------------------------------------------------------------------------

    def packet(self, packet: sim.Packet) -> None:
        """A host has sent this."""
        s = parse(packet.data)
        if s is None or s.flags & RST:
            return
        key, other = (s.src, s.sport, s.dst, s.dport), (s.dst, s.dport, s.src, s.sport)
        half, peer = self.halves.get(key), self.halves.get(other)
        if s.flags & SYN:
            self.note_syn(key, half, peer, s, packet.source in self.honest)
        elif half is not None and peer is not None:
            shift = half.wscale if half.wscale is not None and peer.wscale is not None else 0
            edge = s.ack + (s.window << shift) & MASK
            if packet.source in self.honest:
                self.check(key, half, peer, s, edge)
            if ahead(s.end, half.sent) > 0:
                half.sent = s.end
            if ahead(s.ack, peer.sent) > 0:
                return                      # a trick of a model peer: it counts for nothing
            if half.edge is None or ahead(edge, half.edge) > 0:
                half.edge = edge
            if half.ack is None or ahead(s.ack, half.ack) > 0:
                half.ack = s.ack

    def note_syn(self, key: Key, half: Half | None, peer: Half | None, s: Segment, honest: bool) -> None:
        """A new incarnation, or the SYN of this one again."""
        if not honest and half is not None and not half.fresh:
            return                      # one of the tricks of a model peer
        if half is None or half.iss != s.seq:
            scale = read_options(s.options).wscale
            before = None if half is None else half.sent
            half = self.halves[key] = Half(s.seq, scale if scale is None else min(scale, 14))
            half.before = before
        if s.flags & ACK:
            half.fresh = False
            if peer is not None:
                peer.fresh = False
            half.edge = s.ack + s.window & MASK

    def check(self, key: Key, half: Half, peer: Half, s: Segment, edge: int) -> None:
        """A segment of a stack."""
        if half.edge is not None and ahead(edge, half.edge) < 0:
            raise Broken(f"the window's edge went back by {-ahead(edge, half.edge)}: {s}")
        if half.ack is not None and ahead(s.ack, half.ack) < 0:
            raise Broken(f"the acknowledgement went back by {-ahead(s.ack, half.ack)}: {s}")
        if not peer.fresh and ahead(s.ack, peer.sent) > 0 and s.ack != peer.before:
            raise Broken(f"acknowledges {ahead(s.ack, peer.sent)} more than was sent: {s}")
        n = len(s.data)
        if not n:
            return
        self.bytes += n
        if peer.edge is not None and ahead(s.seq + n, peer.edge) > 0:
            raise Broken(f"{ahead(s.seq + n, peer.edge)} bytes beyond the window: {s}")
        stream = self.streams.get(key)
        if stream is not None and stream.at(ahead(s.seq, half.iss + 1), n) != s.data:
            raise Broken(f"other bytes than those of the stream at {ahead(s.seq, half.iss + 1)}: {s}")
        if s.flags & FIN and ahead(s.end, half.sent) < 0:
            raise Broken(f"the stream ends earlier than before: {s}")

    # --- stacks ---------------------------------------------------------------------------------------------------

    def stacks(self) -> None:
        """After every event."""
        now = self.net.now_ns
        self.still = self.still + 1 if now == self.last_ns else 0
        self.last_ns = now
        if self.still > STILL:
            raise Broken(f"{STILL} events, and time stands still")
        for name in self.honest:
            stack = self.net.hosts[name].stack
            memory = stack.memory()
            if memory["budget"] and memory["held"] > memory["budget"]:
                raise Broken(f"{name} holds {memory['held']} bytes, the budget is {memory['budget']}")
            due = stack.deadline_ns()
            if due is not None and due > now + HORIZON:
                raise Broken(f"{name} has a timer that is due in {(due - now) / 1e9} s")

    def emptiness(self) -> None:
        """When all is over: nothing is held, nothing is due, nobody is left."""
        for name in self.honest:
            stack = self.net.hosts[name].stack
            if stack.memory()["live"] or stack.memory()["held"]:
                raise Broken(f"{name} has not given back everything: {stack.memory()}")
            if stack.sockets():
                raise Broken(f"{name} still has connections: {stack.sockets()}")
            if stack.deadline_ns() is not None:
                raise Broken(f"{name} is not idle: due in {(stack.deadline_ns() or 0) - self.net.now_ns} ns")
