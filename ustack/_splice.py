"""``ustack.splice`` and ``ustack.tee``: bytes between two descriptors or sockets, without the program in between."""

from __future__ import annotations

import contextlib
import errno
import math
import operator
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

from ustack._core.py.pagepipe import SPLICE_F_MORE, SPLICE_F_NONBLOCK, PagePipe, check_flags
from ustack._core.py.socket import Socket
from ustack._core.py.transfers import Relay, Transfer
from ustack._viasplice import StreamTransfer, stream_of
from ustack._viastream import Stream

PIECE = 65536       # bytes that a thread takes from a source at once
SPLICE_EOF = -1     # as a count: until the source ends

WHOLE = Socket, Stream, PagePipe    # ends that are not descriptors

Waters = tuple[int | None, int | None]      # watermarks: in front of us, and in front of the sink


def _timeout(*ends: Any) -> int:
    """The shortest of the ends' timeouts, in nanoseconds; -1: none, 0: do not wait."""
    given = [t for end in ends if isinstance(end, WHOLE) and (t := end.gettimeout()) is not None]
    return int(min(given) * 1e9) if given else -1


def _end(thing: Any) -> Any:
    """A stack's socket, a stream over a VI, a pipe of references, or the descriptor of what has one."""
    if isinstance(thing, WHOLE):
        return thing
    number = thing if isinstance(thing, int) else thing.fileno() if hasattr(thing, "fileno") else None
    if not isinstance(number, int):
        raise TypeError("an end is a stream socket of a stack, a VI, a PagePipe, or has a descriptor: not a "
                        f"{type(thing).__name__}")
    return number


def _position(thing: Any) -> int | None:
    """Where a file object stands, whose descriptor may be ahead of it; None: its descriptor tells."""
    if isinstance(thing, (int, *WHOLE)) or not hasattr(thing, "tell") or "b" not in getattr(thing, "mode", "b"):
        return None
    try:
        position: int = thing.tell()
    except OSError:         # a pipe
        return None
    return position


def _stand(thing: Any, number: int, position: int) -> None:
    """Behind what was read of it."""
    if _position(thing) is not None:
        thing.seek(position)
    else:
        os.lseek(number, position, os.SEEK_SET)


def _prepare(source: Any, sink: Any) -> None:
    """Objects that buffer: what was written to them goes before what is spliced."""
    for thing in (source, sink):
        if not isinstance(thing, (int, *WHOLE)) and hasattr(thing, "flush"):
            thing.flush()


def _own(end: Any) -> Any:
    """For a thread, a descriptor of its own: the number of one that is closed meanwhile may be another file's."""
    return os.dup(end) if isinstance(end, int) else end


def _in_engine(source: Any, sink: Any) -> bool:
    """Whether both ends are sockets of one stack, whose engine then does it."""
    return isinstance(source, Socket) and isinstance(sink, Socket) and source.stack is sink.stack


def _pass_end(sink: Any) -> None:
    """The end of the source becomes the sink's. (Streams over VIs see to that themselves; descriptors have none.)"""
    if isinstance(sink, Socket):
        sink.shutdown(1)
    elif isinstance(sink, PagePipe):
        sink.close_write()


def _transfer(source: Any, sink: Any, count: int, offset: int | None, timeout: int, waters: Waters,
              pass_end: bool, flags: int, brief: bool) -> Transfer | StreamTransfer:
    """What moves bytes between two ends in a thread. brief: it waits for the first bytes only."""
    read, written = waters
    piece = written or PIECE
    nowait = bool(flags & SPLICE_F_NONBLOCK)
    if isinstance(source, Stream) or isinstance(sink, Stream):
        return StreamTransfer(source, sink, count, offset=offset, timeout_ns=timeout, piece=piece, pass_end=pass_end,
                              high=written, ahead=read or 0, brief=brief, nowait=nowait)
    return Transfer(source, sink, count, offset=offset, timeout_ns=timeout, piece=piece, ahead=read or 0,
                    more=bool(flags & SPLICE_F_MORE), brief=brief, nowait=nowait)


def _waters(high_water: int | None, watermarks: Waters | None) -> Waters:
    if watermarks is None:
        watermarks = None, high_water
    elif high_water is not None:
        raise ValueError("high_water is the second of the watermarks: one of them")
    read, written = watermarks
    for water in watermarks:
        if water is not None and operator.index(water) < 1:
            raise ValueError("high_water, and watermarks, are numbers of bytes, at least 1")
    return read, written


def _check_owner(owner: int | None) -> None:
    if owner is None:
        return
    if signal.getsignal(owner) in (signal.SIG_DFL, signal.SIG_IGN, None):
        raise ValueError(f"owner={signal.Signals(owner)!r}: no handler is installed for it, and it would end the "
                         "process or go unheard: call signal.signal() first")


class _Watcher:
    """One thread that tells of splices in engines. They end in whatever thread polls, often one that never runs Python;
    and the main thread may well be waiting for the news."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = 0
        self.jobs: dict[int, Splice] = {}

    def add(self, job: Splice) -> None:
        with self.lock:
            if self.owner != os.getpid():       # after a fork there is no thread
                self.owner, self.jobs, self.ready = os.getpid(), {}, select.epoll()
                threading.Thread(target=self.run, args=(self.ready, self.jobs), name="ustack.splices",
                                 daemon=True).start()
            self.jobs[job.fileno()] = job
            self.ready.register(job.fileno(), select.EPOLLIN)

    def run(self, ready: select.epoll, jobs: dict[int, Splice]) -> None:
        while True:
            for number, _ in ready.poll():
                with self.lock:
                    ready.unregister(number)
                    job = jobs.pop(number)
                try:
                    job._told()
                except BaseException:
                    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
                del job


_watcher = _Watcher()


class Splice:
    """A splice that was started with ``wait=False``.

    ``moved``: bytes that the sink has got so far. ``done``: whether it is over. It can be awaited, in trio and in
    asyncio, or waited for with ``wait()``; its descriptor (``fileno()``) becomes readable when it is over.
    """

    def __init__(self, source: Any, sink: Any, count: int, offset: int | None, idle: float, pass_end: bool,
                 owner: int | None, callback: Callable[[Splice], object] | None, waters: Waters, flags: int = 0):
        self._owner, self._callback = owner, callback
        self._error: BaseException | None = None
        self._relay: Relay | None = None
        self._transfer: Transfer | StreamTransfer | None = None
        self._event = -1
        if _in_engine(source, sink):
            self._relay = Relay(source, sink, count, idle_ns=int(idle * 1e9), pass_end=pass_end)
            if owner is not None or callback is not None:
                _watcher.add(self)
            return
        self._pass_end = pass_end
        self._ends: list[Any] = []
        self._source = source if offset is None else None       # which is to stand behind what was taken
        try:
            self._ends = [_own(_end(source))]
            self._ends.append(_own(_end(sink)))
            start = _position(source) if offset is None else offset
            self._transfer = _transfer(self._ends[0], self._ends[1], count, start, -1, waters, pass_end,
                                       flags, False)
            self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._let_go()
            raise
        self._over = threading.Event()
        threading.Thread(target=self._run, args=(self._transfer,), name="ustack.splice", daemon=True).start()

    def _let_go(self) -> None:
        """Of the descriptors."""
        while self._ends:
            end = self._ends.pop()
            if isinstance(end, int):
                os.close(end)

    def _run(self, transfer: Transfer | StreamTransfer) -> None:
        try:
            transfer.run()
            if self._pass_end and not transfer.cancelled:
                _pass_end(self._ends[1])
        except BaseException as error:
            self._error = error
        if self._source is not None and transfer.position >= 0:
            with contextlib.suppress(OSError, ValueError):      # closed meanwhile
                _stand(self._source, self._ends[0], transfer.position)
        self._source = None
        self._let_go()
        self._over.set()
        os.eventfd_write(self._event, 1)
        self._told()

    def _told(self) -> None:
        if self._callback is not None:
            self._callback(self)
        if self._owner is not None:
            os.kill(os.getpid(), self._owner)

    @property
    def moved(self) -> int:
        """Bytes that the sink has got."""
        one = self._relay or self._transfer
        assert one is not None
        return one.moved

    @property
    def unsent(self) -> bytes:
        """Once it is over: what was read from a pipe or a socket of the kernel, and the sink has not got."""
        return self._transfer.unsent if self._transfer is not None and self._over.is_set() else b""

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self._relay.done if self._relay is not None else self._over.is_set()

    def fileno(self) -> int:
        """A descriptor that is readable when it is over, for select, poll and epoll; it lives as long as this."""
        return self._relay.fileno() if self._relay is not None else self._event

    def cancel(self) -> None:
        """End it. No byte is lost: each was moved and counted, or is with the source, or (of a pipe or a socket of the
        kernel, which take nothing back) in ``unsent``."""
        one = self._relay or self._transfer
        assert one is not None
        one.cancel()

    def wait(self, timeout: float | None = None) -> int:
        """Until it is over; the bytes moved. Raises TimeoutError, or what ended it: OSError with ``moved``."""
        if self._relay is not None:
            over = self._relay.wait(-1 if timeout is None else int(timeout * 1e9))
        else:
            over = self._over.wait(timeout)
        if not over:
            raise TimeoutError("timed out")
        return self._result()

    def _result(self) -> int:
        error = self._error
        if error is None and self._relay is not None and self._relay.error:
            number = self._relay.error
            error = OSError(number, "nothing moved for too long" if number == errno.ETIMEDOUT else os.strerror(number))
        if error is not None:
            error.moved = self.moved  # type: ignore[attr-defined]
            raise error
        return self.moved

    def __await__(self) -> Generator[Any, Any, int]:
        yield from self._readable().__await__()
        return self._result()

    async def _readable(self) -> None:
        if "trio" in sys.modules and _in_trio():
            import trio

            while not self.done:
                await trio.lowlevel.wait_readable(self.fileno())
            await trio.lowlevel.checkpoint()
            return
        import asyncio

        loop = asyncio.get_running_loop()
        if self.done:
            return
        over = loop.create_future()
        number = self.fileno()
        loop.add_reader(number, _resolve, over)
        try:
            await over
        finally:
            loop.remove_reader(number)

    def __del__(self) -> None:
        if self._event >= 0 and self._over.is_set():
            os.close(self._event)
            self._event = -1

    def __repr__(self) -> str:
        return f"<ustack.Splice {'done' if self.done else 'running'} moved={self.moved}>"


def _resolve(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _in_trio() -> bool:
    import trio

    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def splice(source: Any, sink: Any, count: int = SPLICE_EOF, *, offset: int | None = None, idle: float | None = None,
           pass_end: bool = False, high_water: int | None = None, watermarks: Waters | None = None,
           wait: bool = True, owner: int | None = None, callback: Callable[[Splice], object] | None = None,
           flags: int = 0) -> Any:
    """Move ``count`` bytes, or all until the source ends, from ``source`` to ``sink``; returns how many went.

    Either end is a stream socket of a stack, a VI or a stream over one (``ustack.via.Stream``), a ``PagePipe``, or a
    descriptor or an object with one: a file, a pipe, a socket of the kernel. ``offset``: where in a source file to
    begin; by default at its position, which moves along. Between two sockets of one stack the engine does it, without a
    copy and without this thread; ``idle``, in seconds, ends that with ETIMEDOUT after so long without a byte
    (SO_SPLICE). pass_end: the end of the source ends the sink's direction; VIs are also told of an error.

    watermarks: two numbers of bytes, or None: (1) what may be on its way to us: of a file so much is asked for before
    it is read (at most 64 MiB), of a stack's socket it is the receive buffer (SO_RCVBUF); (2) what may wait in front of
    the sink: the send buffer of a stack's socket is set to it (SO_SNDBUF), a VI's peer has at most so much to take, and
    in front of a descriptor no more is read. high_water: the second alone.

    With a ``PagePipe`` at an end a blocking call with a ``count`` is splice(2): it waits for the first bytes, moves
    what can be moved then, and returns; 0 is the end. flags: SPLICE_F_NONBLOCK: no pipe of references is waited for
    (BlockingIOError if nothing moved); SPLICE_F_MORE: more follows behind it (a stack's socket holds back what fills
    no segment); SPLICE_F_MOVE and SPLICE_F_GIFT do nothing.

    With ``wait=False`` a ``Splice`` is returned at once; ``owner``, a signal number, is sent to this process when it
    is over (ValueError where no handler is installed), and ``callback(splice)`` is called, in some thread. Errors are
    OSError with the attribute ``moved``, and ``unsent`` (see ``Splice``) if there is anything; EBUSY if an end is
    spliced already. A blocking call ends with the sockets' timeout, and BlockingIOError where that is 0 and nothing
    moved.
    """
    if (count := operator.index(count)) < SPLICE_EOF:
        raise ValueError("a count is a number of bytes, or SPLICE_EOF")
    if idle is not None and not idle > 0:
        raise ValueError("idle is a number of seconds above 0")
    check_flags(flags)
    if flags & SPLICE_F_NONBLOCK and not wait:
        raise ValueError("SPLICE_F_NONBLOCK is for a call that would wait: wait=True")
    _check_owner(owner)
    source, sink = stream_of(source), stream_of(sink)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is called with the splice: a {type(callback).__name__} cannot be")
    if idle is not None and not _in_engine(source, sink):
        raise ValueError("idle= is for two sockets of one stack")
    if wait and (owner is not None or callback is not None):
        raise ValueError("owner= and callback= tell of a splice that nobody waits for: wait=False")
    waters = _waters(high_water, watermarks)
    if offset is not None and isinstance(source, WHOLE):
        raise OSError(errno.ESPIPE, "a socket, a VI and a pipe have no offsets")
    if idle == math.inf:
        idle = None
    _end(source), _end(sink)
    _prepare(source, sink)
    for end, option, water in ((source, socket.SO_RCVBUF, waters[0]), (sink, socket.SO_SNDBUF, waters[1])):
        if water is not None and isinstance(end, Socket):
            end.setsockopt(socket.SOL_SOCKET, option, water)
    if not wait:
        return Splice(source, sink, count, offset, idle or 0.0, pass_end, owner, callback, waters, flags)
    timeout = _timeout(source, sink)
    if _in_engine(source, sink) and timeout != 0:
        job = Splice(source, sink, count, None, idle or 0.0, pass_end, None, None, waters)
        try:
            return job.wait(None if timeout < 0 else timeout / 1e9)
        except BaseException as error:
            job.cancel()
            error.moved = job.moved  # type: ignore[attr-defined]
            raise
    return _blocking(source, sink, count, offset, pass_end, timeout, waters, flags)


def _blocking(source: Any, sink: Any, count: int, offset: int | None, pass_end: bool, timeout: int,
              waters: Waters, flags: int) -> int:
    start = _position(source) if offset is None else offset
    brief = count >= 0 and (isinstance(source, PagePipe) or isinstance(sink, PagePipe))
    transfer = _transfer(_end(source), _end(sink), count, start, timeout, waters, pass_end, flags, brief)
    try:
        moved = transfer.run()
    except BaseException as error:
        rest = transfer.unsent
        if isinstance(error, BlockingIOError) and transfer.moved and not rest:
            return transfer.moved
        error.moved = transfer.moved  # type: ignore[attr-defined]
        if rest:
            error.unsent = rest  # type: ignore[attr-defined]
        raise
    finally:
        if offset is None and transfer.position >= 0:
            _stand(source, _end(source), transfer.position)
    if pass_end and not (brief and moved):
        _pass_end(sink)
    return moved


def tee(source: Socket | PagePipe, sink: Any, count: int = 1 << 20, *, flags: int = 0) -> int:
    """Send what ``source`` has, at most ``count`` bytes, to ``sink`` and leave it there to be received.

    ``source`` is a stream socket of a stack, for what it has received, or a ``PagePipe``; ``sink`` is whatever
    ``splice`` has. Nothing is copied between sockets of stacks and pipes of references: both hold the same blocks.
    Waits until there is something; returns how many bytes it was (to a VI at most a message, to a ``PagePipe`` what it
    has room for), 0 at the end of the stream. A ``splice`` of as many bytes to another sink then consumes them. flags:
    as for ``splice``.
    """
    if not isinstance(source, (Socket, PagePipe)):
        raise TypeError("tee() looks into the receive queue of a stack's socket, or into a PagePipe")
    if count <= 0:
        raise ValueError("a count is at least 1 byte")
    check_flags(flags)
    sink = stream_of(sink)
    _prepare(source, sink)
    timeout, nowait = _timeout(source, sink), bool(flags & SPLICE_F_NONBLOCK)
    if isinstance(sink, Stream):
        return StreamTransfer(source, sink, count, offset=None, timeout_ns=timeout, piece=PIECE, nowait=nowait,
                              peek=True).run()
    return Transfer(source, _end(sink), count, peek=True, timeout_ns=timeout, more=bool(flags & SPLICE_F_MORE),
                    nowait=nowait).run()
