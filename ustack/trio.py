"""trio over a stack in user space: streams, listeners and datagram sockets, polled in the trio thread.

::

    async with await ustack.trio.open_tcp_stream(net, "10.9.0.1", 80) as stream:
        await stream.send_all(b"GET / HTTP/1.0\\r\\n\\r\\n")
        async for chunk in stream:
            ...

The classes and functions are those of ``trio`` with the stack in front. One system task of each trio run polls the
stack: nothing is handed from thread to thread. A stack belongs to one trio run at a time; other threads may use its
blocking sockets meanwhile.

A stack on a VirtualClock runs on trio's clock: with ``trio.testing.MockClock(autojump_threshold=0)`` a test waits
for nothing, and the same seed gives the same packets. Hosts are numeric addresses. ``Stack.close()`` may wait for
what its peers have not acknowledged yet: call it in a worker thread where that would hold other tasks up.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any

import trio

from ustack._family import family_of
from ustack._pump import EV_IN, EV_OUT, Endpoint, socket_closed
from ustack._stack import Stack
from ustack.socket import (
    AF_INET,
    IPPROTO_TCP,
    SHUT_WR,
    SO_ERROR,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    socket,
)

__all__ = [
    "DatagramSocket", "SocketListener", "SocketStream", "open_tcp_listeners", "open_tcp_stream", "open_udp_socket",
    "serve_tcp",
]

_CHUNK = 65536      # default size of one receive, in bytes
_OVERLOAD = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class _OneAtATime:
    """Entered by two tasks at once, it raises BusyResourceError in the second."""

    def __init__(self, complaint: str):
        self._complaint = complaint
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(self._complaint)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


@contextmanager
def _stream_errors(sock: socket) -> Iterator[None]:
    """OSError into the two errors that streams raise."""
    try:
        yield
    except OSError as error:
        if socket_closed(sock):
            raise trio.ClosedResourceError("this socket, or its stack, was closed") from None
        raise trio.BrokenResourceError(f"socket connection broken: {error}") from error


def _check_socket(sock: socket, kind: int, what: str) -> None:
    if not isinstance(sock, socket):
        raise TypeError(f"{what} requires a socket of a ustack.Stack, not {type(sock).__name__}")
    if sock.type != kind:
        raise ValueError(f"{what} requires a {'SOCK_STREAM' if kind == SOCK_STREAM else 'SOCK_DGRAM'} socket")


class SocketStream(trio.abc.HalfCloseableStream):
    """A TCP connection over a stack, as ``trio.SocketStream`` is one over the kernel's.

    socket: a connected SOCK_STREAM socket of a stack; the stream owns it, and switches Nagle's algorithm off.
    Cancelling a receive loses nothing; after a cancelled ``send_all`` nobody knows how much was sent.
    Raises TypeError and ValueError for other sockets, OSError (ENOTCONN) for one that is not connected.
    """

    def __init__(self, socket: socket):
        _check_socket(socket, SOCK_STREAM, "SocketStream")
        socket.getpeername()
        self._open(socket)

    @classmethod
    def _of(cls, sock: socket) -> SocketStream:
        """For a connection that may be gone again already: its first call tells."""
        self = cls.__new__(cls)
        self._open(sock)
        return self

    def _open(self, sock: socket) -> None:
        self.socket = sock
        self._endpoint = Endpoint(sock)
        self._eof_sent = False
        self._sending = _OneAtATime("another task is currently sending data on this SocketStream")
        self._receiving = _OneAtATime("another task is currently receiving data on this SocketStream")
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. Raises ClosedResourceError, BrokenResourceError, BusyResourceError (two senders)."""
        with self._sending:
            if self._eof_sent:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError("can't send data after sending EOF")
            with _stream_errors(self.socket), memoryview(data) as whole, whole.cast("B") as view:
                if not view.nbytes:
                    if socket_closed(self.socket):
                        raise trio.ClosedResourceError("socket was already closed")
                    await trio.lowlevel.checkpoint()
                    return
                sent = 0
                while sent < view.nbytes:
                    with view[sent:] as rest:
                        sent += await self._endpoint.call(EV_OUT, self.socket.send, rest)

    async def send_file(
        self, file: IO[bytes] | int, offset: int | None = 0, count: int | None = None, *, how: str = "auto",
        flags: int = 0,
    ) -> int:
        """Send a file, or ``count`` bytes of it, from ``offset``; returns how many: ``sendfile`` of ``ustack.socket``.

        Pages that are not in memory are read in this thread: for cold files on slow disks that holds other tasks up.
        With flags=SF_NODISKIO (of ``ustack.socket``) that is OSError(EBUSY) instead, and another thread may read them.
        Raises as ``send_all``, and what the file raises (EIO, EBADF, EISDIR ...), with the attribute ``moved``: the
        bytes that went before.
        """
        with self._sending:
            if self._eof_sent:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError("can't send data after sending EOF")
            sent = 0
            while count is None or sent < count:
                left = None if count is None else count - sent
                at = None if offset is None else offset + sent
                send = partial(self.socket.sendfile, file, at, left, how=how, flags=flags)
                try:
                    n = await self._endpoint.call(EV_OUT, send)
                except (ConnectionError, TimeoutError) as error:
                    raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
                except OSError as error:
                    if socket_closed(self.socket):
                        raise trio.ClosedResourceError("this socket, or its stack, was closed") from None
                    error.moved = sent + getattr(error, "moved", 0)  # type: ignore[attr-defined]
                    raise
                if not n:
                    break
                sent += n
            return sent

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until at least a third of the send buffer is free. Errors as ``send_all``."""
        with self._sending, _stream_errors(self.socket):
            await self._endpoint.park(EV_OUT)
            self.socket._events()       # raises if it was closed meanwhile

    async def send_eof(self) -> None:
        """End this direction (FIN) after what was sent. Errors as ``send_all``."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._eof_sent:
                return
            with _stream_errors(self.socket):
                self.socket.shutdown(SHUT_WR)
            self._eof_sent = True
            self._endpoint.pump.touched()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, at most ``max_bytes`` (default 65536); b"" at the end of the stream.

        Raises ClosedResourceError, BrokenResourceError (reset, timed out), BusyResourceError (two receivers).
        """
        if max_bytes is not None and max_bytes < 1:
            await trio.lowlevel.checkpoint()
            raise ValueError("max_bytes must be >= 1")
        with self._receiving, _stream_errors(self.socket):
            return await self._endpoint.call(EV_IN, self.socket.recv, max_bytes or _CHUNK)

    async def aclose(self) -> None:
        """Close the socket: what was sent is still delivered. Tasks that wait on it get ClosedResourceError."""
        self._endpoint.close()
        await trio.lowlevel.checkpoint()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """As ``socket.setsockopt``."""
        self.socket.setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, buffersize: int = 0) -> Any:
        """As ``socket.getsockopt``."""
        return self.socket.getsockopt(level, option, buffersize)


class SocketListener(trio.abc.Listener[SocketStream]):
    """A listening socket of a stack, as ``trio.SocketListener``: ``accept`` gives SocketStreams.

    Raises TypeError and ValueError for sockets that do not listen.
    """

    def __init__(self, socket: socket):
        _check_socket(socket, SOCK_STREAM, "SocketListener")
        self.socket = socket
        self._endpoint = Endpoint(socket)

    async def accept(self) -> SocketStream:
        """The next connection. Raises ClosedResourceError; OSError (EMFILE, ENOBUFS ...) when resources run out.

        Cancelling it loses no connection.
        """
        while True:
            try:
                made, _ = await self._endpoint.call(EV_IN, self.socket.accept)
            except OSError as error:
                if socket_closed(self.socket):
                    raise trio.ClosedResourceError("this listener was closed") from None
                if error.errno == errno.EINVAL or error.errno in _OVERLOAD:
                    raise
                continue
            return SocketStream._of(made)

    async def aclose(self) -> None:
        """Stop listening; connections that nobody accepted are reset."""
        self._endpoint.close()
        await trio.lowlevel.checkpoint()


async def open_tcp_stream(
    stack: Stack, host: str, port: int, *, local_address: tuple[Any, ...] | str | None = None,
) -> SocketStream:
    """Connect to a numeric address. Raises OSError (ConnectionRefusedError, TimeoutError, ENETUNREACH ...).

    local_address: address, or (address, port), to connect from.
    """
    sock = stack.socket(family_of(host), SOCK_STREAM)
    try:
        endpoint = Endpoint(sock)
        if local_address is not None:
            sock.bind((local_address, 0) if isinstance(local_address, str) else local_address)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            sock.connect((host, port))
        except BlockingIOError:
            endpoint.pump.touched()
            await endpoint.park(EV_OUT)
            error = sock.getsockopt(SOL_SOCKET, SO_ERROR)
            if error:
                raise _connect_error(error, host, port) from None
        else:
            endpoint.pump.touched()
            await trio.lowlevel.checkpoint()
        return SocketStream._of(sock)
    except BaseException:
        sock.close()
        raise


def _connect_error(error: int, host: str, port: int) -> OSError:
    return OSError(error, f"cannot connect to {f'[{host}]' if ':' in host else host}:{port}")


async def open_tcp_listeners(
    stack: Stack, port: int, *, host: str | None = None, backlog: int | None = None,
) -> list[SocketListener]:
    """Listen on a port (0: any) of one address, of all of IPv4 (None), or of all ("::"): a list of one SocketListener.

    backlog: connections that may wait for ``accept``. Raises OSError (EADDRINUSE, EADDRNOTAVAIL).
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    sock = stack.socket(family_of(host or ""), SOCK_STREAM)
    try:
        sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind((host or "", port))
        sock.listen(65535 if backlog is None else backlog)
        listeners = [SocketListener(sock)]
    except BaseException:
        sock.close()
        raise
    await trio.lowlevel.cancel_shielded_checkpoint()
    return listeners


async def serve_tcp(
    handler: Callable[[SocketStream], Awaitable[object]], stack: Stack, port: int, *, host: str | None = None,
    backlog: int | None = None, handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen, and run ``handler(stream)`` in a task for each connection, as ``trio.serve_tcp``; for ever.

    The task status is the list of listeners. Raises what ``open_tcp_listeners`` raises.
    """
    listeners = await open_tcp_listeners(stack, port, host=host, backlog=backlog)
    await trio.serve_listeners(handler, listeners, handler_nursery=handler_nursery, task_status=task_status)


class DatagramSocket(trio.abc.AsyncResource):
    """A UDP socket of a stack for trio tasks: at most one receives at a time.

    socket: a SOCK_DGRAM socket of a stack; this object owns it.
    """

    def __init__(self, socket: socket):
        _check_socket(socket, SOCK_DGRAM, "DatagramSocket")
        self.socket = socket
        self._endpoint = Endpoint(socket)

    async def sendto(self, data: bytes | bytearray | memoryview, address: tuple[Any, ...] | None = None) -> int:
        """Send one datagram to (host, port), or to where it is connected; returns its size in bytes.

        Raises OSError (EMSGSIZE, EDESTADDRREQ, ENETUNREACH, ECONNREFUSED for an earlier one), ClosedResourceError.
        """
        with self._closed():
            if address is None:
                return await self._endpoint.call(EV_OUT, self.socket.send, data)
            return await self._endpoint.call(EV_OUT, self.socket.sendto, data, address)

    async def recvfrom(self, max_bytes: int = 65535) -> tuple[bytes, Any]:
        """The next datagram, cut to ``max_bytes``, and its sender. Cancelling it loses none.

        Raises OSError (ECONNREFUSED, if connected), ClosedResourceError, BusyResourceError (two receivers).
        """
        with self._closed():
            data, sender = await self._endpoint.call(EV_IN, self.socket.recvfrom, max_bytes)
            assert sender is not None
            return data, sender

    def connect(self, address: tuple[Any, ...]) -> None:
        """Only datagrams of (host, port) come in from now on, and errors about those sent there."""
        self.socket.connect(address)

    def getsockname(self) -> Any:
        """(host, port) of this end."""
        return self.socket.getsockname()

    async def aclose(self) -> None:
        """Close the socket; a task that receives gets ClosedResourceError."""
        self._endpoint.close()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _closed(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            if socket_closed(self.socket):
                raise trio.ClosedResourceError("this socket, or its stack, was closed") from None
            raise


async def open_udp_socket(
    stack: Stack, *, local_address: tuple[Any, ...] | None = None, family: int = AF_INET,
) -> DatagramSocket:
    """A UDP socket, bound to (host, port) if that is given. Raises OSError (EADDRINUSE, EADDRNOTAVAIL)."""
    await trio.lowlevel.checkpoint()
    sock = stack.socket(family_of(local_address[0]) if local_address else family, SOCK_DGRAM)
    try:
        if local_address is not None:
            sock.bind(local_address)
        return DatagramSocket(sock)
    except BaseException:
        sock.close()
        raise
