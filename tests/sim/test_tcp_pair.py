"""Two TCPs back to back over a bad network in virtual time: bytes exact, nothing leaked, same seed same trace."""

from __future__ import annotations

import errno
import hashlib
import heapq
import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from ustack._core.py.probe_tcp import Conn, Host

A, B = 0x0A000001, 0x0A000002
MS, S = 1_000_000, 1_000_000_000


@dataclass
class Faults:
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    delay: int = 5 * MS
    jitter: int = 0             # more than the spacing of packets reorders them


@dataclass
class Network:
    """A wire between two hosts; every packet's fate is drawn from one seed."""

    a: Host
    b: Host
    faults: Faults
    dice: random.Random
    flying: list[tuple[int, int, Host, bytes, int, int]] = field(default_factory=list)
    n: int = 0
    trace: hashlib._Hash = field(default_factory=hashlib.sha256)

    def post(self, now: int, to: Host, packet: bytes, gso: int, csum: int) -> None:
        self.n += 1
        at = now + self.faults.delay + self.dice.randrange(self.faults.jitter + 1)
        heapq.heappush(self.flying, (at, self.n, to, packet, gso, csum))

    def carry(self) -> None:
        for host, to in ((self.a, self.b), (self.b, self.a)):
            for packet, gso, csum in host.drain():
                self.trace.update(packet)
                roll = self.dice.random
                if roll() < self.faults.loss:
                    continue
                data = packet
                if csum == 1 and roll() < self.faults.corrupt:
                    at = self.dice.randrange(len(packet))
                    data = packet[:at] + bytes([packet[at] ^ (1 << self.dice.randrange(8))]) + packet[at + 1 :]
                self.post(host.now, to, data, gso, 0 if csum == 1 else csum)
                if roll() < self.faults.duplicate:
                    self.post(host.now, to, data, gso, 0 if csum == 1 else csum)

    def step(self) -> bool:
        """To the next event; False: nothing will ever happen again."""
        self.carry()
        times = [t for t in (self.a.deadline, self.b.deadline) if t is not None]
        if self.flying:
            times.append(self.flying[0][0])
        if not times:
            return False
        now = max(min(times), self.a.now)
        self.a.run(now)
        self.b.run(now)
        while self.flying and self.flying[0][0] <= now:
            _, _, to, packet, gso, csum = heapq.heappop(self.flying)
            with suppress(MemoryError):         # as a link that gets no buffer: lost
                to.input(packet, csum=csum, gso_size=gso)
        return True


@dataclass
class Sender:
    conn: Conn
    data: bytes
    dice: random.Random
    done: int = 0
    closed: bool = False

    def work(self) -> None:
        while self.done < len(self.data):
            room = self.conn.room()
            if room <= 0:
                assert room == 0, room
                return
            n = min(room, self.dice.choice((1, 100, 1460, 5000, 70000)), len(self.data) - self.done)
            try:
                assert self.conn.send(self.data[self.done : self.done + n]) == n
            except MemoryError:
                return
            self.done += n
        if not self.closed:
            self.closed = True
            self.conn.shutdown(1)


@dataclass
class Receiver:
    conn: Conn
    dice: random.Random
    got: bytearray = field(default_factory=bytearray)
    eof: bool = False

    def work(self) -> None:
        while not self.eof and self.dice.random() < 0.8:
            data = self.conn.recv(self.dice.choice((10, 1000, 100000)))
            if isinstance(data, int):
                assert data in (-errno.EAGAIN, -errno.ENOMEM), data
                return
            self.eof = data == b""
            self.got += data


def transfer(
    seed: int, faults: Faults, size: int = 200_000, caps: int = 0, limit: int = 1000, budget: int = 0, **options: int
) -> tuple[str, dict[str, int]]:
    dice = random.Random(seed)
    mtu = dice.choice((576, 1500, 9000))
    a = Host(A, seed=seed, mtu=mtu, caps=caps, limit=limit, budget=budget)
    b = Host(B, seed=seed + 1, caps=caps, limit=limit, budget=budget)
    net = Network(a, b, faults, dice)
    listener = b.socket(**options)
    listener.bind(B, 80)
    listener.listen()
    c = a.socket(**options)
    c.connect(B, 80)
    there, back = dice.randbytes(size), dice.randbytes(size // 4)
    workers: list[Sender | Receiver] = []
    accepted: Conn | None = None
    for _ in range(400_000):
        if c.state == "ESTABLISHED" and accepted is None:
            accepted = listener.accept()
            if accepted is not None:
                workers = [Sender(c, there, dice), Receiver(accepted, dice), Sender(accepted, back, dice),
                           Receiver(c, dice)]
        for w in workers:
            w.work()
        if workers and all(w.eof for w in workers if isinstance(w, Receiver)):
            break
        assert net.step() or any(isinstance(w, Receiver) and not w.eof for w in workers), "stuck"
    up, down = workers[1], workers[3]
    assert isinstance(up, Receiver)
    assert isinstance(down, Receiver)
    assert bytes(up.got) == there
    assert bytes(down.got) == back
    assert accepted is not None
    accepted.close()
    c.close()
    listener.close()
    while net.step():
        pass
    assert (a.count, b.count) == (0, 0)
    assert (a.live, b.live) == (0, 0)
    trace = net.trace.hexdigest()
    counters = a.counters()
    assert (a.close(), b.close()) == (0, 0)
    return trace, counters


FAULTS = {
    "clean": Faults(),
    "loss": Faults(loss=0.03, jitter=0),
    "heavy loss": Faults(loss=0.15, delay=20 * MS),
    "reorder": Faults(jitter=10 * MS),
    "duplicate": Faults(duplicate=0.1, jitter=2 * MS),
    "corrupt": Faults(corrupt=0.02),
    "everything": Faults(0.05, 0.05, 0.02, 10 * MS, 15 * MS),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", range(12))
def test_bytes_arrive(name: str, seed: int):
    transfer(seed, FAULTS[name])


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("seed", range(6))
def test_super_segments(name: str, seed: int):
    transfer(seed, FAULTS[name], size=1_000_000, caps=7)


@pytest.mark.parametrize("seed", range(6))
def test_interfaces_that_are_full(seed: int):
    transfer(seed, FAULTS["everything"], limit=3)


@pytest.mark.parametrize("name", ["clean", "everything"])
@pytest.mark.parametrize("seed", range(6))
def test_memory_that_runs_out(name: str, seed: int):
    transfer(seed, FAULTS[name], budget=400_000)


@pytest.mark.parametrize("seed", range(6))
def test_small_buffers(seed: int):
    transfer(seed, FAULTS["everything"], size=60_000, rcvbuf=8192, sndbuf=10000)


@pytest.mark.parametrize("seed", range(3))
def test_same_seed_same_trace(seed: int):
    one, two = (transfer(seed, FAULTS["everything"], size=50_000)[0] for _ in range(2))
    assert one == two
    assert one != transfer(seed + 1000, FAULTS["everything"], size=50_000)[0]
