"""Pools of fbufs, and waiting for channels: handles on the room ``zerocopy``. What is sent: ``fbufs``; how:
``fbchannels``.
"""

import os
import select
import weakref

cimport cython
from libc.errno cimport EAGAIN, ENOBUFS
from libc.stdint cimport uint32_t, uintptr_t

from ustack._core.base.types cimport NS_NEVER, cpu_relax, ns_t
from ustack._core.py.driver cimport clock_now
from ustack._core.py.errors cimport check, fail
from ustack._core.py.fbufs cimport Fbuf, own_fbuf
from ustack._core.zerocopy.fbchannel cimport (
    FBC_NOTHING, FBC_REGIONS, fbchannel_arm, fbchannel_disarm, fbchannel_hung_up)
from ustack._core.zerocopy.fbpool cimport (
    FB_FORWARD, FB_LATEST, FB_ONCE, FB_STRICT, FB_VOLATILE, fbpool, fbpool_create, fbpool_disown, fbpool_take,
    fbpool_unref)
from ustack._core.zerocopy.fbtransfer cimport fbchannel_busy, fbchannel_collect

cdef extern from "<errno.h>" nogil:
    enum:
        ECHILD

cdef enum:
    LOOKS = 16                  # looks at the rings between two at the clock, while spinning

KINDS = {"protected": 0, "strict": FB_STRICT, "volatile": FB_VOLATILE}

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_ends: weakref.WeakSet[End] = weakref.WeakSet()


def _forked() -> None:
    """A child shares the memory of its parent's pools and channels, not the right to use them."""
    for p in list(_pools):
        (<Pool>p).lost = True
        fbpool_disown((<Pool>p).p)
    for c in list(_ends):
        if (<End>c).c != NULL:
            (<End>c).c.error = -ECHILD


os.register_at_fork(after_in_child=_forked)


cdef class End:
    """What pools know of channels."""

    def __cinit__(self):
        self.told = set()
        _ends.add(self)

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

    cdef bint look_for_end(self) except -1:
        """If the other side is gone: keep what it sent, and take home what it had. Whether it is at its end."""
        return self.c.error != 0


@cython.final
cdef class Pool:
    """Buffers that this process fills and other processes read, in one memory file.

    :param size: bytes of a buffer; rounded up to whole pages.
    :param count: how many there are, at most 65,536; together at most 512 MiB.
    :param kind: what this process may still do with what it has sent, until it comes back. ``"protected"``: read it;
        ``"strict"``: nothing at all; ``"volatile"``: write to it (with ``send(keep=True)``), for the price of no system
        call.
    :param once: the pool is one buffer that is used once, "uncached". Unless it is volatile too, it is sealed when it
        is sent: no process can change it from then on, and the kernel sees to that.
    :param forward: receivers may pass it on to other processes.
    :param reuse: of the buffers that came back, use the ``"oldest"`` or the ``"latest"`` first. What a consumer on
        another core has just read lies in that core's cache, and filling it again costs several times as much as
        filling one that has gone on to the cache that cores share meanwhile: for the oldest to be such a one, a pool
        should be larger than a core's own cache. Where both processes run on one core, the latest is the hottest.

    Cached pools (not ``once``) cannot be protected from a producer that has decided to lie: what was received from one
    that is not trusted is copied before it is believed, or comes from a pool that is used once.
    """

    def __cinit__(self, size: int, count: int = 1, *, kind: str = "protected", once: bool = False,
                  forward: bool = True, reuse: str = "oldest"):
        cdef int e = 0
        cdef uint32_t flags
        if size <= 0 or size > 1 << 30 or count <= 0 or count > 65536 or size * count > 1 << 29:
            raise ValueError(f"a pool has 1 to 65,536 buffers, of 512 MiB together: not {count} of {size} bytes")
        if kind not in KINDS:
            raise ValueError(f"a pool is {', '.join(KINDS)}, not {kind!r}")
        if reuse not in ("oldest", "latest"):
            raise ValueError(f"of buffers that came back the \"oldest\" or the \"latest\" is used first, not {reuse!r}")
        if once and count != 1:
            raise ValueError(f"a pool that is used once is one buffer, not {count}")
        flags = KINDS[kind] | (FB_ONCE if once else 0) | (FB_FORWARD if forward else 0)
        if reuse == "latest":
            flags |= FB_LATEST
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

        One that was freed here, unsent, comes first; then see ``reuse``. If all are out it waits until one comes home:
        BlockingIOError with ``timeout=0``, TimeoutError after another one, MemoryError if none is on its way home,
        since this process has them all itself.
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
            if self.ended():
                continue
            if not any(self.lent_of(c) for c in self.known()):
                raise MemoryError(f"all {self.p.count} buffers of the pool are in this process's hands: free some")
            if deadline == 0:
                raise BlockingIOError(EAGAIN, "all buffers of the pool are out")
            sleep_on(self.known(), deadline, FBC_NOTHING)
        check(id, "a buffer of the pool")
        return own_fbuf(self.p, id, 0, <uint32_t>(self.p.size if length is None else length))

    cdef list known(self):
        cdef object r, c
        cdef list alive = []
        for r in self.channels:
            c = r()
            if c is not None and (<End>c).c.error == 0:
                alive.append(c)
        if len(alive) != len(self.channels):
            self.channels = [weakref.ref(c) for c in alive]
        return alive

    cdef bint ended(self) except -1:
        """Whether a channel has come to its end: what was lent over it is home."""
        cdef object c
        cdef bint any_ = False
        for c in self.known():
            any_ = (<End>c).look_for_end() or any_
        return any_

    cdef int collect(self) except -1:
        cdef object r, c
        for r in self.channels:
            c = r()
            if c is not None:
                fbchannel_collect((<End>c).c)
        return 0

    cdef uint32_t lent_of(self, End c):
        cdef uint32_t i, n = 0
        for i in range(FBC_REGIONS):
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


cdef ns_t deadline_of(object timeout) except -1:
    """0: do not wait; NS_NEVER: for ever."""
    if timeout is None:
        return NS_NEVER
    if timeout < 0:
        raise ValueError(f"a timeout of {timeout} s is in the past")
    return clock_now() + <ns_t>(timeout * 1e9) if timeout else 0


cdef int sleep_on(list channels, ns_t deadline, int what) except -1:
    """Until one of the channels has something to do. TimeoutError at the deadline."""
    cdef End c
    cdef ns_t now
    if look(channels, what):
        return 0
    poller = select.poll()
    try:
        for c in channels:
            if fbchannel_arm(c.c, what) or fbchannel_hung_up(c.c):
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


cdef bint look(list channels, int what) except -1:
    """Spin for as long as the channels are told to."""
    cdef End c = channels[0]
    cdef ns_t until = clock_now() + c.spin
    cdef int _
    if c.spin == 0:
        return False
    while True:
        for _ in range(LOOKS):
            for c in channels:
                if c.c.error or fbchannel_busy(c.c, what):
                    return True
            cpu_relax()
        if clock_now() >= until:
            return False
