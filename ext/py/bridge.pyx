"""A wire between two devices as a Python object: Linux to Linux through the same impairments as a stack."""

import os
import select

cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ustack._core.base.ledger cimport ledger
from ustack._core.link.bridge cimport bridge, bridge_run, bridge_stop
from ustack._core.link.link cimport link
from ustack._core.mem.arena cimport arena, arena_create, arena_reap, arena_release, arena_take
from ustack._core.mem.mblk cimport dblk, dblk_unref
from ustack._core.mem.source cimport source
from ustack._core.py.driver cimport clock_now
from ustack._core.py.links cimport Link, fail
from ustack._core.py.wrappers cimport Wrapper
from ustack._core.sys.eventfd cimport sys_eventfd, sys_eventfd_signal
from ustack._core.sys.io cimport sys_close
from ustack._core.sys.thread cimport sys_thread_join, sys_thread_start

from ustack._core.py.wrappers import Impair


cdef dblk *take(void *owner, size_t size) noexcept nogil:
    return arena_take(<arena *>owner, size)


cdef void give(void *owner, dblk *d) noexcept nogil:
    dblk_unref(d)


cdef struct worker:
    bridge wire
    int done_fd                 # signalled when the loop has ended


cdef void work(void *arg) noexcept nogil:
    cdef worker *w = <worker *>arg
    bridge_run(&w.wire)
    sys_eventfd_signal(w.done_fd)


@cython.no_gc_clear
cdef class Bridge:
    """A wire between two TAPs (or other links with descriptors), with impairments in each direction.

    ``a`` and ``b`` belong to the bridge and are closed with it. ``impairments`` are those of ``Impair``,
    ``a_to_b`` and ``b_to_a`` dicts that change them for one direction. Packets are carried by a native
    thread, between ``start`` and ``stop`` or in a ``with`` block; ``run`` waits in it. Super-segments are cut
    into wire packets on the way.
    """

    cdef readonly Link a
    cdef readonly Link b
    cdef worker w
    cdef source src
    cdef ledger book
    cdef uint64_t thread
    cdef bint running

    def __cinit__(self, *args, **kwargs):
        memset(&self.w, 0, sizeof(worker))
        self.w.wire.stop_fd = self.w.done_fd = -1

    def __init__(self, Link a not None, Link b not None, *, seed=0, a_to_b=None, b_to_a=None, **impairments):
        cdef Wrapper wire
        if self.a is not None:
            raise ValueError("already made")
        for end in (a, b):
            if (<Link>end).dev != NULL and (<Link>end).dev.ops.fds == NULL:
                raise ValueError(f"{end!r} has no descriptor to sleep on: a bridge is for TAPs and packet rings")
        if a.layer != b.layer:
            raise ValueError(f"a is of layer {a.layer}, b of layer {b.layer}: no wire fits both")
        wire = Impair(a, seed=seed, rx=a_to_b, tx=b_to_a, **impairments)
        try:
            self.open(wire, b)
        except BaseException:
            wire.close()
            raise
        self.a = wire
        self.b = b

    cdef int open(self, Wrapper wire, Link b) except -1:
        cdef bridge *w = &self.w.wire
        cdef link *dev
        cdef int i
        w.stop_fd = sys_eventfd()
        self.w.done_fd = sys_eventfd()
        if w.stop_fd < 0 or self.w.done_fd < 0:
            fail(min(w.stop_fd, self.w.done_fd), "eventfd")
        w.mem = arena_create(0, &self.book)
        if w.mem == NULL:
            raise MemoryError("no memory for a bridge")
        self.src.owner = w.mem
        self.src.take = take
        self.src.give = give
        w.clock = clock_now
        w.know = wire.know
        w.end[1] = b.claim(self)
        w.end[0] = wire.claim(self)
        for i in range(2):
            dev = w.end[i]
            dev.mem = w.mem
            dev.src = &self.src
            dev.book = &self.book
            if dev.ops.attached != NULL:
                dev.ops.attached(dev)
        return 0

    def start(self):
        """Begin to carry packets."""
        cdef int r
        if self.a is None or self.a.dev == NULL:
            raise ValueError("the bridge is closed")
        if self.running:
            return
        self.w.wire.stopping = 0
        r = sys_thread_start(&self.thread, work, &self.w, b"ustack-bridge")
        if r < 0:
            fail(r, "cannot start the bridge's thread")
        self.running = True

    def stop(self):
        """Stop carrying packets; those on the wire stay there. Idempotent."""
        if self.running:
            bridge_stop(&self.w.wire)
            with nogil:
                sys_thread_join(self.thread)
            self.running = False
            os.eventfd_read(self.w.done_fd)

    def run(self):
        """Carry packets until Ctrl-C, or until a device vanishes: then OSError(ENODEV)."""
        self.start()
        try:
            select.select([self.w.done_fd], [], [])
        finally:
            self.stop()
        if self.w.wire.error < 0:
            fail(self.w.wire.error, "the bridge ended")

    def close(self):
        """Stop, and close both links. Idempotent."""
        self.stop()
        for end in (self.a, self.b):
            if end is not None:
                (<Link>end).release()
                end.close()
        if self.w.wire.mem != NULL:
            arena_reap(self.w.wire.mem)
            arena_release(self.w.wire.mem)
            self.w.wire.mem = NULL
        if self.w.wire.stop_fd >= 0:
            sys_close(self.w.wire.stop_fd)
            sys_close(self.w.done_fd)
            self.w.wire.stop_fd = self.w.done_fd = -1

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.close()

    def __dealloc__(self):
        if self.running:
            bridge_stop(&self.w.wire)
            with nogil:
                sys_thread_join(self.thread)
        if self.w.wire.stop_fd >= 0:
            sys_close(self.w.wire.stop_fd)
            sys_close(self.w.done_fd)
        if self.w.wire.mem != NULL:
            arena_release(self.w.wire.mem)

    @property
    def fates(self) -> dict:
        """What has happened to wire packets: {"a_to_b": {"passed": …, "lost": …}, "b_to_a": …}."""
        both = self.a.fates
        return {"a_to_b": both["rx"], "b_to_a": both["tx"]}

    @property
    def stats(self) -> dict:
        """Wire packets carried each way, dropped at a busy device, and how often the loop slept."""
        n = &self.w.wire.n
        return {"a_to_b": n.packets[0], "b_to_a": n.packets[1], "dropped": n.dropped, "sleeps": n.sleeps}
