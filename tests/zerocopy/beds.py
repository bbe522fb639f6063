"""Two stacks of one process for the tests of this folder: over memory in real time, or over a lossy wire in virtual."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from helpers import Background

import ustack

NEAR, FAR = "10.9.0.1", "10.9.0.2"
PATIENCE = 60.0


@contextlib.contextmanager
def two_stacks(**options: Any) -> Iterator[tuple[ustack.Stack, ustack.Stack]]:
    """Two stacks on the two ends of ``ustack.pair()``."""
    with ustack.Stack(**options) as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.pair(), (NEAR, FAR), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        yield near, far


@contextlib.contextmanager
def connected(near: ustack.Stack, far: ustack.Stack) -> Iterator[tuple[Any, Any]]:
    """A connection between them: (socket of the first, socket of the second)."""
    with far.create_server((FAR, 0)) as listener, near.create_connection((FAR, listener.getsockname()[1])) as c:
        s, _ = listener.accept()
        with s:
            c.settimeout(PATIENCE)
            s.settimeout(PATIENCE)
            yield c, s


def read_all(s: Any) -> bytes:
    """All until the end of the stream."""
    got = bytearray()
    while data := s.recv(1 << 20):
        got += data
    return bytes(got)


@contextlib.contextmanager
def reading(s: Any) -> Iterator[Background]:
    """A thread that reads a socket to its end beside the body."""
    yield (one := Background(read_all, s))
    one.result(PATIENCE)


def copied(net: ustack.Stack) -> dict[str, int]:
    """Bytes that a CPU has copied or summed, by reason."""
    return {name: n for name, (n, _) in net.ledger().items() if n and not name.startswith(("device.", "pipe."))}


class Lossy:
    """Two stacks on virtual time; ``lose(packet)`` decides what the wire loses. Links gather and leave sums partial."""

    def __init__(self, lose: Callable[[bytes], bool], **options: Any):
        self.lose = lose
        self.stacks, self.pipes = [], []
        for k, ip in ((1, NEAR), (2, FAR)):
            net = ustack.Stack(clock=ustack.VirtualClock(), seed=k)
            pipe = ustack.Pipe(layer=3, queue=4096, **{"offloads": ["csum"]} | options)
            net.add_interface(pipe, addresses=[f"{ip}/24"])
            self.stacks.append(net)
            self.pipes.append(pipe)

    def __enter__(self) -> Lossy:
        return self

    def __exit__(self, *exc: object) -> None:
        for net in self.stacks:
            net.close()

    def connect(self) -> tuple[Any, Any]:
        """A connection between the two."""
        a, b = self.stacks
        with b.create_server((FAR, 80)) as listener:
            c = a.socket()
            c.connect_ex((FAR, 80))
            self.run(lambda: c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO)[0] == 1)
            self.carry()
            return c, listener.accept()[0]

    def carry(self) -> None:
        """Packets over the wire until it is silent."""
        while True:
            moving = [(other, raw) for pipe, other in (self.pipes, self.pipes[::-1]) for _, raw in pipe.drain()]
            if not moving:
                return
            for other, raw in moving:
                if not self.lose(raw):
                    other.inject(raw)

    def run(self, until: Callable[[], bool]) -> None:
        """Carry packets and let time pass until something holds."""
        for _ in range(100_000):
            self.carry()
            if until():
                return
            due = [t for t in (net.deadline_ns() for net in self.stacks) if t is not None]
            now = max(self.stacks[0].now_ns() + 1, min(due))
            for net in self.stacks:
                net.advance_to(now)
        raise AssertionError("it did not come to an end")


def lose_first(share: int) -> Callable[[bytes], bool]:
    """Every ``share``-th packet with payload is lost, the first time that it is sent."""
    seen: set[bytes] = set()
    count = 0

    def lose(raw: bytes) -> bool:
        nonlocal count
        key = raw[10 + 24:10 + 28]          # the sequence number, behind a virtio header and IPv4's
        if len(raw) <= 150 or key in seen:
            return False
        count += 1
        if count % share:
            return False
        seen.add(key)
        return True

    return lose
