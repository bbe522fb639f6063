"""Channels of fbufs between two processes: handles on the room ``zerocopy``. What is sent: ``fbufs``; whence:
``fbpools``."""

import select
import socket

cimport cython
from libc.errno cimport EAGAIN, ECONNRESET, ENOSPC, EPERM
from libc.stdint cimport uint32_t

from ustack._core.base.types cimport ns_t
from ustack._core.py.errors cimport check as checked
from ustack._core.py.errors cimport fail
from ustack._core.py.fbpools cimport End, deadline_of, sleep_on
from ustack._core.py.fbufs cimport Fbuf, Hold, own_fbuf, received_fbuf
from ustack._core.zerocopy.fbchannel cimport (
    FBC_DESCRIPTORS, FBC_MESSAGES, FBC_REGIONS, FBD_MORE, FBD_SECURED, FBD_YOURS, fb_descriptor, fbchannel_close,
    fbchannel_greet, fbchannel_hung_up, fbchannel_introduce, fbchannel_open, fbchannel_unref)
from ustack._core.zerocopy.fbpool cimport FB_VOLATILE, fbpool_give, fbpool_regain
from ustack._core.zerocopy.fbtransfer cimport (
    fbchannel_ask_secure, fbchannel_collect, fbchannel_next, fbchannel_returnable, fbchannel_room, fbchannel_send)

from ustack._core.py.fbufs import Aggregate

cdef extern from "<errno.h>" nogil:
    enum:
        ECHILD, EPROTO


_KINDS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


class ChannelBroken(ConnectionError):
    """The other side of a channel does not keep its rules: nothing more is sent or received."""


@cython.final
cdef class Channel(End):
    """One end of a channel for fbufs, over a connected UNIX socket that it takes over. Both processes make one on their
    end, and each waits for the other up to ``timeout`` seconds.

    :param spin: seconds to look for what comes before sleeping; looking costs a CPU, sleeping a wake-up.

    One thread at a time; use one channel for each.
    """

    cdef object waiting         # messages that came while something else was waited for
    cdef list partial           # windows of a message whose rest has not come

    def __cinit__(self, sock: object, *, timeout: float | None = 10.0, spin: float = 20e-6):
        cdef int e = 0
        if not isinstance(sock, socket.socket) or sock.family != socket.AF_UNIX or sock.type not in _KINDS:
            raise ValueError(f"a channel is made over a connected UNIX socket of a stream or of packets, not {sock!r}")
        sock.setblocking(False)
        self.waiting = []
        self.partial = []
        self.spin = <ns_t>(spin * 1e9)
        self.c = fbchannel_open(sock.fileno(), &e)
        if self.c == NULL:
            fail(e, "a channel for fbufs")
        self.greet(sock, timeout)
        sock.detach()

    def __dealloc__(self):
        if self.c != NULL:
            fbchannel_close(self.c, -ECONNRESET)
            fbchannel_unref(self.c)

    cdef int greet(self, object sock, object timeout) except -1:
        cdef int e
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        if not poller.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError(f"the other side did not open the channel within {timeout} s")
        e = fbchannel_greet(self.c, sock.fileno())
        if e == -EPROTO:
            raise ChannelBroken("what came over the socket is no channel for fbufs")
        return checked(e, "opening a channel for fbufs")

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, what: object, *, keep: bool = False, timeout: float | None = None) -> None:
        """Hand over an fbuf, or an aggregate as one message: it is lost here, from now on (FbufLost).

        :param keep: keep windows on it nevertheless: for reading, or for writing too if the pool is volatile.

        Waits while 512 windows are in the other side's hands: BlockingIOError with ``timeout=0``, TimeoutError after
        another. Whatever is raised, what was not sent is still ours: PermissionError (it may not be passed on),
        BufferError (exports are alive), ConnectionError.
        """
        cdef fb_descriptor d[FBC_DESCRIPTORS]
        cdef list parts
        cdef int n
        if not isinstance(what, (Fbuf, Aggregate)):
            raise TypeError(f"what is sent is an Fbuf or an Aggregate, not a {type(what).__name__}")
        parts = [what] if isinstance(what, Fbuf) else list(what.parts)
        n = <int>len(parts)
        if n == 0:
            raise ValueError("the message has no window")
        if n > FBC_DESCRIPTORS:
            raise ValueError(f"a message has at most {FBC_DESCRIPTORS} windows, not {n}")
        self.settle(parts, keep)
        self.wait_room(n, deadline_of(timeout))
        self.describe(parts, n, keep, d)
        self.unchanged(parts, keep)
        self.give(parts, d, n)
        if not keep:
            for f in parts:
                (<Fbuf>f).lose()
            if isinstance(what, Aggregate):
                what._parts = []

    cdef int settle(self, list parts, bint keep) except -1:
        cdef object f
        cdef Hold h
        for f in parts:
            h = (<Fbuf>f).alive()
            if not (keep and h.p != NULL and h.p.flags & FB_VOLATILE):
                (<Fbuf>f).settle()
        return 0

    cdef int unchanged(self, list parts, bint keep) except -1:
        """Another thread, or a signal handler, may have sent or freed one, or looks at it, while this one waited. From
        here on nobody else comes in."""
        cdef Fbuf f
        cdef Hold h
        for f in parts:
            h = f.alive()
            if f.exports and not (keep and h.p != NULL and h.p.flags & FB_VOLATILE):
                f.settle()
        return 0

    cdef int wait_room(self, int n, ns_t deadline) except -1:
        cdef int room
        while True:
            fbchannel_collect(self.c)
            room = fbchannel_room(self.c)
            if room >= n:
                return 0
            self.look_for_end()
            self.check(self.c.error)
            if deadline == 0:
                raise BlockingIOError(EAGAIN, "the other side has not given back enough")
            sleep_on([self], deadline, n)

    cdef int describe(self, list parts, int n, bint keep, fb_descriptor *d) except -1:
        cdef int i, number
        cdef Fbuf f
        cdef Hold h
        for i in range(n):
            f = parts[i]
            h = f.alive()
            d[i].flags = 0
            if h.c == self.c and n == 1 and h.windows == 1 and not keep and fbchannel_returnable(h.c, h.n, h.id):
                d[i].flags = FBD_YOURS
                number = h.n
            else:
                number = fbchannel_introduce(self.c, h.p, h.c, h.n)
                if number == -EPERM:
                    raise PermissionError(EPERM, "its producer does not let this fbuf be passed on")
                if number == -ENOSPC:
                    raise OSError(ENOSPC, "the other side knows as many pools as a channel can have")
                self.check(number)
                self.known_to(h.p)
            d[i].region = number
            d[i].buffer = h.id
            d[i].offset = f.offset
            d[i].length = <uint32_t>f.length
        return 0

    cdef int give(self, list parts, fb_descriptor *d, int n) except -1:
        cdef int i, e = 0
        cdef int given = 0
        cdef Hold h
        for i in range(n):
            h = (<Fbuf>parts[i]).hold
            if h.p != NULL and e == 0:
                e = fbpool_give(h.p, h.id)
                given = i + 1
        if e == 0:
            e = fbchannel_send(self.c, d, n)
        if e == 0:
            return 0
        for i in range(given):
            h = (<Fbuf>parts[i]).hold
            if h.p != NULL and h.p.holds[h.id] == 1:
                fbpool_regain(h.p, h.id)
        return self.check(e)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None) -> Fbuf | Aggregate | None:
        """The next message: an fbuf, or an aggregate if it has several windows. None at the end, when the other side
        has closed, or died, and everything it sent was taken.

        BlockingIOError with ``timeout=0`` if there is none, TimeoutError after another; ChannelBroken if the other side
        does not keep the rules.
        """
        cdef ns_t deadline = deadline_of(timeout)
        cdef object message
        while True:
            message = self.next_message()
            if message is not None:
                return message
            if self.ended():
                return None
            if deadline == 0:
                raise BlockingIOError(EAGAIN, "no fbuf has come")
            sleep_on([self], deadline, FBC_MESSAGES)

    def __iter__(self) -> Channel:
        return self

    def __next__(self) -> Fbuf | Aggregate:
        message = self.recv()
        if message is None:
            raise StopIteration
        return message

    cdef object next_message(self):
        if self.waiting:
            return self.waiting.pop(0)
        return self.pull()

    cdef object pull(self):
        """The next message from the ring, or None; what it says of security is noted on the way."""
        cdef fb_descriptor d
        cdef int n
        cdef Fbuf f
        while True:
            n = fbchannel_next(self.c, &d)
            if n <= 0:
                break
            if d.flags & FBD_SECURED:
                continue
            if d.flags & FBD_YOURS:
                f = own_fbuf(self.c.given[d.region].pool, d.buffer, d.offset, d.length)
            else:
                f = received_fbuf(self.c, d.region, d.buffer, d.offset, d.length)
            if not d.flags & FBD_MORE and not self.partial:
                return f
            self.partial.append(f)
            if not d.flags & FBD_MORE:
                parts, self.partial = self.partial, []
                return Aggregate(parts)
            if len(self.partial) >= FBC_DESCRIPTORS:
                fbchannel_close(self.c, -EPROTO)
        if n < 0 and n != -ECONNRESET:
            self.check(n)
        fbchannel_collect(self.c)
        return None

    cdef bint ended(self) except -1:
        if not self.look_for_end() or self.waiting:
            return False
        if self.c.error != -ECONNRESET:
            self.check(self.c.error)
        return True

    cdef bint look_for_end(self) except -1:
        cdef object message
        if self.c.error == 0 and fbchannel_hung_up(self.c):
            try:
                message = self.pull()
                while message is not None:  # it came just before the end
                    self.waiting.append(message)
                    message = self.pull()
            except ChannelBroken:           # recv() will say so
                return True
            fbchannel_close(self.c, -ECONNRESET)
        return self.c.error != 0

    def secure(self, f: Fbuf, timeout: float | None = 1.0) -> None:
        """Ask the producer of a received fbuf to give up its right to write to it, until it comes back; waits for the
        answer, which comes when the producer next uses the channel. Then ``f.secured`` is true.

        It binds a producer that keeps the rules of this library. One that does not could have kept a mapping of its
        own: only what is sealed (``f.sealed``) is beyond everybody's reach. TimeoutError; PermissionError if it was
        passed on by somebody who is not its producer.
        """
        cdef Hold h = f.alive()
        cdef ns_t deadline = deadline_of(timeout)
        if h.c != self.c:
            raise ValueError("the fbuf did not come over this channel")
        if h.c.got[h.n].secured[h.id]:
            return
        if h.c.got[h.n].relayed:
            raise PermissionError(EPERM, "it was passed on: only its producer could give up writing, copy it instead")
        self.check(fbchannel_ask_secure(self.c, h.n, h.id))
        while not h.c.got[h.n].secured[h.id]:
            message = self.pull()
            if message is not None:
                self.waiting.append(message)
            elif self.look_for_end() and not h.c.got[h.n].secured[h.id]:
                raise ConnectionResetError(ECONNRESET, "the producer is gone: nobody can write to the fbuf any more")
            elif not h.c.got[h.n].secured[h.id]:
                sleep_on([self], deadline, FBC_MESSAGES)

    # --- the channel itself -------------------------------------------------------------------------------------------

    def collect(self) -> int:
        """Take in what was given back, and answer who asks for security: what ``send``, ``recv`` and ``alloc`` do too.
        How many buffers came."""
        return self.check(fbchannel_collect(self.c))

    def close(self) -> None:
        """End the channel: the other side's ``recv`` answers None after what was sent. Everything that it has comes
        home; what was received stays readable until it is freed."""
        fbchannel_close(self.c, -ECONNRESET)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self.c.error != 0

    def stats(self) -> dict[str, int]:
        """Windows sent, received, given back to us, in the other side's hands and in ours; wake-ups that we owed;
        forged descriptors (0 or 1: the first breaks the channel)."""
        cdef uint32_t i, held = 0
        for i in range(FBC_REGIONS):
            held += self.c.got[i].out
        return {
            "sent": self.c.sent, "received": self.c.came, "returned": self.c.returned, "lent": self.c.lent,
            "held": held,
            "kicks": self.c.out.kicks + self.c.back_out.kicks + self.c.in_.kicks + self.c.back_in.kicks,
            "forged": self.c.forged,
        }

    cdef int check(self, int e) except -1:
        if e >= 0:
            return e
        if e == -EPROTO:
            raise ChannelBroken("the other side of the channel does not keep its rules; everything lent has come home")
        if e == -ECONNRESET:
            raise ConnectionResetError(ECONNRESET, "the channel has ended: everything lent has come home")
        if e == -ECHILD:
            raise RuntimeError("this channel is the parent process's: make one after fork()")
        return checked(e, "a channel for fbufs")
