"""Fbufs between two processes, against a UNIX socket and against copying through shared memory: rows ``fbuf.*``.

The other process is this module run as a program: it consumes what the near one produces.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter_ns

from ustack import fbufs
from ustack._bench.cases import Handover
from ustack._core.py.checksum import checksum_partial

BUFFERS = 64  # of the pool: 4 MiB, more than a core's own cache holds, less than the one that cores share
EACH = 400  # transfers of a turn
TURNS = 25
PATIENCE = 30.0
SPIN = 50e-6
KINDS = ("volatile", "protected", "strict")


class Producer:
    """The near end: it fills buffers, if they are touched, and hands them over."""

    def __init__(self, channel: fbufs.Channel, plain: socket.socket, size: int) -> None:
        self.channel, self.plain, self.size = channel, plain, size
        self.pools = {kind: fbufs.Pool(size, BUFFERS, kind=kind) for kind in KINDS}
        self.own = bytearray(size)
        self.content = bytes(range(256)) * (size // 256)

    def fbuf(self, kind: str, touched: bool) -> None:
        """Buffers of one pool, filled in place."""
        alloc, send, content = self.pools[kind].alloc, self.channel.send, self.content
        for _ in range(EACH):
            f = alloc()
            if touched:
                f.data[:] = content
            send(f)

    def copy(self, touched: bool) -> None:
        """A buffer of this process's own, filled, then copied into shared memory."""
        alloc, send, own, content = self.pools["volatile"].alloc, self.channel.send, self.own, self.content
        for _ in range(EACH):
            if touched:
                own[:] = content
            f = alloc()
            f.data[:] = own
            send(f)

    def socket(self, touched: bool) -> None:
        """A buffer of this process's own, filled, then sent."""
        send, own, content = self.plain.sendall, self.own, self.content
        for _ in range(EACH):
            if touched:
                own[:] = content
            send(own)


class Consumer:
    """The far end: it sums what comes, if it is touched, and gives it back."""

    def __init__(self, channel: fbufs.Channel, plain: socket.socket, size: int) -> None:
        self.channel, self.plain, self.size = channel, plain, size
        self.own = bytearray(size)

    def fbuf(self, touched: bool) -> None:
        """In place."""
        for _, f in zip(range(EACH), self.channel, strict=False):
            assert isinstance(f, fbufs.Fbuf)
            if touched:
                checksum_partial(f)
            f.free()

    def copy(self, touched: bool) -> None:
        """Copied out of shared memory first."""
        own = self.own
        for _, f in zip(range(EACH), self.channel, strict=False):
            assert isinstance(f, fbufs.Fbuf)
            own[:] = f.data
            f.free()
            if touched:
                checksum_partial(own)

    def socket(self, touched: bool) -> None:
        """Received into a buffer of this process's own."""
        recv_into, own, size, whole = self.plain.recv_into, self.own, self.size, socket.MSG_WAITALL
        for _ in range(EACH):
            recv_into(own, size, whole)
            if touched:
                checksum_partial(own)


@contextlib.contextmanager
def near_end(size: int, cpu: int, other_cpu: int) -> Iterator[tuple[Producer, subprocess.Popen[str]]]:
    """Our end, on one CPU, and the process that consumes, on another."""
    pairs = socket.socketpair(), socket.socketpair()
    before = os.sched_getaffinity(0)
    far = [pair[1] for pair in pairs]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ustack._bench.fbufs", str(size), str(other_cpu), *(str(s.fileno()) for s in far)],
        pass_fds=[s.fileno() for s in far], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    try:
        for s in far:
            s.close()
        os.sched_setaffinity(0, [cpu])
        with pairs[1][0] as plain, fbufs.Channel(pairs[0][0], timeout=PATIENCE, spin=SPIN) as channel:
            yield Producer(channel, plain, size), process
    finally:
        os.sched_setaffinity(0, before)
        process.kill()
        process.communicate()
        for s, _ in pairs:
            s.close()


def tell(process: subprocess.Popen[str], what: str, touched: bool, turns: int = TURNS) -> None:
    """Have the other process consume so many turns: "fbuf", "copy" or "socket"."""
    pipe = process.stdin
    assert pipe is not None
    pipe.write(f"{what} {int(touched)} {turns}\n")
    pipe.flush()


@contextlib.contextmanager
def producer(size: int, cpu: int, other_cpu: int) -> Iterator[Callable[[str, bool], float]]:
    """Something that measures: (way, touched) to nanoseconds for one transfer, the median of many turns. The ways are
    "copy", "socket", and the kinds of pools."""
    with near_end(size, cpu, other_cpu) as (near, process):

        def measure(way: str, touched: bool) -> float:
            tell(process, way if way in ("copy", "socket") else "fbuf", touched)
            times = []
            for _ in range(TURNS):
                began = perf_counter_ns()
                if way in KINDS:
                    near.fbuf(way, touched)
                else:
                    getattr(near, way)(touched)
                near.plain.recv(1)
                times.append((perf_counter_ns() - began) / EACH)
            return median(times)

        yield measure


def measure(case: Handover, rounds: int, cpu: int, other_cpu: int) -> list[tuple[float, float]]:
    """(ours, the baseline's) of each round, microseconds for one buffer."""
    found = []
    with producer(case.size, cpu, other_cpu) as one:
        one(case.kind, case.touched)
        for k in range(rounds):
            order = (case.kind, case.baseline) if k % 2 == 0 else (case.baseline, case.kind)
            figures = {way: one(way, case.touched) / 1e3 for way in order}
            found.append((figures[case.kind], figures[case.baseline]))
    return found


def main() -> None:
    """The other process: consume until standard input ends."""
    size, cpu, attach, plain = (int(word) for word in sys.argv[1:5])
    os.sched_setaffinity(0, [cpu])
    with socket.socket(fileno=plain) as s, fbufs.Channel(socket.socket(fileno=attach), spin=SPIN) as channel:
        far = Consumer(channel, s, size)
        for line in sys.stdin:
            way, touched, turns = line.split()
            for _ in range(int(turns)):
                getattr(far, way)(touched == "1")
                s.send(b".")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, ConnectionError):
        main()
