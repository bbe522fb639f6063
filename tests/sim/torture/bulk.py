"""Much data over a slightly bad link in virtual time."""

from __future__ import annotations

import hashlib
import time

from torture.stream import Stream
from torture.watch import Watch
from ustack import sim
from ustack.socket import socket

CHUNK = 1 << 20


def bulk(size: int, *, seed: int = 1, loss: float = 0.0001, delay: float = 0.001, mtu: int = 1500,
         watched: bool = True) -> str:
    """Move `size` bytes from one stack to another; what came of it in words. Raises AssertionError, torture.Broken."""
    stream = Stream(seed)
    sent, received = hashlib.sha256(), hashlib.sha256()
    begin = time.monotonic()
    with sim.Network(seed, trace=False) as net:
        a, b = net.host("a", "10.0.0.1"), net.host("b", "10.0.0.2")
        cable = net.link(a, b, loss=loss, delay=delay, mtu=mtu, rate=10e9, queue=10_000)
        watch = Watch(net, honest={"a", "b"}) if watched else None

        def send(sock: socket) -> sim.Steps[None]:
            with sock:
                yield from sim.connect(sock, (b.address, 80))
                if watch is not None:
                    watch.expect(sock.getsockname(), sock.getpeername(), stream)
                done = 0
                while done < size:
                    part = stream.at(done, min(CHUNK, size - done))
                    sent.update(part)
                    yield from sim.send_all(sock, part)
                    done += len(part)

        def receive() -> sim.Steps[int]:
            with b.listen(80) as listener:
                conn = yield from sim.accept(listener)
            got = 0
            with conn:
                while part := (yield from sim.recv(conn, CHUNK)):
                    received.update(part)
                    got += len(part)
            return got

        task = net.spawn(receive())
        net.spawn(send(a.socket()))
        start = net.now_ns
        net.run(limit=1e6)
        took = (net.now_ns - start) / 1e9
        net.drain()
        assert task.result == size
        assert sent.digest() == received.digest()
        assert not any(net.live().values())
        packets, lost = cable.counts.total(), cable.counts["lost"]
    assert not net.leaks
    return (f"bytes={size} sha256={sent.hexdigest()[:16]} packets={packets} lost={lost} virtual={took:.1f}s "
            f"real={time.monotonic() - begin:.0f}s")
