"""The memory of one engine: see arena.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ustack._core.base.types cimport (
    atomic_add64, atomic_casp, atomic_load64, atomic_loadp, atomic_swapp, spin_lock, spin_unlock,
)
from ustack._core.mem.pool cimport dblk_reset, pool_create, pool_destroy, pool_grow, pool_pop
from ustack._core.mem.region cimport region, region_create, region_unref

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef enum:
    FIRST_CHUNK = 31            # structures in the first chunk; with its head that is one page
    LAST_CHUNK = 511


cdef arena *arena_create(int64_t budget, ledger *book) noexcept nogil:
    cdef size_t sizes[ARENA_CLASSES]
    cdef uint32_t grow[ARENA_CLASSES]
    cdef int i
    cdef arena *a = <arena *>malloc(sizeof(arena))
    if a == NULL:
        return NULL
    memset(a, 0, sizeof(arena))
    a.budget = budget
    a.common = budget
    a.book = book
    a.refs = 1
    a.chunk_cells = FIRST_CHUNK
    sizes[0], sizes[1], sizes[2], sizes[3], sizes[4] = HEADER_SIZE, 2048, 16384, LARGE_SIZE, JUMBO_SIZE
    grow[0], grow[1], grow[2], grow[3], grow[4] = 256, 64, 16, 16, 4
    for i in range(ARENA_CLASSES):
        a.classes[i] = pool_create(a, sizes[i], grow[i])
        if a.classes[i] == NULL:
            arena_destroy(a)
            return NULL
    return a


cdef void arena_reserve(arena *a, int64_t nbytes) noexcept nogil:
    a.common = a.budget - nbytes


cdef void arena_destroy(arena *a) noexcept nogil:
    cdef void *chunk = a.chunks
    cdef void *following
    cdef int i
    for i in range(ARENA_CLASSES):
        pool_destroy(a.classes[i])
    while chunk != NULL:
        following = (<void **>chunk)[0]
        free(chunk)
        chunk = following
    free(a)


cdef void arena_ref(arena *a) noexcept nogil:
    spin_lock(&a.lock)
    a.refs += 1
    spin_unlock(&a.lock)


cdef void arena_release(arena *a) noexcept nogil:
    a.book = NULL
    arena_unref(a)


cdef void arena_unref(arena *a) noexcept nogil:
    cdef bint gone, orphans
    spin_lock(&a.lock)
    a.refs -= 1
    gone = a.refs == 0 and a.live == 0
    # From here on nobody would reap what still waits (see arena_push_reap).
    orphans = a.refs == 0 and a.on_reap == NULL and a.reap != NULL
    spin_unlock(&a.lock)
    if gone:
        arena_destroy(a)
    elif orphans:
        arena_reap(a)


cdef void cell_give(arena *a, void *cell) noexcept nogil:
    cdef bint gone
    spin_lock(&a.lock)
    (<mblk *>cell).next = a.free_mblks
    a.free_mblks = <mblk *>cell
    a.live -= 1
    gone = a.live == 0 and a.refs == 0
    spin_unlock(&a.lock)
    if gone:
        arena_destroy(a)


cdef bint arena_refill(arena *a) noexcept nogil:
    """Get a chunk of structures from the system. With no lock held."""
    cdef uint32_t n = a.chunk_cells
    cdef uint8_t *chunk = <uint8_t *>aligned_alloc(64, (n + 1) * CELL)
    cdef mblk *first
    cdef mblk *m
    cdef uint32_t i
    if chunk == NULL:
        return False
    first = m = <mblk *>(chunk + CELL)
    for i in range(1, n):
        m.next = <mblk *>(chunk + (i + 1) * CELL)
        m = m.next
    spin_lock(&a.lock)
    m.next = a.free_mblks
    a.free_mblks = first
    (<void **>chunk)[0] = a.chunks
    a.chunks = chunk
    if a.chunk_cells < LAST_CHUNK:
        a.chunk_cells = 2 * a.chunk_cells + 1
    spin_unlock(&a.lock)
    return True


cdef void *cell_take(arena *a) noexcept nogil:
    """One structure off the slab, counted as live, not cleared; NULL without memory."""
    cdef mblk *m
    while True:
        spin_lock(&a.lock)
        m = a.free_mblks
        if m != NULL:
            a.free_mblks = m.next
            a.live += 1
            spin_unlock(&a.lock)
            return m
        spin_unlock(&a.lock)
        if not arena_refill(a):
            atomic_add64(&a.failures, 1)
            return NULL


cdef bint reserve(arena *a, size_t size, bint reserved) noexcept nogil:
    """With the lock held: charge the budget; `reserved`: also what is kept for headers."""
    if a.budget and a.held + <int64_t>size > (a.budget if reserved else a.common):
        return False
    a.held += size
    a.live += 1
    return True


cdef dblk *take_region(arena *a, size_t size) noexcept nogil:
    """Storage too large for any pool: a region of its own, unmapped with the last reference."""
    cdef region *r
    cdef dblk *d
    cdef bint granted
    if size > (<size_t>1 << 31):
        atomic_add64(&a.failures, 1)
        return NULL
    d = <dblk *>cell_take(a)
    if d == NULL:
        return NULL
    r = region_create(size, 0, NULL)
    spin_lock(&a.lock)
    granted = r != NULL and reserve(a, r.length, False)
    if granted:
        a.live -= 1             # the cell was counted already
    spin_unlock(&a.lock)
    memset(d, 0, sizeof(dblk))
    d.owner = a
    if not granted:
        atomic_add64(&a.failures, 1)
        if r != NULL:
            region_unref(r)
        cell_give(a, d)
        return NULL
    atomic_add64(&a.reserved, r.length)
    d.base = r.base
    d.lim = r.base + r.length
    d.truesize = r.length
    d.arg = r
    d.refs = 1
    return d


cdef dblk *arena_take(arena *a, size_t size) noexcept nogil:
    return arena_take_from(a, size, False)


cdef dblk *arena_take_reserved(arena *a, size_t size) noexcept nogil:
    return arena_take_from(a, size, True)


cdef dblk *arena_take_from(arena *a, size_t size, bint reserved) noexcept nogil:
    cdef pool *p = class_for(a, size)
    cdef dblk *d
    if p == NULL:
        return take_region(a, size)
    while True:
        spin_lock(&a.lock)
        if p.head != NULL:
            d = NULL
            if reserve(a, p.footprint, reserved):
                d = pool_pop(p)
            spin_unlock(&a.lock)
            if d == NULL:
                break
            dblk_reset(d)
            return d
        # Over budget there is no use in growing.
        if a.budget and a.held + <int64_t>p.footprint > (a.budget if reserved else a.common):
            spin_unlock(&a.lock)
            break
        spin_unlock(&a.lock)
        if pool_grow(p) < 0:
            break
    atomic_add64(&a.failures, 1)
    return NULL


cdef void arena_push_reap(arena *a, dblk *d) noexcept nogil:
    """The last reference to external storage is gone; d counts as live until its function has run."""
    cdef void *head
    cdef bint orphan
    # Another thread may reap d, and with it the arena, before the hook has been called.
    spin_lock(&a.lock)
    orphan = a.refs == 0 and a.on_reap == NULL
    a.refs += 0 if orphan else 1
    spin_unlock(&a.lock)
    if orphan:
        run_free(d)
        return
    while True:
        head = atomic_loadp(&a.reap)
        d.link = <dblk *>head
        if atomic_casp(&a.reap, head, d):
            break
    if head == NULL and a.on_reap != NULL:
        a.on_reap(a.on_reap_arg)
    arena_unref(a)


cdef void run_free(dblk *d) noexcept nogil:
    cdef arena *a = d.owner
    d.fn(d.arg)
    cell_give(a, d)


cdef int arena_reap(arena *a) noexcept nogil:
    """Runs them in the order in which the references were dropped."""
    cdef dblk *d
    cdef dblk *first = NULL
    cdef dblk *following
    cdef int n = 0
    if atomic_loadp(&a.reap) == NULL:
        return 0
    d = <dblk *>atomic_swapp(&a.reap, NULL)
    while d != NULL:
        following = d.link
        d.link = first
        first = d
        d = following
    # The arena may go with the last of them: it is not looked at again.
    while first != NULL:
        following = first.link
        run_free(first)
        first = following
        n += 1
    return n


cdef bint arena_has_reap(arena *a) noexcept nogil:
    return atomic_loadp(&a.reap) != NULL


cdef int64_t arena_live(arena *a) noexcept nogil:
    return atomic_load64(&a.live)
