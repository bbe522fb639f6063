"""What is timed in one thread that has both ends of a wire: see ``duets``. The same source for the kernel and ours."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from array import array
from collections.abc import Callable
from typing import Any

from ustack._bench.duets import Duet
from ustack._bench.work import retransmissions, without_delay
from ustack._bench.work_files import proxied

clock = time.perf_counter
clock_ns = time.perf_counter_ns


def _bulk(a: Any, b: Any, duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """Write a chunk, read it, and so on; calls block, as far as there is something to wait for."""
    chunk = p["chunk"]
    data, buffer = memoryview(bytes(chunk)), bytearray(chunk)
    sendall, recv_into = a.sendall, b.recv_into
    total = 0
    began = clock()
    end = began + p["seconds"]
    while clock() < end:
        sendall(data)
        left = chunk
        while left:
            left -= recv_into(buffer, left)
        total += chunk
    return {"bytes": total, "payload": total, "seconds": clock() - began}


def _send_calls(a: Any, b: Any, duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """Time of send(1 byte) that puts a packet on the wire; a few, then read them at the other end."""
    without_delay(a)
    send, recv_into, n, times = a.send, b.recv_into, p["block"], []
    buffer = bytearray(n)
    end = clock() + p["seconds"]
    while clock() < end:
        began = clock_ns()
        for _ in range(n):
            send(b"x")
        times.append((clock_ns() - began) / n)
        left = n
        while left:
            left -= recv_into(buffer, left)
    times.sort()
    return {"ns": times[len(times) // 2], "count": len(times) * n}


def _receive_calls(a: Any, b: Any, duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """Time of recv(1) when the data are there."""
    without_delay(a)
    recv, n, times = b.recv, p["block"], []
    data = bytes(n)
    end = clock() + p["seconds"]
    while clock() < end:
        a.sendall(data)
        b.recv(n, socket.MSG_PEEK | socket.MSG_WAITALL)
        began = clock_ns()
        for _ in range(n):
            recv(1)
        times.append((clock_ns() - began) / n)
    times.sort()
    return {"ns": times[len(times) // 2], "count": len(times) * n}


def _read_all(b: Any, buffer: bytearray) -> int:
    """All that is there for a non-blocking socket; -1 at the end of the stream with nothing before it."""
    got, recv_into = 0, b.recv_into
    with contextlib.suppress(BlockingIOError):
        while True:
            n = recv_into(buffer)
            if not n:
                return got or -1
            got += n
    return got


def _carried(a: Any, b: Any, duet: Duet, p: dict[str, Any], write: Callable[[], int]) -> dict[str, float]:
    """Write, carry packets, read, in turn; in the end the rest until the end of the stream."""
    buffer, carry = bytearray(1 << 18), duet.carry
    sent = got = packets = 0
    began = clock()
    end = began + p["seconds"]
    while clock() < end:
        with contextlib.suppress(BlockingIOError):
            sent += write()
        packets += carry()
        got += _read_all(b, buffer)
        carry()
    a.shutdown(socket.SHUT_WR)
    while (n := _read_all(b, buffer)) >= 0:
        got += n
        packets += carry()
    if got != sent:
        raise RuntimeError(f"{got} bytes came of {sent}")
    seconds = clock() - began
    return {
        "bytes": got, "payload": got, "seconds": seconds, "packets": packets,
        "retransmissions": retransmissions(a),
    }  # fmt: skip


def _carried_bulk(a: Any, b: Any, duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    data, send = bytes(p["chunk"]), a.send
    return _carried(a, b, duet, p, lambda: send(data))


def _carried_small(a: Any, b: Any, duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """Small writes, each a packet of its own."""
    without_delay(a)
    data, send, burst = bytes(p["size"]), a.send, range(p["burst"])

    def write() -> int:
        sent = 0
        try:
            for _ in burst:
                sent += send(data)
        except BlockingIOError:
            if not sent:
                raise
        return sent

    return _carried(a, b, duet, p, write)


def _over_pair(run: Callable[[Any, Any, Duet, dict[str, Any]], dict[str, float]]) -> Both:
    def both(duet: Duet, p: dict[str, Any]) -> dict[str, float]:
        a, b = duet.pair()
        with a, b:
            return run(a, b, duet, p)

    return both


def _crowd(duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """Time of a packet that comes in on one of many connections: always the same one, or a random one."""
    n, burst, turn = p["connections"], p["burst"], 2000
    crowd = duet.crowd(n)
    dice = random.Random(n)
    times: list[float] = []
    order = array("I", bytes(4 * turn))
    end = clock() + p["seconds"]
    while clock() < end or len(times) < 3:
        if p["random"]:
            for k in range(0, turn, burst):
                order[k : k + burst] = array("I", dice.sample(range(n), burst))
        times.append(crowd.ingress(order, burst))
    times.sort()
    return {"ns": times[len(times) // 2], "count": len(times) * turn}


Both = Callable[[Duet, dict[str, Any]], dict[str, float]]

ALONE: dict[str, Both] = {
    "alone.bulk": _over_pair(_bulk),
    "alone.send_call": _over_pair(_send_calls),
    "alone.recv_call": _over_pair(_receive_calls),
    "alone.crowd": _crowd,
    "alone.proxy": proxied,
    "carried.bulk": _over_pair(_carried_bulk),
    "carried.small": _over_pair(_carried_small),
}
