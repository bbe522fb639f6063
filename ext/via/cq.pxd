"""Completion queues: which queue of which VI has something to give back. One that is too small says so; it never
forgets
silently."""

from libc.stdint cimport int32_t, uint32_t

from ustack._core.base.types cimport atomic_load32
from ustack._core.via.types cimport via_cq, via_nic, via_vi

# VIP_SUCCESS, VIP_INVALID_PARAMETER (entries), VIP_ERROR_RESOURCE.
cdef int cq_create(via_nic *nic, uint32_t entries, via_cq **out) noexcept nogil
# VIP_SUCCESS, VIP_ERROR_RESOURCE (a queue reports to it).
cdef int cq_destroy(via_cq *cq) noexcept nogil
# Its NIC is gone already.
cdef void cq_free(via_cq *cq) noexcept nogil
# Room for another number; what is in it stays. VIP_SUCCESS, VIP_INVALID_PARAMETER, VIP_ERROR_RESOURCE (less than it
# holds).
cdef int cq_resize(via_cq *cq, uint32_t entries) noexcept nogil
cdef void cq_push(via_cq *cq, const via_vi *vi, bint is_recv) noexcept nogil
# VIP_SUCCESS with the index of a VI and which of its queues, VIP_NOT_DONE, VIP_ERROR_RESOURCE: it has overflowed;
# said once, after
# everything that found room, then it goes on.
cdef int cq_take(via_cq *cq, uint32_t *vi, bint *is_recv) noexcept nogil
# A VI is destroyed: forget its notifications.
cdef void cq_purge(via_cq *cq, uint32_t vi) noexcept nogil


cdef inline bint cq_has(via_cq *cq) noexcept nogil:
    """Without the lock, a moment ago."""
    return atomic_load32(<int32_t *>&cq.tail) != <int32_t>cq.head or cq.lost != 0
