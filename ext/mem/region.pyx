"""Regions: see region.pxd. Memory is mapped, never cleared: the kernel hands out zeroed pages on first
touch."""

from libc.errno cimport EINVAL, ENOMEM
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

from ustack._core.base.types cimport atomic_add64, atomic_dec32, atomic_inc32
from ustack._core.sys.memory cimport (
    MADV_HUGEPAGE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE,
    fd_close, mem_advise, mem_lock, mem_map, mem_unmap, memfd_new, page_size,
)

cdef enum:
    HUGE_PAGE = 2 << 20

cdef int64_t last_id = 0


cdef bint map_file(region *r, size_t length, bint huge) noexcept nogil:
    """Back the region by a memory file; False leaves it as it was."""
    cdef int fd = memfd_new(b"ustack", length, huge)
    cdef void *base
    if fd < 0:
        return False
    base = mem_map(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, NULL)
    if base == NULL:
        fd_close(fd)
        return False
    r.fd = fd
    r.base = <uint8_t *>base
    r.length = length
    return True


cdef bint map_anonymous(region *r, size_t length, int *err) noexcept nogil:
    cdef void *base = mem_map(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, -1, 0, err)
    if base == NULL:
        return False
    r.fd = -1
    r.base = <uint8_t *>base
    r.length = length
    return True


cdef region *region_create(size_t length, uint32_t flags, int *err) noexcept nogil:
    """A region of at least ``length`` bytes, rounded up to whole pages. Wishes that fail are dropped from
    ``flags``."""
    cdef size_t page = page_size()
    cdef size_t huge = (length + HUGE_PAGE - 1) & ~<size_t>(HUGE_PAGE - 1)
    cdef region *r
    cdef int reason = 0
    if length == 0 or length > (<size_t>1 << 46):
        if err != NULL:
            err[0] = -EINVAL
        return NULL
    r = <region *>malloc(sizeof(region))
    if r == NULL:
        if err != NULL:
            err[0] = -ENOMEM
        return NULL
    r.refs = 1
    r.flags = 0
    r.id = atomic_add64(&last_id, 1)
    length = (length + page - 1) & ~(page - 1)
    if flags & REGION_HUGE and map_file(r, huge, True):
        r.flags |= REGION_HUGE
    elif not map_file(r, length, False) and not map_anonymous(r, length, &reason):
        free(r)
        if err != NULL:
            err[0] = reason
        return NULL
    if flags & REGION_HUGE and not r.flags & REGION_HUGE and mem_advise(r.base, r.length, MADV_HUGEPAGE) == 0:
        r.flags |= REGION_HUGE
    if flags & REGION_LOCKED and mem_lock(r.base, r.length) == 0:
        r.flags |= REGION_LOCKED
    return r


cdef void region_ref(region *r) noexcept nogil:
    atomic_inc32(&r.refs)


cdef void region_unref(region *r) noexcept nogil:
    if atomic_dec32(&r.refs):
        return
    mem_unmap(r.base, r.length)
    if r.fd >= 0:
        fd_close(r.fd)
    free(r)
