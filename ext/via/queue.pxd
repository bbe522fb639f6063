"""Queues of posted descriptors: posted at the tail, completed, given back at the head, in this order and no other.

       head            ready           next            tail
        | done, not     | begun with,   | waits for     |
        | given back    | or done early | its turn      |

Of a send queue, slots from ``ready`` to ``next`` are on their way to the other end; of a receive queue ``ready`` and
``next``
differ only where a later descriptor failed before its turn came.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from ustack._core.base.types cimport atomic_load32
from ustack._core.via.types cimport via_nic, via_queue, via_slot, via_vi
from ustack._core.wire.via cimport desc

# Room for `depth` descriptors, rounded up to a power of two. False without memory.
cdef bint queue_init(via_queue *q, via_vi *vi, bint is_recv, uint32_t depth) noexcept nogil
cdef void queue_free(via_queue *q) noexcept nogil
# Take a descriptor in. VIP_SUCCESS with its position in *position, VIP_ERROR_RESOURCE (full), VIP_INVALID_PARAMETER
# (misaligned, or not in registered memory of the VI's tag; also an asynchronous error).
cdef int queue_post(via_queue *q, uint8_t *at, uint32_t handle, uint32_t *position) noexcept nogil
# The descriptor is done: its status goes into it (if its memory is still registered), and to the completion queue in
# order.
cdef void queue_complete(via_queue *q, uint32_t position, uint32_t status, uint32_t length,
                         uint32_t immediate) noexcept nogil
# Give back the oldest. VIP_SUCCESS with a copy of its slot, VIP_NOT_DONE, VIP_DESCRIPTOR_ERROR (nothing is posted).
cdef int queue_take(via_queue *q, via_slot *out) noexcept nogil
# Copy a posted descriptor, to be looked at. 0, or a status bit: malformed, or its memory is gone.
cdef uint32_t queue_read(via_nic *nic, const via_slot *s, desc *d) noexcept nogil
# Complete all that are not done with STATUS_FLUSHED.
cdef void queue_flush(via_queue *q) noexcept nogil
# Memory is about to be deregistered: descriptors that lie in it or use it fail. How many.
cdef int queue_forget(via_queue *q, uint32_t handle) noexcept nogil


cdef inline bint queue_has_done(via_queue *q) noexcept nogil:
    """Whether queue_take would give one; without the lock, a moment ago."""
    return atomic_load32(<int32_t *>&q.ready) != <int32_t>q.head
