"""Worlds: hosts, links, applications and faults, all of it drawn from one seed; and playing them."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random
from typing import Any

from torture.peer import ENDS, TRICKS, ModelPeer, Plan, other
from torture.stream import Stream
from torture.watch import Broken, Watch
from torture.wire import describe
from ustack import sim
from ustack.socket import (
    IPPROTO_TCP,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_RCVBUF,
    SO_SNDBUF,
    SOL_SOCKET,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
    socket,
)

MTUS = (88, 296, 576, 1280, 1500, 1500, 1500, 9000, 65535)
LIMIT = 100_000.0           # virtual seconds
QUIET = 50_000.0            # within so many virtual seconds an abandoned network is quiet
GONE = 5000.0               # as long may an end wait for one that left or was cut off
PATIENCE = (5.0, 40.0, 300.0)
BUDGETS = (1 << 18, 1 << 18, 1 << 19, 1 << 20)
EVENTS = 400_000            # more for one seed is a storm
KINDS = ("stacks",) * 6 + ("model",) * 4 + ("memory", "churn")
SIX = 0.3                       # the share of worlds that speak IPv6
LEAST_MTU = {4: 576, 6: 1280}   # paths do not become narrower
NO_MEMORY = (errno.ENOBUFS, errno.ENOMEM)


@dataclass
class Habits:
    """How one end of a connection behaves."""

    chunk: int = 8192               # bytes a write
    read: int = 65536               # bytes a read
    late: float = 0.0               # seconds before the first read
    nap: float = 0.0                # seconds between reads
    naps: int = 0                   # how many of them
    leave: str = ""                 # "": when both are done; abort, close, dead: after `after` seconds
    after: float = 0.0
    options: tuple[tuple[int, int, Any], ...] = ()


@dataclass
class End:
    """One end of a connection, and what has become of it."""

    name: str
    habits: Habits
    out: Stream
    into: Stream
    out_size: int
    in_size: int
    either: bool = False            # each byte may be that of the stream, or its opposite
    anything: bool = False          # nobody knows what will come
    sock: socket | None = None
    sent: int = 0
    got: int = 0
    eof: bool = False
    error: OSError | None = None

    def __str__(self) -> str:
        return (f"{self.name}: {self.sent}/{self.out_size} sent, {self.got}/{self.in_size} received"
                f"{', end' if self.eof else ''}{f', {self.error!r}' if self.error else ''}")

    @property
    def complete(self) -> bool:
        """Whether everything went and came."""
        return self.error is None and self.eof and self.sent == self.out_size and self.got == self.in_size

    def send(self) -> sim.Steps[None]:
        """Write all of it, and end the stream."""
        assert self.sock is not None
        try:
            while self.sent < self.out_size:
                part = self.out.at(self.sent, min(self.habits.chunk, self.out_size - self.sent))
                try:
                    self.sent += self.sock.send(part)
                except BlockingIOError:
                    yield from sim.writable(self.sock)
                except OSError as error:
                    if error.errno not in NO_MEMORY:
                        raise
                    yield from sim.sleep(0.05)
            self.sock.shutdown(1)
        except OSError as error:
            self.error = self.error or error

    def receive(self) -> sim.Steps[None]:
        """Read to the end, and look at every byte."""
        assert self.sock is not None
        habits = self.habits
        if habits.late:
            yield from sim.sleep(habits.late)
        try:
            while True:
                try:
                    part = self.sock.recv(habits.read)
                except BlockingIOError:
                    yield from sim.readable(self.sock)
                    continue
                except OSError as error:
                    if error.errno not in NO_MEMORY:
                        raise
                    yield from sim.sleep(0.05)
                    continue
                if not part:
                    self.eof = True
                    return
                self.check(part)
                if habits.naps > 0:
                    habits.naps -= 1
                    yield from sim.sleep(habits.nap)
        except OSError as error:
            self.error = self.error or error

    def check(self, part: bytes) -> None:
        """The bytes that have come are the next ones of the stream."""
        if self.anything:
            self.got += len(part)
            return
        wanted = self.into.at(self.got, len(part))
        if self.got + len(part) > self.in_size:
            raise Broken(f"{self}: more bytes than were sent")
        if part != wanted and not (self.either and all(
                a in (b, c) for a, b, c in zip(part, wanted, other(wanted), strict=True))):
            at = next(i for i, (a, b) in enumerate(zip(part, wanted, strict=True)) if a != b)
            raise Broken(f"{self}: wrong byte at {self.got + at}")
        self.got += len(part)


@dataclass
class Pair:
    """A connection between two stacks."""

    a: End
    b: End
    shape: str
    breaks: bool                    # an end leaves early, or the way is cut for good: it need not complete


@dataclass
class World:
    """What a seed came to. ``faults`` counts what was done to it."""

    seed: int
    net: sim.Network
    watch: Watch
    dice: Random
    kind: str = ""
    version: int = 4                # of IP
    notes: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    singles: list[tuple[End, bool]] = field(default_factory=list)   # against a model peer; whether they must complete
    peers: list[ModelPeer] = field(default_factory=list)
    held: list[socket] = field(default_factory=list)
    asis: dict[sim.Cable, dict[str, Any]] = field(default_factory=dict)     # what cables were before all faults
    hold: bool = False
    faults: int = 0

    def address(self, k: int) -> str:
        """That of host number k."""
        return f"10.0.0.{k}" if self.version == 4 else f"fd00::{k:x}"

    def say(self, note: str) -> None:
        """For whoever looks at the trace."""
        self.notes.append(f"{self.net.now_ns / 1e9:12.6f} {note}")

    # --- drawing --------------------------------------------------------------------------------------------------

    def size(self, mtu: int) -> int:
        """How much one direction carries: mostly little, so that a seed is over soon."""
        most = min(200 * mtu, 200_000)
        return self.dice.choice((0, 1, *(self.dice.randrange(1, n) for n in (3000, most // 4, most))))

    def habits(self) -> Habits:
        """How an end behaves."""
        dice = self.dice
        h = Habits(
            chunk=dice.choice((50, 700, 1460, 8192, 70_000)), read=dice.choice((100, 1000, 65536, 65536)))
        options: list[tuple[int, int, Any]] = []
        if dice.random() < 0.3:
            options.append((SOL_SOCKET, SO_RCVBUF, dice.choice((2048, 5000, 20_000))))
        if dice.random() < 0.3:
            options.append((SOL_SOCKET, SO_SNDBUF, dice.choice((2048, 5000, 20_000))))
        if dice.random() < 0.2:
            options.append((IPPROTO_TCP, TCP_NODELAY, 1))
        h.options = tuple(options)
        if dice.random() < 0.15:
            h.late = dice.choice((1.0, 10.0, 30.0))
        if dice.random() < 0.15:
            h.nap, h.naps = dice.choice((0.01, 0.3, 3.0)), dice.randrange(1, 15)
        return h

    def link(self, a: sim.Host, b: sim.Host, *, bad: bool = True) -> sim.Cable:
        """A cable as bad as the dice have it."""
        dice = self.dice
        much = dice.choice((0.0, 0.3, 1.0)) if bad else 0.0
        mtu = dice.choice(MTUS)
        return self.net.link(
            a, b, mtu=mtu if self.version == 4 else max(mtu, LEAST_MTU[6]), rate=dice.choice((None, None, 1e6, 1e8)),
            loss=much * dice.choice((0, 0.01, 0.05, 0.1)), duplicate=much * dice.choice((0, 0.02, 0.2)),
            reorder=much * dice.choice((0, 0.02, 0.3)), corrupt=much * dice.choice((0, 0.01, 0.05)),
            delay=dice.choice((0, 0.0001, 0.01, 0.2)), jitter=dice.choice((0, 0.001, 0.1)),
            queue=dice.choice((10, 30, 100)))

    def memory(self) -> int | None:
        """The budget of a stack."""
        return self.dice.choice((None, None, None, *BUDGETS))

    # --- connections between stacks -------------------------------------------------------------------------------

    def draw_pair(self, name: str, a: sim.Host, b: sim.Host, port: int, mtu: int, breaks: bool) -> Pair:
        """A connection from a to b, or from both at once, and its two applications."""
        dice = self.dice
        there, back = self.size(mtu), self.size(mtu)
        one, two = Stream(dice.randrange(1 << 30)), Stream(dice.randrange(1 << 30))
        shape = dice.choice(("both", "both", "ask", "at once"))
        ends = (End(f"{name} {a.name}", self.habits(), one, two, there, back),
                End(f"{name} {b.name}", self.habits(), two, one, back, there))
        if dice.random() < 0.15:
            leaver = dice.choice(ends).habits
            leaver.leave, leaver.after = dice.choice(("abort", "close", "dead")), dice.expovariate(1)
            breaks = True
        for end, host in zip(ends, (a, b), strict=True):
            if host.stack.memory()["budget"]:
                # Who never reads holds what others wait for, until their peers give up.
                end.habits.late, end.habits.nap = min(end.habits.late, 5.0), min(end.habits.nap, 0.3)
                end.habits.leave = end.habits.leave.replace("dead", "close")
        return Pair(*ends, shape, breaks)

    def start_pair(self, pair: Pair, a: sim.Host, b: sim.Host, port: int, delay: float) -> None:
        """Spawn its applications."""
        if pair.shape == "at once":
            for end, host, there in ((pair.a, a, b), (pair.b, b, a)):
                self.net.spawn(self.open_end(pair, end, host, (there.address, port), delay, port), end.name)
        else:
            listener = self.tuned(b.listen(port), pair.b.habits)
            self.net.spawn(self.serve(pair, listener), pair.b.name)
            self.net.spawn(self.open_end(pair, pair.a, a, (b.address, port), delay, 0), pair.a.name)

    def tuned(self, sock: socket, habits: Habits) -> socket:
        """The socket with the options of these habits."""
        for option in habits.options:
            sock.setsockopt(*option)
        return sock

    def serve(self, pair: Pair, listener: socket) -> sim.Steps[None]:
        """The end that accepts; it gives up when the other end has."""
        with listener:
            sock = None
            while sock is None:
                try:
                    sock = listener.accept()[0]
                except BlockingIOError:
                    if pair.a.error is not None:
                        return
                    yield from sim.readable(listener, 5.0)
                except OSError as error:
                    if error.errno not in NO_MEMORY:
                        raise
                    yield from sim.sleep(0.1)
        yield from self.converse(pair, pair.b, sock)

    def open_end(
        self, pair: Pair, end: End, host: sim.Host, to: tuple[str, int], delay: float, port: int,
    ) -> sim.Steps[None]:
        """The end that connects; a time-out is tried again."""
        yield from sim.sleep(delay)
        for attempt in range(4):
            sock = self.tuned(host.socket(), end.habits)
            try:
                if port:
                    sock.bind((host.address, port))
                yield from sim.connect(sock, to)
                break
            except OSError as error:
                sock.close()
                self.say(f"{end.name}: {error!r}")
                if attempt == 3 or not (isinstance(error, TimeoutError) or error.errno in NO_MEMORY):
                    end.error = error
                    # The other end may not be there yet, or may have given this attempt up.
                    pair.breaks = pair.breaks or pair.shape == "at once"
                    return
                pair.breaks = pair.breaks or pair.shape == "at once"
                yield from sim.sleep(1)
        yield from self.converse(pair, end, sock)

    def converse(self, pair: Pair, end: End, sock: socket) -> sim.Steps[None]:
        """Both directions, and the end."""
        end.sock = sock
        try:
            self.watch.expect(sock.getsockname(), sock.getpeername(), end.out)
        except OSError as error:
            end.error = error
            sock.close()
            return
        if pair.shape == "ask" and not end.habits.leave:
            first, second = (end.send, end.receive) if end is pair.a else (end.receive, end.send)
            steps = [self.net.spawn(in_turn(end, first, second), f"{end.name} asks or answers")]
            yield from sim.join(*steps, within=GONE if pair.breaks else 0.0)
        else:
            parts = [self.net.spawn(end.send(), f"{end.name} send"), self.net.spawn(end.receive(), f"{end.name} recv")]
            if end.habits.leave:
                yield from self.leave(end, sock)
                return
            # Where the way may be cut for good, the peer may be gone without a word.
            yield from sim.join(*parts, within=GONE if pair.breaks else 0.0)
        if self.hold and end.complete:
            self.held.append(sock)
        else:
            sock.close()

    def leave(self, end: End, sock: socket) -> sim.Steps[None]:
        """Go before everything is done. dead: hold still for a long time first."""
        how = end.habits.leave
        yield from sim.sleep(end.habits.after)
        self.faults += 1
        if how == "dead":
            end.habits.naps, end.habits.nap = 1 << 30, 1e4
            yield from sim.sleep(1000)
        elif how == "abort":
            sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.say(f"{end}: leaves: {how}")
        end.error = end.error or OSError("left")
        sock.close()

    # --- faults ---------------------------------------------------------------------------------------------------

    def fault(self, cables: list[sim.Cable]) -> sim.Steps[None]:
        """One fault, that comes and goes."""
        dice, cable = self.dice, self.dice.choice(cables)
        kind = dice.choice(("cut", "flap", "one way", "mtu", "worse", "slow"))
        start, span, times = dice.choice((0.001, 0.05, 0.5, 3)) * dice.random(), dice.choice((0.1, 3, 8)), 1
        if kind == "flap":
            times, span = dice.randrange(2, 12), dice.random()
        yield from sim.sleep(start)
        for _ in range(times):
            self.faults += 1
            self.say(f"{kind} on {cable} for {span:.3f} s")
            undo = self.apply(kind, cable, dice.random())
            yield from sim.sleep(span)
            undo()
            yield from sim.sleep(span)

    def apply(self, kind: str, cable: sim.Cable, value: float) -> Callable[[], None]:
        """Begin a fault; returns what ends it."""
        before = self.asis.setdefault(cable, {"loss": cable.loss, "rate": cable.rate, "delay": cable.delay})
        if kind in ("cut", "flap"):
            cable.cut()
            return cable.mend
        if kind == "one way":
            mute = cable.a if value < 0.5 else cable.b
            cable.filter = lambda source, data: None if source is mute else data

            def unfilter() -> None:
                cable.filter = None
            return unfilter
        if kind == "mtu":
            least = LEAST_MTU[self.version]
            cable.mtu = max(least, int(cable.mtu * value)) if cable.mtu > least else cable.mtu
            cable.silent = False
            return lambda: None             # a path does not grow again soon
        if kind == "worse":
            cable.loss = 0.3
        else:
            cable.rate, cable.delay = 1e6, cable.delay + 3 * value

        def restore() -> None:
            for name, old in before.items():
                setattr(cable, name, old)
        return restore

    # --- a model peer ---------------------------------------------------------------------------------------------

    def draw_plan(self, out: Stream, size: int, end: str) -> Plan:
        """What a connection of the model peer does."""
        dice = self.dice
        tricks = tuple(dice.sample(TRICKS, dice.randrange(1, 8)))
        wscale, window = dice.choice((None, 0, 3, 14, 255)), dice.choice((300, 3000, 65535, 65535, 10**6))
        return Plan(
            Random(dice.randrange(1 << 60)), out, size, tricks, dice.randrange(1, 30),
            mss=dice.choice((None, 0, 1, 48, 88, 536, 1400, 1460, 1460, 65535)), wscale=wscale,
            sack=dice.random() < 0.8, ts=dice.random() < 0.7, window=max(window, 1 << min(wscale or 0, 14)),
            pace=dice.choice((0.003, 0.1, 2.0)), end=end, end_after=dice.choice((0.001, 0.2, 3.0)))

    def start_single(self, name: str, host: sim.Host, machine: ModelPeer, address: str, port: int) -> None:
        """A connection between a stack and the model peer, opened by either."""
        dice = self.dice
        end_name = dice.choice(ENDS) if dice.random() < 0.35 else ""
        here, there = Stream(dice.randrange(1 << 30)), Stream(dice.randrange(1 << 30))
        plan = self.draw_plan(there, self.size(1500), end_name)
        small = plan.window < 1000 or plan.mss in (0, 1, 48, 88) or end_name == "one byte window"
        size = min(self.size(1500), 3000 if small else 60_000)
        end = End(name, self.habits(), here, there, size, plan.out_size, either=end_name == "other bytes",
                  anything=end_name in ("noise", "desync"))    # numbers that are off by 1 may be in the window
        end.habits.late = min(end.habits.late, 1.0)
        self.singles.append((end, not end_name))
        self.say(f"{name}: {plan.tricks} {end_name or 'to the end'}; {plan}")
        if dice.random() < 0.5:
            listener = self.tuned(host.listen(port), end.habits)
            self.net.spawn(self.serve_model(end, listener), name)
            start, remote = dice.random(), (ip_address(host.address).packed, port)

            def open_later() -> sim.Steps[None]:
                yield from sim.sleep(start)
                machine.connect(remote, 5000 + port, plan)
            self.net.spawn(open_later(), "model peer connects")
        else:
            machine.listen(port, plan)
            self.net.spawn(self.connect_model(end, host, (address, port)), name)

    def serve_model(self, end: End, listener: socket) -> sim.Steps[None]:
        """Accept what the model peer opens."""
        deadline = self.net.now_ns + 300 * 10**9
        with listener:
            while True:
                try:
                    sock = listener.accept()[0]
                    break
                except BlockingIOError:
                    if self.net.now_ns > deadline:
                        end.error = TimeoutError("nobody came")
                        return
                    yield from sim.readable(listener, 20.0)
                except OSError as error:
                    if error.errno not in NO_MEMORY:
                        raise
                    yield from sim.sleep(0.1)
        yield from self.converse_model(end, sock)

    def connect_model(self, end: End, host: sim.Host, to: tuple[str, int]) -> sim.Steps[None]:
        """Connect to the model peer."""
        sock = self.tuned(host.socket(), end.habits)
        try:
            yield from sim.connect(sock, to)
        except OSError as error:
            end.error = error
            sock.close()
            return
        yield from self.converse_model(end, sock)

    def converse_model(self, end: End, sock: socket) -> sim.Steps[None]:
        """Both directions; whoever has to do with a peer that ends badly loses patience."""
        end.sock = sock
        must = next(must for e, must in self.singles if e is end)
        try:
            self.watch.expect(sock.getsockname(), sock.getpeername(), end.out)
        except OSError as error:
            end.error = error
            sock.close()
            return
        parts = [self.net.spawn(end.send(), f"{end.name} send"), self.net.spawn(end.receive(), f"{end.name} recv")]
        if must:
            yield from sim.join(*parts)
        else:
            if self.dice.random() < 0.3:
                sock.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, 20_000)
            if self.dice.random() < 0.3:
                sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            yield from sim.join(*parts, within=self.dice.choice(PATIENCE))
            end.error = end.error or OSError("out of patience")
        self.say(f"{end}: closes")
        sock.close()

    # --- the end --------------------------------------------------------------------------------------------------

    def verdict(self) -> None:
        """What had to complete has."""
        for pair in self.pairs:
            if not pair.breaks and not self.given_up(pair):
                for end in (pair.a, pair.b):
                    if not end.complete:
                        raise Broken(f"not completed: {end}")
        for end, must in self.singles:
            if must and not end.complete:
                raise Broken(f"not completed: {end}")

    def given_up(self, pair: Pair) -> bool:
        """Connected for the one, whose final ACK never came; the listener gave the handshake up after a minute."""
        return any(end.sock is None and isinstance(other.error, ConnectionResetError)
                   for end, other in ((pair.a, pair.b), (pair.b, pair.a)))

    def spoil(self) -> None:
        """Make every end that receives wait for one byte more: a check of the checks."""
        for end in [end for pair in self.pairs for end in (pair.a, pair.b)] + [end for end, _ in self.singles]:
            end.in_size += 1

    @property
    def bytes(self) -> int:
        """Payload that the stacks sent, retransmissions included."""
        return self.watch.bytes

    def count(self) -> int:
        """All that went wrong on purpose."""
        return self.faults + sum(p.faults for p in self.peers) + sum(
            n for cable in self.net.cables for fate, n in cable.counts.items() if fate)


def in_turn(end: End, first: Callable[[], sim.Steps[None]], second: Callable[[], sim.Steps[None]]) -> sim.Steps[None]:
    """One direction, and then the other if all is well."""
    yield from first()
    if end.error is None:
        yield from second()


def make(seed: int, *, trace: Callable[[str], None] | None = None) -> World:
    """The world of a seed, ready to be played."""
    dice = Random(f"torture {seed}")
    net = sim.Network(f"torture {seed}", trace=False)
    world = World(seed, net, Watch(net, honest=set()), dice)
    if trace is not None:
        show(world, trace)
    world.kind = dice.choice(KINDS)
    # Of dice of their own: what a seed draws is the same for both.
    world.version = 6 if Random(f"torture {seed} version").random() < SIX else 4
    draw = {"stacks": draw_stacks, "model": draw_model, "memory": draw_memory, "churn": draw_churn}
    draw[world.kind](world)
    return world


def draw_stacks(world: World) -> None:
    """Two to four stacks, and connections between them."""
    dice, net = world.dice, world.net
    hosts = [net.host("abcd"[k], world.address(k + 1), memory=world.memory())
             for k in range(dice.choice((2, 2, 2, 3, 4)))]
    world.watch.honest |= {host.name for host in hosts}
    cables = {(a, b): world.link(a, b) for k, a in enumerate(hosts) for b in hosts[k + 1 :]}
    fatal = dice.random() < 0.05
    world.hold = dice.random() < 0.3
    for n in range(dice.choice((1, 1, 2, 3, 8))):
        a, b = dice.sample(hosts, 2)
        cable = cables.get((a, b)) or cables[b, a]
        pair = world.draw_pair(f"#{n}", a, b, 1000 + n, cable.mtu, fatal)
        world.pairs.append(pair)
        world.start_pair(pair, a, b, 1000 + n, dice.choice((0.0, 0.0, dice.random())))
    for k in range(dice.choice((0, 0, 1, 2))):
        net.spawn(world.fault(list(cables.values())), f"fault {k}")
    if fatal:
        net.spawn(the_end_of(world, dice.choice(list(cables.values())), dice.expovariate(1)), "the end")


def draw_memory(world: World) -> None:
    """Two stacks with hardly any memory, more connections than fit into it, and readers that let it fill up."""
    dice, net = world.dice, world.net
    hosts = [net.host(name, world.address(k), memory=dice.choice((1 << 18, 1 << 18, 1 << 19, None)))
             for name, k in (("a", 1), ("b", 2))]
    world.watch.honest |= {"a", "b"}
    cable = world.link(*hosts)
    for n in range(dice.randrange(3, 16)):
        a, b = dice.sample(hosts, 2)
        pair = world.draw_pair(f"#{n}", a, b, 1000 + n, cable.mtu, False)
        for end in (pair.a, pair.b):
            end.out_size = dice.choice((1, 20_000, 80_000))
            end.habits.options = ()
            # Who reads late, or never, holds what others wait for: not for so long that their peers give up.
            end.habits.late, end.habits.nap = dice.choice((0.0, 0.0, 1.0, 5.0)), min(end.habits.nap, 0.3)
            if end.habits.leave == "dead":
                end.habits.leave = "close"
            end.habits.chunk = dice.choice((1, 50, 8192, 70_000)) if end.out_size < 30_000 else 70_000
        pair.a.in_size, pair.b.in_size = pair.b.out_size, pair.a.out_size
        world.pairs.append(pair)
        world.start_pair(pair, a, b, 1000 + n, dice.random())


def draw_churn(world: World) -> None:
    """Many short connections to one port, one after another and at once; a bad way, and sometimes a small backlog."""
    dice, net = world.dice, world.net
    a, b = net.host("a", world.address(1)), net.host("b", world.address(2), memory=world.memory())
    world.watch.honest |= {"a", "b"}
    world.link(a, b)
    listener = b.listen(80, backlog=dice.choice((1, 8, 128)))
    clients = [net.spawn(visit(world, a, n), f"client {n}") for n in range(dice.randrange(5, 60))]
    net.spawn(receive_visits(listener, clients), "server")


def visit(world: World, host: sim.Host, n: int) -> sim.Steps[None]:
    """Connect, say something, hear it again, go."""
    text = Stream(n).at(0, world.dice.randrange(1, 3000))
    yield from sim.sleep(world.dice.random())
    with host.socket() as sock:
        try:
            yield from sim.connect(sock, (world.address(2), 80))
            yield from sim.send_all(sock, text)
            if world.dice.random() < 0.5:
                sock.shutdown(1)
            if world.dice.random() < 0.1:
                world.faults += 1
                return
            answer = yield from sim.recv_exactly(sock, len(text))
        except (OSError, EOFError) as error:
            world.say(f"client {n}: {error!r}")     # a crowd before a small door: not everybody gets in
            return
        if answer != text:
            raise Broken(f"client {n} heard something else")


def receive_visits(listener: socket, clients: list[sim.Task]) -> sim.Steps[None]:
    """Echo, to as many as come."""
    with listener:
        while not all(task.done for task in clients):
            try:
                sock = listener.accept()[0]
            except BlockingIOError:
                yield from sim.readable(listener, 1.0)
            else:
                yield from echo(sock)


def echo(sock: socket) -> sim.Steps[None]:
    """Give back what comes, until nothing more comes for a while."""
    with sock:
        try:
            while True:
                try:
                    part = sock.recv(2000)
                except BlockingIOError:
                    yield from sim.readable(sock, 3.0)
                    part = sock.recv(2000)
                if not part:
                    return
                yield from sim.send_all(sock, part)
        except OSError:
            return


def the_end_of(world: World, cable: sim.Cable, after: float) -> sim.Steps[None]:
    """A cable that is cut and never mended."""
    yield from sim.sleep(after)
    world.faults += 1
    world.say(f"{cable} is cut for good")
    cable.filter = lambda source, data: None


def draw_model(world: World) -> None:
    """A stack, a model peer that misbehaves, and an honest stack whose transfer must not suffer."""
    dice, net = world.dice, world.net
    host = net.host("s", world.address(1), memory=world.memory())
    friend = net.host("f", world.address(3))
    model = ModelPeer(ip_address(world.address(2)).packed, Random(dice.randrange(1 << 60)))
    world.peers.append(model)
    world.watch.honest |= {"s", "f"}
    played = net.machine("m", world.address(2), model)
    net.link(host, played, delay=dice.choice((0, 0.0001, 0.01, 0.1)), loss=dice.choice((0, 0, 0, 0.03)))
    cable = world.link(host, friend)
    for n in range(dice.choice((1, 1, 2, 4))):
        world.start_single(f"model #{n}", host, model, played.address, 2000 + n)
    if dice.random() < 0.5:
        a, b = dice.sample((host, friend), 2)
        pair = world.draw_pair("friend", a, b, 1000, cable.mtu, False)
        world.pairs.append(pair)
        world.start_pair(pair, a, b, 1000, 0.0)


def show(world: World, trace: Callable[[str], None]) -> None:
    """Print each packet, and each note, as it comes."""
    bases: dict[tuple[bytes, int, bytes, int], int] = {}
    look = world.net.watch
    shown = 0

    def packet(p: sim.Packet) -> None:
        nonlocal shown
        for note in world.notes[shown:]:
            trace(f"# {note}")
        shown = len(world.notes)
        fate = f"  [{p.fate}]" if p.fate else ""
        trace(f"{p.time_ns / 1e9:12.6f} {p.source}>{p.sink} {describe(p.data, bases)}{fate}")
        if look is not None:
            look(p)

    world.net.watch = packet


def play(world: World) -> None:
    """From the beginning to the end: raises Broken, sim.Stuck, or what went wrong inside."""
    net, watch = world.net, world.watch

    def check() -> None:
        watch.stacks()
        if net.events > EVENTS:
            raise Broken(f"{EVENTS} events: a storm")

    def finished() -> bool:
        check()
        return not net._running

    def silent() -> bool:
        check()
        return net.next_ns() is None

    try:
        net.run(until=finished, limit=LIMIT)
        world.verdict()
        for peer in world.peers:
            peer.silent = True
        if world.held:
            # Connections are open, everything is delivered: nothing happens any more.
            net.run(until=silent, limit=QUIET)
            before = net.events
            net.run(net.now_ns + 10**15)
            if net.events > before + 1:
                raise Broken("idle connections do not keep quiet")
            for sock in world.held:
                sock.close()
        net.run(until=silent, limit=QUIET)
        watch.emptiness()
    except BaseException as error:
        ends = [end for pair in world.pairs for end in (pair.a, pair.b)] + [end for end, _ in world.singles]
        error.add_note("\n".join(map(str, ends)))
        raise
    finally:
        for sock in world.held:
            sock.close()
        net.close()
    if net.leaks:
        raise Broken(f"blocks that nobody gave back: {net.leaks}")
