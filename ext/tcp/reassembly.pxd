"""The out-of-order queue: data above rcv_nxt, as a sorted array of runs of contiguous packets.

What came first stays: of a new segment only the bytes that are not there yet are kept. Finding a place is
O(log runs), joining runs is paid for by the segments that made them (CVE-2018-5390). Runs and storage are bounded.
"""

from libc.stdint cimport uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.base.seq cimport seq_t
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport mblk
from ustack._core.tcp.block cimport interval, ooo_queue

cdef enum:
    OOO_RUNS = 1024

# Queue a payload chain that begins at `seq` and has `length` > 0 bytes. Bytes that were there already are told in
# *dup (start == end: none; RFC 2883). Returns how many bytes were new, or -ENOBUFS (dropped, some of it perhaps kept).
cdef int ooo_add(ooo_queue *q, arena *a, mblk *taken, seq_t seq, uint32_t length, interval *dup) noexcept nogil
# The first packet at or below rcv_nxt, taken off the queue: .seq tells where it starts. NULL: there is none.
cdef mblk *ooo_take(ooo_queue *q, seq_t rcv_nxt) noexcept nogil
# Drop the highest run, to make room; bytes of storage freed. Reneging, which RFC 2018 8 allows.
cdef uint32_t ooo_prune(ooo_queue *q) noexcept nogil
# Copy the runs into dense blocks.
cdef void ooo_collapse(ooo_queue *q, arena *a, ledger *book) noexcept nogil
# Up to `max` SACK blocks, the one with the newest segment first (RFC 2018 4); returns how many.
cdef int ooo_sack(ooo_queue *q, interval *out, int max) noexcept nogil
# Drop everything at or above `seq` (behind a FIN).
cdef void ooo_free(ooo_queue *q) noexcept nogil
