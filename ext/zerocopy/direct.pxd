"""Memory of the user's that is sent from where it lies: what may be, what is on its way, and how to get it back early.

A call has one block on all of its memory; what TCP queues are windows on it. While anybody but the call holds a
reference, the memory is in use: for a first transmission, for a later one, or since a link has it. Nothing waits here.

Registered memory is a table of this process: ranges that are promised to stay, pinned if the system lets them be.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t

from ustack._core.base.ledger cimport ledger
from ustack._core.base.types cimport atomic_load32
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport dblk, mblk
from ustack._core.tcp.block cimport tcb

cdef enum:
    # Bytes from which direct="auto" sends in place: from about there on, a send that waits for its acknowledgement
    # takes less CPU time than one that copies. `ustack lab E21` measures where: over a TAP, from buffers in turn, it is
    # 195 to 240 KiB on a quiet machine of 2.6 GHz, 40 to 100 KiB where others take their share of its cache.
    DIRECT_LEAST = 262144
    DIRECT_PIECE = 16777216     # bytes queued at once
    REGISTERED_MAX = 4096       # ranges
    NOTICES_MAX = 1024          # calls of a socket whose completion was not collected

cdef enum:
    # What is known of a range
    MEMORY_UNKNOWN = 0
    MEMORY_REGISTERED = 1       # and not pinned
    MEMORY_PINNED = 2

# --- registered memory --------------------------------------------------------------------------------------------
# 0, or what kept it from being pinned (-ENOMEM, -EPERM, -EAGAIN: RLIMIT_MEMLOCK): it is registered all the same.
# -ENOSPC with *full: it is not.
cdef int memory_register(void *base, size_t n, bint pin, bint *full) noexcept nogil
cdef void memory_unregister(void *base, size_t n, bint pinned) noexcept nogil
# MEMORY_*: whether one registered range holds all of it.
cdef int memory_known(const void *base, size_t n) noexcept nogil
cdef void memory_counts(int *ranges, long *hits, long *misses) noexcept nogil

# --- sending ------------------------------------------------------------------------------------------------------
# The counter of the reason for which a connection's bytes cannot be sent in place; -1: they can.
cdef int direct_refusal(const tcb *c) noexcept nogil
# The pages are in memory, so that who sends them does not wait for a disk. 0; -EFAULT: there is no such memory.
cdef int direct_bring_in(const void *base, size_t n) noexcept nogil
# A window on bytes [offset, offset + n) of a call's block, to be queued. NULL without memory.
cdef mblk *direct_window(arena *a, mblk *whole, size_t offset, size_t n) noexcept nogil
# Make the blocks of a chain that lie on `d` copies of it. 0 or -ENOMEM.
cdef int direct_rescue(arena *a, ledger *book, mblk *m, dblk *d) noexcept nogil
# The same for a send queue.
cdef int direct_rescue_queue(tcb *c, dblk *d) noexcept nogil


cdef inline bint direct_free(const mblk *whole) noexcept nogil:
    """Whether nobody but the call holds its memory."""
    return atomic_load32(&whole.dp.refs) == 1


# --- notices of completion ----------------------------------------------------------------------------------------
cdef struct notice:
    mblk *whole
    uint32_t id

cdef struct notice_range:
    uint32_t low                # inclusive
    uint32_t high
    bint copied

cdef struct notices:
    int32_t lock
    uint32_t next               # number of the next call
    int32_t waiting             # calls whose memory is in use, oldest first
    int32_t ready               # ranges to be collected
    int32_t reserved            # calls under way
    notice calls[NOTICES_MAX]
    notice_range ranges[NOTICES_MAX]

# Reserve room for one call; False if there is none. Then one of the two below.
cdef bint notices_reserve(notices *q) noexcept nogil
cdef void notices_cancel(notices *q) noexcept nogil
# The call was queued, with its block, which is taken; or copied (whole NULL): it is complete.
cdef void notices_add(notices *q, mblk *whole) noexcept nogil
# Whether something is to be collected.
cdef bint notices_any(notices *q) noexcept nogil
# Turn what is no longer in use into ranges; returns the blocks, by cont: free them with no lock held.
cdef mblk *notices_harvest(notices *q) noexcept nogil
# Take the ranges, at most `max`; how many.
cdef int notices_take(notices *q, notice_range *out, int max) noexcept nogil
