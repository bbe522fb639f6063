"""The servers of ``ustack serve``, over sockets of a stack: echo, discard, chargen, HTTP."""

from __future__ import annotations

import contextlib
import errno
import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ustack._cli.common import endpoint_text
from ustack._family import family_of

if TYPE_CHECKING:
    from ustack import Stack

PORTS = {"echo": 7, "discard": 9, "chargen": 19, "http": 80}
CHUNK = 256 * 1024
PATIENCE = 5.0              # seconds that close() waits for threads
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# RFC 864: lines of 72 of the 95 printing characters, each beginning one character later.
_PRINTING = bytes(range(32, 127))
CHARGEN = b"".join((_PRINTING * 2)[i : i + 72] + b"\r\n" for i in range(len(_PRINTING)))


def echo(conn: Any) -> None:
    """RFC 862: everything back, until the peer ends."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while n := conn.recv_into(buffer):
        conn.sendall(view[:n])


def discard(conn: Any) -> None:
    """RFC 863: read and forget, until the peer ends."""
    buffer = bytearray(CHUNK)
    while conn.recv_into(buffer):
        pass


def chargen(conn: Any) -> None:
    """RFC 864: characters until the peer goes."""
    lines = CHARGEN * 8
    while True:
        conn.sendall(lines)


CONVERSATIONS: dict[str, Callable[[Any], None]] = {"echo": echo, "discard": discard, "chargen": chargen}


def answer_datagram(kind: str, data: bytes) -> bytes | None:
    """What the UDP form of a service answers; None for nothing."""
    return data if kind == "echo" else CHARGEN[:74] if kind == "chargen" else None


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder over HTTP/1.1, and with the folder ``None`` nothing but ``/bytes/N``: N zeros."""

    protocol_version = "HTTP/1.1"
    server_version = "ustack"
    quiet = True

    def __init__(self, *args: Any, directory: str | None, **options: Any) -> None:
        self.generated = directory is None
        super().__init__(*args, directory=directory, **options)

    def do_GET(self) -> None:
        """Answer GET."""
        if not self.path.startswith("/bytes/"):
            if self.generated:
                self.send_error(404, "only /bytes/N is here")
            else:
                super().do_GET()
            return
        number = self.path.removeprefix("/bytes/")
        if not number.isdecimal() or len(number) > 15:
            self.send_error(400, "/bytes/N: N is a number of bytes")
            return
        left = int(number)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(left))
        self.end_headers()
        zeros = bytes(min(left, CHUNK))
        while left:
            n = min(left, CHUNK)
            self.wfile.write(zeros[:n] if n < len(zeros) else zeros)
            left -= n

    def do_HEAD(self) -> None:
        """Answer HEAD."""
        if self.generated:
            self.send_error(404)
        else:
            super().do_HEAD()

    def log_message(self, format: str, *args: Any) -> None:
        """One line per request on stderr, unless quiet."""
        if not self.quiet:
            super().log_message(format, *args)


class _HTTPServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The standard HTTP server without a socket of its own: connections are handed to it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any]) -> None:
        socketserver.BaseServer.__init__(self, address, handler)
        self.server_name, self.server_port = address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that goes away is no news."""


class Service:
    """One service on one port of a stack: TCP and, but for HTTP, UDP; a thread for every connection."""

    def __init__(
        self,
        stack: Stack,
        kind: str,
        host: str = "",
        port: int | None = None,
        *,
        directory: str | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.kind = kind
        self.log = log
        self._lock = threading.Lock()
        self._open: set[Any] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        family = family_of(host)
        self.listener = stack.create_server((host, PORTS[kind] if port is None else port), family=family)
        self.port = self.listener.getsockname()[1]
        self._http: _HTTPServer | None = None
        self.datagrams: Any = None
        if kind == "http":
            handler = partial(type("_Handler", (Handler,), {"quiet": log is None}), directory=directory)
            self._http = _HTTPServer((host, self.port), handler)
        else:
            self.datagrams = stack.socket(family, socket.SOCK_DGRAM)
            try:
                self.datagrams.bind((host, self.port))
            except BaseException:
                self.datagrams.close()
                self.listener.close()
                raise
            self._start(self._serve_datagrams)
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the port and the connections; returns when the threads have ended, but after a few seconds at most:
        they keep nobody from exiting."""
        with self._lock:
            self._closing = True
            sockets = [self.listener, *self._open, *([self.datagrams] if self.datagrams else [])]
        for s in sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)  # wakes threads inside calls, which the kernel's close() does not
            s.close()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._threads = [t for t in self._threads if t.is_alive()]
        thread = threading.Thread(target=target, args=args, name=f"ustack-{self.kind}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                conn, address = self.listener.accept()
            except OSError as e:
                if self._closing:
                    return
                if e.errno in EXHAUSTED:
                    time.sleep(0.1)  # until a connection ends
                continue  # else it was gone before we looked: the next one
            with self._lock:
                if self._closing:
                    conn.close()
                    return
                self._open.add(conn)
            if self.log and not self._http:
                self.log(f"{self.kind}: connection from {endpoint_text(address[0], address[1])}")
            self._start(self._converse, conn, address)

    def _converse(self, conn: Any, address: Any) -> None:
        try:
            with conn, contextlib.suppress(OSError):
                if self._http:
                    self._http.finish_request(conn, address)
                else:
                    CONVERSATIONS[self.kind](conn)
        finally:
            with self._lock:
                self._open.discard(conn)

    def _serve_datagrams(self) -> None:
        while not self._closing:
            try:
                data, address = self.datagrams.recvfrom(65535)
                answer = answer_datagram(self.kind, data)
                if answer is not None and not self._closing:
                    self.datagrams.sendto(answer, address)
            except OSError:  # an ICMP error about an earlier answer, or close()
                continue


@contextlib.contextmanager
def in_background(
    stack: Stack, host: str, kinds: tuple[str, ...] = tuple(PORTS)
) -> Iterator[dict[str, Service]]:
    """The services on their well-known ports, HTTP with generated contents: the peer of ``--link pair``."""
    with contextlib.ExitStack() as all_of_them:
        yield {kind: all_of_them.enter_context(Service(stack, kind, host)) for kind in kinds}
