"""Copy on write of memory files: see cow_file.pxd."""

from libc.errno cimport ENOMEM, ENOSPC
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport DB_READONLY, esballoc, mblk
from ustack._core.mem.region cimport region_create, region_unref
from ustack._core.mem.share cimport region_publish, region_refusal, region_withdraw
from ustack._core.sys.fault cimport (
    FAULT_MPROTECT, fault_lift, fault_lock, fault_mechanism, fault_protect, fault_unlock)
from ustack._core.sys.memory cimport (
    MAP_FIXED, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mem_map, mem_unmap, page_size)
from ustack._core.zerocopy.cow_owner cimport cow_owner, owner_book_fault, owner_unref

cdef enum:
    BLOCK_STORAGE = 256         # what a queue is charged for a block: its structures

cdef uint32_t NOBODY = <uint32_t>0xFFFFFFFF

cdef struct run:
    cow_file *f
    cow_owner *o
    uint32_t first              # slot
    uint32_t n

cdef cow_file *files = NULL     # open ones
cdef size_t pages_now = 0
cdef size_t guarded_now = 0


# --- making and ending -----------------------------------------------------------------------------------------------
cdef void destroy(cow_file *f) noexcept nogil:
    cdef cow_owner *last
    if f.user != NULL:
        mem_unmap(f.user, f.pages * page_size())
    if f.r != NULL:
        region_withdraw(f.r)
        region_unref(f.r)
    free(f.slot)
    free(f.page_of)
    free(f.held)
    free(f.guarded)
    free(f.spare)
    last = f.last
    free(f)
    if last != NULL:
        owner_unref(last)


cdef bint build(cow_file *f, uint32_t pages, uint32_t spares, int *err) noexcept nogil:
    cdef size_t page = page_size()
    cdef uint32_t k
    f.pages = pages
    f.slots = pages + spares
    f.slot = <uint32_t *>calloc(pages, sizeof(uint32_t))
    f.guarded = <uint8_t *>calloc(pages, 1)
    f.page_of = <uint32_t *>calloc(f.slots, sizeof(uint32_t))
    f.held = <uint32_t *>calloc(f.slots, sizeof(uint32_t))
    f.spare = <uint32_t *>calloc(f.slots, sizeof(uint32_t))
    if f.slot == NULL or f.guarded == NULL or f.page_of == NULL or f.held == NULL or f.spare == NULL:
        err[0] = -ENOMEM
        return False
    f.r = region_create(f.slots * page, 0, err)
    if f.r == NULL:
        return False
    if f.r.fd < 0:
        err[0] = region_refusal()
        return False
    f.user = <uint8_t *>mem_map(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_SHARED, f.r.fd, 0, err)
    if f.user == NULL:
        return False
    for k in range(pages):
        f.slot[k] = f.page_of[k] = k
    for k in range(spares):     # those used first lie at the end of the list
        f.page_of[pages + k] = NOBODY
        f.spare[k] = f.slots - 1 - k
    f.nspare = spares
    return True


cdef cow_file *cow_file_create(uint32_t pages, uint32_t spares, int *err) noexcept nogil:
    global files, pages_now
    cdef cow_file *f
    fault_lock()
    if pages > COW_FILE_PAGES - pages_now:
        fault_unlock()
        err[0] = -ENOSPC
        return NULL
    pages_now += pages
    fault_unlock()
    f = <cow_file *>calloc(1, sizeof(cow_file))
    err[0] = -ENOMEM
    if f == NULL or not build(f, pages, spares, err):
        if f != NULL:
            destroy(f)
        fault_lock()
        pages_now -= pages
        fault_unlock()
        return NULL
    f.refs = 1
    region_publish(f.r)         # so that a device can be told of it
    fault_lock()
    f.next = files
    files = f
    fault_unlock()
    return f


cdef void cow_file_close(cow_file *f) noexcept nogil:
    global pages_now, guarded_now
    cdef cow_file **at = &files
    cdef uint8_t *user
    fault_lock()
    while at[0] != NULL and at[0] != f:
        at = &at[0].next
    if at[0] == f:
        at[0] = f.next
    user = f.user
    f.user = NULL
    guarded_now -= f.nguarded
    f.nguarded = 0
    memset(f.guarded, 0, f.pages)
    pages_now -= f.pages
    fault_unlock()
    # A page that is still protected goes with its protection.
    mem_unmap(user, f.pages * page_size())
    cow_file_unref(f)


cdef void cow_file_unref(cow_file *f) noexcept nogil:
    cdef bint last
    fault_lock()
    f.refs -= 1
    last = f.refs == 0
    fault_unlock()
    if last:
        destroy(f)


cdef cow_file *holding(const uint8_t *at, size_t n) noexcept nogil:
    cdef cow_file *f = files
    while f != NULL:
        if f.user <= at and at + n <= f.user + f.pages * page_size():
            return f
        f = f.next
    return NULL


cdef cow_file *cow_file_find(const void *addr, size_t n) noexcept nogil:
    cdef cow_file *f
    fault_lock()
    f = holding(<const uint8_t *>addr, n)
    if f != NULL and f.foreign:
        f = NULL
    if f != NULL:
        f.refs += 1
    fault_unlock()
    return f


# --- sharing ---------------------------------------------------------------------------------------------------------
cdef void lift(cow_file *f, uint32_t first, uint32_t n) noexcept nogil:
    global guarded_now
    cdef size_t page = page_size()
    if n == 0:
        return
    fault_lift(f.user + first * page, n * page)
    memset(f.guarded + first, 0, n)
    f.nguarded -= n
    guarded_now -= n


cdef uint32_t guard(cow_file *f, uint32_t first, uint32_t n, uint32_t *nested, int *err) noexcept nogil:
    """Protect n pages, each with a spare slot kept for its copy; returns how many of them are protected."""
    global guarded_now
    cdef size_t page = page_size()
    cdef uint32_t at = first, end = first + n
    cdef uint32_t stop
    while at < end:
        if f.guarded[at]:
            nested[0] += 1
            at += 1
            continue
        stop = at
        while stop < end and not f.guarded[stop] and f.nguarded + (stop - at) < f.nspare:
            stop += 1
        if stop == at:
            break
        err[0] = fault_protect(f.user + at * page, (stop - at) * page)
        if err[0] < 0:
            if fault_mechanism() == FAULT_MPROTECT:
                fault_lift(f.user + at * page, (stop - at) * page)
            break
        memset(f.guarded + at, 1, stop - at)
        f.nguarded += stop - at
        guarded_now += stop - at
        at = stop
    return at - first


cdef void let_go(cow_file *f, uint32_t first, uint32_t n) noexcept nogil:
    """Slots lose one holder: what nobody holds is writable again, or spare."""
    cdef uint32_t s, i
    cdef uint32_t begin = 0, count = 0          # user pages to be lifted together
    for s in range(first, first + n):
        f.held[s] -= 1
        if f.held[s]:
            continue
        i = f.page_of[s]
        if i == NOBODY:
            f.spare[f.nspare] = s
            f.nspare += 1
        elif f.user != NULL and f.guarded[i]:
            if count and i == begin + count:
                count += 1
            else:
                lift(f, begin, count)
                begin = i
                count = 1
    if f.user != NULL:
        lift(f, begin, count)


cdef void run_gone(void *arg) noexcept nogil:
    cdef run *u = <run *>arg
    fault_lock()
    let_go(u.f, u.first, u.n)
    fault_unlock()
    owner_unref(u.o)
    cow_file_unref(u.f)
    free(u)


cdef mblk *block_on(cow_file *f, cow_owner *o, arena *a, uint32_t slot, uint32_t n) noexcept nogil:
    cdef size_t page = page_size()
    cdef run *u = <run *>calloc(1, sizeof(run))
    cdef mblk *m
    cdef uint32_t s
    if u == NULL:
        return NULL
    m = esballoc(a, f.r.base + slot * page, n * page, run_gone, u)
    if m == NULL:
        free(u)
        return NULL
    u.f = f
    u.o = o
    u.first = slot
    u.n = n
    f.refs += 1
    o.refs += 1
    for s in range(slot, slot + n):
        f.held[s] += 1
    m.dp.flags |= DB_READONLY
    m.dp.truesize = BLOCK_STORAGE
    m.wptr = m.rptr + n * page
    m.pkt_len = <uint32_t>(n * page)
    return m


cdef mblk *cow_file_share(cow_file *f, cow_owner *o, arena *a, uint32_t first, uint32_t *n, uint32_t *nested,
                          int *err) noexcept nogil:
    cdef mblk *head = NULL
    cdef mblk *tail = NULL
    cdef mblk *m
    cdef cow_owner *before
    cdef uint32_t got, at, k, s
    err[0] = 0
    nested[0] = 0
    fault_lock()
    got = guard(f, first, n[0], nested, err)
    at = 0
    while at < got:
        k = 1
        s = f.slot[first + at]
        while k < COW_RUN and at + k < got and f.slot[first + at + k] == s + k:
            k += 1
        m = block_on(f, o, a, s, k)
        if m == NULL:
            err[0] = -ENOMEM
            break
        if head == NULL:
            head = m
        else:
            tail.cont = m
        tail = m
        at += k
    for k in range(at, got):                    # protected for nobody
        if f.held[f.slot[first + k]] == 0 and f.guarded[first + k]:
            lift(f, first + k, 1)
    before = f.last
    f.last = o
    o.refs += 1
    fault_unlock()
    if before != NULL:
        owner_unref(before)
    n[0] = at
    return head


# --- faults ----------------------------------------------------------------------------------------------------------
cdef int part(cow_file *f, uint32_t i, uint8_t *at) noexcept nogil:
    """Give the application a page of its own, at `at`. 1, or -1 where the system has nothing just now."""
    global guarded_now
    cdef size_t page = page_size()
    cdef uint32_t s = f.slot[i]
    cdef uint32_t t
    if f.held[s] == 0:
        fault_lift(at, page)
    else:
        t = f.spare[f.nspare - 1]               # one was kept for each protected page
        memcpy(f.r.base + t * page, f.r.base + s * page, page)
        if mem_map(at, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, f.r.fd,
                   <int64_t>(t * page), NULL) == NULL:
            return -1
        f.nspare -= 1
        f.slot[i] = t
        f.page_of[t] = i
        f.page_of[s] = NOBODY
        owner_book_fault(f.last, 1)
    f.guarded[i] = 0
    f.nguarded -= 1
    guarded_now -= 1
    return 1


cdef int cow_file_fault(uint8_t *page) noexcept nogil:
    cdef cow_file *f = holding(page, page_size())
    cdef uint32_t i
    if f == NULL or f.foreign:
        return 0
    i = <uint32_t>((page - f.user) // page_size())
    if not f.guarded[i]:
        # Answered already, for another thread. Of a signal that is not certain: it is tried again.
        return fault_mechanism() != FAULT_MPROTECT
    return part(f, i, page)


cdef void cow_file_moved(uint8_t *before, uint8_t *now, size_t n) noexcept nogil:
    """The application has moved pages of its mapping elsewhere, where nobody knows them: each gets its copy at once."""
    cdef size_t page = page_size()
    cdef cow_file *f
    cdef size_t at = 0
    cdef uint32_t i
    while at < n:
        f = holding(before + at, page)
        if f != NULL:
            i = <uint32_t>((before + at - f.user) // page)
            if f.guarded[i] and part(f, i, now + at) < 0:
                fault_lift(now + at, page)
        at += page


cdef bint cow_file_any() noexcept nogil:
    return guarded_now != 0


cdef void cow_file_forked() noexcept nogil:
    """The pages become the child's own, as private mappings of what the parent had."""
    global guarded_now
    cdef size_t page = page_size()
    cdef cow_file *f = files
    cdef uint32_t i, k
    while f != NULL:
        i = 0
        while i < f.pages:
            k = 1
            while i + k < f.pages and f.slot[i + k] == f.slot[i] + k:
                k += 1
            mem_map(f.user + i * page, k * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, f.r.fd,
                    <int64_t>(f.slot[i] * page), NULL)
            i += k
        memset(f.guarded, 0, f.pages)
        f.nguarded = 0
        f.foreign = True
        f = f.next
    guarded_now = 0
