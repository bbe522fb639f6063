"""Handles on fbufs: what channels (fbchannels) need of them."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.zerocopy.fbchannel cimport fbchannel
from ustack._core.zerocopy.fbpool cimport fbpool

cdef ledger book


@cython.final
cdef class Hold:                # keeps a buffer, for all windows on it that came from one
    cdef fbpool *p              # it is ours
    cdef fbchannel *c           # it was received: buffer `id` of region n of this channel
    cdef uint32_t n
    cdef uint32_t id
    cdef uint32_t windows

    cdef uint8_t *base(self) noexcept
    cdef uint32_t size(self) noexcept


@cython.final
cdef class Fbuf:
    cdef Hold hold              # None: lost
    cdef uint32_t offset
    cdef Py_ssize_t length
    cdef Py_ssize_t exports
    cdef object view

    cdef Hold alive(self)
    cdef bint writable(self) noexcept
    cdef int settle(self) except -1
    cdef void lose(self) noexcept


# A handle that keeps the buffer from now on: a reference of the pool's, or of the channel's, is handed over.
cdef Fbuf own_fbuf(fbpool *p, uint32_t id, uint32_t offset, uint32_t length)
cdef Fbuf received_fbuf(fbchannel *c, uint32_t n, uint32_t id, uint32_t offset, uint32_t length)
