"""Memory that was given away: see gift.pxd."""

from libc.errno cimport EBUSY, ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.mem.arena cimport arena, arena_reap
from ustack._core.mem.mblk cimport DB_READONLY, esballoc, freemsg, mblk
from ustack._core.sys.fault cimport FAULT_MPROTECT, fault_lift, fault_lock, fault_mechanism, fault_protect, fault_unlock
from ustack._core.sys.memory cimport page_size
from ustack._core.zerocopy.cow_file cimport cow_file, cow_file_find, cow_file_unref
from ustack._core.zerocopy.cow_plain cimport cow_plain_shares

cdef struct gift:
    gift *next
    gift *prev
    gift_log *log
    mblk *keeper
    uint8_t *begin
    uint8_t *end
    uint8_t *touched            # a byte for each page: it was written to, and is not protected any more
    bint watched                # in the list

cdef gift *gifts = NULL


cdef gift_log *gift_log_create() noexcept nogil:
    cdef gift_log *log = <gift_log *>calloc(1, sizeof(gift_log))
    if log != NULL:
        log.refs = 1
    return log


cdef void gift_log_unref(gift_log *log) noexcept nogil:
    cdef bint last
    fault_lock()
    log.refs -= 1
    last = log.refs == 0
    fault_unlock()
    if last:
        free(log)


cdef inline size_t page_of(const gift *g, const uint8_t *page) noexcept nogil:
    return <size_t>(page - g.begin) // page_size()


cdef bint wanted(const uint8_t *page) noexcept nogil:
    """Whether a page is to stay protected: for another gift that it is in, or for a send with copy on write."""
    cdef gift *g = gifts
    while g != NULL:
        if g.begin <= page < g.end and not g.touched[page_of(g, page)]:
            return True
        g = g.next
    return cow_plain_shares(page)


cdef void lift(gift *g) noexcept nogil:
    """Make its pages writable again. It is not in the list any more."""
    cdef size_t page = page_size()
    cdef uint8_t *at = g.begin
    cdef uint8_t *stop
    while at < g.end:
        stop = at
        while stop < g.end and not wanted(stop):
            stop += page
        if stop > at:
            fault_lift(at, stop - at)
        at = stop + page


cdef void unlist(gift *g) noexcept nogil:
    global gifts
    if g.next != NULL:
        g.next.prev = g.prev
    if g.prev != NULL:
        g.prev.next = g.next
    else:
        gifts = g.next
    g.watched = False


cdef void gift_over(void *arg) noexcept nogil:
    """The last reference is gone."""
    cdef gift *g = <gift *>arg
    cdef arena *a = g.keeper.dp.owner
    fault_lock()
    if g.watched:
        unlist(g)
        lift(g)
    fault_unlock()
    freemsg(g.keeper)
    arena_reap(a)               # now rather than with the next call: somebody may want to close the memory
    gift_log_unref(g.log)
    free(g.touched)
    free(g)


cdef int protect(gift *g) noexcept nogil:
    """Under the lock: watch it from now on. 0 or -errno."""
    global gifts
    cdef int r = fault_protect(g.begin, g.end - g.begin)
    if r < 0:
        if fault_mechanism() == FAULT_MPROTECT:
            lift(g)
        return r
    g.next = gifts
    if gifts != NULL:
        gifts.prev = g
    gifts = g
    g.watched = True
    g.log.refs += 1
    return 0


cdef mblk *gift_watch(gift_log *log, arena *a, uint8_t *base, size_t n, mblk *keeper, int *err) noexcept nogil:
    cdef gift *g = <gift *>calloc(1, sizeof(gift))
    cdef uint8_t *touched = <uint8_t *>calloc(n // page_size(), 1)
    cdef mblk *m = esballoc(a, base, n, gift_over, g) if g != NULL and touched != NULL else NULL
    cdef cow_file *f = cow_file_find(base, n)
    err[0] = -ENOMEM
    if m != NULL:
        g.log = log
        g.keeper = keeper
        g.begin = base
        g.end = base + n
        g.touched = touched
        fault_lock()
        err[0] = protect(g) if f == NULL else -EBUSY
        fault_unlock()
    if f != NULL:
        cow_file_unref(f)
    if err[0] < 0:
        if m != NULL:
            m.dp.fn = forget_block
            freemsg(m)
        free(touched)
        free(g)
        return NULL
    m.wptr = base + n
    m.pkt_len = <uint32_t>n
    m.dp.flags |= DB_READONLY
    return m


cdef void forget_block(void *arg) noexcept nogil:
    """Of a block that nothing was made of."""


# --- for cow.pyx ----------------------------------------------------------------------------------------------------
cdef bint gift_touched(uint8_t *page) noexcept nogil:
    cdef gift *g = gifts
    cdef bint ours = False
    cdef size_t k
    while g != NULL:
        if g.begin <= page < g.end:
            k = page_of(g, page)
            if not g.touched[k]:
                ours = True
                g.touched[k] = 1
                if g.log.pages == 0:
                    g.log.first = page
                g.log.pages += 1
        g = g.next
    return ours


cdef bint gift_any() noexcept nogil:
    return gifts != NULL


cdef void gift_forget() noexcept nogil:
    cdef gift *g
    while gifts != NULL:
        g = gifts
        unlist(g)
        lift(g)
