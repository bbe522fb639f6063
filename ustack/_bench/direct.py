"""Experiments E12, E20 and E21: pinning, posted receives, the size from which a send in place pays. To be run alone:

    python -m ustack._bench.direct [e21] [e20] [e12] [--rounds N]
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter_ns
from typing import Any

import ustack
from ustack.socket import SO_ZEROCOPY

SIZES = tuple(1 << k for k in range(10, 21))
RING = 8  # buffers in turn
PATIENCE = 30.0


@contextlib.contextmanager
def cable() -> Iterator[tuple[Any, Any]]:
    """A connection over a cable with devices at its ends, and a thread that takes what arrives."""
    with ustack.Stack() as near, ustack.Stack() as far:
        for net, link, ip in zip((near, far), ustack.pair(device=True), ("10.9.0.1", "10.9.0.2"), strict=True):
            net.add_interface(link, addresses=[f"{ip}/24"])
        with far.create_server(("10.9.0.2", 0)) as listener, near.create_connection(listener.getsockname()) as c:
            s, _ = listener.accept()
            with s:
                c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
                c.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
                yield c, s


def drain(s: Any, n: int) -> None:
    """Take n bytes without copying them."""
    while n > 0:
        for block in s.recv_buffers(n):
            n -= len(block)


class Sender:
    """Sends of one size from buffers in turn, by one technique."""

    def __init__(self, c: Any, s: Any, size: int) -> None:
        self.c, self.s, self.size, self.at, self.under_way = c, s, size, 0, 0
        self.buffers = [mmap.mmap(-1, size) for _ in range(RING)]
        for buffer in self.buffers:
            buffer[:] = bytes(size)
        self.registered = [ustack.register(buffer) for buffer in self.buffers]

    def close(self) -> None:
        while self.under_way:
            self.collect()
        for one in self.registered:
            one.close()
        for buffer in self.buffers:
            buffer.close()

    def collect(self) -> None:
        for low, high, _ in self.c.completions(PATIENCE):
            self.under_way -= (high - low & 0xFFFFFFFF) + 1

    def copied(self, buffer: Any) -> None:
        self.c.sendall(buffer)

    def direct(self, buffer: Any) -> None:
        self.c.sendall(buffer, direct=True)

    def zerocopy(self, buffer: Any) -> None:
        if self.under_way >= RING - 1:
            self.collect()
        self.c.send(buffer, zerocopy=True)
        self.under_way += 1

    def time(self, how: str, count: int) -> float:
        """ns of a call of the sending thread, with what comes of it taken by another."""
        one: Callable[[Any], None] = getattr(self, how)
        taker = threading.Thread(target=drain, args=(self.s, self.size * count))
        taker.start()
        begin = perf_counter_ns()
        for _ in range(count):
            one(self.buffers[self.at % RING])
            self.at += 1
        taken = perf_counter_ns() - begin
        taker.join(PATIENCE)
        return taken / count


def experiment_e21(sizes: tuple[int, ...] = SIZES, rounds: int = 7) -> list[dict[str, float | int]]:
    """E21: a send that copies, one in place that waits, one in place with completion: ns a call, by size.

    Registered memory, eight buffers in turn, over a cable with devices at its ends, whose copy is part of all three.
    Medians of ``rounds``, taken in turn.
    """
    rows: list[dict[str, float | int]] = []
    with cable() as (c, s):
        for size in sizes:
            sender = Sender(c, s, size)
            count = max(20, min(400, (16 << 20) // size))
            times: dict[str, list[float]] = {"copied": [], "direct": [], "zerocopy": []}
            for _ in range(rounds):
                for how, found in times.items():
                    found.append(sender.time(how, count if how != "direct" else max(10, count // 4)))
            sender.close()
            rows.append({"size": size} | {f"{how}_ns": median(found) for how, found in times.items()})
    return rows


def crossover(rows: list[dict[str, float | int]], how: str) -> int | None:
    """The size from which on a technique is never dearer than copying; None: it is never so."""
    found = None
    for row in rows:
        if row[f"{how}_ns"] > row["copied_ns"]:
            found = None
        elif found is None:
            found = int(row["size"])
    return found


def experiment_e12(sizes: tuple[int, ...] = SIZES, rounds: int = 50) -> list[dict[str, float | int | None]]:
    """E12: registering (mlock) and letting go, against copying, by size: ns, and after how many uses it is paid for."""
    rows: list[dict[str, float | int | None]] = []
    for size in sizes:
        memory, target = mmap.mmap(-1, size), bytearray(size)
        memory[:] = bytes(size)
        pin: list[int] = []
        copy: list[int] = []
        for _ in range(rounds):
            begin = perf_counter_ns()
            ustack.register(memory).close()
            middle = perf_counter_ns()
            target[:] = memory
            pin.append(middle - begin)
            copy.append(perf_counter_ns() - middle)
        memory.close()
        pinned, copied = median(pin), median(copy)
        rows.append({"size": size, "pin_ns": pinned, "copy_ns": copied, "uses": -(-int(pinned) // max(int(copied), 1))})
    return rows


def received(s: Any, memory: Any, how: str) -> int:
    """One read of a stream: posted, late (received, then copied) or loaned; bytes, 0 at the end."""
    if how == "loaned":
        return sum(len(block) for block in s.recv_buffers(len(memory)))
    return int(s.recv_posted(memory) if how == "posted" else s.recv_into(memory, 0, socket.MSG_WAITALL))


def answer(c: Any, turns: queue.SimpleQueue[int], data: bytes) -> None:
    """Send as often as is asked for, until 0 is."""
    while turns.get():
        c.sendall(data)


def experiment_e20(total: int = 20_000_000, orders: tuple[float, ...] = (0.0, 0.01, 0.05)) -> list[dict[str, Any]]:
    """E20: receives posted before the data, late ones, and loaned buffers, where packets are exchanged now and then.

    The sender sends what is waited for, when it is waited for: what comes while nobody waits is no posted receive.
    Bytes that a CPU moved for each byte received (``copies``; the device's move is not in it), and the time, ns a byte.
    """
    rows: list[dict[str, Any]] = []
    for reorder in orders:
        for how in ("posted", "late", "loaned"):
            with ustack.Stack() as near, ustack.Stack() as far:
                left, right = ustack.pair(device=True, mtu=1500, offloads=["csum"], queue=4096)
                wire = ustack.Impair(left, seed=1, tx={"reorder": reorder, "reorder_delay": 0.0003})
                near.add_interface(wire, addresses=["10.9.0.1/24"])
                far.add_interface(right, addresses=["10.9.0.2/24"])
                with far.create_server(("10.9.0.2", 0)) as listener:
                    c = near.create_connection(listener.getsockname())
                    s, _ = listener.accept()
                memory = mmap.mmap(-1, 1 << 18)
                with c, s, ustack.register(memory), memoryview(memory) as view:
                    turns: queue.SimpleQueue[int] = queue.SimpleQueue()
                    sender = threading.Thread(target=answer, args=(c, turns, bytes(len(view))))
                    begin = perf_counter_ns()
                    sender.start()
                    for _ in range(total // len(view)):
                        turns.put(len(view))
                        lacking = len(view)
                        while lacking:
                            lacking -= received(s, view[:lacking], how)
                    taken = perf_counter_ns() - begin
                    turns.put(0)
                    sender.join(PATIENCE)
                    got = total // len(view) * len(view)
                memory.close()
                moved = sum(n for name, (n, _) in far.ledger().items() if not name.startswith("device."))
                stats = far.stats()
                rows.append({
                    "reorder": f"{reorder:.0%}", "receive": how, "copies": round(moved / got, 3),
                    "in_place": round(stats.get("posted.hit_bytes", 0) / got, 3), "ns_byte": round(taken / got, 3),
                })
    return rows


def say(rows: list[Any]) -> None:
    """Print rows as a table."""
    print("".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:14,.0f}" if isinstance(value, float) and value > 100 else f"{value:>14}"
                      for value in row.values()))


def main(arguments: list[str]) -> None:
    """Run what was asked for and print it."""
    rounds = int(arguments[arguments.index("--rounds") + 1]) if "--rounds" in arguments else 7
    asked = [a for a in arguments if a in ("e12", "e20", "e21")] or ["e21", "e20", "e12"]
    if "e21" in asked:
        print("E21: ns of a send, by size")
        say(rows := experiment_e21(rounds=rounds))
        for how in ("direct", "zerocopy"):
            size = crossover(rows, how)
            print(f"{how}: pays from {size:,} bytes on" if size else f"{how}: never pays up to {SIZES[-1]:,} bytes")
        print(f'direct="auto" sends in place from {ustack.DIRECT_LEAST:,} bytes on')
    if "e20" in asked:
        print("E20: bytes moved by a CPU for each byte received, by how it is received and how many packets are late")
        say(experiment_e20())
    if "e12" in asked:
        print("E12: ns to register and let go, and to copy once")
        say(experiment_e12())


if __name__ == "__main__":
    main(sys.argv[1:])
