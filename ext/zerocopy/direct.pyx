"""Sending memory of the user's from where it lies: see direct.pxd."""

from libc.errno cimport EFAULT, EINVAL, ENOMEM, ENOSPC, ENOSYS, EOPNOTSUPP
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from ustack._core.base.codes cimport CAP_GATHER, CAP_TX_CSUM, CAP_ZEROCOPY_TX
from ustack._core.base.counters cimport C_DIRECT_NO_CHECKSUM, C_DIRECT_NO_GATHER, C_DIRECT_SHARED
from ustack._core.base.ledger cimport LR_RESCUE, ledger, ledger_book
from ustack._core.base.types cimport spin_lock, spin_unlock
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport dblk, dupb, esballoc, freeb, mblk, mblk_len
from ustack._core.mem.pin cimport mem_pin, mem_unpin
from ustack._core.sys.file cimport sys_populate
from ustack._core.sys.memory cimport page_size
from ustack._core.tcp.block cimport tcb

cdef struct extent:
    uint64_t begin
    uint64_t end
    bint pinned

cdef extent table[REGISTERED_MAX]       # by begin
cdef int count = 0
cdef int last = 0                       # where the range was that was asked for last
cdef long hits = 0
cdef long misses = 0
cdef int32_t lock = 0
cdef int can_populate = -1              # not known yet


# --- registered memory --------------------------------------------------------------------------------------------
cdef int memory_register(void *base, size_t n, bint pin, bint *full) noexcept nogil:
    global count
    cdef uint64_t begin = <uint64_t>base
    cdef int r = mem_pin(base, n) if pin else -EOPNOTSUPP
    cdef int k
    full[0] = False
    spin_lock(&lock)
    if count == REGISTERED_MAX:
        full[0] = True
    else:
        k = count
        while k and table[k - 1].begin > begin:
            k -= 1
        memmove(&table[k + 1], &table[k], (count - k) * sizeof(extent))
        table[k].begin = begin
        table[k].end = begin + n
        table[k].pinned = r == 0
        count += 1
    spin_unlock(&lock)
    if full[0]:
        if r == 0:
            mem_unpin(base, n)
        return -ENOSPC
    return r


cdef void memory_unregister(void *base, size_t n, bint pinned) noexcept nogil:
    global count
    cdef uint64_t begin = <uint64_t>base
    cdef int k
    spin_lock(&lock)
    for k in range(count):
        if table[k].begin == begin and table[k].end == begin + n and table[k].pinned == pinned:
            count -= 1
            memmove(&table[k], &table[k + 1], (count - k) * sizeof(extent))
            break
    spin_unlock(&lock)
    if pinned:
        mem_unpin(base, n)


cdef inline bint holds(const extent *e, uint64_t begin, uint64_t end) noexcept nogil:
    return e.begin <= begin and end <= e.end


cdef int memory_known(const void *base, size_t n) noexcept nogil:
    global last, hits, misses
    cdef uint64_t begin = <uint64_t>base
    cdef uint64_t end = begin + n
    cdef int k
    cdef int known = MEMORY_UNKNOWN
    spin_lock(&lock)
    if last < count and holds(&table[last], begin, end) and table[last].pinned:
        known = MEMORY_PINNED
    else:
        for k in range(count):
            if table[k].begin > begin:
                break
            if holds(&table[k], begin, end):
                last = k
                known = MEMORY_PINNED if table[k].pinned else MEMORY_REGISTERED
                if table[k].pinned:
                    break
    hits += known != MEMORY_UNKNOWN
    misses += known == MEMORY_UNKNOWN
    spin_unlock(&lock)
    return known


cdef void memory_counts(int *ranges, long *h, long *m) noexcept nogil:
    spin_lock(&lock)
    ranges[0] = count
    h[0] = hits
    m[0] = misses
    spin_unlock(&lock)


# --- sending ------------------------------------------------------------------------------------------------------
cdef int direct_refusal(const tcb *c) noexcept nogil:
    if c.way.ifp == NULL or c.way.ifp.layer == 0 or c.way.ifp.caps & CAP_ZEROCOPY_TX:
        return C_DIRECT_SHARED
    if not c.way.ifp.caps & CAP_GATHER:
        return C_DIRECT_NO_GATHER
    if not c.way.ifp.caps & CAP_TX_CSUM:
        return C_DIRECT_NO_CHECKSUM
    return -1


cdef int populate(uint64_t begin, uint64_t end) noexcept nogil:
    cdef uint64_t mask = page_size() - 1
    begin &= ~mask
    return sys_populate(<void *>begin, ((end + mask) & ~mask) - begin)


cdef int direct_bring_in(const void *base, size_t n) noexcept nogil:
    global can_populate
    cdef uint64_t mine = <uint64_t>&can_populate
    cdef int r = populate(<uint64_t>base, <uint64_t>base + n)
    if r == 0:
        return 0
    if can_populate < 0:
        can_populate = populate(mine, mine + 1) == 0
    if (r == -EINVAL or r == -ENOSYS) and not can_populate:
        return 0                        # an old kernel
    return -EFAULT if r in (-ENOMEM, -EFAULT, -EINVAL) else r


cdef mblk *direct_window(arena *a, mblk *whole, size_t offset, size_t n) noexcept nogil:
    cdef mblk *m = dupb(a, whole)
    if m == NULL:
        return NULL
    m.rptr = whole.dp.base + offset
    m.wptr = m.rptr + n
    m.pkt_len = <uint32_t>n
    return m


cdef void give_copy(void *arg) noexcept nogil:
    free(arg)


cdef int copy_block(arena *a, ledger *book, mblk *m) noexcept nogil:
    """Put a copy of its bytes under a window, outside the budget: it is not there to be refused."""
    cdef size_t n = mblk_len(m)
    cdef void *p = malloc(n if n else 1)
    cdef mblk *copy
    cdef dblk *before
    if p == NULL:
        return -ENOMEM
    copy = esballoc(a, p, n, give_copy, p)
    if copy == NULL:
        free(p)
        return -ENOMEM
    memcpy(p, m.rptr, n)
    ledger_book(book, LR_RESCUE, n)
    before = m.dp
    copy.dp.truesize = before.truesize
    m.dp = copy.dp
    m.rptr = m.dp.base
    m.wptr = m.rptr + n
    copy.dp = before
    freeb(copy)
    return 0


cdef int direct_rescue(arena *a, ledger *book, mblk *m, dblk *d) noexcept nogil:
    cdef int r = 0
    while m != NULL and r == 0:
        if m.dp == d:
            r = copy_block(a, book, m)
        m = m.cont
    return r


cdef int direct_rescue_queue(tcb *c, dblk *d) noexcept nogil:
    return direct_rescue(c.home.ctx.mem, &c.home.ctx.book, c.sq_head, d)


# --- notices of completion ----------------------------------------------------------------------------------------
cdef bint notices_reserve(notices *q) noexcept nogil:
    cdef bint room
    spin_lock(&q.lock)
    room = q.waiting + q.ready + q.reserved < NOTICES_MAX
    q.reserved += room
    spin_unlock(&q.lock)
    return room


cdef void notices_cancel(notices *q) noexcept nogil:
    spin_lock(&q.lock)
    q.reserved -= 1
    spin_unlock(&q.lock)


cdef void complete(notices *q, uint32_t id, bint copied) noexcept nogil:
    """One more call is over: a range of its own, or one more in the last one."""
    cdef notice_range *r
    if q.ready:
        r = &q.ranges[q.ready - 1]
        if r.high + 1 == id and r.copied == copied:
            r.high = id
            return
    r = &q.ranges[q.ready]
    r.low = r.high = id
    r.copied = copied
    q.ready += 1


cdef void notices_add(notices *q, mblk *whole) noexcept nogil:
    spin_lock(&q.lock)
    if whole == NULL:
        complete(q, q.next, True)
    else:
        q.calls[q.waiting].whole = whole
        q.calls[q.waiting].id = q.next
        q.waiting += 1
    q.next += 1
    q.reserved -= 1
    spin_unlock(&q.lock)


cdef bint notices_any(notices *q) noexcept nogil:
    cdef bint found
    cdef int32_t k
    spin_lock(&q.lock)
    found = q.ready > 0
    for k in range(q.waiting):
        if found:
            break
        found = direct_free(q.calls[k].whole)
    spin_unlock(&q.lock)
    return found


cdef mblk *notices_harvest(notices *q) noexcept nogil:
    cdef mblk *over = NULL
    cdef mblk *m
    cdef int32_t k, left = 0
    spin_lock(&q.lock)
    for k in range(q.waiting):
        m = q.calls[k].whole
        if not direct_free(m):
            q.calls[left] = q.calls[k]
            left += 1
            continue
        complete(q, q.calls[k].id, False)
        m.cont = over
        over = m
    q.waiting = left
    spin_unlock(&q.lock)
    return over


cdef int notices_take(notices *q, notice_range *out, int max) noexcept nogil:
    cdef int n
    spin_lock(&q.lock)
    n = q.ready if q.ready < max else max
    memcpy(out, q.ranges, n * sizeof(notice_range))
    q.ready -= n
    memmove(q.ranges, &q.ranges[n], q.ready * sizeof(notice_range))
    spin_unlock(&q.lock)
    return n
