"""The stacks that sockets are made on, at one end of a wire: the kernel's and ours, with the same methods."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ustack


class Spinning:
    """A non-blocking socket of the kernel whose calls try again until they can be done."""

    def __init__(self, s: socket.socket) -> None:
        s.setblocking(False)
        self.s = s
        self.shutdown, self.getsockopt, self.setsockopt = s.shutdown, s.getsockopt, s.setsockopt
        self.fileno = s.fileno

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


class StackBatch:
    """Many datagrams a call over a connected socket of ours."""

    def __init__(self, s: Any, n: int, size: int) -> None:
        self.s, self.n, self.size = s, n, size
        self.buffers, self.buffer = [bytes(size)] * n, bytearray(n * size)

    def send(self) -> int:
        """See ``KernelBatch``."""
        return int(self.s.sendmmsg(self.buffers))

    def receive(self) -> tuple[int, bool]:
        """See ``KernelBatch``."""
        got = self.s.recvmmsg_into(self.buffer, self.size, self.n)
        if got[-1][0]:
            return len(got), False
        return sum(1 for n, _ in got if n), True


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

    def batch(self, s: Any, n: int, size: int) -> Any:
        """See ``work.Host``."""
        from ustack._core.py.bench_sockets import KernelBatch

        return KernelBatch(s.fileno(), n, size)

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

        self.stack = ustack.Stack(busy_poll=spec["busy_poll"])
        self._coming: threading.Thread | None = None
        if spec["wire"] == "shm" and not os.path.exists(spec["device"]):
            # The other end comes later: it is waited for when there is something to do.
            listener = ustack.SharedMemory.listen(spec["device"])
            self._coming = threading.Thread(target=self._meet, args=(listener, spec["address"]), daemon=True)
            self._coming.start()
        else:
            self.stack.add_interface(self._link(spec), addresses=[spec["address"]])
        self.stats, self.ledger = self.stack.stats, self.stack.ledger

    @staticmethod
    def _link(spec: dict[str, Any]) -> ustack.Link:
        import ustack

        if spec["wire"] == "shm":
            return ustack.SharedMemory.connect(spec["device"], timeout=60)
        if spec["wire"] == "xdp":
            return ustack.Xdp(spec["device"])
        make = ustack.Tap if spec["wire"] == "tap" else ustack.PacketRing
        return make(spec["device"], offloads=spec["offloads"])

    def _meet(self, listener: Any, address: str) -> None:
        with listener:
            self.stack.add_interface(listener.accept(60), addresses=[address])

    def configure(self, command: dict[str, Any]) -> None:
        """The wait mode is the stack's; the link has to be there."""
        if self._coming is not None:
            self._coming.join()

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

    def batch(self, s: Any, n: int, size: int) -> StackBatch:
        """See ``work.Host``."""
        return StackBatch(s, n, size)
