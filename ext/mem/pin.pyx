"""Pinned memory: see pin.pxd. A sorted table of ranges of pages; it is short, and changes rarely."""

from libc.errno cimport EINVAL, ENOSPC
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memmove

from ustack._core.base.types cimport spin_lock, spin_unlock
from ustack._core.sys.memory cimport mem_lock, mem_unlock, page_size

cdef struct pinned:
    uint64_t begin              # whole pages
    uint64_t end

cdef pinned table[PIN_MAX]      # by begin
cdef int count = 0
cdef int32_t lock = 0


cdef pinned pages(void *base, size_t length) noexcept nogil:
    cdef uint64_t mask = page_size() - 1
    cdef pinned p
    p.begin = <uint64_t>base & ~mask
    p.end = (<uint64_t>base + length + mask) & ~mask
    return p


cdef int place(const pinned *p) noexcept nogil:
    """Where a range is, or belongs."""
    cdef int k = 0
    while k < count and (table[k].begin < p.begin or (table[k].begin == p.begin and table[k].end < p.end)):
        k += 1
    return k


cdef void unlock_rest(pinned p) noexcept nogil:
    """Unlock what of a range no other range holds."""
    cdef uint64_t at = p.begin
    cdef int k
    for k in range(count):
        if table[k].end <= at or table[k].begin >= p.end:
            continue
        if table[k].begin > at:
            mem_unlock(<void *>at, table[k].begin - at)
        at = table[k].end
    if at < p.end:
        mem_unlock(<void *>at, p.end - at)


cdef int mem_pin(void *base, size_t length) noexcept nogil:
    global count
    cdef pinned p = pages(base, length)
    cdef int k, r
    spin_lock(&lock)
    if count == PIN_MAX:
        spin_unlock(&lock)
        return -ENOSPC
    r = mem_lock(<void *>p.begin, p.end - p.begin)
    if r < 0:
        unlock_rest(p)          # mlock may have locked a part
        spin_unlock(&lock)
        return r
    k = place(&p)
    memmove(&table[k + 1], &table[k], (count - k) * sizeof(pinned))
    table[k] = p
    count += 1
    spin_unlock(&lock)
    return 0


cdef int mem_unpin(void *base, size_t length) noexcept nogil:
    global count
    cdef pinned p = pages(base, length)
    cdef int k
    spin_lock(&lock)
    k = place(&p)
    if k == count or table[k].begin != p.begin or table[k].end != p.end:
        spin_unlock(&lock)
        return -EINVAL
    count -= 1
    memmove(&table[k], &table[k + 1], (count - k) * sizeof(pinned))
    unlock_rest(p)
    spin_unlock(&lock)
    return 0


cdef int64_t mem_pinned() noexcept nogil:
    cdef uint64_t at = 0
    cdef int64_t total = 0
    cdef int k
    spin_lock(&lock)
    for k in range(count):
        if table[k].end > at:
            total += table[k].end - (table[k].begin if table[k].begin > at else at)
            at = table[k].end
    spin_unlock(&lock)
    return total
