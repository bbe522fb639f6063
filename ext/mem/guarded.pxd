"""Copies between blocks and memory that may be gone: pages of a mapped file that somebody cuts, or that were unmapped
or made inaccessible. Costs a few ns a call beside the copy (sys/guard, whose handler is installed).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.mem.posting cimport posting
from ustack._core.mem.types cimport arena, mblk

# As msgcopyout from `offset` on; fewer bytes if the destination ends.
cdef size_t msgcopyout_guarded(ledger *l, int reason, const mblk *m, size_t offset, void *dst, size_t n) noexcept nogil
# As msgcopyout; fewer bytes if storage that came from outside ends.
cdef size_t msgcopyout_outside(ledger *l, int reason, const mblk *m, size_t offset, void *dst, size_t n) noexcept nogil
# As msgcopyin_csum, of fewer bytes if the source ends: *n says how many. NULL: *err is -EFAULT or -ENOBUFS.
cdef mblk *msgcopyin_guarded(arena *a, ledger *l, int reason, const void *src, size_t *n, uint32_t stride,
                             uint32_t phase, int *err) noexcept nogil


cdef inline void posting_lost(posting *p) noexcept nogil:
    """The memory of a posted receive is not there: nothing is put there any more, and who posted it meets that when he
    copies."""
    p.room = 0
    p.header = <uint32_t>1 << 30        # longer than any packet
