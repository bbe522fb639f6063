"""What every scene does: ping, TCP echo, an HTTP download checked by SHA-256, bulk transfer both ways."""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ustack._cli.services import PORTS

CHUNK = 256 * 1024
TIMEOUT = 20.0  # seconds without progress after which a step has failed


class Endpoint(Protocol):
    """The part of a stack that is used here; the kernel's has the same shape."""

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> Any:
        """A connected TCP socket."""
        ...

    def ping(self, host: str, size: int = 56, timeout: float = 2.0) -> float:
        """Seconds of one echo round trip."""
        ...


class Progress(Protocol):
    """Told how far a step is: a fraction, and what to write beside it."""

    def __call__(self, step: str, fraction: float, note: str = "") -> None:
        """Show it."""
        ...


@dataclass
class Result:
    """The figures of one scene. Times in seconds, rates in bit/s."""

    ping: float = 0.0
    rtt_p50: float = 0.0
    rtt_p99: float = 0.0
    up: float = 0.0
    down: float = 0.0
    sha256: str = ""
    ledger: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    sent: int = 0  # payload bytes that our side sent in bulk, for the ledger
    received: int = 0  # and received, HTTP included


def percentile(values: list[float], p: float) -> float:
    """The value below which ``p`` percent lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def ping(us: Endpoint, host: str, rounds: int = 20) -> float:
    """Median of a few pings; the first, which resolves addresses, does not count."""
    us.ping(host, timeout=5.0)
    return percentile([us.ping(host) for _ in range(rounds)], 50)


def round_trips(us: Endpoint, host: str, rounds: int, progress: Progress) -> list[float]:
    """Seconds of round trips of one byte through the echo service, on one connection."""
    times = []
    clock = time.perf_counter
    with us.create_connection((host, PORTS["echo"]), timeout=TIMEOUT) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(rounds):
            begin = clock()
            s.sendall(b"x")
            if s.recv(1) != b"x":
                raise RuntimeError("the echo was not what was sent")
            times.append(clock() - begin)
            if i % 500 == 499:
                progress("TCP echo", (i + 1) / rounds)
    return times[rounds // 10 :]  # the first tenth warms up


class _Connection(http.client.HTTPConnection):
    """The standard HTTP client over a socket that is already connected."""

    def __init__(self, host: str, sock: Any) -> None:
        super().__init__(host)
        self.sock = sock


def download(us: Endpoint, host: str, file: Path, progress: Progress) -> str:
    """Fetch ``file`` from the peer's HTTP service; its SHA-256. RuntimeError if it arrives changed."""
    total = file.stat().st_size
    digest = hashlib.sha256()
    seen = 0
    connection = _Connection(host, us.create_connection((host, PORTS["http"]), timeout=TIMEOUT))
    try:
        connection.request("GET", f"/{file.name}", headers={"Connection": "close"})
        with connection.getresponse() as response:
            if response.status != 200:
                raise RuntimeError(f"the server said {response.status} {response.reason}")
            while data := response.read(CHUNK):
                digest.update(data)
                seen += len(data)
                progress("HTTP", seen / total)
    finally:
        connection.close()
    with file.open("rb") as f:
        expected = hashlib.file_digest(f, "sha256").hexdigest()
    if digest.hexdigest() != expected:
        raise RuntimeError(f"HTTP: {seen} of {total} bytes arrived, and their SHA-256 is wrong")
    return expected


def _timed(seconds: float, step: str, progress: Progress, move: Callable[[], int]) -> tuple[int, float]:
    """Call ``move`` for so long; bytes that it moved and the time of the first call."""
    clock = time.perf_counter
    begin = shown = clock()
    total = 0
    while (now := clock()) - begin < seconds:
        if now - shown > 0.1:
            shown = now
            progress(step, (now - begin) / seconds, f"{total * 8 / (now - begin) / 1e9:.2f} Gbit/s")
        n = move()
        if not n:
            raise RuntimeError(f"{step}: the peer ended the connection")
        total += n
    return total, begin


def upload(us: Endpoint, host: str, seconds: float, progress: Progress) -> tuple[float, int]:
    """Send for so long to the discard service. bit/s until all of it was read by the peer, and bytes."""
    data = bytes(CHUNK)

    with us.create_connection((host, PORTS["discard"]), timeout=TIMEOUT) as s:

        def move() -> int:
            s.sendall(data)
            return CHUNK

        total, begin = _timed(seconds, "bulk out", progress, move)
        s.shutdown(socket.SHUT_WR)
        if s.recv(1):
            raise RuntimeError("the discard service answered")
        return total * 8 / (time.perf_counter() - begin), total


def fetch(us: Endpoint, host: str, seconds: float, progress: Progress) -> tuple[float, int]:
    """Receive for so long from the chargen service: bit/s and bytes."""
    buffer = bytearray(CHUNK)
    with us.create_connection((host, PORTS["chargen"]), timeout=TIMEOUT) as s:
        total, begin = _timed(seconds, "bulk in", progress, lambda: int(s.recv_into(buffer)))
        return total * 8 / (time.perf_counter() - begin), total


def measure(us: Endpoint, host: str, file: Path, seconds: float, rounds: int, progress: Progress) -> Result:
    """All of it, one after the other."""
    result = Result()
    progress("ping", 0.0)
    result.ping = ping(us, host)
    times = round_trips(us, host, rounds, progress)
    result.rtt_p50, result.rtt_p99 = percentile(times, 50), percentile(times, 99)
    result.sha256 = download(us, host, file, progress)
    result.up, result.sent = upload(us, host, seconds, progress)
    result.down, received = fetch(us, host, seconds, progress)
    result.received = received + file.stat().st_size
    return result
