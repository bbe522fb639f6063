"""The model peer: a small TCP that works, and misbehaves on purpose. What it does when is drawn from a seed.

It keeps to the protocol as far as it must for a transfer to come to its end, if all its tricks are of the kind that
a stack has to live with (TRICKS). Those of the other kind (ENDS) are the end of the connection, one way or another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from torture.stream import Stream
from torture.wire import (
    ACK,
    FIN,
    MASK,
    PSH,
    RST,
    SYN,
    URG,
    Options,
    Segment,
    ahead,
    build,
    parse,
    read_options,
    write_options,
)

SECOND = 10**9
GARBAGE = bytes(range(7, 256, 11)) * 60

TRICKS = (
    "renege", "divide", "duplicate acks", "shrink", "zero", "stale", "bad sum", "rst", "syn", "urgent", "overlap",
    "tiny", "keepalive", "beyond", "ack old", "ack future", "sack lie", "sack junk", "flags", "optimistic", "forget",
    "delay acks", "swap", "old data",
)
ENDS = ("desync", "dead", "zero for ever", "other bytes", "exact rst", "early fin", "beyond fin", "no fin", "noise",
        "ignore fin", "one byte window")


@dataclass
class Plan:
    """One connection of the model peer: what it offers, how much it sends, and its tricks."""

    dice: Random
    out: Stream
    out_size: int
    tricks: tuple[str, ...]
    mischief: int                       # how many tricks it will do, beside those that are always on
    mss: int | None = 1460
    wscale: int | None = None
    sack: bool = True
    ts: bool = True
    window: int = 65535
    pace: float = 0.5                   # seconds between tricks, on average
    end: str = ""                       # one of ENDS
    end_after: float = 1.0


@dataclass
class Conn:
    """A connection of the model peer. Offsets count from the first byte of a stream, numbers are on the wire."""

    peer: ModelPeer
    local: tuple[bytes, int]
    remote: tuple[bytes, int]
    plan: Plan
    iss: int = 0
    irs: int = 0
    state: str = "closed"               # closed, opening, answering, open, over
    mss: int = 536
    use_ts: bool = False
    use_sack: bool = False
    scale_in: int = 0                   # of windows that come
    scale_out: int = 0
    # sender, as offsets
    una: int = 0
    nxt: int = 0
    top: int = 0                        # the highest that nxt has been
    most: int = 0                       # the highest offset ever sent, beyond the window too
    edge: int = 0                       # what the stack's window allows
    # receiver
    got: int = 0
    early: list[tuple[int, int]] = field(default_factory=list)
    seen: int = 0                       # the highest offset that came by
    fin_at: int | None = None
    fin_got: bool = False
    fin_sent: bool = False
    fin_acked: bool = False
    # time
    now: int = 0
    rto_at: int | None = None
    rto: int = SECOND // 3
    trick_at: int | None = None
    end_at: int | None = None
    ack_at: int | None = None
    zero_until: int = 0
    shrunk: int = 0
    shift: int = 0                      # by what the numbers are off, once desynchronised
    last_ts: int = 0
    tries: int = 0
    reset: bool = False
    acked_before: int = 0

    # --- sending segments -----------------------------------------------------------------------------------------

    def window(self) -> int:
        """What is offered now, in bytes."""
        if self.plan.end == "zero for ever" and self.ended:
            return 0
        if self.now < self.zero_until:
            return 0
        if self.plan.end == "one byte window" and self.ended:
            return 1
        return max(0, self.plan.window - self.shrunk)

    @property
    def ended(self) -> bool:
        """Whether the last trick has begun."""
        return self.end_at is not None and self.now >= self.end_at

    def tsval(self) -> int:
        """A clock in ms."""
        return self.now // 1_000_000 + 1000

    def emit(
        self, flags: int, offset: int, data: bytes = b"", *, ack: int | None = None,
        sack: tuple[tuple[int, int], ...] = (), tsval: int | None = None, spoil: int = 0, urgent: int = 0,
        window: int | None = None,
    ) -> None:
        """A segment at an offset of our stream; it acknowledges `ack` bytes, or what came."""
        acked = self.got + (1 if self.fin_got else 0) if ack is None else ack
        blocks = tuple((self.irs + 1 + a & MASK, self.irs + 1 + b & MASK) for a, b in sack)
        options = write_options(Options(
            ts=(self.tsval() if tsval is None else tsval, self.last_ts) if self.use_ts else None,
            sack=blocks if self.use_sack else ()))
        shown = self.window() if window is None else window
        self.peer.out.append(build(Segment(
            self.local[0], self.remote[0], self.local[1], self.remote[1], self.iss + 1 + offset + self.shift & MASK,
            self.irs + 1 + acked + self.shift & MASK if flags & ACK else 0, flags,
            min(65535, shown >> self.scale_out), data, options), urgent=urgent, spoil=spoil))

    def emit_ack(self, **more: Any) -> None:
        """A bare ACK: its number lies behind all that was sent, or it would not be heard."""
        self.emit(ACK, self.top + (1 if self.fin_sent else 0), **more)

    def emit_syn(self) -> None:
        """Our SYN, or SYN-ACK."""
        plan, answer = self.plan, self.state == "answering"
        options = write_options(Options(
            plan.mss, plan.wscale, plan.sack and (self.use_sack or not answer),
            (self.tsval(), self.last_ts) if plan.ts and (self.use_ts or not answer) else None))
        self.peer.out.append(build(Segment(
            self.local[0], self.remote[0], self.local[1], self.remote[1], self.iss,
            self.irs + 1 & MASK if answer else 0, SYN | ACK if answer else SYN, min(65535, plan.window), b"", options)))
        self.rto_at = self.now + SECOND * 2**self.tries
        self.tries += 1

    def blocks(self) -> tuple[tuple[int, int], ...]:
        """SACK blocks of what came early."""
        return tuple(self.early[:3])

    def ack(self) -> None:
        """Acknowledge what came, as the plan has it."""
        self.ack_at = None
        if "divide" in self.plan.tricks and self.got > self.acked_before:
            step = max(1, (self.got - self.acked_before) // self.plan.dice.randrange(2, 6))
            for at in range(self.acked_before + step, self.got, step):
                self.emit_ack(ack=at)
        self.emit_ack(sack=self.blocks())
        self.acked_before = self.got

    def send_at(self, offset: int, n: int, *, flags: int = 0, urgent: int = 0) -> None:
        """A piece of our stream."""
        n = min(n, self.plan.out_size - offset)
        if n > 0:
            self.emit(ACK | PSH | flags, offset, self.plan.out.at(offset, n), urgent=urgent)
            self.most = max(self.most, offset + n)

    def pump(self) -> None:
        """Send what the window takes, at most ten segments in flight."""
        if self.state != "open" or self.shift:
            return
        dice = self.plan.dice
        burst: list[tuple[int, int]] = []
        while self.nxt < min(self.plan.out_size, self.edge) and self.nxt - self.una < 10 * self.mss:
            n = min(self.mss, self.edge - self.nxt, self.plan.out_size - self.nxt)
            if "tiny" in self.plan.tricks and dice.random() < 0.3:
                n = min(n, dice.randrange(1, 20))
            burst.append((self.nxt, n))
            self.nxt += n
            self.top = max(self.top, self.nxt)
        if "swap" in self.plan.tricks:
            dice.shuffle(burst)
        for offset, n in burst:
            urgent = dice.randrange(65536) if "urgent" in self.plan.tricks and dice.random() < 0.2 else 0
            self.send_at(offset, n, flags=URG if urgent else 0, urgent=urgent)
        if self.nxt == self.plan.out_size and not self.fin_sent and self.plan.end != "no fin":
            self.fin_sent = True
            self.emit(ACK | FIN, self.nxt)
        closed = self.nxt < self.plan.out_size and self.edge <= self.nxt
        if (self.una < self.nxt or closed or (self.fin_sent and not self.fin_acked)) and self.rto_at is None:
            self.rto_at = self.now + self.rto

    # --- receiving ------------------------------------------------------------------------------------------------

    def arrives(self, s: Segment) -> None:
        """A segment of the stack."""
        o = read_options(s.options)
        if s.flags & RST:
            self.reset = True
            self.over()
            return
        if s.flags & SYN:
            self.arrives_syn(s, o)
            return
        if self.state in ("closed", "opening", "over") or (self.plan.end == "dead" and self.ended):
            if self.state == "over" and not self.reset and s.end != s.seq:
                self.emit_ack()                 # our last ACK was lost
            return
        if self.state == "answering":
            self.open()
        if o.ts:
            self.last_ts = o.ts[0]
        self.take_ack(s)
        if self.state == "open":
            self.take_text(s)
            self.pump()

    def arrives_syn(self, s: Segment, o: Options) -> None:
        """The first segment, or the first again."""
        plan = self.plan
        if self.state not in ("closed", "opening", "answering"):
            self.emit_ack()
            return
        if s.flags & ACK and s.ack != self.iss + 1 & MASK:
            return
        self.irs = s.seq
        self.mss = min(o.mss or 536, plan.mss or 1460, 1400)
        if not plan.mss or plan.mss < 48:
            self.mss = min(o.mss or 536, 1400)
        self.use_ts, self.use_sack = plan.ts and o.ts is not None, plan.sack and o.sack_permitted
        if self.use_ts:
            self.mss -= 12
        if plan.wscale is not None and o.wscale is not None:
            self.scale_in, self.scale_out = min(14, o.wscale), min(14, plan.wscale)
        if o.ts:
            self.last_ts = o.ts[0]
        self.edge = s.window
        if s.flags & ACK:
            self.open()
            self.ack()
            self.pump()
        else:
            self.state = "answering"
            self.tries = 0
            self.emit_syn()

    def open(self) -> None:
        """The handshake is over: tricks begin."""
        self.state = "open"
        self.rto_at = None
        self.trick_at = self.now + round(self.plan.dice.expovariate(1 / self.plan.pace) * SECOND)
        if self.plan.end:
            self.end_at = self.now + round(self.plan.end_after * SECOND)

    def over(self) -> None:
        """Nothing more."""
        self.state = "over"
        self.rto_at = self.trick_at = self.ack_at = self.end_at = None

    def take_ack(self, s: Segment) -> None:
        """What the stack acknowledges, and its window."""
        ack = ahead(s.ack, self.iss + 1 + self.shift)
        if not 0 <= ack <= self.most + (1 if self.fin_sent else 0):
            return
        self.edge = max(self.edge, ack + (s.window << self.scale_in))
        if self.fin_sent and ack == self.plan.out_size + 1:
            self.fin_acked = True
            ack -= 1
        if ack > self.una:
            self.una = ack
            self.nxt = max(self.nxt, ack)
            self.top = max(self.top, ack)
            self.rto = SECOND // 3
            self.rto_at = None
        if self.fin_acked:
            self.rto_at = None
            if self.fin_got:
                self.over()

    def take_text(self, s: Segment) -> None:
        """What the stack sends: only places count, the bytes are looked at on the wire."""
        start = ahead(s.seq, self.irs + 1 + self.shift)
        end = start + len(s.data)
        if s.flags & FIN and not (self.plan.end == "ignore fin" and self.ended):
            self.fin_at = end
        if s.data:
            self.seen = max(self.seen, end)
        if not s.data and not s.flags & FIN:
            if start < self.got:
                self.emit_ack()                 # a probe
            return
        fresh = end > self.got
        if "forget" in self.plan.tricks and fresh and self.plan.dice.random() < 0.05:
            return
        if s.data and fresh and start <= self.got + max(self.plan.window, 1) + 65535:
            self.early = merge([*self.early, (max(start, self.got), end)])
            if self.early and self.early[0][0] <= self.got:
                self.got = self.early.pop(0)[1]
        if self.fin_at is not None and self.got >= self.fin_at:
            self.fin_got = True
        if "delay acks" in self.plan.tricks and not self.early and not self.fin_got:
            if self.ack_at is None:
                self.ack_at = self.now + round(self.plan.dice.random() * 0.5 * SECOND)
        else:
            self.ack()
        if self.fin_got and self.fin_acked:
            self.state = "over" if not s.data else self.state

    # --- time -----------------------------------------------------------------------------------------------------

    def deadline(self) -> int | None:
        """When something is due."""
        times = [t for t in (self.rto_at, self.trick_at, self.ack_at, self.end_at) if t is not None and t > self.now]
        if self.state == "open" and self.now < self.zero_until:
            times.append(self.zero_until)
        return min(times, default=None)

    def advance(self, now: int) -> None:
        """What is due by now."""
        before, self.now = self.now, now
        if self.state == "open" and before < self.zero_until <= now:
            self.ack()
        if self.ack_at is not None and self.ack_at <= now:
            self.ack()
        if self.end_at is not None and before < self.end_at <= now:
            self.begin_end()
        if self.trick_at is not None and self.trick_at <= now:
            self.trick_at = None
            if self.plan.mischief > 0 and self.state == "open" and not (self.ended and self.plan.end == "dead"):
                self.plan.mischief -= 1
                self.trick(self.plan.dice.choice(self.plan.tricks) if self.plan.tricks else "")
                self.trick_at = now + round(self.plan.dice.expovariate(1 / self.plan.pace) * SECOND)
            elif self.shrunk and self.state == "open":
                self.shrunk = 0
                self.ack()
        if self.rto_at is not None and self.rto_at <= now:
            self.rto_at = None
            self.timeout()

    def timeout(self) -> None:
        """Go back to what is unacknowledged."""
        if self.state in ("opening", "answering"):
            if self.tries > 8:
                self.over()
            else:
                self.emit_syn()
            return
        if self.state != "open" or (self.plan.end == "dead" and self.ended):
            return
        self.tries += 1
        self.rto = min(2 * self.rto, 20 * SECOND)
        self.rto_at = self.now + self.rto
        if self.una < self.nxt:
            self.nxt = self.una
            self.pump()
        elif self.fin_sent and not self.fin_acked:
            self.emit(ACK | FIN, self.plan.out_size)
        elif self.edge <= self.nxt < self.plan.out_size:
            self.emit(ACK, self.una - 1)        # a probe of a closed window
        else:
            self.rto_at = None

    # --- tricks ---------------------------------------------------------------------------------------------------

    def trick(self, name: str) -> None:
        """Do one."""
        self.peer.faults += 1
        dice = self.plan.dice
        span = dice.random()
        if name == "renege":
            self.early.clear()
        elif name == "duplicate acks":
            for _ in range(dice.randrange(1, 20)):
                self.emit_ack()
        elif name == "shrink":
            self.shrunk = 0 if self.shrunk else dice.randrange(self.plan.window + 1)
            self.ack()
        elif name == "zero":
            self.zero_until = self.now + round(span * dice.choice((1, 10, 300)) * SECOND)
            self.ack()
        elif name == "overlap":
            start = dice.randrange(max(1, self.most))
            self.send_at(start, min(dice.randrange(1, 3 * self.mss), self.mss, max(0, self.most - start)))
        elif name == "old data":
            start = dice.randrange(max(1, self.una))
            self.send_at(start, min(dice.randrange(1, self.mss + 1), self.most - start))
        elif name == "tiny":
            places = sorted(dice.sample(range(self.una, max(self.una + 40, self.edge)), 20))
            for at in places if dice.random() < 0.5 else reversed(places):
                if at < min(self.edge, self.plan.out_size):
                    self.send_at(at, 1)
        elif name == "beyond":
            self.send_at(min(self.edge + dice.randrange(10), self.plan.out_size), self.mss)
        elif name == "optimistic":
            if self.seen > self.got:
                self.got, self.early = self.seen, []
            self.ack()
        else:
            self.trick_with_a_segment(name)

    def trick_with_a_segment(self, name: str) -> None:
        """Those that are one odd segment, which must not change anything."""
        dice = self.plan.dice
        n = dice.randrange(1, self.mss + 1)
        if name == "stale" and self.use_ts:
            self.emit(ACK, self.nxt, GARBAGE[:n], tsval=1)
        elif name == "bad sum":
            self.emit(ACK, self.nxt, GARBAGE[:n], spoil=dice.randrange(1, 65535))
        elif name == "rst":
            self.emit(RST | ACK, self.most + 2 + dice.randrange(max(1, self.edge - self.most)))
        elif name == "syn":
            self.emit(SYN | ACK * dice.randrange(2), self.nxt + dice.choice((-1, 0, 5, 10**6, 10**9)))
        elif name == "keepalive":
            self.emit(ACK, self.una - 1, GARBAGE[: dice.randrange(2)])
        elif name == "ack old":
            self.emit_ack(ack=self.got - dice.choice((1, 1000, 10**7, 2**30)))
        elif name == "ack future":
            self.emit(ACK, self.nxt, GARBAGE[:n], ack=self.seen + 2 + dice.choice((0, 1000, 10**6, 2**30)) + 10**7)
        elif name == "sack lie":
            start = self.got + dice.randrange(1, 5000)
            self.emit_ack(sack=((start, start + dice.randrange(1, 20000)),))
        elif name == "sack junk":
            self.emit_ack(sack=tuple(
                (self.got + dice.randrange(-10**5, 10**5), self.got + dice.randrange(-10**5, 10**5)) for _ in range(3)))
        elif name == "flags":
            flags = dice.choice((0, PSH, URG, FIN, FIN | URG | PSH, SYN | FIN, SYN | FIN | ACK, SYN | RST, FIN | PSH))
            self.emit(flags, self.most + 2 if flags & RST else self.nxt, GARBAGE[:n])

    def begin_end(self) -> None:
        """The trick that is the connection's end begins."""
        self.peer.faults += 1
        dice, end = self.plan.dice, self.plan.end
        if end == "desync":
            self.shift = dice.choice((1, -1)) * dice.choice((1, 1000, 10**6, 2**30))
            for _ in range(5):
                self.emit(ACK, self.nxt, GARBAGE[: dice.randrange(2)])
        elif end == "zero for ever":
            self.ack()
        elif end == "other bytes":
            for _ in range(20):
                start = self.una + dice.randrange(0, 3 * self.mss)
                n = min(self.plan.out_size - start, dice.randrange(1, self.mss + 1), self.edge - start)
                if n > 0:
                    self.emit(ACK, start, other(self.plan.out.at(start, n)))
                    self.most = max(self.most, start + n)
        elif end == "exact rst":
            self.emit(RST, self.una)
            self.emit(RST, self.nxt)
        elif end in ("early fin", "beyond fin"):
            self.emit(ACK | FIN, self.nxt, b"")
            if end == "beyond fin":
                self.emit(ACK | PSH, self.nxt, self.plan.out.at(self.nxt, 100))
                self.emit(ACK | PSH | FIN, self.nxt + 1, self.plan.out.at(self.nxt + 1, 300))
        elif end == "noise":
            for _ in range(dice.randrange(20, 200)):
                self.emit(
                    dice.randrange(256), self.nxt + dice.randrange(-1000, 5000), GARBAGE[: dice.randrange(300)],
                    ack=self.got + dice.randrange(-500, 5000), window=dice.randrange(1 << 20))


def other(data: bytes) -> bytes:
    """Bytes that differ from these everywhere."""
    return bytes(b ^ 0xFF for b in data)


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Disjoint, ascending."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


class ModelPeer:
    """A Machine (ustack.sim) with connections that follow plans: it answers those that come to it, and opens some."""

    def __init__(self, address: bytes, dice: Random):
        self.address = address
        self.dice = dice
        self.now = 0
        self.faults = 0
        self.out: list[bytes] = []
        self.conns: dict[tuple[bytes, int, int], Conn] = {}
        self.plans: dict[int, Plan] = {}        # of connections that will come, by our port
        self.silent = False

    def listen(self, port: int, plan: Plan) -> None:
        """Answer a connection to this port according to a plan."""
        self.plans[port] = plan

    def connect(self, remote: tuple[bytes, int], port: int, plan: Plan) -> Conn:
        """Open a connection from this port of ours."""
        conn = Conn(self, (self.address, port), remote, plan, iss=self.dice.randrange(1 << 32), now=self.now)
        self.conns[remote[0], remote[1], port] = conn
        conn.state = "opening"
        conn.emit_syn()
        return conn

    # --- a Machine ------------------------------------------------------------------------------------------------

    def receive(self, now_ns: int, packet: bytes) -> None:
        """See ustack.sim.Machine."""
        s = parse(packet)
        if s is None or self.silent:
            return
        key = s.src, s.sport, s.dport
        conn = self.conns.get(key)
        if conn is None:
            plan = self.plans.get(s.dport)
            if plan is None or s.flags & (SYN | ACK) != SYN:
                return
            conn = self.conns[key] = Conn(
                self, (s.dst, s.dport), (s.src, s.sport), plan, iss=self.dice.randrange(1 << 32), now=self.now)
        conn.arrives(s)

    def take(self) -> list[bytes]:
        """See ustack.sim.Machine."""
        out, self.out = self.out, []
        return [] if self.silent else out

    def deadline_ns(self) -> int | None:
        """See ustack.sim.Machine."""
        if self.silent:
            return None
        if self.out:
            return self.now
        return min((t for c in self.conns.values() if (t := c.deadline()) is not None), default=None)

    def advance_to(self, now_ns: int) -> None:
        """See ustack.sim.Machine."""
        self.now = now_ns
        if not self.silent:
            for conn in self.conns.values():
                conn.advance(now_ns)
