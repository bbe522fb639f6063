"""Credits over the messages of a VI: what the two ends of ``ustack.via.Stream`` tell each other; waiting for it.

A VI has no flow control: a message that finds no receive descriptor breaks the connection. So each end says how many
messages it has places for, and the other sends no more. docs/via.md has the protocol, for programs that speak it by
hand. What programs call is in ``_viastream``.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ustack._core.py.via import Buffer, Descriptor, Vi, buffers
from ustack._core.py.via_nic import Memory, ViaError

WINDOW, PIECE = 16, 65536       # messages that there are places for, and the size of each
WORDS = 4                       # places for messages without bytes: two grants, an end, a stop
SPARE = 6                       # descriptors to send words by
SLICE, AWAY = 0.05, 0.001       # seconds: how long one wait is; and where places may come back that nobody tells of
IDLE, CONNECTED, UNRELIABLE = 0, 1, 1       # of VIPL
NO_RESOURCE = 3

HELLO, GRANT, END, ERROR, STOP = range(1, 6)    # the upper 8 bits of a word; the lower 24 are a number
NUMBERS = (1 << 24) - 1


class Cancelled(Exception):
    """A wait was given up: ``cancelled`` said so."""


class Held:
    """A receive buffer that is not posted, and how many there are who still need it."""

    __slots__ = ("buffer", "uses")

    def __init__(self, buffer: Buffer):
        self.buffer, self.uses = buffer, 1


Part = tuple[Held, int, int]                    # of a received buffer: from where to where
Flight = tuple[Descriptor, "Credits | None", Any, int, int]


def known(number: int) -> int:
    """An errno that came from elsewhere."""
    return number if number in errno.errorcode else errno.EPROTO


class Credits:
    """An end of a stream, without what programs call."""

    def __init__(self, vi: Vi, *, window: int | None = None, piece: int | None = None):
        if vi._stream is not None:
            raise ValueError("the VI carries a stream already")
        about: dict[str, Any] = vi.query()
        if about["ReliabilityLevel"] == UNRELIABLE:
            raise ValueError("a stream needs a reliable VI: this one loses messages and says nothing")
        self._vi = vi
        self._lock = threading.RLock()          # never held while anything waits
        self._sending, self._receiving = threading.Lock(), threading.Lock()
        self._error: OSError | None = None      # why nothing goes on
        self._greeted = self._closed = False
        self._timeout: float | None = None
        self._own: list[Memory] = []
        # receiving
        self._queue: deque[Part] = deque()
        self._returned: deque[Held] = deque()   # by whoever had borrowed them; in any thread
        self._away = 0                          # borrowed
        self._granted = self._received = self._owed = 0
        self._end: int | None = None            # of what comes: 0, or an errno
        self._refused = False
        # sending
        self._most = about["MaxTransferSize"]
        self._peer_piece = self._peer_window = self._credits = 0
        self._stopped: int | None = None        # the peer takes no more: why
        self._finished = False
        self._free: list[Buffer] | None = None  # of the stream's own, to be sent from
        self._flying: deque[Flight] = deque()
        self._messages = self._bytes = 0        # of those, with data; and the data
        self._high: int | None = None           # most of it at a time
        self._flushed: list[Flight] = []        # what a lost connection has given back
        self._cut = False                       # and whether the peer misses any of it
        try:
            self._set_up(window, piece)
        except BaseException:
            for memory in self._own:
                memory.deregister()
            raise
        vi._stream = self

    def _set_up(self, window: int | None, piece: int | None) -> None:
        vi = self._vi
        try:
            posted = vi._receives()
        except RuntimeError as error:
            raise ValueError(f"{error}: a stream waits on the VI itself") from None
        if posted and (window is not None or piece is not None):
            raise ValueError("buffers are posted already: they are the window, and their size the piece")
        if not posted and vi.state != IDLE:
            raise ValueError("the VI is connected and has no receive buffers: make the stream, or post buffers, before "
                             "it is connected")
        if not all(isinstance(d, Buffer) for d in posted):
            raise ValueError("what is posted to receive are to be buffers of ustack.via.buffers")
        ring = [d for d in posted if isinstance(d, Buffer)]
        self.window = len(ring) - WORDS if ring else WINDOW if window is None else window
        self.piece = min(b.size for b in ring) if ring else min(PIECE, self._most) if piece is None else piece
        if not 0 < self.piece <= min(self._most, NUMBERS):
            raise ValueError(f"a piece has from 1 to {min(self._most, NUMBERS)} bytes here")
        if not 0 < self.window <= vi._depth() - SPARE:
            raise ValueError(f"a window has from 1 to {vi._depth() - SPARE} pieces here, beside {WORDS} other buffers")
        work = vi.nic.allocate(64 * (self.window + SPARE), vi.ptag)
        self._own.append(work)
        self._spare = [Descriptor(work, 64 * k) for k in range(self.window + SPARE)]
        self._posted = len(ring)
        if not ring:
            for buffer in self._buffers(self.piece, self.window + WORDS):
                self._post(buffer)

    def _buffers(self, size: int, count: int) -> list[Buffer]:
        made = buffers(self._vi.nic, self._vi.ptag, size, count)
        self._own.append(made[0].memory)
        return made

    # --- what comes in; with the lock held

    def _post(self, buffer: Buffer) -> None:
        try:
            self._vi.post_recv(buffer)
            self._posted += 1
        except ViaError as error:
            self._break(errno.ECONNRESET, str(error))

    def _break(self, number: int, why: str) -> None:
        if self._error is None:
            self._error = OSError(number, why)

    def _lie(self, why: str) -> None:
        """The peer has broken the rules: it is told, and nothing goes on."""
        if self._error is None:
            if not self._finished:
                self._finished = True
                self._say(ERROR, errno.EPROTO)
            self._break(errno.EPROTO, f"the other end breaks the rules: {why}")

    def _collect(self) -> None:
        """Take what has come and what has gone."""
        try:
            connected = not self._greeted or self._vi.state == CONNECTED    # looks at what has come as well
            while self._returned:
                self._away -= 1
                self._release(self._returned.popleft())
            while self._posted and (d := self._vi.recv_done()) is not None:
                self._posted -= 1
                self._arrived(d)
            while self._flying and (d := self._vi.send_done()) is not None:
                self._gone(d)
        except ViaError as error:
            self._break(errno.ECONNRESET, str(error))
            return
        if not connected:
            self._break(errno.ECONNRESET, "the VI has lost its connection")

    def _arrived(self, d: Descriptor) -> None:
        assert isinstance(d, Buffer)
        if d.failed:
            self._break(errno.ECONNRESET, "the VI has lost its connection")
        elif (word := d.immediate) is not None:
            length = d.length
            self._post(d)               # before anything is sent in answer
            if length:
                self._lie("a word with bytes")
            else:
                self._told(word >> 24, word & NUMBERS)
        elif d.length == 0:
            self._lie("a message without bytes or word")
        elif self._received >= self._granted:
            self._lie("more messages than were granted")
        elif self._end is not None:
            self._lie("bytes behind the end")
        else:
            self._received += 1
            self._queue.append((Held(d), 0, d.length))

    def _told(self, kind: int, number: int) -> None:
        if kind == HELLO and not self._peer_piece and number:
            self._peer_piece = min(number, self._most)
        elif kind == GRANT and number and self._peer_piece:
            self._peer_window = self._peer_window or number
            self._credits += number
            if self._credits > self._peer_window:
                self._lie("credits beyond its window")
        elif kind in (END, ERROR) and self._end is None:
            self._end = known(number) if kind == ERROR else 0
        elif kind == STOP and self._stopped is None:
            self._stopped = known(number) if number else errno.EPIPE
        else:
            self._lie(f"the word {kind:#x} {number}")

    def _gone(self, d: Descriptor) -> None:
        flight = self._flying.popleft()
        _, owner, thing, start, end = flight
        self._spare.append(d)
        self._messages -= thing is not None
        self._bytes -= end - start
        if d.failed:
            self._lose(flight)
            self._break(errno.ECONNRESET, "the VI has lost its connection")
        elif owner is not None:
            owner._returned.append(thing)
        elif thing is not None and self._free is not None:
            self._free.append(thing)

    # --- what goes out; with the lock held

    def _launch(self, d: Descriptor, owner: Credits | None, thing: Any, start: int, end: int) -> None:
        self._flying.append((d, owner, thing, start, end))
        self._messages += thing is not None
        self._bytes += end - start
        try:
            self._vi.post_send(d)
        except ViaError as error:
            self._lose(self._flying.pop())
            self._messages -= thing is not None
            self._bytes -= end - start
            self._spare.append(d)
            self._break(errno.ECONNRESET, str(error))

    def _lose(self, flight: Flight) -> None:
        _, _, thing, start, _ = flight
        if thing is not None:
            self._flushed.append(flight)
        self._cut = self._cut or thing is not None or start in (END, ERROR)

    def _say(self, kind: int, number: int = 0) -> bool:
        """A word. False: not now."""
        if self._error is not None or not self._spare:
            return False
        d = self._spare.pop()
        d.set((), immediate=kind << 24 | number)
        self._launch(d, None, None, kind, kind)
        return True

    def _release(self, held: Held) -> None:
        """One of those who needed a received buffer does not any more."""
        held.uses -= 1
        if held.uses or self._closed:
            return
        self._owed += 1
        if self._error is None:
            self._post(held.buffer)
        if self._owed * 2 >= self.window and not self._refused and self._end is None and self._say(GRANT, self._owed):
            self._granted += self._owed
            self._owed = 0

    def _greet(self) -> None:
        with self._lock:
            if self._greeted or self._closed:
                return
            if self._vi.state != CONNECTED:
                raise OSError(errno.ENOTCONN, "the VI is not connected")
            self._greeted = True
            self._say(HELLO, self.piece)
            self._say(GRANT, self.window)
            self._granted = self.window

    # --- waiting; nothing is held

    def _wait(self, ready: Callable[[], Any], deadline: float | None, cancelled: Callable[[], bool] | None = None,
              also: Credits | None = None, sends: bool = False) -> Any:
        """Until ``ready()`` gives something; it raises what is wrong. deadline: of time.monotonic(); 0: do not wait.
        also: another stream that is to get on meanwhile. sends: be woken by what the peer takes, too."""
        try:
            self._greet()
            while True:
                mark = self._vi._mark()
                for stream in (self, also):
                    if stream is not None:
                        with stream._lock:
                            stream._collect()
                if found := ready():
                    return found
                if cancelled is not None and cancelled():
                    raise Cancelled
                if deadline == 0:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = SLICE if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("timed out")
                self._vi._changed(mark, min(left, AWAY if self._away else SLICE),
                                  sends or bool(self._flying and self._credits))
        except ViaError as error:
            raise OSError(errno.ENOMEM if error.code == NO_RESOURCE else errno.EBADF, str(error)) from None
