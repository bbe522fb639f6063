"""The transmitting half of a shared-memory link: from chains of blocks to descriptors that a device can fetch.

Memory is mapped for the device before a descriptor names it, and unmapped when the device is done, always in pairs.
What the device cannot reach in place, and nothing else, is bounced: copied to memory that it can reach. What has more
pieces than the device gathers is made contiguous, once. Both are booked.
"""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from ustack._core.link.link cimport link
from ustack._core.link.shm_wire cimport SHM_FLIGHTS, SHM_PIECES, SHM_REGIONS, shm_limits
from ustack._core.mem.mblk cimport mblk
from ustack._core.mem.region cimport region
from ustack._core.mem.ring cimport ring

cdef enum:
    SHM_BOUNCES = 16            # bounce buffers: a packet uses at most one

cdef struct shm_window:         # a region that the device knows
    region *r
    uint32_t name
    uint32_t version
    uint32_t mapped             # pieces in it that the device may read just now

cdef struct shm_flight:         # a packet that the device has; NULL: the cookie is free
    mblk *m
    uint32_t stamp
    int bounce                  # -1: none
    uint16_t npieces
    uint16_t windows[SHM_PIECES]

cdef struct shm_sender_stats:
    uint64_t mapped             # pieces mapped for the device, and unmapped
    uint64_t unmapped
    uint64_t refused            # packets that the device refused
    uint64_t bad_done           # completions that cannot be
    uint64_t bounced_memory     # bytes bounced: memory that is in no region that can be shared
    uint64_t bounced_align      # … that is not aligned as the device wants it
    uint64_t bounced_limit      # … that lies beyond the device's reach
    uint64_t flattened          # bytes made contiguous, of packets with too many pieces
    uint64_t regions            # regions that the device was told of

cdef struct shm_sender:
    ring tx
    ring done
    uint32_t *map
    shm_limits limits
    int control                 # to the device
    int bell
    region *bounce              # window 0
    uint64_t bounces            # free ones, a bit each
    shm_window windows[SHM_REGIONS]
    int nwindows
    int last                    # the window found last
    int victim
    int32_t retired             # regions_retired() when the windows were looked through
    shm_flight flights[SHM_FLIGHTS]
    uint16_t free[SHM_FLIGHTS]
    int nfree
    int lent                    # packets in flight that hold memory which somebody waits for
    uint32_t stamp
    bint blocked
    shm_sender_stats n

# Rings in `own`, which the caller keeps. 0 or -errno.
cdef int shm_sender_init(shm_sender *s, region *own, const shm_limits *limits) noexcept nogil
# The device is there: how to reach it.
cdef int shm_sender_start(shm_sender *s, int control, int bell) noexcept nogil
# As link_ops.tx.
cdef int shm_sender_tx(shm_sender *s, link *l, mblk **pkts, int n) noexcept nogil
# Free what the device is done with. 0, or -EPROTO: it lies.
cdef int shm_sender_reap(shm_sender *s, link *l) noexcept nogil
# Before a sleep: ask to be kicked if that is of use. True: there is something to do already.
cdef bint shm_sender_rest(shm_sender *s) noexcept nogil
# Kicks that are owed to us for asking.
cdef int shm_sender_rouse(shm_sender *s) noexcept nogil
# The device is gone: everything is unmapped and freed.
cdef void shm_sender_clear(shm_sender *s) noexcept nogil
cdef void shm_sender_close(shm_sender *s) noexcept nogil
