"""Copy on write of memory that is the application's: page-aligned parts of any buffer.

There is no second mapping of such memory. A block shows the application's own page, one block a page; the page is
write-protected. A write moves the *block* to a copy first (mem/repoint), under the lock of the stack that owns it. That
needs links which have read a packet when their transmit returns: to a receiver or a queue that still reads, a block
cannot be moved.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.zerocopy.cow_owner cimport cow_owner

cdef enum:
    COW_PAGES = 16384           # pages that are shared at a time, counted for each send
    COW_LIFT = 16               # pages that are made writable together, at most

# Blocks on at most *n whole pages at `addr`; *n becomes how many there are (fewer: COW_PAGES; or *err), *nested how
# many of them were shared already. `keeper`, a message that holds the memory, is taken with the first block.
cdef mblk *cow_plain_share(cow_owner *o, arena *a, uint8_t *addr, uint32_t *n, uint32_t *nested, mblk *keeper,
                           int *err) noexcept nogil
# As fault_fn; takes fault_lock, and with that free the owners' locks. `met`: somebody met the fault and waits.
cdef int cow_plain_fault(uint8_t *page, bint met) noexcept nogil
cdef bint cow_plain_shares(const uint8_t *page) noexcept nogil      # under fault_lock: whether a block shows the page
cdef bint cow_plain_any() noexcept nogil        # under fault_lock: whether anything is protected
cdef void cow_plain_break_all() noexcept nogil
cdef void cow_plain_forked() noexcept nogil     # in the child
