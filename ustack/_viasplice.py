"""Splices with a VI at an end: what ``ustack.splice`` does for streams over VIs.

Read buffers become write buffers. From a descriptor bytes are read straight into a registered buffer, to one they are
written from where the message came to lie; a message that goes on over another VI of the NIC goes from there as well,
and the blocks that a stack's connection sends lie there too, where its path gathers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
import time
from collections.abc import Callable
from typing import Any

from ustack._core.py.pagepipe import PagePipe, pull_into, push_from
from ustack._core.py.socket import Socket
from ustack._core.py.transfers import Transfer, read_ahead, settle, take_into
from ustack._core.py.via import Buffer, Vi
from ustack._viacredits import END, ERROR, SLICE, Cancelled, Flight, Held
from ustack._viastream import Stream

AHEAD = 1 << 26         # most bytes of a file that are asked for ahead


def stream_of(end: Any) -> Any:
    """The stream that a VI carries; other ends as they are."""
    return Stream.of(end) if isinstance(end, Vi) else end


def _result(r: int) -> int:
    """Of a call that says -errno."""
    if r < 0:
        raise OSError(-r, os.strerror(-r))
    return r


class _Descriptor:
    """A descriptor as an end: what it is, and of a source where it stands."""

    def __init__(self, number: int):
        self.number = number
        kind = os.fstat(number).st_mode
        self.file = stat.S_ISREG(kind) or stat.S_ISBLK(kind)
        self.nowait = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)
        self.at = -1

    def _not_open(self, mode: int) -> bool:
        return fcntl.fcntl(self.number, fcntl.F_GETFL) & os.O_ACCMODE == mode

    @classmethod
    def sink(cls, number: int) -> _Descriptor:
        one = cls(number)
        if one._not_open(os.O_RDONLY):
            raise OSError(errno.EBADF, "the sink is not open for writing")
        return one

    @classmethod
    def source(cls, number: int, offset: int | None) -> _Descriptor:
        one = cls(number)
        if one._not_open(os.O_WRONLY):
            raise OSError(errno.EBADF, "the source is not open for reading")
        if one.file:
            one.at = os.lseek(number, 0, os.SEEK_CUR) if offset is None else offset
            if one.at < 0:
                raise OSError(errno.EINVAL, "a negative offset")
        elif offset is not None and os.lseek(number, 0, os.SEEK_CUR) != offset:     # ESPIPE, of a pipe
            raise OSError(errno.ESPIPE, "the source has no offsets")
        return one


class StreamTransfer:
    """As ``Transfer``, where an end is a stream over a VI: in the calling thread, piece by piece.

    pass_end: how it ends is told to the VI at the other end: the end of the source, or an error. high: most bytes that
    a VI has and its peer's NIC has not taken. ahead: bytes of a file that are asked for before they are read. brief: it
    waits for the first bytes only; nowait: a pipe of references is not waited for. peek: one message at most, and what
    it has stays at the source (a stack's socket, a pipe of references).
    """

    def __init__(self, source: Any, sink: Any, count: int, *, offset: int | None, timeout_ns: int, piece: int,
                 pass_end: bool = False, high: int | None = None, ahead: int = 0, brief: bool = False,
                 nowait: bool = False, peek: bool = False):
        if source is sink:
            raise OSError(errno.EINVAL, "a VI with itself")
        self._source: Any = _Descriptor.source(source, offset) if isinstance(source, int) else source
        self._sink: Any = _Descriptor.sink(sink) if isinstance(sink, int) else sink
        self._left = count
        self._piece = piece
        self._high = high
        self._ahead, self._asked = min(ahead, AHEAD), 0
        self._pass_end = pass_end
        self._deadline = None if timeout_ns < 0 else 0 if timeout_ns == 0 else time.monotonic() + timeout_ns / 1e9
        self._until = self._deadline        # of the whole, also where nothing more is waited for
        self._brief, self._nowait, self._peek = brief, nowait, peek
        self._began = self._source.at if isinstance(self._source, _Descriptor) else -1
        self._gone = 0              # bytes that were given to the sink
        self._lost = 0              # of those, what a connection that broke has given back
        self._rest = b""
        self._inner: Transfer | None = None
        self.cancelled = False

    @property
    def moved(self) -> int:
        """Bytes that the sink has got."""
        return self._gone - self._lost

    @property
    def position(self) -> int:
        """Of a file: the offset behind the last byte that the sink has got; -1 for what has none."""
        return self._began + self.moved if self._began >= 0 else -1

    @property
    def unsent(self) -> bytes:
        """What was taken from a source that cannot have it back, and the sink has not got."""
        return self._rest

    def cancel(self) -> None:
        """Have ``run`` return soon."""
        self.cancelled = True
        if (inner := self._inner) is not None:
            inner.cancel()

    def run(self) -> int:
        """Move, and return how many bytes the sink has got."""
        ends = [(s, lock) for s, lock in ((self._source, "_receiving"), (self._sink, "_sending"))
                if isinstance(s, Stream)]
        roles = [s._role(getattr(s, lock)) for s, lock in ends]
        entered = []
        try:
            for role in roles:
                role.__enter__()
                entered.append(role)
            return self._run()
        finally:
            for role in entered:
                role.__exit__(None, None, None)

    def _run(self) -> int:
        how: tuple[int, int] | None = END, 0
        try:
            if isinstance(self._sink, Stream):
                self._sink._high = self._high
                self._to_stream(self._sink)
            else:
                self._from_stream(self._source)
        except Cancelled:
            how = ERROR, errno.ECANCELED
        except OSError as error:        # a time-out has no number, and may be followed by another splice
            how = (ERROR, error.errno) if error.errno not in (None, errno.EAGAIN) else None
            raise
        except BaseException:
            how = ERROR, errno.ECANCELED
            raise
        finally:
            if isinstance(self._sink, Stream):
                self._sink._high = None
            self._settle_flushed()
            if self._pass_end and how is not None and not (self._brief and how[0] == END and self.moved):
                self._tell(*how)
        return self.moved

    def _tell(self, kind: int, number: int) -> None:
        """The VIs how it ended."""
        try:
            if isinstance(self._sink, Stream):
                self._sink._finish(kind, number)
                if kind == END:
                    self._flush(self._sink)
            if isinstance(self._source, Stream) and kind == ERROR:
                self._source._refuse(number)
        except (OSError, Cancelled):
            pass                            # who is gone need not be told

    def _is_cancelled(self) -> bool:
        return self.cancelled

    def _size(self, most: int) -> int:
        n = min(self._piece, most)
        if self._high is not None and isinstance(self._sink, Stream):
            n = min(n, max(1, self._high - self._sink._bytes))
        return n if self._left < 0 else min(n, self._left)

    def _count(self, n: int) -> None:
        self._gone += n
        if self._left > 0:
            self._left -= n
        if self._brief:
            self._deadline = 0

    # --- waiting for what is no VI

    def _poll(self, number: int, events: int, check: Callable[[], None]) -> None:
        """Until a descriptor is ready."""
        ready = select.poll()
        ready.register(number, events)
        while not ready.poll(self._slice() * 1000):
            self._look(check)

    def _look(self, check: Callable[[], None]) -> None:
        """Whether to wait on."""
        if self.cancelled:
            raise Cancelled
        if self._deadline == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise TimeoutError("timed out")
        check()

    def _slice(self) -> float:
        if self._deadline == 0:
            return 0.0
        return SLICE if self._deadline is None else max(0.0, min(SLICE, self._deadline - time.monotonic()))

    def _slice_ns(self, end: Any) -> int:
        """The same in nanoseconds, for a call on a stack's socket or a pipe of references; 0: it does not wait."""
        if self._deadline == 0 or (self._nowait and isinstance(end, PagePipe)):
            return 0
        return max(1, int(self._slice() * 1e9))

    # --- to a VI

    def _to_stream(self, sink: Stream) -> None:
        while self._left:
            moved = self._forward(self._source, sink) if isinstance(self._source, Stream) else self._read(sink)
            if not moved or self._peek:
                break
        self._flush(sink)

    def _flush(self, sink: Stream) -> None:
        """Until the peer's NIC has taken everything: who then disconnects takes nothing back."""
        if self._until != 0:
            sink._wait(sink._is_sent, self._until, self._is_cancelled, sends=True)

    def _read(self, sink: Stream) -> int:
        """One message from a descriptor or a stack's socket: read straight into the buffer that is sent."""
        buffer = sink._reserve(self._deadline, self._is_cancelled)
        n = 0
        try:
            n = self._take(sink, buffer, self._size(buffer.size))
        finally:
            if not n:
                sink._put_back(buffer)
        if n:
            self._count(n)
            sink._send_part(buffer, 0, n, None, buffer)
        return n

    def _take(self, sink: Stream, buffer: Buffer, n: int) -> int:
        def check() -> None:
            with sink._lock:
                sink._collect()
            sink._may_send(False)

        if isinstance(self._source, (Socket, PagePipe)):
            take: Any = take_into if isinstance(self._source, Socket) else pull_into
            while True:
                try:
                    got: int = take(self._source, buffer.data[:n], self._slice_ns(self._source), self._peek)
                    return got
                except TimeoutError:
                    self._look(check)
        one = self._source
        if not one.file:
            self._poll(one.number, select.POLLIN, check)
        elif self._ahead:
            self._ask_ahead(one)
        while (got := buffer._fill(one.number, n, one.at)) in (-errno.EINTR, -errno.EAGAIN):
            if got == -errno.EAGAIN:
                self._poll(one.number, select.POLLIN, check)
        if one.file and got > 0:
            one.at += got
        return _result(got)

    def _ask_ahead(self, one: _Descriptor) -> None:
        """Have the next bytes of a file read while these are sent: half of it at a time."""
        start, until = max(self._asked, one.at), one.at + self._ahead
        if self._left >= 0:
            until = min(until, one.at + self._left)
        if until > start and until - start >= self._ahead // 2:
            read_ahead(one.number, start, until - start)
            self._asked = until

    def _forward(self, source: Stream, sink: Stream) -> int:
        """One message, or a part of it, from a VI to another: from the buffer that it came into."""
        def ready() -> bool | None:
            sink._may_send(False)
            return source._has_data()

        source._wait(ready, self._deadline, self._is_cancelled, also=sink, sends=True)
        if not source._queue:
            return 0
        in_place = source._vi.nic is sink._vi.nic and source._vi.ptag is sink._vi.ptag
        sink._wait(lambda: sink._may_send(not in_place), self._deadline, self._is_cancelled, also=source)
        held, start, end = source._queue[0]
        if in_place:
            n = self._size(min(end - start, sink._peer_piece))
            self._lend(source, held)
            sink._send_part(held.buffer, start, start + n, source, held)
        else:
            assert sink._free is not None
            buffer = sink._free.pop()
            n = self._size(min(end - start, buffer.size))
            buffer.copy_in(held.buffer.data[start:start + n])
            sink._send_part(buffer, 0, n, None, buffer)
        self._count(n)
        source._consume(n)
        return n

    def _lend(self, source: Stream, held: Held) -> None:
        """Somebody else needs the buffer, too, until it is in ``source._returned``."""
        with source._lock:
            held.uses += 1
            source._away += 1

    def _settle_flushed(self) -> None:
        """What a VI that broke has given back is with the source again, or in ``unsent``; of a file it is neither."""
        if not isinstance(self._sink, Stream):
            return
        with self._sink._lock:
            self._sink._collect()
            flights = list(self._sink._flushed)
            self._sink._flushed.clear()
        self._lost = sum(end - start for _, _, _, start, end in flights)
        if isinstance(self._source, Stream):
            self._back_to(self._source, flights)
        elif self._began < 0:
            self._rest = b"".join(bytes(buffer.data[start:end]) for _, _, buffer, start, end in flights)

    def _back_to(self, source: Stream, flights: list[Flight]) -> None:
        with source._lock:
            for _, owner, thing, start, end in reversed(flights):
                if owner is source:
                    source._away -= 1
                    source._queue.appendleft((thing, start, end))
                else:               # copied: a buffer of the sink's
                    self._rest = bytes(thing.data[start:end]) + self._rest

    # --- from a VI

    def _from_stream(self, source: Stream) -> None:
        while self._left:
            source._wait(source._has_data, self._deadline, self._is_cancelled)
            if not source._queue:
                return
            held, start, end = source._queue[0]
            n = self._size(end - start)
            if isinstance(self._sink, Socket):
                self._send(source, held, start, start + n)
                settle()
            elif isinstance(self._sink, PagePipe):
                self._put(source, held, start, start + n)
                settle()
            else:
                self._write(source, held, start, start + n)

    def _write(self, source: Stream, held: Held, start: int, end: int) -> None:
        """To a descriptor, from where it lies."""
        one = self._sink
        sent = -errno.EAGAIN
        while sent in (-errno.EINTR, -errno.EAGAIN):
            if not one.file:
                self._poll(one.number, select.POLLOUT, lambda: None)
            sent = held.buffer._drain(one.number, start, end, one.nowait)
        _result(sent)
        self._count(sent)
        source._consume(sent)

    def _send(self, source: Stream, held: Held, start: int, end: int) -> None:
        """To a stack's socket: as blocks on the buffer, where its path takes them, given back when they are
        acknowledged; else copied."""
        left = -1 if self._deadline is None else max(0, int((self._deadline - time.monotonic()) * 1e9))
        self._lend(source, held)
        inner = self._inner = Transfer(None, self._sink, data=held.buffer.data[start:end], timeout_ns=left,
                                       given_back=lambda: source._returned.append(held))
        if self.cancelled:
            inner.cancel()
        try:
            inner.run()
        finally:
            self._inner = None
            if inner.moved:
                self._count(inner.moved)
                source._consume(inner.moved)
        if inner.cancelled:
            raise Cancelled

    def _put(self, source: Stream, held: Held, start: int, end: int) -> None:
        """Into a pipe of references: the buffer is lent until nobody needs it."""
        n = 0
        self._lend(source, held)
        try:
            n = push_from(self._sink, held.buffer.data[start:end], self._slice_ns(self._sink),
                          lambda: source._returned.append(held))
        except TimeoutError:
            self._look(lambda: None)
        finally:
            if n:
                self._count(n)
                source._consume(n)
            else:
                source._returned.append(held)
