"""Hosts and impaired links on a virtual clock: whole networks inside one thread, the same every time for the same seed.

::

    with ustack.sim.Network(seed=7) as net:
        a, b = net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")
        net.link(a, b, loss=0.02, delay=0.01)
        flow = net.flow(a, b, size=100_000)
        net.run()
        assert flow.exact

Nothing here waits: an hour of retransmissions passes in a moment. Applications are generators that yield what they
wait for (``accept``, ``connect``, ``recv``, ``send_all``, ``sleep``), or plain code around ``Network.run``. Instants
are nanoseconds of the virtual clock, spans are seconds, rates are bits per second, sizes are bytes.
"""

from __future__ import annotations

import errno
import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from random import Random
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from ustack import Pipe, Stack, VirtualClock
from ustack.socket import SO_ERROR, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, socket

__all__ = [
    "Cable", "Flow", "Host", "Network", "Packet", "Stuck", "Task", "accept", "connect", "join",
    "readable", "recv", "recv_exactly", "send_all", "sleep", "writable",
]

T = TypeVar("T")

EV_IN = 1
EV_OUT = 4
_TROUBLE = 8 | 16
_SECOND = 1_000_000_000


class Stuck(AssertionError):
    """Nothing can happen any more, or the time is up, and what was waited for has not happened."""


class Packet(NamedTuple):
    """One packet that a host sent: when (ns), from and to which host, its bytes, and what became of it.

    fate: "" for nothing special, or words out of lost, cut, full, duplicated, corrupted, late; joined by commas.
    """

    time_ns: int
    source: str
    sink: str
    data: bytes
    fate: str


# --- what an application waits for --------------------------------------------------------------------------------

class _Wait(NamedTuple):
    sock: socket | None = None
    events: int = 0
    span: float = 0.0
    tasks: tuple[Task, ...] = ()


Steps = Generator[_Wait, None, T]


def readable(sock: socket) -> Steps[None]:
    """Wait until the socket has data, a connection, the end of the stream, or an error."""
    yield _Wait(sock, EV_IN)


def writable(sock: socket) -> Steps[None]:
    """Wait until the socket has room, or its connect came to an end."""
    yield _Wait(sock, EV_OUT)


def sleep(seconds: float) -> Steps[None]:
    """Wait for a span of virtual time."""
    yield _Wait(span=seconds)


def join(*tasks: Task) -> Steps[None]:
    """Wait until all of these are done."""
    yield _Wait(tasks=tasks)


def accept(listener: socket) -> Steps[socket]:
    """The next connection of a listening socket."""
    while True:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            yield from readable(listener)


def connect(sock: socket, address: tuple[str, int]) -> Steps[None]:
    """Connect. Raises what the connection failed with: ConnectionRefusedError, TimeoutError, OSError."""
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        yield from writable(sock)
        error = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if error:
        raise OSError(error, f"cannot connect to {address}")


def recv(sock: socket, size: int = 65536) -> Steps[bytes]:
    """At least one byte, at most `size`; b"" at the end of the stream."""
    while True:
        try:
            return sock.recv(size)
        except BlockingIOError:
            yield from readable(sock)


def recv_exactly(sock: socket, size: int) -> Steps[bytes]:
    """Exactly `size` bytes. Raises EOFError if the stream ends before."""
    parts = []
    while size:
        part = yield from recv(sock, size)
        if not part:
            raise EOFError(f"the stream ended {size} bytes early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send_all(sock: socket, data: bytes | bytearray | memoryview) -> Steps[None]:
    """Send all of it."""
    view = memoryview(data)
    while view.nbytes:
        try:
            view = view[sock.send(view):]
        except BlockingIOError:
            yield from writable(sock)


class Task:
    """An application that runs in the network: ``done``, then ``result``, or the ``error`` that it raised."""

    def __init__(self, steps: Steps[Any], name: str):
        self.name = name
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._steps = steps
        self._wait: _Wait | None = None
        self._wake_ns = 0

    def __repr__(self) -> str:
        state = "done" if self.done else f"waits for {self._wait}"
        return f"<Task {self.name}: {state}>"

    def _ready(self, now: int) -> bool:
        wait = self._wait
        if wait is None:
            return True
        if wait.sock is None:
            return now >= self._wake_ns and all(task.done for task in wait.tasks)
        try:
            return bool(wait.sock._events() & (wait.events | _TROUBLE))
        except OSError:
            return True

    def _step(self, now: int) -> None:
        try:
            self._wait = self._steps.send(None)
            self._wake_ns = now + round(self._wait.span * _SECOND)
        except StopIteration as end:
            self.done, self.result = True, end.value
        except BaseException as error:
            self.done, self.error = True, error
            raise


# --- links --------------------------------------------------------------------------------------------------------

class _Way:
    """One direction of a cable: its dice, and what is on it."""

    def __init__(self, cable: Cable, source: Host, sink: Host, dice: Random):
        self.cable = cable
        self.source = source
        self.sink = sink
        self.out = Pipe(layer=3, mtu=cable.mtu, queue=4096)
        self.into: Pipe = self.out      # the pipe at the other end
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

    def _carry(self, way: _Way, now: int, data: bytes) -> tuple[str, list[tuple[int, bytes]]]:
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
        leaves = now
        if self.rate:
            bits = len(data) * 8 * _SECOND
            if way.free_ns - now > self.queue * bits / self.rate:
                return "full", []
            leaves = way.free_ns = max(now, way.free_ns) + round(bits / self.rate)
        if lost < self.loss:
            return "lost", []
        fate = []
        if broken < self.corrupt:
            fate.append("corrupted")
            data = _flip(data, int(where * len(data) * 8))
        arrives = leaves + round((self.delay + slow * self.jitter) * _SECOND)
        if late < self.reorder:
            # Held back by up to three times what a packet needs, at least a millisecond.
            fate.append("late")
            arrives += round((0.001 + 3 * (self.delay + self.jitter)) * (late / self.reorder) * _SECOND)
        else:
            arrives = way.last_ns = max(arrives, way.last_ns)
        if doubled < self.duplicate:
            fate.append("duplicated")
            again = arrives + round((0.001 + self.delay) * (doubled / self.duplicate) * _SECOND)
            return ",".join(fate), [(arrives, data), (again, data)]
        return ",".join(fate), [(arrives, data)]


def _flip(data: bytes, bit: int) -> bytes:
    """One bit changed: what every checksum finds."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class Host:
    """A stack in a network; made by ``Network.host``. ``stack``: the ustack.Stack; ``address``: its IPv4 address."""

    def __init__(self, name: str, address: str, stack: Stack):
        self.name = name
        self.address = address
        self.stack = stack
        self._ways: list[_Way] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    def socket(self, kind: int = SOCK_STREAM) -> socket:
        """A new non-blocking socket."""
        return self.stack.socket(type=kind)

    def listen(self, port: int = 0, backlog: int = 128) -> socket:
        """A listening socket on this host's address."""
        return self.stack.create_server((self.address, port), backlog=backlog)

    def datagrams(self, port: int = 0) -> socket:
        """A UDP socket bound to this host's address."""
        sock = self.stack.socket(type=SOCK_DGRAM)
        sock.bind((self.address, port))
        return sock


# --- a transfer to look at ------------------------------------------------------------------------------------------

class Flow:
    """So many bytes, pumped one way through a connection, with a SHA-256 at both ends; made by ``Network.flow``.

    sender, receiver: Tasks; ``sent`` and ``received`` in bytes; ``exact`` once all of it and the end of the stream
    arrived, and nothing else.
    """

    def __init__(self, size: int, seed: object, chunk: int = 8192, read: int = 65536):
        self.size = size
        self.chunk = chunk
        self.read = read
        self.sent = 0
        self.received = 0
        self.sent_sha = hashlib.sha256()
        self.received_sha = hashlib.sha256()
        self.ended = False
        self.sender: Task | None = None
        self.receiver: Task | None = None
        self._dice = Random(f"flow {seed}")

    def __repr__(self) -> str:
        return f"<Flow {self.sent} sent, {self.received} of {self.size} received{', ended' if self.ended else ''}>"

    @property
    def exact(self) -> bool:
        """Whether the receiver saw the sender's bytes, all of them, and then the end."""
        return self.ended and self.received == self.size and self.sent_sha.digest() == self.received_sha.digest()

    def send(self, sock: socket) -> Steps[None]:
        """Send all of it and shut that direction down (an application for ``Network.spawn``)."""
        while self.sent < self.size:
            part = self._dice.randbytes(min(self.chunk, self.size - self.sent))
            self.sent_sha.update(part)
            yield from send_all(sock, part)
            self.sent += len(part)
        sock.shutdown(1)

    def receive(self, sock: socket) -> Steps[None]:
        """Receive to the end of the stream (an application for ``Network.spawn``)."""
        while part := (yield from recv(sock, self.read)):
            self.received += len(part)
            self.received_sha.update(part)
        self.ended = True


# --- the network ----------------------------------------------------------------------------------------------------

class Network:
    """Hosts, the cables between them, one virtual clock.

    seed: an int or a str; it determines every packet, every timer and every impairment. trace: keep a list of all
    packets (``trace``); their hash (``digest``) is kept in any case. start_ns: what the clock shows first.
    Not for use by several threads.
    """

    def __init__(self, seed: int | str = 0, *, trace: bool = True, start_ns: int = _SECOND):
        self.seed = seed
        self.now_ns = start_ns
        self.hosts: dict[str, Host] = {}
        self.cables: list[Cable] = []
        self.trace: list[Packet] = []
        self.tasks: list[Task] = []
        self.leaks: dict[str, int] = {}
        self._keep = trace
        self._sha = hashlib.sha256()
        self._flying: list[tuple[int, int, _Way, bytes]] = []
        self._count = 0
        self._running: list[Task] = []

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- building -------------------------------------------------------------------------------------------------

    def host(self, name: str, address: str, *, memory: int | None = None) -> Host:
        """A new host with one IPv4 address. memory: budget of its stack in bytes. Raises ValueError."""
        if name in self.hosts:
            raise ValueError(f"there is a host {name!r} already")
        stack = Stack(clock=VirtualClock(self.now_ns), seed=f"{self.seed}/{name}", memory=memory)
        made = self.hosts[name] = Host(name, address, stack)
        return made

    def link(
        self, a: Host, b: Host, *, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0,
        corrupt: float = 0.0, delay: float = 0.0, jitter: float = 0.0, rate: float | None = None, mtu: int = 1500,
        queue: int = 100,
    ) -> Cable:
        """Connect two hosts; each gets a route to the other's address over it.

        loss, duplicate, reorder, corrupt: probabilities per packet. A reordered packet is held back for up to three
        times delay + jitter, at least up to a millisecond; a corrupted one has one bit flipped; a duplicate comes
        up to a delay later. delay, jitter: seconds; jitter alone never reorders. rate: bits per second, None for no
        bound, with `queue` packets of room in front. mtu: bytes of an IP packet, 68 to 65535.
        Raises ValueError.
        """
        for name, value in (("loss", loss), ("duplicate", duplicate), ("reorder", reorder), ("corrupt", corrupt)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1")
        if delay < 0 or jitter < 0 or (rate is not None and rate <= 0):
            raise ValueError("delay and jitter are seconds, 0 or more; rate is bits per second, above 0")
        if a is b:
            raise ValueError("a link has two different ends: a host reaches itself without one")
        cable = Cable(a, b, loss, duplicate, reorder, corrupt, delay, jitter, rate, mtu, queue)
        there = _Way(cable, a, b, Random(f"{self.seed}/{len(self.cables)}/{a.name}>{b.name}"))
        back = _Way(cable, b, a, Random(f"{self.seed}/{len(self.cables)}/{b.name}>{a.name}"))
        there.into, back.into = back.out, there.out
        for way in (there, back):
            way.source.stack.add_interface(way.out, [f"{way.source.address}/32"])
            way.source.stack.add_route(f"{way.sink.address}/32", link=way.out)
            way.source._ways.append(way)
        self.cables.append(cable)
        return cable

    def partition(self, *groups: Iterable[Host]) -> None:
        """Cut every cable between different groups, mend the others; hosts that are not named form one more group."""
        where = {host: k for k, group in enumerate(groups) for host in group}
        for cable in self.cables:
            cable.up = where.get(cable.a) == where.get(cable.b)

    def heal(self) -> None:
        """Mend every cable."""
        for cable in self.cables:
            cable.up = True

    # --- applications ---------------------------------------------------------------------------------------------

    def spawn(self, steps: Steps[Any], name: str = "") -> Task:
        """Run an application: a generator that yields (``yield from``) the functions of this module."""
        task = Task(steps, name or getattr(steps, "__name__", "task"))
        self.tasks.append(task)
        self._running.append(task)
        return task

    def flow(
        self, sender: Host, receiver: Host, size: int, *, port: int = 0, options: Iterable[tuple[int, int, int]] = (),
    ) -> Flow:
        """Connect, pump `size` bytes one way, close. options: (level, name, value) for both sockets."""
        flow = Flow(size, f"{self.seed}/{len(self.tasks)}")
        listener = receiver.listen(port)
        chosen = list(options)
        for option in chosen:
            listener.setsockopt(*option)

        def receive() -> Steps[None]:
            with listener:
                conn = yield from accept(listener)
            with conn:
                yield from flow.receive(conn)

        def send() -> Steps[None]:
            with sender.socket() as sock:
                for option in chosen:
                    sock.setsockopt(*option)
                yield from connect(sock, listener_address)
                yield from flow.send(sock)

        listener_address = listener.getsockname()
        flow.receiver = self.spawn(receive(), f"flow to {receiver.name}")
        flow.sender = self.spawn(send(), f"flow from {sender.name}")
        return flow

    # --- time -----------------------------------------------------------------------------------------------------

    def next_ns(self) -> int | None:
        """When something happens next; None if nothing can, except by an application."""
        times = [due for host in self.hosts.values() if (due := host.stack.deadline_ns()) is not None]
        if self._flying:
            times.append(self._flying[0][0])
        times += [task._wake_ns for task in self._running if task._wait is not None and task._wait.span]
        return max(min(times), self.now_ns) if times else None

    @property
    def quiet(self) -> bool:
        """Whether no packet is under way, no timer armed, and no application sleeps."""
        self._settle()
        return self.next_ns() is None

    def run(
        self, until_ns: int | None = None, *, until: Callable[[], bool] | None = None, limit: float = 3600.0,
    ) -> int:
        """Let time pass: to an instant, or until a condition holds, or (neither given) until every task is done.

        Returns the time in ns. What a task raises comes out here. Raises Stuck if nothing can happen any more, or
        after `limit` seconds of virtual time, and the condition does not hold.
        """
        reached = until if until is not None else lambda: not self._running
        end = self.now_ns + round(limit * _SECOND)
        self._settle()
        while True:
            if until_ns is None and reached():
                return self.now_ns
            following = self.next_ns()
            if until_ns is not None:
                if following is None or following > until_ns:
                    self._advance(until_ns)
                    return self.now_ns
            elif following is None:
                raise Stuck(f"nothing can happen any more, and it has not come about: {self._state()}")
            elif following > end:
                raise Stuck(f"{limit} s passed, and it has not come about: {self._state()}")
            self._advance(following if following is not None else self.now_ns)

    def drain(self, limit: float = 3600.0) -> int:
        """Run until the network is quiet: all that was sent is acknowledged, every timer gone. Returns the time."""
        return self.run(until=lambda: self.next_ns() is None, limit=limit)

    def _state(self) -> str:
        rows = [f"{host.name} {row}" for host in self.hosts.values() for row in host.stack.sockets()]
        return "\n".join(["", *map(repr, self._running), *rows])

    def _advance(self, to_ns: int) -> None:
        """Go to an instant, at or before the next event's, and do what is due then."""
        self.now_ns = to_ns
        for host in self.hosts.values():
            host.stack.advance_to(to_ns)
        while self._flying and self._flying[0][0] <= to_ns:
            _, _, way, data = heapq.heappop(self._flying)
            way.into.inject(data)
        self._settle()

    def _settle(self) -> None:
        """Put on the cables what the hosts sent, and run the applications that can go on, until neither is left."""
        moved = True
        while moved:
            moved = False
            for host in self.hosts.values():
                for way in host._ways:
                    for time_ns, data in way.out.drain():
                        self._send(way, time_ns, data)
            for task in list(self._running):
                if task._ready(self.now_ns):
                    moved = True
                    try:
                        task._step(self.now_ns)
                    finally:
                        if task.done:
                            self._running.remove(task)

    def _send(self, way: _Way, time_ns: int, data: bytes) -> None:
        fate, arrivals = way.cable._carry(way, time_ns, data)
        way.cable.counts[fate] += 1
        packet = Packet(time_ns, way.source.name, way.sink.name, data, fate)
        self._sha.update(b"%d %b %b %b %d " % (
            time_ns, packet.source.encode(), packet.sink.encode(), fate.encode(), len(data)))
        self._sha.update(data)
        if self._keep:
            self.trace.append(packet)
        for arrives, arriving in arrivals:
            self._count += 1
            heapq.heappush(self._flying, (arrives, self._count, way, arriving))

    def digest(self) -> str:
        """SHA-256 over every packet so far: time, hosts, fate, bytes. Equal seeds and programs give equal ones."""
        return self._sha.hexdigest()

    # --- the end --------------------------------------------------------------------------------------------------

    def live(self) -> dict[str, int]:
        """Blocks of storage that each host's stack has out at present."""
        return {host.name: host.stack.memory()["live"] for host in self.hosts.values()}

    def close(self) -> dict[str, int]:
        """Close every stack. Returns (and keeps in ``leaks``) the blocks that were not given back, by host: {} if
        all were."""
        for task in self._running:
            task._steps.close()
        self._running.clear()
        for host in self.hosts.values():
            host.stack.close()
        self.leaks = {name: live for name, live in self.live().items() if live}
        return self.leaks
