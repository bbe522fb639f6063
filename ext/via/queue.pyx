"""Queues of posted descriptors: see queue.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.types cimport atomic_store32
from ustack._core.via.cq cimport cq_push
from ustack._core.via.memory cimport memory_find, memory_holds
from ustack._core.via.nic cimport nic_event
from ustack._core.via.types cimport (
    VC_BAD_DESC, VC_FLUSHED, VE_POST_DESC, VIP_DESCRIPTOR_ERROR, VIP_ERROR_RESOURCE, VIP_INVALID_PARAMETER,
    VIP_NOT_DONE, VIP_SUCCESS, via_memory, via_nic, via_queue, via_slot, via_vi,
)
from ustack._core.wire.via cimport (
    DESC_ALIGN, DESC_CONTROL, STATUS_DONE, STATUS_FLUSHED, STATUS_OP_RECEIVE, STATUS_OP_SEND, STATUS_PROTECTION, desc,
    desc_control, desc_extent, desc_finish,
)


cdef bint queue_init(via_queue *q, via_vi *vi, bint is_recv, uint32_t depth) noexcept nogil:
    cdef uint32_t n = 1
    memset(q, 0, sizeof(via_queue))
    while n < depth:
        n *= 2
    q.slots = <via_slot *>calloc(n, sizeof(via_slot))
    q.mask = n - 1
    q.is_recv = is_recv
    q.vi = vi
    return q.slots != NULL


cdef void queue_free(via_queue *q) noexcept nogil:
    free(q.slots)
    q.slots = NULL


cdef bint readable(via_nic *nic, uint32_t ptag, uint8_t *at, uint32_t handle) noexcept nogil:
    """Whether the descriptor, with all the segments that it claims, lies in memory that the tag may use."""
    cdef via_memory *m = memory_find(nic, handle)
    cdef desc_control *c = <desc_control *>at
    return (<uint64_t>at % DESC_ALIGN == 0 and m != NULL and m.ptag == ptag
            and memory_holds(m, <uint64_t>at, DESC_CONTROL) and memory_holds(m, <uint64_t>at, desc_extent(c.segments)))


cdef int queue_post(via_queue *q, uint8_t *at, uint32_t handle, uint32_t *position) noexcept nogil:
    cdef via_slot *s
    cdef via_nic *nic = q.vi.nic
    if q.tail - q.head > q.mask:
        return VIP_ERROR_RESOURCE
    if not readable(nic, q.vi.ptag, at, handle):
        nic_event(nic, VE_POST_DESC, q.vi.id)
        return VIP_INVALID_PARAMETER
    s = &q.slots[q.tail & q.mask]
    s.at = at
    s.handle = handle
    s.status = 0
    s.flying = False
    (<desc_control *>at).status = 0
    position[0] = q.tail
    q.tail += 1
    return VIP_SUCCESS


cdef void queue_complete(via_queue *q, uint32_t position, uint32_t status, uint32_t length,
                         uint32_t immediate) noexcept nogil:
    cdef via_slot *s = &q.slots[position & q.mask]
    cdef desc_control *c
    cdef uint32_t ready = q.ready
    s.status = status | STATUS_DONE | (STATUS_OP_RECEIVE if q.is_recv else STATUS_OP_SEND)
    s.length = length
    s.immediate = immediate
    s.flying = False
    if memory_find(q.vi.nic, s.handle) != NULL:
        c = <desc_control *>s.at
        c.length = length
        if q.is_recv:
            c.immediate = immediate
        atomic_store32(<int32_t *>&c.status, s.status)
    while ready != q.tail and q.slots[ready & q.mask].status:
        ready += 1
        if q.cq != NULL:
            cq_push(q.cq, q.vi, q.is_recv)
    if <int32_t>(q.next - ready) < 0:
        q.next = ready
    if ready != q.ready:
        atomic_store32(<int32_t *>&q.ready, ready)
        q.vi.nic.completions += 1


cdef int queue_take(via_queue *q, via_slot *out) noexcept nogil:
    if q.head == q.ready:
        return VIP_DESCRIPTOR_ERROR if q.head == q.tail else VIP_NOT_DONE
    out[0] = q.slots[q.head & q.mask]
    q.head += 1
    return VIP_SUCCESS


cdef void queue_flush(via_queue *q) noexcept nogil:
    cdef uint32_t k = q.ready
    while k != q.tail:
        if q.slots[k & q.mask].status == 0:
            q.vi.nic.counts[<int>VC_FLUSHED] += 1
            queue_complete(q, k, STATUS_FLUSHED, 0, 0)
        k += 1


cdef uint32_t queue_read(via_nic *nic, const via_slot *s, desc *d) noexcept nogil:
    cdef via_memory *m = memory_find(nic, s.handle)
    if m == NULL:
        return STATUS_PROTECTION
    memcpy(&d.c, s.at, DESC_CONTROL)
    if not memory_holds(m, <uint64_t>s.at, desc_extent(d.c.segments)):
        return STATUS_PROTECTION
    return desc_finish(s.at, d)


cdef bint uses(via_nic *nic, const via_slot *s, uint32_t handle) noexcept nogil:
    cdef desc d
    cdef uint32_t k
    if s.handle == handle:
        return True
    if queue_read(nic, s, &d) != 0:
        return False
    for k in range(d.c.segments):
        if d.s[k].handle == handle:
            return True
    return False


cdef int queue_forget(via_queue *q, uint32_t handle) noexcept nogil:
    cdef uint32_t k = q.ready
    cdef int n = 0
    while k != q.tail:
        if q.slots[k & q.mask].status == 0 and uses(q.vi.nic, &q.slots[k & q.mask], handle):
            q.vi.nic.counts[<int>VC_BAD_DESC] += 1
            queue_complete(q, k, STATUS_PROTECTION, 0, 0)
            n += 1
        k += 1
    return n
