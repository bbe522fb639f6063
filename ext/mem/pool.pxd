"""Pools: equal buffers cut from regions, with a last-in-first-out free list, so that hot buffers stay in the
cache."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t

from ustack._core.mem.region cimport region
from ustack._core.mem.types cimport POOL_MAX_REGIONS, arena, dblk, pool

# Buffers of `size` bytes, 64-byte aligned (page-aligned where a buffer is a page or more); no memory is
# reserved yet. The owner may be NULL: then a dblk taken from it belongs to no arena, and goes back by
# pool_give.
cdef pool *pool_create(arena *owner, size_t size, uint32_t grow) noexcept nogil
cdef void pool_destroy(pool *p) noexcept nogil
# A dblk with refs == 1; grows the pool when nothing is free; NULL without memory. Knows no budget.
cdef dblk *pool_take(pool *p) noexcept nogil
cdef void pool_give(pool *p, dblk *d) noexcept nogil
# The region that holds an address, or NULL: for proofs that a pointer lies in a pool.
cdef region *pool_region_of(pool *p, const void *addr) noexcept nogil
# Get another region from the system; 0 or -errno. With no lock held.
cdef int pool_grow(pool *p) noexcept nogil


cdef inline dblk *pool_pop(pool *p) noexcept nogil:
    """With the lock held. The dblk as it was given back: dblk_reset makes it ready for use."""
    cdef dblk *d = p.head
    if d != NULL:
        p.head = d.link
        p.free -= 1
        p.takes += 1
        if p.free < p.low:
            p.low = p.free
    return d


cdef inline void pool_push(pool *p, dblk *d) noexcept nogil:
    """With the lock held."""
    d.link = p.head
    p.head = d
    p.free += 1


cdef inline void dblk_reset(dblk *d) noexcept nogil:
    d.refs = 1
    d.type = 0
    d.flags = 0
    d.ref_limit = 0
    d.stride = 0
    d.nsums = 0
    d.summed = 0
