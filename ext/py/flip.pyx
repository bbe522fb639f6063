"""Receiving by page: buffers whose pages are exchanged for received ones, and mappings of received pages.

See docs/techniques/page-flip.md and mapped-receive.md. Threads: a buffer or mapping is used by one call at a time (the
GIL is held while pages change hands).
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EFAULT
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t
from libc.string cimport memset

import os
import weakref
from typing import NamedTuple

from ustack._core.base.counters cimport C_FLIP_HELD, C_FLIP_MAPPED, C_FLIP_PAGES, C_FLIP_PARTIAL
from ustack._core.base.ledger cimport LR_RX_COPY
from ustack._core.base.types cimport atomic_add64
from ustack._core.mem.mblk cimport freemsg, mblk, msgcopyout, msgdsize
from ustack._core.py.driver cimport driver, driver_flush_unlock, driver_lock, driver_unlock
from ustack._core.py.errors cimport fail
from ustack._core.py.socket cimport Socket
from ustack._core.stack.sockets cimport SOCK_TCP, sock
from ustack._core.sys.memory cimport mem_unmap
from ustack._core.tcp.block cimport tcb
from ustack._core.tcp.tcp cimport tcp_recv, tcp_take_error
from ustack._core.zerocopy.flip cimport (
    FLIP_PAGE, FLIP_SLOTS, flip_buffer, flip_buffer_create, flip_buffer_forked, flip_buffer_free, flip_copy, flip_into,
    flip_map, flip_mappable, flip_reserve, flip_result, flip_unmap, flip_unmappable)

cdef enum:
    MSG_PEEK = 2
    MSG_DONTWAIT = 0x40

_buffers: weakref.WeakSet = weakref.WeakSet()


def _forked() -> None:
    cdef FlipBuffer b
    for b in list(_buffers):
        flip_buffer_forked(b.f)
        b.foreign = True


os.register_at_fork(after_in_child=_forked)


cdef size_t pages_of(object length) except 0:
    cdef size_t most = <size_t>FLIP_SLOTS * FLIP_PAGE
    if length < 1 or length > most:
        raise ValueError(f"a length is between 1 and {most} bytes")
    return (<size_t>length + FLIP_PAGE - 1) // FLIP_PAGE


@cython.final
cdef class FlipBuffer:
    """A writable buffer of ``length`` bytes, zeros at first, whose pages ``recv_flip`` exchanges for received ones.

    ValueError; OSError: ENOSPC (more than 128 MiB of such buffers and windows in the process), ENOMEM. In a child
    process after fork(2) it is ordinary private memory.
    """

    cdef flip_buffer *f
    cdef Py_ssize_t length
    cdef bint foreign
    cdef object __weakref__

    def __cinit__(self, length: int):
        cdef int err = 0
        cdef size_t pages = pages_of(length)
        self.length = length
        self.f = flip_buffer_create(<uint32_t>pages, &err)
        if self.f == NULL:
            fail(err, f"no FlipBuffer of {length} bytes")
        _buffers.add(self)

    def __dealloc__(self):
        if self.f != NULL:
            flip_buffer_free(self.f)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.f.base, self.length, False, flags)

    def __len__(self) -> int:
        return self.length

    @property
    def address(self) -> int:
        """Where it begins: the beginning of a page."""
        return <uintptr_t>self.f.base


cdef FlipBuffer holding(const uint8_t *at, size_t n):
    cdef FlipBuffer b
    for b in list(_buffers):
        if not b.foreign and b.f.base <= at and at + n <= b.f.base + <size_t>b.f.pages * FLIP_PAGE:
            return b
    return None


cdef inline void bump(driver *d, int counter, int64_t n) noexcept:
    # Not under the lock: these are counted here only.
    atomic_add64(<int64_t *>&d.eng.ctx.n.n[counter], n)


def recv_flip(Socket s not None, buffer, Py_ssize_t nbytes, int flags, bint zero) -> int:
    """recv_flip() of ustack.socket: the bytes received, 0 at the end of the stream."""
    cdef Py_buffer b
    cdef flip_result result
    cdef FlipBuffer target
    cdef mblk *m
    cdef size_t n
    cdef bint rest
    if flags & ~MSG_DONTWAIT:
        raise ValueError("recv_flip knows no flags but MSG_DONTWAIT")
    if nbytes < 0:
        raise ValueError("negative buffersize in recv_flip")
    s.enter()
    try:
        s._need(SOCK_TCP, "recv_flip")
    finally:
        s.leave()
    PyObject_GetBuffer(buffer, &b, PyBUF_WRITABLE)
    try:
        if nbytes > b.len:
            raise ValueError("buffer too small for requested bytes")
        n = nbytes if nbytes else b.len
        target = holding(<const uint8_t *>b.buf, b.len)
        if target is None or <size_t>b.buf % FLIP_PAGE or n == 0:
            if n:
                bump(s.d, C_FLIP_HELD if target is None else C_FLIP_PARTIAL, 1)
            return s.recv_into(buffer, n, flags) if n else 0
        s.enter()
        try:
            m = s._take(n, flags)
            if m == NULL:
                return 0
            with nogil:
                rest = shared_with_queue(s.d, s.s, m)
            n = msgdsize(m)
            flip_into(target.f, <uint32_t>((<uint8_t *>b.buf - target.f.base) // FLIP_PAGE), m, n, rest, zero,
                      &s.d.eng.ctx.book, &result)
            freemsg(m)
            bump(s.d, C_FLIP_PAGES, result.flipped)
            bump(s.d, C_FLIP_HELD, result.held)
            bump(s.d, C_FLIP_PARTIAL, result.partial)
            return n
        finally:
            s.leave()
    finally:
        PyBuffer_Release(&b)


cdef bint shared_with_queue(driver *d, sock *s, const mblk *m) noexcept nogil:
    """Whether what is still queued lies in the same storage as the end of m, on other pages."""
    cdef bint rest
    while m.cont != NULL:
        m = m.cont
    driver_lock(d)
    rest = not s.closed and s.tcp.rq_head != NULL and s.tcp.rq_head.dp == m.dp
    driver_unlock(d)
    return rest


class Received(NamedTuple):
    """What recv_zerocopy() did: the fields of Linux' struct tcp_zerocopy_receive (tcp(7), include/uapi/linux/tcp.h).

    length: bytes that are mapped, whole pages. recv_skip_hint: bytes that follow and cannot be mapped, to be read with
    recv() before the next call. inq: bytes that wait to be received. err: pending errno of the socket, now cleared.
    copybuf_len: bytes that were copied to ``copybuf``; they come behind the mapped ones.
    """

    length: int
    recv_skip_hint: int
    inq: int
    err: int
    copybuf_len: int


@cython.final
cdef class ReceiveMapping:
    """Address space of ``length`` bytes, rounded up to pages, in which recv_zerocopy() shows received pages, read-only.

    A buffer; what is not mapped reads as zeros. Each call replaces what the last one has mapped.
    """

    cdef uint8_t *base
    cdef size_t length
    cdef size_t mapped
    cdef mblk *kept

    def __cinit__(self, length: int):
        cdef int err = 0
        self.length = pages_of(length) * FLIP_PAGE
        self.base = flip_reserve(self.length, &err)
        if self.base == NULL:
            fail(err, f"no mapping of {length} bytes")

    def __dealloc__(self):
        if self.base != NULL:
            mem_unmap(self.base, self.length)
            freemsg(self.kept)

    cdef int let_go(self) except -1:
        cdef int r = flip_unmap(self.base, self.mapped)
        if r < 0:
            fail(r)
        self.mapped = 0
        freemsg(self.kept)
        self.kept = NULL
        return 0

    def release(self) -> None:
        """Give the pages back to the stack; the mapping reads as zeros then."""
        self.let_go()

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.length, True, flags)

    def __len__(self) -> int:
        return self.length

    @property
    def address(self) -> int:
        """Where it begins: the beginning of a page."""
        return <uintptr_t>self.base


cdef struct taking:
    size_t room                 # that can be mapped at most
    size_t copy                 # that can be copied at most
    mblk *m                     # to be mapped, n bytes
    size_t n
    mblk *tail                  # to be copied, or NULL: skip bytes
    size_t skip
    size_t waiting
    int pending


cdef void take(driver *d, sock *s, taking *x) noexcept nogil:
    """What is there now. (The GIL is not asked for under the lock: who has it may be waiting for the lock.)"""
    cdef tcb *c = s.tcp
    cdef int err = 0
    driver_lock(d)
    if not s.closed and c.rq_head != NULL:
        x.n = flip_mappable(c.rq_head)
        if x.n > x.room:
            x.n = x.room
        x.skip = flip_unmappable(c.rq_head, x.n)
        if x.n:
            x.m = tcp_recv(c, x.n, 0, &err)
            if x.m == NULL:
                x.n = x.skip = 0        # no memory to part a block: the caller tries again
        if 0 < x.skip <= x.copy and c.rq_len >= x.skip:
            x.tail = tcp_recv(c, x.skip, 0, &err)
        x.waiting = c.rq_len
        x.pending = tcp_take_error(c)
    driver_flush_unlock(d)


def recv_zerocopy(Socket s not None, ReceiveMapping mapping not None, copybuf) -> Received:
    """recv_zerocopy() of ustack.socket."""
    cdef Py_buffer b
    cdef size_t copied = 0
    cdef taking x
    cdef mblk *m
    s.enter()
    try:
        s._need(SOCK_TCP, "recv_zerocopy")
        mapping.let_go()
        m = s._take(1, MSG_PEEK)        # waits, and raises, as recv() does
        if m == NULL:
            return Received(0, 0, 0, 0, 0)
        freemsg(m)
        if copybuf is not None:
            PyObject_GetBuffer(copybuf, &b, PyBUF_WRITABLE)
        try:
            memset(&x, 0, sizeof(x))
            x.room = mapping.length
            x.copy = b.len if copybuf is not None else 0
            with nogil:
                take(s.d, s.s, &x)
            if x.tail != NULL:
                copied = msgcopyout(&s.d.eng.ctx.book, LR_RX_COPY, x.tail, 0, b.buf, x.skip)
                freemsg(x.tail)
                x.skip = 0
        finally:
            if copybuf is not None:
                PyBuffer_Release(&b)
        if x.m != NULL:
            try:
                mapping.let_go()        # of what another thread has had it show meanwhile
            except OSError:
                freemsg(x.m)
                raise
            mapping.kept = x.m
            mapping.mapped = x.n
            if flip_map(mapping.base, x.m, x.n) == 0:
                bump(s.d, C_FLIP_MAPPED, x.n // FLIP_PAGE)
            elif not flip_copy(mapping.base, x.m, x.n, &s.d.eng.ctx.book):
                fail(-EFAULT, "the received pages cannot be mapped")
            else:
                bump(s.d, C_FLIP_HELD, x.n // FLIP_PAGE)
        return Received(x.n, x.skip, x.waiting, x.pending, copied)
    finally:
        s.leave()
