"""The kernel's stack in the shape of a :class:`ustack.Stack`: what scenes compare with, and talk to."""

from __future__ import annotations

import contextlib
import os
import select
import socket as std
import struct
import time

from ustack.testbed import Namespace, set_congestion

CONGESTION = "cubic"


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


class Kernel:
    """Sockets of the kernel, in ``namespace`` or where the calling thread is; cubic where that is allowed."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        self._namespace = namespace
        self._sequence = 0

    def _here(self) -> contextlib.AbstractContextManager[object]:
        return self._namespace.entered() if self._namespace else contextlib.nullcontext()

    def socket(
        self, family: int = std.AF_INET, kind: int = std.SOCK_STREAM, proto: int = 0
    ) -> std.socket:
        """As :meth:`ustack.Stack.socket`."""
        with self._here():
            s = std.socket(family, kind, proto)
        if kind == std.SOCK_STREAM:
            with contextlib.suppress(OSError):
                set_congestion(s, CONGESTION)
        return s

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> std.socket:
        """As :meth:`ustack.Stack.create_connection`."""
        s = self.socket()
        try:
            s.settimeout(timeout)
            s.connect(address)
        except BaseException:
            s.close()
            raise
        return s

    def create_server(self, address: tuple[str, int], *, family: int = std.AF_INET) -> std.socket:
        """As :meth:`ustack.Stack.create_server`. Accepted sockets inherit the congestion control."""
        s = self.socket(family)
        try:
            s.setsockopt(std.SOL_SOCKET, std.SO_REUSEADDR, 1)
            s.bind(address)
            s.listen(128)
        except BaseException:
            s.close()
            raise
        return s

    def ping(self, host: str, size: int = 56, timeout: float = 2.0) -> float:
        """As :meth:`ustack.Stack.ping`: seconds of one echo round trip."""
        self._sequence += 1
        payload = bytes(size)
        head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, self._sequence & 0xFFFF)
        head = head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:]
        with self.socket(std.AF_INET, std.SOCK_RAW, std.IPPROTO_ICMP) as s:
            begin = time.perf_counter()
            s.sendto(head + payload, (host, 0))
            while (left := begin + timeout - time.perf_counter()) > 0:
                if select.select([s], [], [], left)[0]:
                    packet = s.recv(65535)
                    answer = packet[(packet[0] & 15) * 4 :]
                    if answer[0] == 0 and answer[4:8] == head[4:8]:
                        return time.perf_counter() - begin
        raise TimeoutError(f"no answer from {host}")
