"""Completion queues: see cq.pxd."""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free

from ustack._core.base.types cimport atomic_store32
from ustack._core.via.nic cimport nic_event
from ustack._core.via.types cimport (
    VC_CQ_LIMIT, VE_VI_OVERRUN, VIA_CQ_ENTRIES_MAX, VIA_CQ_MAX, VIA_VI_MAX, VIP_ERROR_RESOURCE,
    VIP_INVALID_PARAMETER, VIP_NOT_DONE, VIP_SUCCESS, via_cq, via_nic, via_vi,
)

cdef enum:
    GONE = 0xFFFFFFF            # instead of a VI's index: it was destroyed


cdef uint32_t power(uint32_t entries) noexcept nogil:
    cdef uint32_t n = 1
    while n < entries:
        n *= 2
    return n


cdef int cq_create(via_nic *nic, uint32_t entries, via_cq **out) noexcept nogil:
    cdef via_cq *cq
    if entries == 0 or entries > VIA_CQ_ENTRIES_MAX:
        return VIP_INVALID_PARAMETER
    if nic.ncqs == VIA_CQ_MAX:
        return VIP_ERROR_RESOURCE
    cq = <via_cq *>calloc(1, sizeof(via_cq))
    if cq == NULL:
        return VIP_ERROR_RESOURCE
    cq.mask = power(entries) - 1
    cq.ring = <uint32_t *>calloc(cq.mask + 1, sizeof(uint32_t))
    if cq.ring == NULL:
        free(cq)
        return VIP_ERROR_RESOURCE
    cq.nic = nic
    nic.ncqs += 1
    out[0] = cq
    return VIP_SUCCESS


cdef int cq_destroy(via_cq *cq) noexcept nogil:
    if cq.users:
        return VIP_ERROR_RESOURCE
    cq.nic.ncqs -= 1
    cq_free(cq)
    return VIP_SUCCESS


cdef void cq_free(via_cq *cq) noexcept nogil:
    free(cq.ring)
    free(cq)


cdef int cq_resize(via_cq *cq, uint32_t entries) noexcept nogil:
    cdef uint32_t *ring
    cdef uint32_t n, k
    if entries == 0 or entries > VIA_CQ_ENTRIES_MAX:
        return VIP_INVALID_PARAMETER
    n = power(entries)
    if cq.tail - cq.head > n:
        return VIP_ERROR_RESOURCE
    ring = <uint32_t *>calloc(n, sizeof(uint32_t))
    if ring == NULL:
        return VIP_ERROR_RESOURCE
    k = cq.head
    while k != cq.tail:
        ring[k & (n - 1)] = cq.ring[k & cq.mask]
        k += 1
    free(cq.ring)
    cq.ring = ring
    cq.mask = n - 1
    return VIP_SUCCESS


cdef void cq_push(via_cq *cq, const via_vi *vi, bint is_recv) noexcept nogil:
    if cq.tail - cq.head > cq.mask:
        cq.lost += 1
        cq.nic.counts[<int>VC_CQ_LIMIT] += 1
        nic_event(cq.nic, VE_VI_OVERRUN, vi.id)
        return
    cq.ring[cq.tail & cq.mask] = (vi.id & (VIA_VI_MAX - 1)) << 1 | is_recv
    atomic_store32(<int32_t *>&cq.tail, cq.tail + 1)


cdef int cq_take(via_cq *cq, uint32_t *vi, bint *is_recv) noexcept nogil:
    cdef uint32_t e
    while cq.head != cq.tail:
        e = cq.ring[cq.head & cq.mask]
        cq.head += 1
        if e >> 1 != GONE:
            vi[0] = e >> 1
            is_recv[0] = e & 1
            return VIP_SUCCESS
    if cq.lost:
        cq.lost = 0
        return VIP_ERROR_RESOURCE
    return VIP_NOT_DONE


cdef void cq_purge(via_cq *cq, uint32_t vi) noexcept nogil:
    cdef uint32_t k = cq.head
    while k != cq.tail:
        if cq.ring[k & cq.mask] >> 1 == (vi & (VIA_VI_MAX - 1)):
            cq.ring[k & cq.mask] = <uint32_t>GONE << 1
        k += 1
