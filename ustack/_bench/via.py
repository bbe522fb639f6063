"""The message layer between two processes, against a UNIX socket: rows ``via.rtt.shm``; and experiment E11.

The other process is this module run as a program: it attaches, connects, and serves what the near one asks for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from statistics import median
from time import perf_counter_ns

from ustack import via
from ustack._bench.cases import Messages
from ustack._core.py import bench_via

NAME = b"bench"
SPIN = 1000.0  # seconds that a waiting call looks: nobody sleeps
TURNS, EACH = 200, 100  # of round trips, in C
PYTHON_TURNS, PYTHON_EACH = 60, 100
PATIENCE = 30.0


class End:
    """One end of both connections: the VI, and the UNIX socket."""

    def __init__(self, attach: socket.socket, plain: socket.socket, size: int, serve: bool) -> None:
        self.serve, self.size, self.plain = serve, size, plain
        self.nic = via.Nic(busy_poll=SPIN)
        ptag = self.nic.ptag()
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(via.Listener(self.nic, NAME)) if serve else None
            port = self.nic.attach(attach, timeout=PATIENCE)
            self.vi = via.Vi(self.nic, ptag)
            self.out, *self.into = via.buffers(self.nic, ptag, max(size, 64), 3)
            for buffer in self.into:
                self.vi.post_recv(buffer)
            self.out.prepare(size)
            if listener:
                listener.wait(PATIENCE).accept(self.vi)
            else:
                self.vi.connect(NAME, port, timeout=PATIENCE)
        self.python(2)  # each is shown the other's memory
        plain.setblocking(False)

    def python(self, count: int) -> None:
        """So many round trips through the Python API; an even number."""
        vi, out = self.vi, self.out
        if self.serve:
            for _ in range(count):
                vi.post_recv(vi.recv_wait())
                vi.post_send(out)
                vi.send_wait()
        else:
            for _ in range(count):
                vi.post_send(out)
                vi.post_recv(vi.recv_wait())
                vi.send_wait()

    def socket_python(self, count: int) -> None:
        """The same over the UNIX socket, polled."""
        data, size, send, recv = bytes(self.size), self.size, self.plain.send, self.plain.recv
        for _ in range(count):
            if not self.serve:
                send(data)
            while True:
                try:
                    recv(size)
                    break
                except BlockingIOError:
                    pass
            if self.serve:
                send(data)

    def half_round_trip(self, what: str, api: str, turns: int = 0) -> float:
        """Microseconds, the median of many turns. ``what``: "via" or "socket". Both ends have to be told as many."""
        if api == "c" and what == "via":
            times = bench_via.ping_pong(self.vi, self.out, self.into, turns or TURNS, EACH, self.serve)
        elif api == "c":
            times = bench_via.socket_ping_pong(self.plain.fileno(), self.size, turns or TURNS, EACH, self.serve)
        else:
            run, found = self.python if what == "via" else self.socket_python, []
            for _ in range(turns or PYTHON_TURNS):
                began = perf_counter_ns()
                run(PYTHON_EACH)
                found.append((perf_counter_ns() - began) / PYTHON_EACH)
            return median(found) / 2e3
        return median(times) / 2e3


@contextlib.contextmanager
def near_end(size: int, cpu: int, other_cpu: int) -> Iterator[tuple[End, subprocess.Popen[str]]]:
    """Our end, on one CPU, and the process with the other, on another."""
    pairs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), socket.socketpair()
    before = os.sched_getaffinity(0)
    far = [pair[1] for pair in pairs]
    command = [sys.executable, "-P", "-m", "ustack._bench.via", str(size), str(other_cpu)]
    process = subprocess.Popen(
        [*command, *(str(s.fileno()) for s in far)], pass_fds=[s.fileno() for s in far], stdin=subprocess.PIPE,
        text=True, env=os.environ | {"PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    try:
        for s in far:
            s.close()
        os.sched_setaffinity(0, [cpu])
        end = End(pairs[0][0], pairs[1][0], size, False)
        with end.nic, pairs[1][0]:
            yield end, process
    finally:
        os.sched_setaffinity(0, before)
        process.kill()
        process.communicate()


def measure(case: Messages, rounds: int, cpu: int, other_cpu: int) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """(ours, the socket's) of each round, microseconds; and the NIC's counters."""
    pairs = []
    with near_end(case.size, cpu, other_cpu) as (end, process):
        pipe = process.stdin
        assert pipe is not None

        def one(what: str) -> float:
            pipe.write(f"{what} {case.api}\n")
            pipe.flush()
            return end.half_round_trip(what, case.api)

        one("via")
        for k in range(rounds):
            order = ("via", "socket") if k % 2 == 0 else ("socket", "via")
            found = {what: one(what) for what in order}
            pairs.append((found["via"], found["socket"]))
        return pairs, end.nic.stats()


def experiment_e11(
    sizes: tuple[int, ...] = (64, 512, 4096, 32768, 262144, 1 << 20), *, cold: int = 64 << 20, seconds: float = 0.02
) -> list[dict[str, float | int | str]]:
    """E11: a message received in place, against one that is copied on to the user's own buffer. Loopback.

    One row for each size and ring: "warm" are 4 buffers, "cold" as many as fill ``cold`` bytes (at most 4096). ns of a
    message each way, and what the copy costs: ``latency_factor`` and ``bandwidth_loss``. The claim that is tested:
    bandwidth 20 to 30 % less, latency 1.8 times.
    """
    rows: list[dict[str, float | int | str]] = []
    for size in sizes:
        for ring in ("warm", "cold"):
            count = 4 if ring == "warm" else min(4096, max(4, cold // size))
            with via.Nic() as nic:
                ptag = nic.ptag()
                a, b = (via.Vi(nic, ptag, max_transfer=max(sizes)) for _ in range(2))
                via.pair(a, b)
                out, *into = via.buffers(nic, ptag, size, count + 1)
                turns = max(count, int(seconds * 1e9 / (200 + size / 5)))
                bench_via.relay(a, b, out, into, None, size, count)
                own = bytearray(size)
                times: dict[str, list[float]] = {"in_place": [], "copied": []}
                for k in range(10):
                    for what in ("in_place", "copied") if k % 2 else ("copied", "in_place"):
                        target = own if what == "copied" else None
                        times[what].append(bench_via.relay(a, b, out, into, target, size, turns))
                place, copied = (min(times[what]) for what in ("in_place", "copied"))
                book, received = nic.ledger(), nic.stats()["via.received_bytes"]
                copied_bytes = len(times["copied"]) * turns * size
                rows.append({
                    "size": size, "ring": ring, "buffers": count, "in_place_ns": place, "copied_ns": copied,
                    "latency_factor": copied / place, "bandwidth_loss": 1 - place / copied,
                    "device_copies": book["device.rx"][0] / received,
                    "cpu_copies": book["rx.copy"][0] / copied_bytes,
                })  # fmt: skip
    return rows


def main() -> None:
    """The other process: serve until standard input ends."""
    size, cpu, attach, plain = (int(word) for word in sys.argv[1:5])
    os.sched_setaffinity(0, [cpu])
    with socket.socket(fileno=plain) as s:
        end = End(socket.socket(fileno=attach), s, size, True)
        with end.nic:
            for line in sys.stdin:
                what, api, *turns = line.split()
                end.half_round_trip(what, api, *map(int, turns))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
