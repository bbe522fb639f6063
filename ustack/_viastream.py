"""``ustack.via.Stream``: a stream of bytes over a reliable VI, by credits.

What the two ends tell each other is in ``_viacredits``. Nothing here copies but ``send`` and ``recv``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ustack._core.py.via import Buffer, Vi
from ustack._core.py.via_nic import ViaError
from ustack._viacredits import END, ERROR, IDLE, STOP, Credits, known

if TYPE_CHECKING:
    from typing_extensions import Buffer as AnyBuffer


class Stream(Credits):
    """A stream of bytes over a reliable VI (RD or RR): ``send``, ``recv``, ``recv_into`` and ends as a socket has.

    Make it while ``vi`` is IDLE, before it is connected: then it posts ``window`` + 4 receive buffers of ``piece``
    bytes of its own (16 of 64 KiB). Or post such buffers (``ustack.via.buffers``) before connecting: it takes over what
    is posted. The VI and its queues are the stream's alone from then on. Both ends choose for themselves.

    One thread may send while another receives; a second one at either is refused (EBUSY). Errors are OSError:
    ECONNRESET when the connection is lost, EPROTO for a peer that breaks the rules, EPIPE when it takes no more, and
    the number that it gave when it ended with an error. ``window`` and ``piece`` tell what it has. Raises ValueError
    for a VI that cannot carry one. A context manager: ``close`` at the end.
    """

    @classmethod
    def of(cls, vi: Vi) -> Stream:
        """The stream that a VI carries; a new one if it carries none."""
        return vi._stream or cls(vi)

    @property
    def vi(self) -> Vi:
        """The VI that carries it."""
        return self._vi

    def gettimeout(self) -> float | None:
        """Seconds that a call may wait; None: no limit; 0: it does not wait."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Set it. A call that waited so long raises TimeoutError; of a time-out of 0, BlockingIOError."""
        if value is not None and not value >= 0:
            raise ValueError("a time-out is a number of seconds from 0 on, or None")
        self._timeout = value

    def _deadline(self) -> float | None:
        return time.monotonic() + self._timeout if self._timeout else self._timeout

    @contextlib.contextmanager
    def _role(self, lock: Any) -> Iterator[None]:
        if not lock.acquire(blocking=False):
            raise OSError(errno.EBUSY, "another thread, or a splice, does that already")
        try:
            yield
        finally:
            lock.release()

    def _check(self) -> None:
        if self._error is not None:
            raise OSError(*self._error.args)

    # --- receiving

    def _has_data(self) -> bool | None:
        """For ``_wait``: there is some, or the end; an error behind what was received."""
        if self._queue:
            return True
        if self._end:
            raise OSError(self._end, f"the other end ended with: {os.strerror(self._end)}")
        if self._end is None:
            self._check()
        return self._end is not None

    def _consume(self, n: int) -> None:
        """So many bytes of the queue's head are done with."""
        with self._lock:
            held, start, end = self._queue.popleft()
            if start + n < end:
                self._queue.appendleft((held, start + n, end))
            else:
                self._release(held)

    def recv_into(self, buffer: AnyBuffer) -> int:
        """Receive what there is, as much as fits, and wait for some if there is none: how much; 0 at the end."""
        view = memoryview(buffer).cast("B")
        with self._role(self._receiving):
            self._wait(self._has_data, self._deadline())
            if not self._queue or not view.nbytes:
                return 0
            held, start, _ = self._queue[0]
            n = held.buffer._hand_out(start, view)
            self._consume(n)
            return n

    def recv(self, bufsize: int) -> bytes:
        """The same, as bytes: b"" at the end."""
        got = bytearray(min(bufsize, self.piece))
        return bytes(got[:self.recv_into(got)])

    @contextlib.contextmanager
    def borrow(self) -> Iterator[memoryview]:
        """The next bytes in the buffer that they came into, at least one of them; empty at the end. Not copied; theirs
        is the place again, and the peer's to send to, when the block ends."""
        with self._role(self._receiving):
            self._wait(self._has_data, self._deadline())
            if not self._queue:
                yield memoryview(b"")
                return
            held, start, end = self._queue[0]
            yield held.buffer.data[start:end]
            self._consume(end - start)

    # --- sending

    def _may_send(self, own: bool) -> bool:
        """For ``_wait``: there is a credit, and something to send with."""
        self._check()
        if self._stopped is not None:
            raise OSError(self._stopped, f"the other end takes no more: {os.strerror(self._stopped)}")
        if self._finished:
            raise BrokenPipeError(errno.EPIPE, "the stream was shut down for sending")
        if not self._credits or self._messages == self.window:
            return False
        if self._high is not None and self._bytes >= self._high:
            return False
        if own and self._free is None:
            self._free = self._buffers(min(self.piece, self._peer_piece), self.window)
        return not own or bool(self._free)

    def _is_sent(self) -> bool:
        if self._flying or self._cut:
            self._check()
        return not self._flying

    def _reserve(self, deadline: float | None, cancelled: Callable[[], bool] | None = None) -> Buffer:
        """A buffer to be filled, for which there is a credit."""
        self._wait(lambda: self._may_send(True), deadline, cancelled)
        assert self._free is not None
        return self._free.pop()

    def _put_back(self, buffer: Buffer) -> None:
        assert self._free is not None
        self._free.append(buffer)

    def _send_part(self, buffer: Buffer, start: int, end: int, owner: Stream | None, thing: Any) -> None:
        """A part of a buffer becomes a message. There is a credit. ``thing`` goes to ``owner`` when it was taken."""
        with self._lock:
            d = self._spare.pop()
            d.set([(buffer.memory, buffer.offset + start, end - start)])
            self._credits -= 1
            self._launch(d, owner, thing, start, end)

    def send(self, data: AnyBuffer) -> int:
        """Send the first bytes, at most a piece; wait until the peer has a place for them. Returns how many.

        They are copied (``tx.copy``), and are on their way when it returns: the peer has them when it looks.
        """
        view = memoryview(data).cast("B")
        with self._role(self._sending):
            if not view.nbytes:
                return 0
            buffer = self._reserve(self._deadline())
            n = buffer.copy_in(view[:buffer.size])
            self._send_part(buffer, 0, n, None, buffer)
            self._check()
            return n

    def sendall(self, data: AnyBuffer) -> None:
        """All of it. After an error nobody knows how much."""
        view = memoryview(data).cast("B")
        while view.nbytes:
            view = view[self.send(view):]

    @contextlib.contextmanager
    def compose(self) -> Iterator[Composition]:
        """A buffer to be filled in place: ``data``, and ``length``, which is set to how many bytes are to be sent.

        Nothing is copied. Nothing is sent where ``length`` stays 0, or the block raises.
        """
        with self._role(self._sending):
            buffer = self._reserve(self._deadline())
            one = Composition(buffer.data)
            try:
                yield one
                if not 0 <= one.length <= buffer.size:
                    raise ValueError(f"{one.length} bytes do not fit a buffer of {buffer.size}")
            except BaseException:
                self._put_back(buffer)
                raise
            if one.length:
                self._send_part(buffer, 0, one.length, None, buffer)
            else:
                self._put_back(buffer)

    def flush(self) -> None:
        """Wait until the peer's NIC has taken all that was sent."""
        self._wait(self._is_sent, self._deadline(), sends=True)

    # --- ends

    def _finish(self, kind: int, number: int = 0) -> None:
        """Nothing more is sent: the peer is told."""
        self._greet()
        with self._lock:
            if not self._finished:
                self._finished = True
                self._say(kind, number)

    def _refuse(self, number: int) -> None:
        """Nothing more is wanted: the peer is told."""
        self._greet()
        with self._lock:
            if not self._refused:
                self._refused = True
                self._say(STOP, number)

    def shutdown(self, how: int) -> None:
        """SHUT_WR: the peer gets the end behind what was sent. SHUT_RD: it is told to send no more (EPIPE there)."""
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._finish(END)
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self._refuse(0)

    def abort(self, number: int = errno.ECANCELED) -> None:
        """End with an error instead: the peer receives what was sent, and then OSError with this errno."""
        self._finish(ERROR, known(number))

    def close(self, linger: float = 1.0) -> None:
        """End it: SHUT_WR, at most ``linger`` seconds for what is on its way, then the VI is disconnected, IDLE and
        free of descriptors, and the memory is given back. May be called twice."""
        if self._closed:
            return
        with contextlib.suppress(OSError, ViaError):
            if self._greeted:
                self._finish(END)
                self._wait(self._is_sent, time.monotonic() + linger, sends=True)
        with self._lock:
            self._closed = True
            self._error = OSError(errno.EBADF, "the stream is closed")
            self._queue.clear()
            self._vi._stream = None
            with contextlib.suppress(ViaError):
                self._take_back()
            with contextlib.suppress(ViaError):
                for memory in self._own:
                    memory.deregister()

    def _take_back(self) -> None:
        """All descriptors."""
        if self._vi.state != IDLE:
            self._vi.disconnect()
        while not self._vi.query()["RecvQEmpty"]:
            self._vi.recv_done()
        while self._flying and (d := self._vi.send_done()) is not None:
            self._gone(d)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        how = "closed" if self._closed else "broken" if self._error else "open"
        return f"<ustack.via.Stream {how} window={self.window} piece={self.piece}>"


class Composition:
    """What ``Stream.compose`` gives: ``data``, the memory of a message, and ``length``, bytes of it to be sent."""

    def __init__(self, data: memoryview):
        self.data, self.length = data, 0
