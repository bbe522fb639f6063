"""A pipe of page references: see pagepipe.pxd."""

from libc.errno cimport EAGAIN, EBADF, EBUSY, EINTR, ENOBUFS, ENOMEM, EPIPE
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.types cimport ns_t, spin_lock, spin_unlock
from ustack._core.mem.arena cimport arena
from ustack._core.mem.mblk cimport dupb, freemsg, mblk, mblk_len
from ustack._core.sys.futex cimport sys_futex_wait, sys_futex_wake


cdef inline mblk **slot(pagepipe *p, uint32_t k) noexcept nogil:
    """The k-th from the front."""
    cdef uint32_t at = p.head + k
    return &p.slots[at if at < p.capacity else at - p.capacity]


cdef void unlock(pagepipe *p, bint changed) noexcept nogil:
    """changed: whoever waits is to look again."""
    cdef bint wake = changed and p.sleepers > 0
    if changed:
        p.turn += 1
    spin_unlock(&p.lock)
    if wake:
        sys_futex_wake(&p.turn, 0x7FFFFFFF)


cdef int pagepipe_init(pagepipe *p, arena *a, uint32_t buffers, size_t size) noexcept nogil:
    p.slots = <mblk **>calloc(buffers, sizeof(void *))
    p.capacity = buffers
    p.limit = size
    p.mem = a
    return 0 if p.slots != NULL else -ENOMEM


cdef void pagepipe_fini(pagepipe *p) noexcept nogil:
    if p.slots == NULL:
        return
    pagepipe_close(p, True, True)
    free(p.slots)
    p.slots = NULL


cdef int pagepipe_resize(pagepipe *p, uint32_t buffers, size_t size) noexcept nogil:
    cdef mblk **slots = <mblk **>calloc(buffers, sizeof(void *))
    cdef mblk **before = slots
    cdef int r = -EBUSY
    cdef uint32_t k
    if slots == NULL:
        return -ENOMEM
    spin_lock(&p.lock)
    if p.count <= buffers and p.bytes <= size:
        for k in range(p.count):
            slots[k] = slot(p, k)[0]
        before = p.slots
        p.slots = slots
        p.head = 0
        p.capacity = buffers
        p.limit = size
        r = 0
    unlock(p, r == 0)
    free(before)
    return r


# --- in -------------------------------------------------------------------------------------------------------------
cdef inline int64_t room(const pagepipe *p, size_t least) noexcept nogil:
    if p.no_writers:
        return -EBADF
    if p.no_readers:
        return -EPIPE
    return <int64_t>(p.limit - p.bytes) if p.count < p.capacity and p.limit - p.bytes >= least else 0


cdef int64_t pagepipe_room(pagepipe *p, size_t least) noexcept nogil:
    cdef int64_t r
    spin_lock(&p.lock)
    r = room(p, least)
    spin_unlock(&p.lock)
    return r


cdef mblk *cut_off(arena *a, mblk *m, size_t n) noexcept nogil:
    """A block of the first n bytes, which m does not have any more. NULL without memory."""
    cdef mblk *twin = dupb(a, m)
    if twin != NULL:
        twin.wptr = twin.rptr + n
        m.rptr += n
    return twin


cdef int64_t pagepipe_put(pagepipe *p, mblk **m, bint whole) noexcept nogil:
    cdef mblk *empty = NULL
    cdef mblk *one
    cdef int64_t done = 0, left
    cdef size_t n
    spin_lock(&p.lock)
    left = room(p, 1)
    while m[0] != NULL and left > 0:
        one = m[0]
        n = mblk_len(one)
        if n > <size_t>left:
            one = cut_off(p.mem, one, left) if not whole else NULL
            if one == NULL:
                left = 0 if whole else -ENOBUFS
                break
            n = <size_t>left
        else:
            m[0] = one.cont
            one.cont = NULL
        if n == 0:
            one.cont = empty
            empty = one
            continue
        slot(p, p.count)[0] = one
        p.count += 1
        p.bytes += n
        done += n
        left = room(p, 1)
    unlock(p, done > 0)
    freemsg(empty)
    return done if done or left >= 0 else left


# --- out ------------------------------------------------------------------------------------------------------------
cdef int64_t pagepipe_begin(pagepipe *p) noexcept nogil:
    cdef int64_t r = -EAGAIN
    spin_lock(&p.lock)
    if p.no_readers:
        r = -EBADF
    elif not p.reading and (p.bytes or p.no_writers):
        r = <int64_t>p.bytes
        p.reading = r > 0
    spin_unlock(&p.lock)
    return r


cdef mblk *pagepipe_look(pagepipe *p, size_t max) noexcept nogil:
    cdef mblk *first = NULL
    cdef mblk **at = &first
    cdef size_t n, seen = 0
    cdef uint32_t k = 0
    spin_lock(&p.lock)
    while k < p.count and k < PAGEPIPE_LOOK and seen < max:
        at[0] = dupb(p.mem, slot(p, k)[0])
        if at[0] == NULL:
            break
        n = mblk_len(at[0])
        if n > max - seen:
            n = max - seen
            at[0].wptr = at[0].rptr + n
        seen += n
        at = &at[0].cont
        k += 1
    spin_unlock(&p.lock)
    if first != NULL:
        first.pkt_len = <uint32_t>seen
    return first


cdef mblk *use(pagepipe *p, size_t n) noexcept nogil:
    """Under the lock: take so many bytes away; the blocks that are to be freed."""
    cdef mblk *used = NULL
    cdef mblk *m
    cdef size_t here
    while n and p.count:
        m = slot(p, 0)[0]
        here = mblk_len(m)
        if n < here:
            m.rptr += n
            p.bytes -= n
            break
        n -= here
        p.bytes -= here
        p.head = p.head + 1 if p.head + 1 < p.capacity else 0
        p.count -= 1
        m.cont = used
        used = m
    return used


cdef void pagepipe_end(pagepipe *p, size_t n) noexcept nogil:
    cdef mblk *used
    spin_lock(&p.lock)
    used = use(p, n)
    p.reading = False
    unlock(p, True)
    freemsg(used)


# --- ends -----------------------------------------------------------------------------------------------------------
cdef void pagepipe_close(pagepipe *p, bint writers, bint readers) noexcept nogil:
    cdef mblk *dropped = NULL
    spin_lock(&p.lock)
    p.no_writers = p.no_writers or writers
    p.no_readers = p.no_readers or readers
    if readers:
        dropped = use(p, p.bytes)
    unlock(p, True)
    freemsg(dropped)


# --- waiting --------------------------------------------------------------------------------------------------------
cdef bint is_ready(const pagepipe *p, int what, size_t least) noexcept nogil:
    if what == PAGEPIPE_WRITE:
        return room(p, least) != 0
    return p.no_readers or (not p.reading and (p.bytes != 0 or p.no_writers))


cdef int pagepipe_wait(pagepipe *p, int what, size_t least, ns_t timeout) noexcept nogil:
    cdef int32_t turn
    cdef int r
    spin_lock(&p.lock)
    if is_ready(p, what, least):
        spin_unlock(&p.lock)
        return 0
    turn = p.turn
    p.sleepers += 1
    spin_unlock(&p.lock)
    r = sys_futex_wait(&p.turn, turn, timeout)
    spin_lock(&p.lock)
    p.sleepers -= 1
    if is_ready(p, what, least):
        r = 0
    elif r != -EINTR:
        r = -EAGAIN
    spin_unlock(&p.lock)
    return r
