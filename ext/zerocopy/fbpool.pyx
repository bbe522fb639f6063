"""Pools of fbufs: see fbpool.pxd."""

from libc.errno cimport EINVAL, ENOBUFS, ENOMEM, EOVERFLOW
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.mem.region cimport region_create, region_unref
from ustack._core.mem.share cimport region_publish, region_refusal, region_retire
from ustack._core.sys.memory cimport (
    PROT_READ, PROT_WRITE, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE, mem_protect, mem_unmap,
    memfd_seal, page_size,
)

cdef enum:
    PROT_NONE = 0


cdef fbpool *fbpool_create(size_t size, uint32_t count, uint32_t flags, int *err) noexcept nogil:
    cdef size_t page = page_size()
    cdef fbpool *p
    err[0] = -EINVAL
    size = (size + page - 1) & ~(page - 1)
    if size == 0 or count == 0 or count > FB_BUFFERS_MAX or size > <size_t>0x80000000 // count * 4:
        return NULL
    if flags & FB_ONCE and count != 1:
        return NULL
    err[0] = -ENOMEM
    p = <fbpool *>calloc(1, sizeof(fbpool))
    if p == NULL:
        return NULL
    p.refs = 1
    p.size = size
    p.count = count
    p.flags = flags
    p.free_ids = <uint32_t *>calloc(count, sizeof(uint32_t))
    p.state = <uint8_t *>calloc(count, 1)
    p.prot = <uint8_t *>calloc(count, 1)
    p.holds = <uint16_t *>calloc(count, sizeof(uint16_t))
    if p.free_ids != NULL and p.state != NULL and p.prot != NULL and p.holds != NULL:
        err[0] = open_memory(p)
    if err[0] < 0:
        fbpool_unref(p)
        return NULL
    fill(p)
    return p


cdef int open_memory(fbpool *p) noexcept nogil:
    cdef int e = 0
    cdef int seals = SEAL_SHRINK | SEAL_GROW
    p.mem = region_create(p.size * p.count, 0, &e)
    if p.mem == NULL:
        return e
    if p.mem.fd < 0:
        return region_refusal()
    if not p.flags & FB_ONCE:
        p.published = region_publish(p.mem) == 0
        seals |= SEAL_FUTURE_WRITE | SEAL_SEAL
    elif p.flags & FB_VOLATILE:
        seals |= SEAL_FUTURE_WRITE
    return memfd_seal(p.mem.fd, seals)


cdef void fill(fbpool *p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.count):
        p.free_ids[i] = i
        p.prot[i] = PROT_READ | PROT_WRITE
    p.nfree = p.count


cdef void fbpool_ref(fbpool *p) noexcept nogil:
    p.refs += 1


cdef void fbpool_unref(fbpool *p) noexcept nogil:
    p.refs -= 1
    if p.refs:
        return
    if p.published:
        region_retire(p.mem)
    elif p.mem != NULL:
        region_unref(p.mem)
    free(p.free_ids)
    free(p.state)
    free(p.prot)
    free(p.holds)
    free(p)


cdef int protect(fbpool *p, uint32_t id, int prot) noexcept nogil:
    cdef int e
    if p.prot[id] == prot:
        return 0
    e = mem_protect(fbpool_at(p, id), p.size, prot)
    p.protects += 1
    if e == 0:
        p.prot[id] = prot
    return e


cdef int fbpool_take(fbpool *p) noexcept nogil:
    cdef uint32_t id
    cdef int e
    if p.nfree == 0:
        return -ENOBUFS
    id = p.free_ids[p.first]
    e = protect(p, id, PROT_READ | PROT_WRITE)
    if e < 0:
        return e
    p.first = p.first + 1 if p.first + 1 < p.count else 0
    p.nfree -= 1
    p.state[id] = FB_OWNED
    p.holds[id] = 1
    return <int>id


cdef int seal(fbpool *p) noexcept nogil:
    """No mapping may be left that can write, not even ours."""
    cdef int e = mem_unmap(p.mem.base, p.mem.length)
    if e < 0:
        return e
    p.mem.base = NULL
    p.mem.length = 0
    e = memfd_seal(p.mem.fd, SEAL_WRITE | SEAL_SEAL)
    p.sealed = e == 0
    return e


cdef int fbpool_give(fbpool *p, uint32_t id) noexcept nogil:
    cdef int e = 0
    if p.state[id] == FB_SENT:
        return 0
    if p.flags & FB_ONCE:
        if not p.flags & FB_VOLATILE and not p.sealed:
            e = seal(p)
    elif p.flags & FB_STRICT:
        e = protect(p, id, PROT_NONE)
    elif not p.flags & FB_VOLATILE:
        e = protect(p, id, PROT_READ)
    if e == 0:
        p.state[id] = FB_SENT
    return e


cdef int fbpool_regain(fbpool *p, uint32_t id) noexcept nogil:
    if p.mem.base == NULL:
        return -EINVAL              # sealed for good
    if p.holds[id] > 1:
        return 0 if p.prot[id] & PROT_READ else protect(p, id, PROT_READ)
    p.state[id] = FB_OWNED
    return protect(p, id, PROT_READ | PROT_WRITE)


cdef int fbpool_hold(fbpool *p, uint32_t id) noexcept nogil:
    if p.holds[id] == 0xFFFF:
        return -EOVERFLOW
    p.holds[id] += 1
    return 0


cdef void fbpool_drop(fbpool *p, uint32_t id) noexcept nogil:
    p.holds[id] -= 1
    if p.holds[id]:
        return
    if p.mem.base != NULL:          # else it is used up
        put_back(p, id)
    p.state[id] = FB_FREE


cdef void put_back(fbpool *p, uint32_t id) noexcept nogil:
    """What nobody else has had is in our cache, and is used next. What comes back from another core is in that one's,
    out of which it costs several times as much to get it as out of the cache that both share; so it is used last,
    unless the pool is for processes that take turns on one core."""
    cdef uint32_t last = p.first + p.nfree
    if p.state[id] == FB_SENT and not p.flags & FB_LATEST:
        p.free_ids[last if last < p.count else last - p.count] = id
    else:
        p.first = p.first - 1 if p.first else p.count - 1
        p.free_ids[p.first] = id
    p.nfree += 1


cdef int fbpool_secure(fbpool *p, uint32_t id) noexcept nogil:
    if p.mem.base == NULL or p.state[id] != FB_SENT or not p.prot[id] & PROT_WRITE:
        return 0
    return protect(p, id, PROT_READ)


cdef void fbpool_disown(fbpool *p) noexcept nogil:
    cdef uint32_t i
    for i in range(p.count):
        p.state[i] = FB_SENT
        p.prot[i] = PROT_READ
    if p.mem.base != NULL:
        mem_protect(p.mem.base, p.mem.length, PROT_READ)
