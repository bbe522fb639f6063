"""Pools: see pool.pxd. The dblk structures lie in an array of their own, so that regions hold nothing but
payload."""

from libc.errno cimport ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ustack._core.base.types cimport atomic_add64, spin_lock, spin_unlock
from ustack._core.mem.region cimport region, region_create, region_unref

cdef enum:
    PAGE = 4096
    LINE = 64
    SUM_GRAIN = 512             # a partial sum covers at least this much of a buffer
    GROW_SHIFT_MAX = 4


cdef inline int32_t *lock_of(pool *p) noexcept nogil:
    return &p.owner.lock if p.owner != NULL else &p.lock


cdef pool *pool_create(arena *owner, size_t size, uint32_t grow) noexcept nogil:
    cdef pool *p
    cdef size_t unit = PAGE if size >= PAGE else LINE
    if size == 0 or size > (<size_t>1 << 31) or grow == 0:
        return NULL
    p = <pool *>malloc(sizeof(pool))
    if p == NULL:
        return NULL
    memset(p, 0, sizeof(pool))
    p.owner = owner
    p.size = size
    p.footprint = (size + unit - 1) & ~(unit - 1)
    p.grow = grow
    p.nsums = (size // SUM_GRAIN if size > SUM_GRAIN else 1) + 1        # data may begin and end within a stride
    return p


cdef void pool_destroy(pool *p) noexcept nogil:
    """Gives everything back to the system; no buffer may be out."""
    cdef uint32_t i
    if p == NULL:
        return
    for i in range(p.nregions):
        region_unref(p.regions[i])
        free(p.blocks[i])
    free(p.regions)
    free(p.blocks)
    free(p)


cdef dblk *cut(pool *p, region *r, uint32_t n) noexcept nogil:
    """The structures for n buffers of a region, linked in address order; NULL without memory."""
    cdef dblk *d = <dblk *>malloc(n * (sizeof(dblk) + p.nsums * sizeof(uint16_t)))
    cdef uint16_t *sums
    cdef uint32_t i
    if d == NULL:
        return NULL
    sums = <uint16_t *>(d + n)
    memset(d, 0, n * sizeof(dblk))
    for i in range(n):
        d[i].base = r.base + i * p.footprint
        d[i].lim = d[i].base + p.size
        d[i].truesize = p.footprint
        d[i].owner = p.owner
        d[i].home = p
        d[i].sums = sums + i * p.nsums if p.nsums else NULL
        d[i].link = &d[i + 1] if i + 1 < n else NULL
    return d


cdef void append_region(pool *p, region *r, dblk *blocks, uint32_t n) noexcept nogil:
    """With the lock held, and room in the lists."""
    p.regions[p.nregions] = r
    p.blocks[p.nregions] = blocks
    p.nregions += 1
    p.total += n
    p.free += n
    p.misses += 1
    blocks[n - 1].link = p.head
    p.head = blocks


cdef int pool_grow(pool *p) noexcept nogil:
    cdef uint32_t seen = p.nregions
    cdef uint32_t n = p.grow << (seen if seen < GROW_SHIFT_MAX else GROW_SHIFT_MAX)
    cdef size_t listed = 2 * (seen + 1) * sizeof(void *)
    cdef bint longer = seen & (seen - 1) == 0       # the lists are full at powers of two
    cdef int err = -ENOMEM
    cdef region *r = region_create(n * p.footprint, 0, &err) if seen < POOL_MAX_REGIONS else NULL
    cdef dblk *blocks = cut(p, r, n) if r != NULL else NULL
    cdef region **regions = <region **>malloc(listed) if longer else NULL
    cdef dblk **lists = <dblk **>malloc(listed) if longer else NULL
    cdef bint mine = False
    if blocks != NULL and (not longer or (regions != NULL and lists != NULL)):
        err = 0
        spin_lock(lock_of(p))
        # Somebody else may have grown it meanwhile: then that will do.
        mine = p.nregions == seen
        if mine:
            if longer:
                if seen:            # memcpy from NULL is undefined even for no bytes
                    memcpy(regions, p.regions, seen * sizeof(void *))
                    memcpy(lists, p.blocks, seen * sizeof(void *))
                p.regions, regions = regions, p.regions
                p.blocks, lists = lists, p.blocks
            append_region(p, r, blocks, n)
        spin_unlock(lock_of(p))
    free(regions)
    free(lists)
    if not mine:
        free(blocks)
        if r != NULL:
            region_unref(r)
    elif p.owner != NULL:
        atomic_add64(&p.owner.reserved, r.length)
    return err


cdef dblk *pool_take(pool *p) noexcept nogil:
    cdef dblk *d
    while True:
        spin_lock(lock_of(p))
        d = pool_pop(p)
        spin_unlock(lock_of(p))
        if d != NULL:
            dblk_reset(d)
            return d
        if pool_grow(p) < 0:
            return NULL


cdef void pool_give(pool *p, dblk *d) noexcept nogil:
    spin_lock(lock_of(p))
    pool_push(p, d)
    spin_unlock(lock_of(p))


cdef region *pool_region_of(pool *p, const void *addr) noexcept nogil:
    cdef region *found = NULL
    cdef const uint8_t *at = <const uint8_t *>addr
    cdef uint32_t i
    spin_lock(lock_of(p))
    for i in range(p.nregions):
        if p.regions[i].base <= at < p.regions[i].base + p.regions[i].length:
            found = p.regions[i]
            break
    spin_unlock(lock_of(p))
    return found
