"""Rings in shared memory: see ring.pxd."""

from libc.errno cimport EINVAL, EPROTO
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ustack._core.base.types cimport atomic_load32, atomic_store32, atomic_swap32, fence_full, unlikely
from ustack._core.mem.region cimport region


cdef size_t ring_extent(uint32_t capacity, uint32_t entry) noexcept nogil:
    if capacity == 0 or capacity & (capacity - 1) or capacity > RING_CAPACITY_MAX:
        return 0
    if entry == 0 or entry % 8 or entry > RING_ENTRY_MAX:
        return 0
    return (RING_ENTRIES + <size_t>capacity * entry + 63) & ~<size_t>63


cdef int ring_attach(ring *r, void *base, size_t room, uint32_t capacity, uint32_t entry, int side) noexcept nogil:
    cdef size_t extent = ring_extent(capacity, entry)
    cdef uint8_t *at = <uint8_t *>base
    memset(r, 0, sizeof(ring))
    r.broken = True
    if extent == 0 or extent > room or <size_t>at % 64 or side not in (RING_PRODUCER, RING_CONSUMER):
        return -EINVAL
    r.mine = <ring_line *>(at + side * RING_LINE)
    r.peer = <ring_line *>(at + (1 - side) * RING_LINE)
    r.entries = at + RING_ENTRIES
    r.mask = capacity - 1
    r.entry = entry
    r.side = side
    r.broken = False
    return 0


cdef int ring_attach_region(ring *r, region *reg, size_t offset, uint32_t capacity, uint32_t entry,
                            int side) noexcept nogil:
    if offset > reg.length:
        return ring_attach(r, NULL, 0, capacity, entry, side)
    return ring_attach(r, reg.base + offset, reg.length - offset, capacity, entry, side)


cdef inline uint32_t known(const ring *r) noexcept nogil:
    """What this side can do by what it has accepted of the peer."""
    if r.side == RING_PRODUCER:
        return r.mask + 1 - (r.at - r.seen)
    return r.seen - r.at


cdef int look(ring *r) noexcept nogil:
    """Read the peer's index, and believe it if it is possible. What this side can do now, or -EPROTO."""
    cdef uint32_t told = <uint32_t>atomic_load32(<int32_t *>&r.peer.index)
    # A consumer may have moved up to our index, a producer up to a ring's length before it.
    cdef uint32_t limit = r.at if r.side == RING_PRODUCER else r.at + r.mask + 1
    if unlikely(told - r.seen > limit - r.seen):
        r.broken = True
        return -EPROTO
    r.seen = told
    return known(r)


cdef inline int enough(ring *r, int n) noexcept nogil:
    """How many of n entries this side can move; the peer's index is read only if it has to be."""
    cdef int have
    if unlikely(r.broken):
        return -EPROTO
    if n <= 0:
        return 0
    have = known(r)
    if have < n:
        have = look(r)
    return n if have > n else have


cdef inline void publish(ring *r, uint32_t n) noexcept nogil:
    r.at += n
    atomic_store32(<int32_t *>&r.mine.index, r.at)


cdef int ring_put(ring *r, const void *entries, int n) noexcept nogil:
    cdef const uint8_t *src = <const uint8_t *>entries
    cdef uint32_t first, begin
    n = enough(r, n)
    if n <= 0:
        return n
    begin = r.at & r.mask
    first = r.mask + 1 - begin
    if first > <uint32_t>n:
        first = n
    memcpy(r.entries + <size_t>begin * r.entry, src, <size_t>first * r.entry)
    if first < <uint32_t>n:
        memcpy(r.entries, src + <size_t>first * r.entry, <size_t>(n - first) * r.entry)
    publish(r, n)
    return n


cdef int ring_take(ring *r, void *out, int max) noexcept nogil:
    cdef uint8_t *dst = <uint8_t *>out
    cdef uint32_t first, begin
    cdef int n = enough(r, max)
    if n <= 0:
        return n
    begin = r.at & r.mask
    first = r.mask + 1 - begin
    if first > <uint32_t>n:
        first = n
    memcpy(dst, r.entries + <size_t>begin * r.entry, <size_t>first * r.entry)
    if first < <uint32_t>n:
        memcpy(dst + <size_t>first * r.entry, r.entries, <size_t>(n - first) * r.entry)
    publish(r, n)
    return n


cdef int ring_ready(ring *r) noexcept nogil:
    if unlikely(r.broken):
        return -EPROTO
    return look(r)


cdef int ring_arm_for(ring *r, int least) noexcept nogil:
    cdef int have
    if unlikely(r.broken):
        return -EPROTO
    atomic_store32(&r.mine.want, 1)
    fence_full()                # our wish is out before the index is read; ring_owes_kick has the other half
    r.armed = True
    have = look(r)
    if have < 0:
        return have
    if have < least:
        return 0
    # If the peer took the wish meanwhile, ring_disarm still has to say so.
    r.armed = atomic_swap32(&r.mine.want, 0) == 0
    return have


cdef int ring_arm(ring *r) noexcept nogil:
    return ring_arm_for(r, 1)
