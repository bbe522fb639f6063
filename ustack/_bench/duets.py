"""Hosts with both ends of a wire in one process: two stacks of ours, or the kernel twice; for work in one thread.

``pair`` gives two connected sockets. Where a program has to carry the packets from one end to the other, ``carry``
does that, in bursts; the four have the same methods.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Callable
from typing import Any

from ustack._bench.hosts import KernelHost

NEAR, FAR = "10.9.0.2", "10.9.0.1"
BURST = 256  # packets that are carried at a time
TUN_QUEUE = 10000  # packets: a window of the kernel's TCP fits, so that nothing is lost


class Duet:
    """What the four have in common."""

    def configure(self, command: dict[str, Any]) -> None:
        """Take from a command what concerns the stacks."""

    def carry(self) -> int:
        """Carry what waits at either end to the other; returns how many packets went from the first to the second."""
        return 0

    def stats(self) -> dict[str, int]:
        """Counters."""
        return {}

    def ledger(self) -> dict[str, tuple[int, int]]:
        """Bytes copied and summed."""
        return {}

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[Any, Any]:
        """Two connected sockets: the first has connected to the second."""
        raise NotImplementedError

    def crowd(self, n: int) -> Any:
        """So many connections, as ``bench_sockets.Crowd``."""
        raise NotImplementedError

    def proxy(self) -> tuple[Any, Any, Any, Any]:
        """A connected pair into the proxy, and one out of it: client, its other end, the server's other end, server.

        Client and server are sockets of one stack, what is between them of another; both on a VirtualClock.
        """
        raise NotImplementedError


def connect_carried(a: Any, listener: Any, address: tuple[str, int], carry: Callable[[], int]) -> Any:
    """Connect a socket while this very thread carries its packets; returns the other end."""
    a.setblocking(False)
    listener.setblocking(False)
    a.connect_ex(address)
    while True:
        carry()
        try:
            b, _ = listener.accept()
        except BlockingIOError:
            continue
        b.setblocking(False)
        while a.connect_ex(address) not in (0, 106):  # EISCONN
            carry()
        return b


class Stacks(Duet):
    """Two stacks of ours and a link between them."""

    def __init__(self, a: Any, b: Any) -> None:
        import ustack

        self.stacks = ustack.Stack(), ustack.Stack()
        for stack, link, ip in zip(self.stacks, (a, b), (NEAR, FAR), strict=True):
            stack.add_interface(link, addresses=[f"{ip}/24"])

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[Any, Any]:
        """See ``Duet``."""
        near, far = self.stacks
        with far.socket() as listener:
            listener.bind((FAR, 0))
            listener.listen(128)
            a = near.socket()
            a.connect(listener.getsockname())
            return a, listener.accept()[0]

    def stats(self) -> dict[str, int]:
        """Those of both."""
        total: dict[str, int] = {}
        for stack in self.stacks:
            for name, n in stack.stats().items():
                total[name] = total.get(name, 0) + n
        return total

    def ledger(self) -> dict[str, tuple[int, int]]:
        """That of both."""
        total: dict[str, tuple[int, int]] = {}
        for stack in self.stacks:
            for reason, (n, calls) in stack.ledger().items():
                old = total.get(reason, (0, 0))
                total[reason] = old[0] + n, old[1] + calls
        return total


class Memory(Stacks):
    """Two stacks on the in-memory link."""

    def __init__(self) -> None:
        import ustack

        super().__init__(*ustack.pair())


class Pipes(Stacks):
    """Two stacks on layer-3 pipes; this program carries the packets."""

    def __init__(self, mtu: int, offloads: bool) -> None:
        import ustack

        self.near, self.far = (ustack.Pipe(mtu=mtu, offloads=offloads, queue=4096) for _ in range(2))
        super().__init__(self.near, self.far)
        self.buffer = bytearray(1 << 20)
        self.sizes = array("I", bytes(4 * BURST))

    def carry(self) -> int:
        """See ``Duet``."""
        near, far, buffer, sizes = self.near, self.far, self.buffer, self.sizes
        if n := near.drain_into(buffer, sizes):
            far.inject_from(buffer, sizes, n)
        if m := far.drain_into(buffer, sizes):
            near.inject_from(buffer, sizes, m)
        return int(n)

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[Any, Any]:
        """See ``Duet``."""
        near, far = self.stacks
        with far.socket() as listener:
            listener.bind((FAR, 0))
            listener.listen(128)
            a = near.socket()
            return a, connect_carried(a, listener, listener.getsockname(), self.carry)


class Proxied(Duet):
    """Two stacks on the in-memory link and on virtual time: the proxy's, and that of its client and its server."""

    def __init__(self) -> None:
        import ustack

        self.near, self.far = (ustack.Stack(clock=ustack.VirtualClock(), seed=k) for k in range(2))
        for stack, link, ip in zip((self.near, self.far), ustack.pair(), (NEAR, FAR), strict=True):
            stack.add_interface(link, addresses=[f"{ip}/24"])
        self.stats, self.ledger = self.far.stats, self.far.ledger  # type: ignore[method-assign]

    def carry(self) -> int:
        """Let a moment pass on both."""
        now = max(self.near.now_ns(), self.far.now_ns()) + 1000
        for stack in (self.near, self.far):
            stack.advance_to(now)
        return 0

    def _connect(self, stack: Any, listener: Any) -> tuple[Any, Any]:
        s = stack.socket()
        return s, connect_carried(s, listener, listener.getsockname(), self.carry)

    def proxy(self) -> tuple[Any, Any, Any, Any]:
        """See ``Duet``."""
        with self.far.create_server((FAR, 0)) as inward, self.near.create_server((NEAR, 0)) as outward:
            return *self._connect(self.near, inward), *self._connect(self.far, outward)


class Crowded(Duet):
    """Many connections between two stacks on the in-memory link, for each number of them two stacks."""

    PORTS = 5000  # connections to one listener

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self.held: list[Any] = []

    def close(self) -> None:
        """Close all sockets and stacks."""
        for one in self.held:
            one.close()
        self.held.clear()
        self.made.clear()

    def crowd(self, n: int) -> Any:
        """See ``Duet``. Made once, kept."""
        if n not in self.made:
            self.made[n] = self._make(n)
        return self.made[n]

    def _make(self, n: int) -> Any:
        import ustack
        from ustack._core.py.bench_sockets import Crowd

        stacks = [ustack.Stack(clock=ustack.VirtualClock(), seed=k) for k in range(2)]
        for stack, link, ip in zip(stacks, ustack.pair(), (NEAR, FAR), strict=True):
            stack.add_interface(link, addresses=[f"{ip}/24"])
        near: list[Any] = []
        far: list[Any] = []
        at = 0
        for first in range(0, n, self.PORTS):
            with stacks[1].socket() as listener:
                listener.bind((FAR, 0))
                listener.listen(128)
                for begin in range(first, min(first + self.PORTS, n), 64):
                    count = min(64, first + self.PORTS - begin, n - begin)
                    for _ in range(count):
                        near.append(s := stacks[0].socket())
                        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        s.connect_ex(listener.getsockname())
                    for _ in range(4):
                        at += 1000
                        for stack in stacks:
                            stack.advance_to(at)
                    far += [listener.accept()[0] for _ in range(count)]
        self.held += [*near, *far, *stacks]
        at_far = {(s.getpeername(), s.getsockname()): s for s in far}
        return Crowd(near, [at_far[s.getsockname(), s.getpeername()] for s in near], at)


class Loopback(Duet):
    """The kernel's loopback device, in this process's namespace."""

    def __init__(self) -> None:
        self.host = KernelHost()

    def configure(self, command: dict[str, Any]) -> None:
        """See ``Duet``."""
        self.host.configure(command | {"wait": "block"})

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[Any, Any]:
        """See ``Duet``."""
        with self.host.bound("127.0.0.1", kind) as listener:
            a = self.host.connect(listener.getsockname(), kind)
            return a, self.host.accept(listener)


class Tuns(Duet):
    """The kernel in two namespaces, each with a TUN device; this program carries the packets.

    A read gives one packet, a write takes one: there is no better way for a Python program.
    """

    def __init__(self, mtu: int, offloads: bool) -> None:
        from ustack import testbed

        self.congestion: str | None = None
        self.namespaces = testbed.Namespace("near"), testbed.Namespace("far")
        self.fds = []
        self.size = 65536 if offloads else mtu
        for namespace, ip in zip(self.namespaces, (NEAR, FAR), strict=True):
            with namespace.entered():
                self.fds.append(open_tun("us0", offloads))
            namespace.add_address("us0", f"{ip}/24")
            namespace.set("us0", mtu=mtu, txqlen=TUN_QUEUE, state="up")

    def configure(self, command: dict[str, Any]) -> None:
        """See ``Duet``."""
        self.congestion = command.get("congestion")

    def _one_way(self, source: int, drain: int) -> int:
        read, write, size, n = os.read, os.write, self.size, 0
        try:
            while n < BURST:
                write(drain, read(source, size))
                n += 1
        except BlockingIOError:
            pass
        return n

    def carry(self) -> int:
        """See ``Duet``."""
        near, far = self.fds
        n = self._one_way(near, far)
        self._one_way(far, near)
        return n

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[Any, Any]:
        """See ``Duet``."""
        near, far = self.namespaces
        with far.socket() as listener:
            a = near.socket()
            if self.congestion:
                for s in (listener, a):
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.congestion.encode())
            listener.bind((FAR, 0))
            listener.listen(128)
            return a, connect_carried(a, listener, listener.getsockname(), self.carry)


def open_tun(name: str, offloads: bool) -> int:
    """A non-blocking descriptor of a new TUN device of this namespace; with a virtio_net_hdr if it has offloads."""
    import fcntl
    import struct

    iff_tun, iff_no_pi, iff_vnet_hdr = 0x0001, 0x1000, 0x4000
    tun_set_iff, tun_set_offload, all_offloads = 0x400454CA, 0x400454D0, 0x07  # csum, tso4, tso6
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = iff_tun | iff_no_pi | (iff_vnet_hdr if offloads else 0)
        fcntl.ioctl(fd, tun_set_iff, struct.pack("16sH22x", name.encode(), flags))
        if offloads:
            fcntl.ioctl(fd, tun_set_offload, all_offloads)
    except BaseException:
        os.close(fd)
        raise
    return fd


class OnDemand(Duet):
    """Pipes or TUN devices as a command wants them, made once for each MTU."""

    def __init__(self, make: Callable[[int, bool], Duet]) -> None:
        self.make = make
        self.made: dict[tuple[int, bool], Duet] = {}
        self.current: Duet = self

    def configure(self, command: dict[str, Any]) -> None:
        """See ``Duet``."""
        key = command["mtu"], command.get("offloads", False)
        if key not in self.made:
            self.made[key] = self.make(*key)
        self.current = self.made[key]
        self.current.configure(command)
        self.carry, self.pair = self.current.carry, self.current.pair  # type: ignore[method-assign]
        self.stats, self.ledger = self.current.stats, self.current.ledger  # type: ignore[method-assign]


def make(wire: str) -> Duet:
    """The host for "memory", "proxy", "crowd", "loopback", "pipe" or "tun"."""
    if wire == "memory":
        return Memory()
    if wire == "proxy":
        return Proxied()
    if wire == "crowd":
        return Crowded()
    if wire == "loopback":
        return Loopback()
    return OnDemand(Pipes if wire == "pipe" else Tuns)
