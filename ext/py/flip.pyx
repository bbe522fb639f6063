"""Receiving by page: buffers whose pages are exchanged for received ones, and mappings of received pages.

See docs/techniques/page-flip.md and mapped-receive.md. Threads: a buffer or mapping is used by one call at a time (the
GIL is held while pages change hands).
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EFAULT
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uintptr_t

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
from ustack._core.stack.sockets cimport SOCK_TCP
from ustack._core.sys.memory cimport mem_unmap
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
    cdef mblk *last
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
            last = m
            while last.cont != NULL:
                last = last.cont
            # What is still queued may lie in the same storage, on other pages.
            driver_lock_gil(s.d)
            rest = not s.s.closed and s.s.tcp.rq_head != NULL and s.s.tcp.rq_head.dp == last.dp
            driver_unlock(s.d)
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


cdef void driver_lock_gil(driver *d) noexcept:
    with nogil:
        driver_lock(d)


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


def recv_zerocopy(Socket s not None, ReceiveMapping mapping not None, copybuf) -> Received:
    """recv_zerocopy() of ustack.socket."""
    cdef Py_buffer b
    cdef size_t n, skip, copied = 0, waiting
    cdef mblk *m
    cdef mblk *tail = NULL
    cdef int err = 0, pending
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
            driver_lock_gil(s.d)
            m = NULL
            n = skip = waiting = 0
            pending = 0
            if not s.s.closed and s.s.tcp.rq_head != NULL:
                n = flip_mappable(s.s.tcp.rq_head)
                if n > mapping.length:
                    n = mapping.length
                skip = flip_unmappable(s.s.tcp.rq_head, n)
                if n:
                    m = tcp_recv(s.s.tcp, n, 0, &err)
                    if m == NULL:
                        n = skip = 0            # no memory to part a block: the caller tries again
                if copybuf is not None and 0 < skip <= <size_t>b.len and s.s.tcp.rq_len >= skip:
                    tail = tcp_recv(s.s.tcp, skip, 0, &err)
                waiting = s.s.tcp.rq_len
                pending = tcp_take_error(s.s.tcp)
            with nogil:
                driver_flush_unlock(s.d)
            if tail != NULL:
                copied = msgcopyout(&s.d.eng.ctx.book, LR_RX_COPY, tail, 0, b.buf, skip)
                freemsg(tail)
                skip = 0
        finally:
            if copybuf is not None:
                PyBuffer_Release(&b)
        if m != NULL:
            mapping.let_go()            # of what another thread has had it show meanwhile
            mapping.kept = m
            mapping.mapped = n
            if flip_map(mapping.base, m, n) == 0:
                bump(s.d, C_FLIP_MAPPED, n // FLIP_PAGE)
            elif not flip_copy(mapping.base, m, n, &s.d.eng.ctx.book):
                fail(-EFAULT, "the received pages cannot be mapped")
            else:
                bump(s.d, C_FLIP_HELD, n // FLIP_PAGE)
        return Received(n, skip, waiting, pending, copied)
    finally:
        s.leave()
