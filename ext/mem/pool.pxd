"""Pools: equal buffers cut from regions, with a last-in-first-out free list, so that hot buffers stay in the cache."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport dblk
from ustack._core.mem.region cimport region

cdef enum:
    POOL_MAX_REGIONS = 1024

cdef struct pool:
    arena *owner
    size_t size                 # usable bytes of a buffer
    size_t footprint            # bytes from one buffer to the next
    uint32_t grow               # buffers per region
    uint32_t total
    uint32_t free
    uint32_t low                # fewest free ones ever
    uint64_t takes
    uint64_t misses             # takes that had to grow the pool
    int32_t lock
    dblk *head                  # free list
    region **regions
    uint32_t nregions

cdef pool *pool_create(arena *owner, size_t size, uint32_t grow) noexcept nogil
cdef void pool_destroy(pool *p) noexcept nogil
cdef dblk *pool_take(pool *p) noexcept nogil
cdef void pool_give(pool *p, dblk *d) noexcept nogil
# The region that holds an address, or NULL: for proofs that a pointer lies in a pool.
cdef region *pool_region_of(pool *p, const void *addr) noexcept nogil
