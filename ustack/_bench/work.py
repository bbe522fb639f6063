"""What is timed: small programs over sockets. The same source runs over the kernel's sockets and over ours.

Each kind of work has two ends. ``call`` is the end that is measured: it connects. ``serve`` is the other one. Both
return figures as a dict; ``Host`` gives them sockets of either stack. Sockets have no timeout (with one, the standard
socket module would poll before every call): the parent process ends a worker that says nothing for too long.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

clock = time.perf_counter
clock_ns = time.perf_counter_ns

WARM_UP = 0.1  # the share of round trips that is not counted
UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h
TCP_INFO_TOTAL_RETRANS = 100  # offset of tcpi_total_retrans, linux/tcp.h


class Host(Protocol):
    """A stack to make sockets on."""

    def connect(self, address: tuple[str, int], kind: int = socket.SOCK_STREAM) -> Any:
        """A connected socket."""
        ...

    def bound(self, ip: str, kind: int) -> Any:
        """A socket bound to a free port; it listens if it can."""
        ...

    def accept(self, listener: Any) -> Any:
        """The next connection of a listener."""
        ...

    def batch(self, s: Any, n: int, size: int) -> Any:
        """``send`` and ``receive`` n datagrams of at most ``size`` bytes a call: see ``bench_sockets.KernelBatch``."""
        ...


def retransmissions(s: Any) -> int:
    """Segments that this socket of the kernel has sent again; 0 for ours, which count them in the stack."""
    try:
        info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int(struct.unpack_from("I", info, TCP_INFO_TOTAL_RETRANS)[0])
    except (OSError, TypeError, struct.error, AttributeError):
        return 0


def without_delay(s: Any) -> None:
    """Small packets are sent at once."""
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


# --- bulk ---------------------------------------------------------------------------------------------------------


def _send(s: Any, p: dict[str, Any]) -> dict[str, float]:
    data = memoryview(bytes(p["chunk"]))
    sendall, total = s.sendall, 0
    end = clock() + p["seconds"]
    while clock() < end:
        sendall(data)
        total += len(data)
    s.shutdown(socket.SHUT_WR)
    if s.recv_into(bytearray(1)):
        raise RuntimeError("the receiver answered")
    return {"sent": total, "retransmissions": retransmissions(s)}


def _receive(s: Any, p: dict[str, Any]) -> dict[str, float]:
    """Bytes and seconds from the first data to the end of the stream."""
    buffer = bytearray(p["chunk"])
    recv_into = s.recv_into
    first = recv_into(buffer)
    began = clock()
    total = 0
    while n := recv_into(buffer):
        total += n
    return {"bytes": total, "seconds": clock() - began, "payload": total + first, "retransmissions": retransmissions(s)}


def _over_connection(work: Callable[[Any, dict[str, Any]], dict[str, float]]) -> tuple[Any, Any]:
    def call(host: Host, address: tuple[str, int], p: dict[str, Any]) -> dict[str, float]:
        with host.connect(address) as s:
            return work(s, p)

    def serve(host: Host, listener: Any, p: dict[str, Any]) -> dict[str, float]:
        with host.accept(listener) as s:
            return work(s, p)

    return call, serve


# --- round trips ----------------------------------------------------------------------------------------------------


def _ping_pong(s: Any, p: dict[str, Any]) -> dict[str, Any]:
    without_delay(s)
    data, buffer = bytes(p["size"]), bytearray(p["size"])
    sendall, recv_into = s.sendall, s.recv_into
    times = []
    end = clock() + p["seconds"]
    while clock() < end:
        for _ in range(16):
            began = clock_ns()
            sendall(data)
            recv_into(buffer)
            times.append(clock_ns() - began)
    times = sorted(times[int(len(times) * WARM_UP) :])
    figures: dict[str, Any] = {
        "p50": times[len(times) // 2] / 1e3,
        "p99": times[len(times) * 99 // 100] / 1e3,
        "count": len(times),
    }
    if n := p.get("quantiles"):
        figures["quantiles"] = [times[(len(times) - 1) * k // n] / 1e3 for k in range(n + 1)]
    return figures


def _echo(s: Any, p: dict[str, Any]) -> dict[str, float]:
    without_delay(s)
    buffer = bytearray(p["size"])
    sendall, recv_into = s.sendall, s.recv_into
    while recv_into(buffer):
        sendall(buffer)
    return {}


# --- connections ------------------------------------------------------------------------------------------------------


def _connect_often(host: Host, address: tuple[str, int], p: dict[str, Any]) -> dict[str, float]:
    """Connect, a byte each way, close: the server closes first, so that TIME-WAIT is on its side."""
    buffer = bytearray(1)
    connect = host.connect
    count = 0
    began = clock()
    end = began + p["seconds"]
    while clock() < end:
        with connect(address) as s:
            s.sendall(b"x")
            if s.recv_into(buffer) != 1 or s.recv_into(buffer):
                raise RuntimeError("not the one byte that was expected")
        count += 1
    seconds = clock() - began
    with connect(address) as s:
        s.sendall(b"q")
        s.recv_into(buffer)
    return {"count": count, "seconds": seconds}


def _accept_often(host: Host, listener: Any, p: dict[str, Any]) -> dict[str, float]:
    accept = host.accept
    while True:
        with accept(listener) as s:
            byte = s.recv(1)
            if byte == b"q":
                return {}
            s.sendall(byte)


# --- datagrams --------------------------------------------------------------------------------------------------------


def _udp_send(s: Any, p: dict[str, Any]) -> dict[str, float]:
    """As fast as a window of datagrams on their way allows; the receiver's credits open it.

    The window must be smaller than what the kernel's default receive buffer holds.
    """
    data = bytes(p["size"])
    send, recv = s.send, s.recv
    ahead = p["window"]
    sent = credit = 0
    end = clock() + p["seconds"]
    while clock() < end:
        while sent < credit + ahead:
            send(data)
            sent += 1
        credit = int.from_bytes(recv(8), "little")
    _farewell(s)
    _hear_out(s)
    return {"sent": sent}


def _udp_receive(s: Any, p: dict[str, Any]) -> dict[str, float]:
    """Count until an empty datagram; four times a window the sender hears how many have come."""
    buffer, every = bytearray(2048), p["window"] // 4
    recv_into, send = s.recv_into, s.send
    got = 1
    recv_into(buffer)
    began = last = clock()
    while recv_into(buffer):
        got += 1
        if not got % every:
            send(got.to_bytes(8, "little"))
            last = clock()
    _farewell(s)
    return {"received": got, "seconds": last - began}


def _farewell(s: Any) -> None:
    """The last word, an empty datagram, said often enough that one arrives."""
    with contextlib.suppress(ConnectionRefusedError):  # the other end may have left at the first of them
        for _ in range(8):
            s.send(b"")


def _hear_out(s: Any) -> None:
    with contextlib.suppress(ConnectionRefusedError):
        while s.recv(8):
            pass


def _batch_send(s: Any, p: dict[str, Any], host: Host) -> dict[str, float]:
    """As _udp_send, many datagrams a call."""
    send, recv, n, ahead = host.batch(s, p["batch"], p["size"]).send, s.recv, p["batch"], p["window"]
    sent = credit = 0
    end = clock() + p["seconds"]
    while clock() < end:
        while sent + n <= credit + ahead:
            sent += send()
        credit = int.from_bytes(recv(8), "little")
    _farewell(s)
    _hear_out(s)
    return {"sent": sent}


def _batch_receive(s: Any, p: dict[str, Any], host: Host) -> dict[str, float]:
    """As _udp_receive, many datagrams a call."""
    receive, send, every = host.batch(s, p["batch"], 2048).receive, s.send, p["window"] // 4
    got, ended = receive()
    told = 0
    began = last = clock()
    while not ended:
        if got - told >= every:
            send(got.to_bytes(8, "little"))
            told, last = got, clock()
        n, ended = receive()
        got += n
    _farewell(s)
    return {"received": got, "seconds": last - began}


def _super_send(s: Any, p: dict[str, Any], host: Host) -> dict[str, float]:
    """As _udp_send, one super-datagram a call, which is cut by whoever has to (UDP_SEGMENT)."""
    data, count, ahead = bytes(p["size"] * p["segments"]), p["segments"], p["window"] * p["segments"]
    s.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, p["size"])
    send, recv = s.send, s.recv
    sent = credit = 0
    end = clock() + p["seconds"]
    while clock() < end:
        while sent < credit + ahead:
            send(data)
            sent += count
        credit = int.from_bytes(recv(8), "little")
    _farewell(s)
    _hear_out(s)
    return {"sent": sent}


def _super_receive(s: Any, p: dict[str, Any], host: Host) -> dict[str, float]:
    """As _udp_receive, as many datagrams a call as were joined (UDP_GRO)."""
    s.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    buffer, size, every = bytearray(65536), p["size"], p["window"] * p["segments"] // 4
    recv_into, send = s.recv_into, s.send
    got = recv_into(buffer) // size
    told = 0
    began = last = clock()
    while n := recv_into(buffer):
        got += n // size
        if got - told >= every:
            send(got.to_bytes(8, "little"))
            told, last = got, clock()
    _farewell(s)
    return {"received": got, "seconds": last - began}


def _udp(work: Callable[..., dict[str, float]], *, with_host: bool = False) -> tuple[Any, Any]:
    def do(host: Host, s: Any, p: dict[str, Any]) -> dict[str, float]:
        if "rcvbuf" in p:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, p["rcvbuf"])
        return work(s, p, host) if with_host else work(s, p)

    def call(host: Host, address: tuple[str, int], p: dict[str, Any]) -> dict[str, float]:
        with host.connect(address, socket.SOCK_DGRAM) as s:
            s.send(b"hello")
            return do(host, s, p)

    def serve(host: Host, bound: Any, p: dict[str, Any]) -> dict[str, float]:
        _hello, address = bound.recvfrom(64)
        bound.connect(address)
        return do(host, bound, p)

    return call, serve


# --- single calls -----------------------------------------------------------------------------------------------------


def _receive_calls(s: Any, p: dict[str, Any]) -> dict[str, float]:
    """Time of recv(1) when the data are there: the peer sends a block, the first recv() waits for it."""
    without_delay(s)
    recv, n, times = s.recv, p["block"], []
    end = clock() + p["seconds"]
    while clock() < end:
        s.sendall(b"x")
        s.recv(n, socket.MSG_PEEK | socket.MSG_WAITALL)
        began = clock_ns()
        for _ in range(n):
            recv(1)
        times.append((clock_ns() - began) / n)
    times.sort()
    return {"ns": times[len(times) // 2], "count": len(times) * n}


def _send_blocks(s: Any, p: dict[str, Any]) -> dict[str, float]:
    without_delay(s)
    block, buffer = bytes(p["block"]), bytearray(1)
    while s.recv_into(buffer):
        s.sendall(block)
    return {}


def _send_calls(s: Any, p: dict[str, Any]) -> dict[str, float]:
    """Time of send(1 byte) that puts a packet on the wire; a few, then wait until the peer has them all."""
    without_delay(s)
    send, n, times = s.send, p["block"], []
    buffer = bytearray(1)
    end = clock() + p["seconds"]
    while clock() < end:
        began = clock_ns()
        for _ in range(n):
            send(b"x")
        times.append((clock_ns() - began) / n)
        s.recv_into(buffer)
    times.sort()
    return {"ns": times[len(times) // 2], "count": len(times) * n}


def _receive_blocks(s: Any, p: dict[str, Any]) -> dict[str, float]:
    without_delay(s)
    n, buffer = p["block"], bytearray(p["block"])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, n)  # to be woken once, not by each byte
    got = 0
    while True:
        select.select([s], [], [])
        r = s.recv_into(buffer)
        if not r:
            return {}
        got += r
        if got == n:
            s.sendall(b"x")
            got = 0


# --- what is held, and what is done when nothing happens ----------------------------------------------------------


def _resident() -> int:
    """Bytes of this process that are in memory (Rss of /proc/self/smaps_rollup, which is exact)."""
    with open("/proc/self/smaps_rollup") as f:
        for line in f:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no Rss in /proc/self/smaps_rollup")


def _hold(host: Host, address: tuple[str, int], p: dict[str, Any]) -> dict[str, float]:
    """Memory of idle connections that were accepted, as Python sockets or by the core alone.

    The other end opens as many as it is told over a first connection. Some are held before, so that what is needed
    once is not counted.
    """
    from ustack._core.py.bench_sockets import Accepted

    def accept(n: int) -> Any:
        return Accepted(listener, n) if p["bare"] else [listener.accept()[0] for _ in range(n)]

    def let_go(held: Any) -> None:
        for one in [held] if p["bare"] else held:
            one.close()

    with host.connect(address) as control:
        ip = control.getsockname()[0]
        with host.bound(ip, socket.SOCK_STREAM) as listener:
            listener.listen(65535)
            port = listener.getsockname()[1]

            def order(n: int) -> None:
                control.sendall(struct.pack("!II", port, n))
                if control.recv(1) != b"k":
                    raise RuntimeError("the other end does not open connections")

            order(p["warm"])
            first = accept(p["warm"])
            before = _resident()
            order(p["count"])
            held = accept(p["count"])
            after = _resident()
            order(0)
            let_go(held)
            let_go(first)
    return {"bytes_each": (after - before) / p["count"], "count": p["count"]}


def _open_many(host: Host, listener: Any, p: dict[str, Any]) -> dict[str, float]:
    opened: list[Any] = []
    with host.accept(listener) as control:
        ip = control.getpeername()[0]
        while request := control.recv(8, socket.MSG_WAITALL):
            port, n = struct.unpack("!II", request)
            opened += [host.connect((ip, port)) for _ in range(n)]
            if not n:
                for s in opened:
                    s.close()
            control.sendall(b"k")
    return {}


def _thread_times() -> tuple[int, int]:
    """(times that a thread was switched away, ns of CPU time) of all threads of this process but the calling one."""
    switches = spent = 0
    me = threading.get_native_id()
    for task in os.listdir("/proc/self/task"):
        if int(task) == me:
            continue
        with open(f"/proc/self/task/{task}/status") as f:
            switches += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
        with open(f"/proc/self/task/{task}/schedstat") as f:
            spent += int(f.read().split()[0])
    return switches, spent


def _idle(host: Host, address: tuple[str, int], p: dict[str, Any]) -> dict[str, float]:
    """A connection on which nothing happens any more. A thread sleeps as often as it wakes up."""
    with host.connect(address) as s:
        s.sendall(b"x")
        time.sleep(p["settle"])
        began, (switches, spent) = clock(), _thread_times()
        time.sleep(p["seconds"])
        seconds, (switched, used) = clock() - began, _thread_times()
    return {"wakeups": (switched - switches) / seconds, "cpu_percent": (used - spent) / seconds / 1e7}


def _quiet(s: Any, p: dict[str, Any]) -> dict[str, float]:
    while s.recv(100):
        pass
    return {}


@dataclass(frozen=True)
class Work:
    """Two ends: functions of (host, address or listener, parameters)."""

    call: Callable[[Host, tuple[str, int], dict[str, Any]], dict[str, float]]
    serve: Callable[[Host, Any, dict[str, Any]], dict[str, float]]
    kind: int = socket.SOCK_STREAM


def _both(ours: Any, theirs: Any) -> Work:
    return Work(_over_connection(ours)[0], _over_connection(theirs)[1])


def _datagrams(ours: Any, theirs: Any, *, with_host: bool = False) -> Work:
    return Work(_udp(ours, with_host=with_host)[0], _udp(theirs, with_host=with_host)[1], socket.SOCK_DGRAM)


WORK = {
    "bulk.out": _both(_send, _receive),
    "bulk.in": _both(_receive, _send),
    "rtt": _both(_ping_pong, _echo),
    "connect": Work(_connect_often, _accept_often),
    "udp.out": _datagrams(_udp_send, _udp_receive),
    "udp.in": _datagrams(_udp_receive, _udp_send),
    "udp.batch.out": _datagrams(_batch_send, _batch_receive, with_host=True),
    "udp.batch.in": _datagrams(_batch_receive, _batch_send, with_host=True),
    "udp.gso.out": _datagrams(_super_send, _super_receive, with_host=True),
    "udp.gso.in": _datagrams(_super_receive, _super_send, with_host=True),
    "hold": Work(_hold, _open_many),
    "idle": Work(_idle, _over_connection(_quiet)[1]),
    "recv_call": _both(_receive_calls, _send_blocks),
    "send_call": _both(_send_calls, _receive_blocks),
}
