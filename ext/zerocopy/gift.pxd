"""Memory that was given away, and is watched: a write to it is noticed, counted, and let happen.

For finding mistakes. What was given away is write-protected, by the mechanism of copy on write (cow.pxd), until the
last reference to it is gone. Nothing is copied, and nobody is saved from what he does.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk

# Of one giver. Fields are read and written under fault_lock, `pages` may be read at any time.
cdef struct gift_log:
    int32_t refs
    int32_t pages               # that were written to
    uint8_t *first              # the first of them

# NULL without memory.
cdef gift_log *gift_log_create() noexcept nogil
cdef void gift_log_unref(gift_log *log) noexcept nogil
# A block on n bytes, whole pages that may be written to, and are not to be until it is gone. `keeper`, which holds the
# memory, is taken with it. NULL: -ENOMEM, or why they cannot be protected; -EBUSY: they are a CowBuffer's, and
# protected for others.
cdef mblk *gift_watch(gift_log *log, arena *a, uint8_t *base, size_t n, mblk *keeper, int *err) noexcept nogil

# --- for cow.pyx, under fault_lock ----------------------------------------------------------------------------------
# Somebody writes to a page. Whether it was given away; then it is counted, once.
cdef bint gift_touched(uint8_t *page) noexcept nogil
cdef bint gift_any() noexcept nogil
# Watch nothing any more of what was given away so far.
cdef void gift_forget() noexcept nogil
