"""Copy on write of the application's own memory: see cow_plain.pxd. Everything here is under fault_lock."""

from libc.errno cimport ENOMEM
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ustack._core.mem.arena cimport arena, arena_reap
from ustack._core.mem.mblk cimport DB_READONLY, dblk, esballoc, freemsg, mblk
from ustack._core.mem.repoint cimport dblk_repoint
from ustack._core.sys.fault cimport (
    FAULT_MPROTECT, FAULT_USERFAULTFD, fault_lift, fault_lock, fault_mechanism, fault_protect, fault_unlock)
from ustack._core.sys.memory cimport MAP_PRIVATE, PROT_READ, PROT_WRITE, mem_map, page_size
from ustack._core.zerocopy.cow_owner cimport cow_owner, owner_book_fault, owner_unref

cdef enum:
    BLOCK_STORAGE = 256         # what a queue is charged for a block: its structures
    BUCKETS = 32768
    NONE = -1
    # States of an entry
    FREE = 0
    HELD = 1                    # a block shows the page
    IDLE = 2                    # no block of this send does any more; the protection is about to be lifted
    MOVED = 3                   # the block shows a copy
    ORPHAN = 4                  # of the parent process

# One send.
cdef struct group:
    cow_owner *o
    mblk *keeper
    uint32_t left               # blocks that are out
    uint8_t *begin              # idle pages to be lifted together
    uint8_t *end

# One page of one send.
cdef struct entry:
    uint8_t *page
    group *g
    mblk *m
    dblk *d
    int32_t next                # in the bucket, or in the list of free entries
    int32_t state

cdef entry *entries = NULL
cdef uint8_t *copies = NULL     # a page for each entry
cdef int32_t buckets[BUCKETS]
cdef int32_t free_head = NONE
cdef uint32_t listed = 0        # entries in buckets


# --- the table -------------------------------------------------------------------------------------------------------
cdef inline int32_t *bucket_of(const uint8_t *page) noexcept nogil:
    return &buckets[((<uint64_t>page >> 12) * <uint64_t>0x9E3779B97F4A7C15) >> 49]


cdef bint prepare() noexcept nogil:
    """The table, at first use. Address space for the copies costs nothing until a page of it is written."""
    global entries, copies, free_head
    cdef int32_t k
    if entries != NULL:
        return True
    entries = <entry *>calloc(COW_PAGES, sizeof(entry))
    copies = <uint8_t *>mem_map(NULL, COW_PAGES * page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0, NULL)
    if entries == NULL or copies == NULL:
        free(entries)
        entries = NULL
        return False
    for k in range(BUCKETS):
        buckets[k] = NONE
    for k in range(COW_PAGES):
        entries[k].next = k + 1 if k + 1 < COW_PAGES else NONE
    free_head = 0
    return True


cdef int32_t find(const uint8_t *page) noexcept nogil:
    cdef int32_t k = bucket_of(page)[0]
    while k != NONE and entries[k].page != page:
        k = entries[k].next
    return k


cdef int32_t find_more(int32_t k) noexcept nogil:
    """The next entry of the same page."""
    cdef const uint8_t *page = entries[k].page
    k = entries[k].next
    while k != NONE and entries[k].page != page:
        k = entries[k].next
    return k


cdef void unlist(int32_t k) noexcept nogil:
    global listed
    cdef int32_t *at = bucket_of(entries[k].page)
    while at[0] != k:
        at = &entries[at[0]].next
    at[0] = entries[k].next
    listed -= 1


cdef void give(int32_t k) noexcept nogil:
    global free_head
    entries[k].state = FREE
    entries[k].next = free_head
    free_head = k


# --- letting go ------------------------------------------------------------------------------------------------------
cdef void lift_idle(group *g) noexcept nogil:
    """Make the idle pages of a send writable, except for those that another send holds."""
    cdef size_t page = page_size()
    cdef uint8_t *at = g.begin
    cdef uint8_t *begin = g.begin
    cdef int32_t k
    while at < g.end:
        k = find(at)
        while k != NONE and (entries[k].g != g or entries[k].state != IDLE):
            k = find_more(k)
        if k != NONE:
            unlist(k)
            give(k)
        if k == NONE or find(at) != NONE:       # lifted by a fault already, or not yet to be
            if begin < at:
                fault_lift(begin, at - begin)
            begin = at + page
        at += page
    if begin < at:
        fault_lift(begin, at - begin)
    g.begin = g.end = NULL


cdef void page_gone(void *arg) noexcept nogil:
    cdef entry *e = <entry *>arg
    cdef group *g
    cdef arena *a
    cdef size_t page = page_size()
    cdef bint last
    fault_lock()
    if e.state == ORPHAN:
        fault_unlock()
        return
    g = e.g
    if e.state == MOVED:
        give(<int32_t>(e - entries))
    else:
        e.state = IDLE
        if g.end != e.page:
            lift_idle(g)
            g.begin = e.page
        g.end = e.page + page
        if <size_t>(g.end - g.begin) >= COW_LIFT * page:
            lift_idle(g)
    g.left -= 1
    last = g.left == 0
    if last:
        lift_idle(g)
    fault_unlock()
    if last:
        a = g.keeper.dp.owner
        freemsg(g.keeper)
        arena_reap(a)               # now rather than with the next call: somebody may want to close the memory
        owner_unref(g.o)
        free(g)


# --- sharing ---------------------------------------------------------------------------------------------------------
cdef uint32_t guard(uint8_t *addr, uint32_t n, uint32_t *nested, int *err) noexcept nogil:
    """Protect n pages, except those that are; how many of them are protected then."""
    cdef size_t page = page_size()
    cdef uint32_t at = 0
    cdef uint32_t stop
    while at < n:
        if find(addr + at * page) != NONE:
            nested[0] += 1
            at += 1
            continue
        stop = at + 1
        while stop < n and find(addr + stop * page) == NONE:
            stop += 1
        err[0] = fault_protect(addr + at * page, (stop - at) * page)
        if err[0] < 0:
            if fault_mechanism() == FAULT_MPROTECT:
                fault_lift(addr + at * page, (stop - at) * page)
            break
        at = stop
    return at


cdef mblk *block_on(group *g, arena *a, uint8_t *page) noexcept nogil:
    global free_head, listed
    cdef int32_t k = free_head
    cdef entry *e
    cdef mblk *m
    if k == NONE:
        return NULL
    e = &entries[k]
    m = esballoc(a, page, page_size(), page_gone, e)
    if m == NULL:
        return NULL
    free_head = e.next
    e.page = page
    e.g = g
    e.m = m
    e.d = m.dp
    e.state = HELD
    e.next = bucket_of(page)[0]
    bucket_of(page)[0] = k
    listed += 1
    g.left += 1
    m.dp.flags |= DB_READONLY
    m.dp.truesize = BLOCK_STORAGE
    m.wptr = m.rptr + page_size()
    m.pkt_len = <uint32_t>page_size()
    return m


cdef uint32_t room(uint32_t n) noexcept nogil:
    """How many of n entries are free."""
    cdef uint32_t have = 0
    cdef int32_t k = free_head
    while have < n and k != NONE:
        have += 1
        k = entries[k].next
    return have


cdef mblk *cow_plain_share(cow_owner *o, arena *a, uint8_t *addr, uint32_t *n, uint32_t *nested, mblk *keeper,
                           int *err) noexcept nogil:
    cdef size_t page = page_size()
    cdef group *g = <group *>calloc(1, sizeof(group))
    cdef mblk *head = NULL
    cdef mblk *tail = NULL
    cdef mblk *m
    cdef uint32_t got = 0, at = 0, k
    nested[0] = 0
    err[0] = -ENOMEM
    fault_lock()
    if g != NULL and prepare():
        err[0] = 0
        got = guard(addr, room(n[0]), nested, err)
        g.o = o
        while at < got:
            m = block_on(g, a, addr + at * page)
            if m == NULL:
                err[0] = -ENOMEM
                break
            if head == NULL:
                head = m
            else:
                tail.cont = m
            tail = m
            at += 1
        for k in range(at, got):                # protected for nobody
            if find(addr + k * page) == NONE:
                fault_lift(addr + k * page, page)
    if head == NULL:
        fault_unlock()
        free(g)
    else:
        g.keeper = keeper
        o.refs += 1
        fault_unlock()
    n[0] = at
    return head


# --- faults ----------------------------------------------------------------------------------------------------------
cdef void move_blocks(uint8_t *page, cow_owner *o) noexcept nogil:
    """The blocks of one owner on a page show copies from now on. Under the owner's lock; with the owner gone nobody
    looks at them any more."""
    cdef size_t size = page_size()
    cdef int32_t k = find(page)
    cdef int32_t following
    cdef entry *e
    while k != NONE:
        following = find_more(k)
        e = &entries[k]
        if e.state == HELD and e.g.o == o:
            if o.arg != NULL:
                memcpy(copies + k * size, page, size)
                dblk_repoint(e.d, e.m, copies + k * size)
                owner_book_fault(o, 1)
            unlist(k)
            e.state = MOVED
        k = following


cdef bint release_page(uint8_t *page) noexcept nogil:
    """Make a page writable on which no block is left. False: not ours."""
    cdef int32_t k = find(page)
    if k == NONE:
        return False
    fault_lift(page, page_size())
    while k != NONE:
        unlist(k)
        give(k)
        k = find(page)
    return True


cdef int cow_plain_fault(uint8_t *page, bint met) noexcept nogil:
    cdef bint ours = False
    cdef cow_owner *o
    cdef int32_t k
    while True:
        fault_lock()
        k = find(page) if entries != NULL else NONE
        while k != NONE and entries[k].state != HELD:
            k = find_more(k)
        if k == NONE:
            if entries != NULL and release_page(page):
                ours = True
            elif ours or (met and fault_mechanism() == FAULT_USERFAULTFD):
                # Let go of while the fault was on its way. Under the lock: nobody protects it anew meanwhile.
                fault_lift(page, page_size())
            fault_unlock()
            return ours
        ours = True
        o = entries[k].g.o
        o.refs += 1
        if o.arg == NULL:
            move_blocks(page, o)
            fault_unlock()
        else:
            o.pins += 1
            fault_unlock()
            o.hold(o.arg)
            fault_lock()
            move_blocks(page, o)
            fault_unlock()
            o.release(o.arg)
            fault_lock()
            o.pins -= 1
            fault_unlock()
        owner_unref(o)


cdef bint cow_plain_shares(const uint8_t *page) noexcept nogil:
    return entries != NULL and find(page) != NONE


cdef bint cow_plain_any() noexcept nogil:
    return listed != 0


cdef void cow_plain_break_all() noexcept nogil:
    cdef uint8_t *page
    cdef int32_t k
    for k in range(COW_PAGES if entries != NULL else 0):
        fault_lock()
        page = entries[k].page if entries[k].state == HELD or entries[k].state == IDLE else NULL
        fault_unlock()
        if page != NULL:
            cow_plain_fault(page, False)


cdef void cow_plain_forked() noexcept nogil:
    global free_head, listed
    cdef int32_t k
    if entries == NULL:
        return
    free_head = NONE
    listed = 0
    for k in range(BUCKETS):
        buckets[k] = NONE
    for k in range(COW_PAGES):
        if entries[k].state != FREE:
            entries[k].state = ORPHAN
        else:
            entries[k].next = free_head
            free_head = k
