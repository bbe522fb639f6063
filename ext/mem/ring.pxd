"""Rings of fixed-size entries in memory that another process maps too: one produces, one consumes.

       offset   0           128          256
                +------------+------------+---------+---------+-- - - --+
                | tail, want | head, want | entry 0 | entry 1 |         |      capacity entries, a power of two
                +------------+------------+---------+---------+-- - - --+
                  producer's   consumer's

Each side writes its own index, on cache lines of its own, and keeps it in its own memory as well: an index is never
read back. The peer's index is read only when the copy of it that was accepted last leaves nothing to do, and it is
believed only if it moved forward, by no more than it could. A peer that lies breaks the ring: from then on every call
answers -EPROTO, and nothing behind the entries is ever read or written. Entries are copied out before anybody looks at
them, since the peer can change them at any time.

Doorbells: an entry is visible by the store of an index alone. Who wants to sleep asks to be kicked first
(``ring_arm``), and only then does the other side owe a system call (``ring_owes_kick``); which one is up to the users
of the ring, such as a write to an eventfd that both have.

       consumer                                    producer
       n = ring_take(r, …)       -- 0 --           ring_put(r, …)
       if ring_arm(r) == 0:                        if ring_owes_kick(r):
           sleep on the eventfd                        signal the eventfd
       ring_disarm(r)

Producers that wait for room do the same, roles exchanged. No pointer is in the shared memory, so the two may map
it at different addresses.

Threads: one at a time for each side.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ustack._core.base.types cimport atomic_load32, atomic_swap32, fence_full
from ustack._core.mem.region cimport region

cdef enum:
    RING_PRODUCER = 0
    RING_CONSUMER = 1

cdef enum:
    RING_LINE = 128             # two cache lines: adjacent ones are fetched in pairs
    RING_ENTRIES = 256          # offset of the first entry
    RING_CAPACITY_MAX = 1 << 20
    RING_ENTRY_MAX = 4096

cdef struct ring_line:          # in shared memory
    uint32_t index              # entries that this side has produced, or consumed, modulo 2^32
    int32_t want                # not 0: this side wants to be kicked
    uint8_t unused[120]

cdef struct ring:               # one for each side, in memory of its own
    ring_line *mine
    ring_line *peer
    uint8_t *entries
    uint32_t mask               # capacity - 1
    uint32_t entry              # bytes of an entry
    uint32_t at                 # our index
    uint32_t seen               # the peer's, as it was accepted last
    uint8_t side                # RING_PRODUCER, RING_CONSUMER
    bint broken                 # the peer has lied
    bint armed                  # ring_arm asked for a kick
    uint64_t kicks              # times that this side owed a kick

# Bytes that a ring takes, a multiple of 64; 0 if there is no such ring: `capacity` is a power of two up to
# RING_CAPACITY_MAX, `entry` a multiple of 8 up to RING_ENTRY_MAX bytes.
cdef size_t ring_extent(uint32_t capacity, uint32_t entry) noexcept nogil
# One side of a ring at `base`, which is 64-byte aligned and has `room` bytes behind it. The memory is zeroed by whoever
# made it (a new region is), and used by two sides that agree on the numbers. 0 or -EINVAL.
cdef int ring_attach(ring *r, void *base, size_t room, uint32_t capacity, uint32_t entry, int side) noexcept nogil
# The same, at an offset in a region. The caller keeps the region.
cdef int ring_attach_region(ring *r, region *reg, size_t offset, uint32_t capacity, uint32_t entry,
                            int side) noexcept nogil
# Produce up to `n` entries, copied from `entries`, and publish them by one store. How many had room, or -EPROTO.
cdef int ring_put(ring *r, const void *entries, int n) noexcept nogil
# Consume up to `max` entries: copied to `out`, then given back by one store. How many there were, or -EPROTO.
cdef int ring_take(ring *r, void *out, int max) noexcept nogil
# How many entries this side can produce, or consume, just now; or -EPROTO.
cdef int ring_ready(ring *r) noexcept nogil
# Ask to be kicked when there is something to do again. 0: sleep now; > 0: so much is there already, and nothing is
# asked; -EPROTO.
cdef int ring_arm(ring *r) noexcept nogil
# The same for a producer that waits until `least` entries have room.
cdef int ring_arm_for(ring *r, int least) noexcept nogil


cdef inline bint ring_disarm(ring *r) noexcept nogil:
    """Awake again: no kick is wanted. True if the peer owes one already: it is there, or on its way."""
    if not r.armed:
        return False
    r.armed = False
    return atomic_swap32(&r.mine.want, 0) == 0


cdef inline bint ring_owes_kick(ring *r) noexcept nogil:
    """After entries were produced or consumed: whether the peer must be woken. True once for each time it asked."""
    fence_full()               # our index is out before its wish is read; ring_arm has the other half
    if atomic_load32(&r.peer.want) == 0:
        return False
    if atomic_swap32(&r.peer.want, 0) == 0:
        return False
    r.kicks += 1
    return True
