"""Registered memory and protection tags: see memory.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from ustack._core.via.types cimport (
    VIA_MEMORY_MAX, VIA_PTAG_MAX, VIP_ERROR_RESOURCE, VIP_INVALID_PARAMETER, VIP_INVALID_PTAG, VIP_SUCCESS,
    via_memory, via_nic, via_ptag, via_span,
)
from ustack._core.wire.via cimport desc


cdef inline uint32_t next_generation(uint32_t g) noexcept nogil:
    """1 .. 65535, so that no handle is 0."""
    return g + 1 if g < 0xFFFF else 1


cdef via_ptag *find_ptag(via_nic *nic, uint32_t id) noexcept nogil:
    cdef via_ptag *p = &nic.ptags[id & (VIA_PTAG_MAX - 1)]
    return p if p.id == id and id != 0 else NULL


cdef int ptag_create(via_nic *nic, uint32_t *id) noexcept nogil:
    cdef uint32_t k
    cdef via_ptag *p
    for k in range(VIA_PTAG_MAX):
        p = &nic.ptags[k]
        if p.id == 0:
            p.generation = next_generation(p.generation)
            p.id = p.generation << 16 | k
            p.users = 0
            nic.nptags += 1
            id[0] = p.id
            return VIP_SUCCESS
    return VIP_ERROR_RESOURCE


cdef int ptag_destroy(via_nic *nic, uint32_t id) noexcept nogil:
    cdef via_ptag *p = find_ptag(nic, id)
    if p == NULL:
        return VIP_INVALID_PTAG
    if p.users:
        return VIP_ERROR_RESOURCE
    p.id = 0
    nic.nptags -= 1
    return VIP_SUCCESS


cdef int ptag_use(via_nic *nic, uint32_t id, int change) noexcept nogil:
    cdef via_ptag *p = find_ptag(nic, id)
    if p == NULL:
        return VIP_INVALID_PTAG
    p.users += change
    return VIP_SUCCESS


cdef int memory_register(via_nic *nic, uint8_t *base, size_t length, uint32_t ptag, bint shared, uint64_t offset,
                         uint32_t *handle) noexcept nogil:
    cdef uint32_t k
    cdef via_memory *m
    if base == NULL or length == 0 or <uint64_t>base + length < <uint64_t>base:
        return VIP_INVALID_PARAMETER
    if nic.nmemories == VIA_MEMORY_MAX:
        return VIP_ERROR_RESOURCE
    if ptag_use(nic, ptag, 1) != VIP_SUCCESS:
        return VIP_INVALID_PTAG
    for k in range(VIA_MEMORY_MAX):
        m = &nic.memories[k]
        if m.handle == 0:
            break
    m.generation = next_generation(m.generation)
    m.base = base
    m.length = length
    m.ptag = ptag
    m.shared = shared
    m.offset = offset
    m.handle = m.generation << 16 | k
    nic.nmemories += 1
    nic.pinned += length
    handle[0] = m.handle
    return VIP_SUCCESS


cdef int memory_deregister(via_nic *nic, uint32_t handle) noexcept nogil:
    cdef via_memory *m = memory_find(nic, handle)
    if m == NULL:
        return VIP_INVALID_PARAMETER
    ptag_use(nic, m.ptag, -1)
    nic.nmemories -= 1
    nic.pinned -= m.length
    m.handle = 0
    m.base = NULL
    m.length = 0
    return VIP_SUCCESS


cdef uint32_t memory_spans(via_nic *nic, uint32_t ptag, const desc *d, via_span *out, uint64_t *total) noexcept nogil:
    cdef uint32_t k, bad
    total[0] = 0
    for k in range(d.c.segments):
        bad = memory_span(nic, ptag, &d.s[k], &out[k])
        if bad:
            return bad
        total[0] += d.s[k].length
    return 0
