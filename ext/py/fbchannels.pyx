"""Pools of fbufs and channels between two processes: handles on the room ``zerocopy``. What is sent: ``fbufs``."""

import os
import select
import weakref

cimport cython
from libc.errno cimport EAGAIN, ECONNRESET, ENOBUFS, ENOSPC, EPERM
from libc.stdint cimport uint32_t, uintptr_t

from ustack._core.base.types cimport NS_NEVER, cpu_relax, ns_t
from ustack._core.py.driver cimport clock_now
from ustack._core.py.errors cimport check as checked
from ustack._core.py.errors cimport fail
from ustack._core.py.fbufs cimport Fbuf, Hold, own_fbuf, received_fbuf
from ustack._core.zerocopy.fbchannel cimport (
    FBC_DESCRIPTORS, FBD_MORE, FBD_SECURED, FBD_YOURS, fb_descriptor, fbchannel, fbchannel_arm, fbchannel_close,
    fbchannel_disarm, fbchannel_greet, fbchannel_hung_up, fbchannel_introduce, fbchannel_open, fbchannel_unref)
from ustack._core.zerocopy.fbpool cimport (
    FB_FORWARD, FB_ONCE, FB_STRICT, FB_VOLATILE, fbpool, fbpool_create, fbpool_disown, fbpool_give, fbpool_regain,
    fbpool_take, fbpool_unref)
from ustack._core.zerocopy.fbtransfer cimport (
    fbchannel_ask_secure, fbchannel_busy, fbchannel_collect, fbchannel_next, fbchannel_returnable, fbchannel_room,
    fbchannel_send)

from ustack._core.py.fbufs import Aggregate

cdef extern from "<errno.h>" nogil:
    enum:
        ECHILD, EPROTO

cdef enum:
    LOOKS = 16                  # looks at the rings between two at the clock, while spinning

KINDS = {"protected": 0, "strict": FB_STRICT, "volatile": FB_VOLATILE}

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


class ChannelBroken(ConnectionError):
    """The other side of a channel does not keep its rules: nothing more is sent or received."""


def _forked() -> None:
    """A child shares the memory of its parent's pools and channels, not the right to use them."""
    for p in list(_pools):
        (<Pool>p).lost = True
        fbpool_disown((<Pool>p).p)
    for c in list(_channels):
        if (<Channel>c).c != NULL:
            (<Channel>c).c.error = -ECHILD


os.register_at_fork(after_in_child=_forked)


@cython.final
cdef class Pool:
    """Buffers that this process fills and other processes read, in one memory file.

    :param size: bytes of a buffer; rounded up to whole pages.
    :param count: how many there are, at most 65,536; together at most 512 MiB.
    :param kind: what this process may still do with what it has sent, until it comes back. ``"protected"``: read it;
        ``"strict"``: nothing at all; ``"volatile"``: write to it (with ``send(keep=True)``), for the price of no system
        call.
    :param once: the pool is one buffer that is used once, "uncached". Unless it is volatile too, it is sealed when it
    is
        sent: no process can change it from then on, and the kernel sees to that.
    :param forward: receivers may pass it on to other processes.

    Cached pools (not ``once``) cannot be protected from a producer that has decided to lie: what was received from one
    that is not trusted is copied before it is believed, or comes from a pool that is used once.
    """

    cdef fbpool *p
    cdef list channels          # weak references to those that know it
    cdef bint lost
    cdef object __weakref__

    def __cinit__(self, size: int, count: int = 1, *, kind: str = "protected", once: bool = False,
                  forward: bool = True):
        cdef int e = 0
        cdef uint32_t flags
        if size <= 0 or size > 1 << 30 or count <= 0 or count > 65536 or size * count > 1 << 29:
            raise ValueError(f"a pool has 1 to 65,536 buffers, of 512 MiB together: not {count} of {size} bytes")
        if kind not in KINDS:
            raise ValueError(f"a pool is {', '.join(KINDS)}, not {kind!r}")
        if once and count != 1:
            raise ValueError(f"a pool that is used once is one buffer, not {count}")
        flags = KINDS[kind] | (FB_ONCE if once else 0) | (FB_FORWARD if forward else 0)
        self.p = fbpool_create(size, count, flags, &e)
        if self.p == NULL:
            fail(e, "a pool of fbufs")
        self.channels = []
        _pools.add(self)

    def __dealloc__(self):
        if self.p != NULL:
            fbpool_unref(self.p)

    def alloc(self, length: int | None = None, timeout: float | None = None) -> Fbuf:
        """A buffer to fill, as a window of ``length`` bytes (all of it).

        The one that came back last is used first. If all are out it waits until one comes home: BlockingIOError with
        ``timeout=0``, TimeoutError after another one, MemoryError if none is on its way home, since this process has
        them all itself.
        """
        cdef int id
        cdef ns_t deadline = deadline_of(timeout)
        if self.lost:
            raise RuntimeError("this pool is the parent process's: make one after fork()")
        if length is not None and not 0 <= length <= <object>self.p.size:
            raise ValueError(f"{length} bytes do not fit into a buffer of {self.p.size}")
        while True:
            self.collect()
            id = fbpool_take(self.p)
            if id != -ENOBUFS:
                break
            if not any(self.lent_of(c) for c in self.known()):
                raise MemoryError(f"all {self.p.count} buffers of the pool are in this process's hands: free some")
            if deadline == 0:
                raise BlockingIOError(EAGAIN, "all buffers of the pool are out")
            sleep_on(self.known(), deadline, 0)
        checked(id, "a buffer of the pool")
        return own_fbuf(self.p, id, 0, <uint32_t>(self.p.size if length is None else length))

    cdef list known(self):
        cdef object r, c
        cdef list alive = []
        for r in self.channels:
            c = r()
            if c is not None and (<Channel>c).c.error == 0:
                alive.append(c)
        if len(alive) != len(self.channels):
            self.channels = [weakref.ref(c) for c in alive]
        return alive

    cdef int collect(self) except -1:
        cdef object r, c
        for r in self.channels:
            c = r()
            if c is not None:
                fbchannel_collect((<Channel>c).c)
        return 0

    cdef uint32_t lent_of(self, Channel c):
        cdef uint32_t i, n = 0
        for i in range(256):
            if c.c.given[i].pool == self.p:
                n += c.c.given[i].out
        return n

    @property
    def size(self) -> int:
        """Bytes of a buffer."""
        return self.p.size

    @property
    def count(self) -> int:
        """How many buffers there are."""
        return self.p.count

    @property
    def free(self) -> int:
        """How many are free just now, those counted that others have given back."""
        self.collect()
        return self.p.nfree

    @property
    def protects(self) -> int:
        """How often the protection of a buffer's pages was changed: system calls."""
        return self.p.protects


@cython.final
cdef class Channel:
    """One end of a channel for fbufs, over a connected UNIX socket that it takes over. Both processes make one on their
    end, and each waits for the other up to ``timeout`` seconds.

    :param spin: seconds to look for what comes before sleeping; looking costs a CPU, sleeping a wake-up.

    One thread at a time; use one channel for each.
    """

    cdef fbchannel *c
    cdef object waiting         # messages that came while something else was waited for
    cdef list partial           # windows of a message whose rest has not come
    cdef set told               # addresses of the pools that know this channel
    cdef ns_t spin
    cdef object __weakref__

    def __cinit__(self, sock: object, *, timeout: float | None = 10.0, spin: float = 20e-6):
        cdef int e = 0
        sock.setblocking(False)
        self.waiting = []
        self.partial = []
        self.told = set()
        self.spin = <ns_t>(spin * 1e9)
        self.c = fbchannel_open(sock.fileno(), &e)
        if self.c == NULL:
            fail(e, "a channel for fbufs")
        self.greet(sock, timeout)
        sock.detach()
        _channels.add(self)

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
        cdef list parts = [what] if isinstance(what, Fbuf) else list(what.parts)
        cdef int n = <int>len(parts)
        if n == 0:
            raise ValueError("the message has no window")
        if n > FBC_DESCRIPTORS:
            raise ValueError(f"a message has at most {FBC_DESCRIPTORS} windows, not {n}")
        self.settle(parts, keep)
        self.wait_room(n, deadline_of(timeout))
        self.describe(parts, n, keep, d)
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

    cdef int wait_room(self, int n, ns_t deadline) except -1:
        cdef int room
        while True:
            fbchannel_collect(self.c)
            room = fbchannel_room(self.c)
            if room >= n:
                return 0
            self.check(room)
            if deadline == 0:
                raise BlockingIOError(EAGAIN, "the other side has not given back enough")
            sleep_on([self], deadline, n)

    cdef int describe(self, list parts, int n, bint keep, fb_descriptor *d) except -1:
        cdef int i, number
        cdef Fbuf f
        cdef Hold h
        for i in range(n):
            f = parts[i]
            h = f.hold
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

    cdef int known_to(self, fbpool *p) except -1:
        """The pool collects from this channel from now on."""
        cdef object pool
        if p == NULL or <uintptr_t>p in self.told:
            return 0
        for pool in _pools:
            if (<Pool>pool).p == p:
                (<Pool>pool).channels.append(weakref.ref(self))
                self.told.add(<uintptr_t>p)
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
            sleep_on([self], deadline, 0)

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
        if self.c.error and self.c.error != -ECONNRESET:
            self.check(self.c.error)
        if self.c.error == 0 and not fbchannel_hung_up(self.c):
            return False
        message = self.pull() if self.c.error == 0 else None
        if message is not None:             # it came just before the end
            self.waiting.append(message)
            return False
        fbchannel_close(self.c, -ECONNRESET)
        return not self.waiting

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
            elif self.ended():
                raise ConnectionResetError(ECONNRESET, "the producer is gone: nobody can write to the fbuf any more")
            elif not h.c.got[h.n].secured[h.id]:
                sleep_on([self], deadline, 0)

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
        for i in range(256):
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


cdef ns_t deadline_of(object timeout) except -1:
    """0: do not wait; NS_NEVER: for ever."""
    if timeout is None:
        return NS_NEVER
    if timeout < 0:
        raise ValueError(f"a timeout of {timeout} s is in the past")
    return clock_now() + <ns_t>(timeout * 1e9) if timeout else 0


cdef int sleep_on(list channels, ns_t deadline, int room) except -1:
    """Until one of the channels has something to do. TimeoutError at the deadline."""
    cdef Channel c
    cdef ns_t now
    if look(channels, room):
        return 0
    poller = select.poll()
    try:
        for c in channels:
            if fbchannel_arm(c.c, room) or fbchannel_hung_up(c.c):
                return 0
            poller.register(c.c.bell, select.POLLIN)
            poller.register(c.c.sock, select.POLLRDHUP)
        now = clock_now()
        if now >= deadline:
            raise TimeoutError("no fbuf came within the time given")
        poller.poll(None if deadline == NS_NEVER else (deadline - now) / 1e6 + 1)
    finally:
        for c in channels:
            fbchannel_disarm(c.c)
    return 0


cdef bint look(list channels, int room) except -1:
    """Spin for as long as the channels are told to."""
    cdef Channel c = channels[0]
    cdef ns_t until = clock_now() + c.spin
    cdef int _
    if c.spin == 0:
        return False
    while True:
        for _ in range(LOOKS):
            for c in channels:
                if c.c.error or fbchannel_busy(c.c, room):
                    return True
            cpu_relax()
        if clock_now() >= until:
            return False
