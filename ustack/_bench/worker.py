"""One endpoint, a process of its own: ``python -m ustack._bench.worker STACK``; STACK is a JSON object.

    {"wire": "kernel"}                                         sockets of the kernel, in this namespace
    {"wire": "tap", "device": "us0", "address": "10.9.0.2/24", "busy_poll": 1.0 or null}
    {"wire": "ring", ...}

Commands come as JSON lines on standard input, answers go out the same way; a failure is ``{"error": text}``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ustack._bench.work import WORK


class Spinning:
    """A non-blocking socket of the kernel whose calls try again until they can be done."""

    def __init__(self, s: socket.socket) -> None:
        s.setblocking(False)
        self.s = s
        self.shutdown, self.getsockopt, self.setsockopt = s.shutdown, s.getsockopt, s.setsockopt

    def __enter__(self) -> Spinning:
        return self

    def __exit__(self, *exc: object) -> None:
        self.s.close()

    def recv_into(self, buffer: bytearray) -> int:
        """As of a blocking socket."""
        recv_into = self.s.recv_into
        while True:
            try:
                return recv_into(buffer)
            except BlockingIOError:
                pass

    def sendall(self, data: bytes | memoryview) -> None:
        """As of a blocking socket."""
        send = self.s.send
        while True:
            try:
                n = send(data)
            except BlockingIOError:
                continue
            if n == len(data):
                return
            data = memoryview(data)[n:]


class KernelHost:
    """Sockets of the kernel."""

    def __init__(self) -> None:
        self.congestion: str | None = None
        self.spin = False

    def configure(self, command: dict[str, Any]) -> None:
        """Congestion control and wait mode of the sockets to come."""
        self.congestion, self.spin = command.get("congestion"), command.get("wait") == "spin"

    def _socket(self, kind: int) -> socket.socket:
        s = socket.socket(socket.AF_INET, kind)
        if kind == socket.SOCK_STREAM and self.congestion:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.congestion.encode())
        return s

    def connect(self, address: tuple[str, int], kind: int = socket.SOCK_STREAM) -> Any:
        """See ``work.Host``."""
        s = self._socket(kind)
        s.connect(address)
        return Spinning(s) if self.spin else s

    def bound(self, ip: str, kind: int) -> Any:
        """A socket bound to a free port; it listens if it can. Accepted ones inherit its options."""
        s = self._socket(kind)
        s.bind((ip, 0))
        if kind == socket.SOCK_STREAM:
            s.listen(128)
        return s

    def accept(self, listener: Any) -> Any:
        """See ``work.Host``."""
        s, _ = listener.accept()
        return Spinning(s) if self.spin else s

    def stats(self) -> dict[str, int]:
        """Nothing: the kernel's counters are those of all its sockets."""
        return {}

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Nothing: the kernel does not say what it copies."""
        return {}


class StackHost:
    """Sockets of a stack of ours, on one link."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import ustack

        make = ustack.Tap if spec["wire"] == "tap" else ustack.PacketRing
        self.stack = ustack.Stack(busy_poll=spec["busy_poll"])
        self.stack.add_interface(make(spec["device"]), addresses=[spec["address"]])
        self.stats, self.ledger = self.stack.stats, self.stack.ledger

    def configure(self, command: dict[str, Any]) -> None:
        """Nothing: the wait mode is the stack's."""

    def connect(self, address: tuple[str, int], kind: int = socket.SOCK_STREAM) -> Any:
        """See ``work.Host``."""
        s = self.stack.socket(socket.AF_INET, kind)
        s.connect(address)
        return s

    def bound(self, ip: str, kind: int) -> Any:
        """A socket bound to a free port; it listens if it can."""
        s = self.stack.socket(socket.AF_INET, kind)
        s.bind((ip, 0))
        if kind == socket.SOCK_STREAM:
            s.listen(128)
        return s

    def accept(self, listener: Any) -> Any:
        """See ``work.Host``."""
        return listener.accept()[0]


def pin(cpu: int) -> None:
    """Put every thread of this process on one CPU."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), [cpu])


@contextlib.contextmanager
def blocked_in_accept(host: Any, ip: str, wanted: bool) -> Iterator[None]:
    """While this lasts, another thread waits in accept() on another socket of the same stack."""
    if not wanted:
        yield
        return
    listener = host.bound(ip, socket.SOCK_STREAM)
    running = threading.Event()

    def wait() -> None:
        running.set()
        with contextlib.suppress(OSError):
            listener.accept()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    running.wait()
    try:
        yield
    finally:
        if isinstance(listener, socket.socket):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def answer(value: dict[str, Any]) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def difference(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What was counted in between."""
    out: dict[str, Any] = {}
    for k, v in after.items():
        if isinstance(v, tuple):
            old = before.get(k, (0, 0))
            delta: Any = (v[0] - old[0], v[1] - old[1])
            changed = any(delta)
        else:
            delta = v - before.get(k, 0)
            changed = bool(delta)
        if changed:
            out[k] = delta
    return out


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def perform(host: Any, command: dict[str, Any]) -> dict[str, Any]:
    """One end of a piece of work. The serving end first answers with its port."""
    work = WORK[command["work"]]
    host.configure(command)
    pin(command["cpu"])
    gc.collect()
    with blocked_in_accept(host, command["ip"], command.get("accept_thread", False)):
        if command["end"] == "serve":
            with host.bound(command["ip"], work.kind) as listener:
                answer({"port": listener.getsockname()[1]})
                stats, ledger, cpu = host.stats(), host.ledger(), cpu_seconds()
                figures = work.serve(host, listener, command)
        else:
            stats, ledger, cpu = host.stats(), host.ledger(), cpu_seconds()
            figures = work.call(host, tuple(command["to"]), command)
    return {
        "figures": figures,
        "cpu": cpu_seconds() - cpu,
        "stats": difference(host.stats(), stats),
        "ledger": difference(host.ledger(), ledger),
    }


def main() -> None:
    """Serve commands until standard input ends."""
    spec = json.loads(sys.argv[1])
    host = KernelHost() if spec["wire"] == "kernel" else StackHost(spec)
    gc.disable()
    answer({"ready": os.getpid()})
    for line in sys.stdin:
        try:
            answer(perform(host, json.loads(line)))
        except Exception as e:
            answer({"error": f"{type(e).__name__}: {e}"})


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
