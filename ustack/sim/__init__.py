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

import hashlib
import heapq
from collections.abc import Callable, Iterable
from random import Random
from types import TracebackType
from typing import Any

from ustack import Pipe, Stack, VirtualClock
from ustack._family import family_of
from ustack.sim.apps import (
    SECOND,
    Flow,
    Steps,
    Task,
    accept,
    connect,
    join,
    readable,
    recv,
    recv_exactly,
    send_all,
    sleep,
    writable,
)
from ustack.sim.cable import Cable, Packet, Port, Way
from ustack.sim.machine import Machine, MachineStack
from ustack.socket import AF_INET6, SOCK_DGRAM, SOCK_STREAM
from ustack.socket import socket as _socket

__all__ = [
    "Cable", "Flow", "Host", "Machine", "Network", "Packet", "Steps", "Stuck", "Task", "accept", "connect", "join",
    "readable", "recv", "recv_exactly", "send_all", "sleep", "writable",
]


class Stuck(AssertionError):
    """Nothing can happen any more, or the time is up, and what was waited for has not happened."""


class Host:
    """A stack in a network; made by ``Network.host``. ``stack``: the ustack.Stack; ``address``: its address."""

    def __init__(self, name: str, address: str, stack: Stack):
        self.name = name
        self.address = address
        self.family = family_of(address)
        self.stack = stack
        self._ways: list[Way] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    @property
    def network(self) -> str:
        """The address with the prefix that holds it alone."""
        return f"{self.address}/{128 if self.family == AF_INET6 else 32}"

    def _plug(self, sink: Host, mtu: int) -> Port:
        """One end of a cable to another host: packets to it leave here, packets from it come in here."""
        pipe = Pipe(layer=3, mtu=mtu, queue=4096)
        self.stack.add_interface(pipe, [self.network])
        self.stack.add_route(sink.network, link=pipe)
        return pipe

    def socket(self, kind: int = SOCK_STREAM) -> _socket:
        """A new non-blocking socket."""
        return self.stack.socket(self.family, kind)

    def listen(self, port: int = 0, backlog: int = 128) -> _socket:
        """A listening socket on this host's address."""
        return self.stack.create_server((self.address, port), family=self.family, backlog=backlog)

    def datagrams(self, port: int = 0) -> _socket:
        """A UDP socket bound to this host's address."""
        sock = self.stack.socket(self.family, SOCK_DGRAM)
        sock.bind((self.address, port))
        return sock


class _MachineHost(Host):
    """A host that a Machine plays."""

    def __init__(self, name: str, address: str, machine: Machine):
        played = MachineStack(machine)
        super().__init__(name, address, played)     # type: ignore[arg-type]
        self._played = played

    def _plug(self, sink: Host, mtu: int) -> Port:
        return self._played


class Network:
    """Hosts, the cables between them, one virtual clock.

    seed: an int or a str; it determines every packet, every timer and every impairment. trace: keep a list of all
    packets (``trace``); their hash (``digest``) is kept in any case. start_ns: what the clock shows first.
    ``watch``: called with every Packet when it is sent, if set. ``events``: how often time has moved on so far.
    Not for use by several threads.
    """

    def __init__(self, seed: int | str = 0, *, trace: bool = True, start_ns: int = SECOND):
        self.seed = seed
        self.now_ns = start_ns
        self.hosts: dict[str, Host] = {}
        self.cables: list[Cable] = []
        self.trace: list[Packet] = []
        self.tasks: list[Task] = []
        self.leaks: dict[str, int] = {}
        self.watch: Callable[[Packet], None] | None = None
        self.events = 0
        self._keep = trace
        self._sha = hashlib.sha256()
        self._flying: list[tuple[int, int, Port, bytes]] = []
        self._count = 0
        self._running: list[Task] = []

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- building -------------------------------------------------------------------------------------------------

    def host(self, name: str, address: str, *, memory: int | None = None) -> Host:
        """A new host with one address, of IPv4 or IPv6. memory: budget of its stack in bytes. Raises ValueError."""
        if name in self.hosts:
            raise ValueError(f"there is a host {name!r} already")
        stack = Stack(clock=VirtualClock(self.now_ns), seed=f"{self.seed}/{name}", memory=memory)
        made = self.hosts[name] = Host(name, address, stack)
        return made

    def machine(self, name: str, address: str, machine: Machine) -> Host:
        """A new host that is no stack: what it sends and when is decided by ``machine`` (see Machine)."""
        if name in self.hosts:
            raise ValueError(f"there is a host {name!r} already")
        machine.advance_to(self.now_ns)
        made = self.hosts[name] = _MachineHost(name, address, machine)
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
        bound, with `queue` packets of room in front. mtu: bytes of an IP packet, 68 to 65535; it may be lowered later
        (``cable.mtu``), as if by a router in between: what is too large is dropped, and its sender told (RFC 1191).
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
        there = Way(cable, a, b, Random(f"{self.seed}/{len(self.cables)}/{a.name}>{b.name}"))
        back = Way(cable, b, a, Random(f"{self.seed}/{len(self.cables)}/{b.name}>{a.name}"))
        for way in (there, back):
            way.out = way.source._plug(way.sink, mtu)
            way.source._ways.append(way)
        there.into, back.into = back.out, there.out
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
        end = self.now_ns + round(limit * SECOND)
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
        self.events += 1
        for host in self.hosts.values():
            host.stack.advance_to(to_ns)
        while self._flying and self._flying[0][0] <= to_ns:
            _, _, port, data = heapq.heappop(self._flying)
            port.inject(data)
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

    def _send(self, way: Way, time_ns: int, data: bytes) -> None:
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
            heapq.heappush(self._flying, (arrives, self._count, way.into, arriving))
        if fate == "big" and (notice := way.cable._notice(way, data)) is not None:
            self._count += 1
            heapq.heappush(self._flying, (time_ns + round(way.cable.delay * SECOND), self._count, way.out, notice))
        if self.watch is not None:
            self.watch(packet)

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
