"""The work of ``work`` with its loops in C, for rows that end in ``c``: what is left of a row without Python."""

from __future__ import annotations

import socket
from typing import Any

from ustack._bench.duets import Duet
from ustack._bench.work import WARM_UP, Host, Work, _both, _datagrams, retransmissions, without_delay
from ustack._core.py.bench_loops import Loops


def _send(s: Any, p: dict[str, Any]) -> dict[str, float]:
    sent = Loops(s, p["chunk"]).send_for(p["seconds"])
    s.shutdown(socket.SHUT_WR)
    if s.recv_into(bytearray(1)):
        raise RuntimeError("the receiver answered")
    return {"sent": sent, "retransmissions": retransmissions(s)}


def _receive(s: Any, p: dict[str, Any]) -> dict[str, float]:
    first, rest, seconds = Loops(s, p["chunk"]).receive_all()
    return {"bytes": rest, "seconds": seconds, "payload": first + rest, "retransmissions": retransmissions(s)}


def _ping_pong(s: Any, p: dict[str, Any]) -> dict[str, float]:
    without_delay(s)
    found = Loops(s, p["size"]).ping_pong(p["seconds"])
    times = sorted(found[int(len(found) * WARM_UP) :])
    return {"p50": times[len(times) // 2] / 1e3, "p99": times[len(times) * 99 // 100] / 1e3, "count": len(times)}


def _echo(s: Any, p: dict[str, Any]) -> dict[str, float]:
    without_delay(s)
    Loops(s, p["size"]).echo()
    return {}


def _datagrams_out(s: Any, p: dict[str, Any], host: Host) -> dict[str, float]:
    return {"sent": Loops(s, p["size"]).send_datagrams_for(p["seconds"], p["window"])}


def _datagrams_in(s: Any, p: dict[str, Any], host: Host) -> dict[str, float]:
    received, seconds = Loops(s, 2048).receive_datagrams(p["window"] // 4)
    return {"received": received, "seconds": seconds}


def exchange(duet: Duet, p: dict[str, Any]) -> dict[str, float]:
    """Both ends of a wire in one thread: write a chunk, read it."""
    a, b = duet.pair()
    with a, b:
        total, seconds = Loops(a, p["chunk"]).exchange_for(Loops(b, p["chunk"]), p["seconds"])
    return {"bytes": total, "payload": total, "seconds": seconds}


WORK_C: dict[str, Work] = {
    "bulk.out": _both(_send, _receive),
    "bulk.in": _both(_receive, _send),
    "rtt": _both(_ping_pong, _echo),
    "udp.out": _datagrams(_datagrams_out, _datagrams_in, with_host=True),
    "udp.in": _datagrams(_datagrams_in, _datagrams_out, with_host=True),
}
