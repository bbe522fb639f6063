"""Applications of a simulated network: what they wait for, what runs them, and a transfer to look at."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Generator
from random import Random
from typing import Any, NamedTuple, TypeVar

from ustack.socket import SO_ERROR, SOL_SOCKET, socket

T = TypeVar("T")

EV_IN = 1
EV_OUT = 4
_TROUBLE = 8 | 16
SECOND = 1_000_000_000


class _Wait(NamedTuple):
    sock: socket | None = None
    events: int = 0
    span: float = 0.0
    tasks: tuple[Task, ...] = ()


Steps = Generator[_Wait, None, T]


def readable(sock: socket, within: float = 0.0) -> Steps[None]:
    """Wait until the socket has data, a connection, the end of the stream, or an error. within: for at most so many
    seconds; 0: as long as it takes."""
    yield _Wait(sock, EV_IN, within)


def writable(sock: socket, within: float = 0.0) -> Steps[None]:
    """Wait until the socket has room, or its connect came to an end. within: as for ``readable``."""
    yield _Wait(sock, EV_OUT, within)


def sleep(seconds: float) -> Steps[None]:
    """Wait for a span of virtual time."""
    yield _Wait(span=seconds)


def join(*tasks: Task, within: float = 0.0) -> Steps[None]:
    """Wait until all of these are done. within: for at most so many seconds; 0: as long as it takes."""
    yield _Wait(span=within, tasks=tasks)


def accept(listener: socket) -> Steps[socket]:
    """The next connection of a listening socket."""
    while True:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            yield from readable(listener)


def connect(sock: socket, address: tuple[str, int]) -> Steps[None]:
    """Connect. Raises what the connection failed with: ConnectionRefusedError, TimeoutError, OSError."""
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        yield from writable(sock)
        error = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if error:
        raise OSError(error, f"cannot connect to {address}")


def recv(sock: socket, size: int = 65536) -> Steps[bytes]:
    """At least one byte, at most `size`; b"" at the end of the stream."""
    while True:
        try:
            return sock.recv(size)
        except BlockingIOError:
            yield from readable(sock)


def recv_exactly(sock: socket, size: int) -> Steps[bytes]:
    """Exactly `size` bytes. Raises EOFError if the stream ends before."""
    parts = []
    while size:
        part = yield from recv(sock, size)
        if not part:
            raise EOFError(f"the stream ended {size} bytes early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send_all(sock: socket, data: bytes | bytearray | memoryview) -> Steps[None]:
    """Send all of it."""
    view = memoryview(data)
    while view.nbytes:
        try:
            view = view[sock.send(view):]
        except BlockingIOError:
            yield from writable(sock)


class Task:
    """An application that runs in the network: ``done``, then ``result``, or the ``error`` that it raised."""

    def __init__(self, steps: Steps[Any], name: str):
        self.name = name
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self._steps = steps
        self._wait: _Wait | None = None
        self._wake_ns = 0

    def __repr__(self) -> str:
        state = "done" if self.done else f"waits for {self._wait}"
        return f"<Task {self.name}: {state}>"

    def _ready(self, now: int) -> bool:
        wait = self._wait
        if wait is None:
            return True
        if wait.span and now >= self._wake_ns:
            return True
        if wait.sock is None:
            return all(task.done for task in wait.tasks) if wait.tasks else not wait.span
        try:
            return bool(wait.sock._events() & (wait.events | _TROUBLE))
        except OSError:
            return True

    def _step(self, now: int) -> None:
        try:
            self._wait = self._steps.send(None)
            self._wake_ns = now + round(self._wait.span * SECOND)
        except StopIteration as end:
            self.done, self.result = True, end.value
        except BaseException as error:
            self.done, self.error = True, error
            raise


class Flow:
    """So many bytes, pumped one way through a connection, with a SHA-256 at both ends; made by ``Network.flow``.

    sender, receiver: Tasks; ``sent`` and ``received`` in bytes; ``exact`` once all of it and the end of the stream
    arrived, and nothing else.
    """

    def __init__(self, size: int, seed: object, chunk: int = 8192, read: int = 65536):
        self.size = size
        self.chunk = chunk
        self.read = read
        self.sent = 0
        self.received = 0
        self.sent_sha = hashlib.sha256()
        self.received_sha = hashlib.sha256()
        self.ended = False
        self.sender: Task | None = None
        self.receiver: Task | None = None
        self._dice = Random(f"flow {seed}")

    def __repr__(self) -> str:
        return f"<Flow {self.sent} sent, {self.received} of {self.size} received{', ended' if self.ended else ''}>"

    @property
    def exact(self) -> bool:
        """Whether the receiver saw the sender's bytes, all of them, and then the end."""
        return self.ended and self.received == self.size and self.sent_sha.digest() == self.received_sha.digest()

    def send(self, sock: socket) -> Steps[None]:
        """Send all of it and shut that direction down (an application for ``Network.spawn``)."""
        while self.sent < self.size:
            part = self._dice.randbytes(min(self.chunk, self.size - self.sent))
            self.sent_sha.update(part)
            yield from send_all(sock, part)
            self.sent += len(part)
        sock.shutdown(1)

    def receive(self, sock: socket) -> Steps[None]:
        """Receive to the end of the stream (an application for ``Network.spawn``)."""
        while part := (yield from recv(sock, self.read)):
            self.received += len(part)
            self.received_sha.update(part)
        self.ended = True
