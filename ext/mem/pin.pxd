"""Pinned memory of this process, of whoever owns it. mlock does not count; this does: pages stay locked until the
last of the
ranges that hold them is unpinned."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

cdef enum:
    PIN_MAX = 8192              # ranges that are pinned at a time

# Lock the pages of [base, base + length). 0; -ENOSPC (too many ranges); -ENOMEM, -EPERM, -EAGAIN: what mlock says,
# often because
# of RLIMIT_MEMLOCK.
cdef int mem_pin(void *base, size_t length) noexcept nogil
# Undo one mem_pin of the same range. 0 or -EINVAL.
cdef int mem_unpin(void *base, size_t length) noexcept nogil
# Bytes of pages that are pinned, each page counted once.
cdef int64_t mem_pinned() noexcept nogil
