"""Registered memory and protection tags: who may move bytes where. Pinning is the caller's (mem/pin).

A handle is an index and a generation: one that was given back names nothing, also when its place is taken again.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t

from ustack._core.via.types cimport VIA_MEMORY_MAX, via_memory, via_nic, via_span
from ustack._core.wire.via cimport STATUS_PROTECTION, desc, desc_segment

# A new tag in *id. VIP_SUCCESS, VIP_ERROR_RESOURCE.
cdef int ptag_create(via_nic *nic, uint32_t *id) noexcept nogil
# VIP_SUCCESS, VIP_INVALID_PTAG, VIP_ERROR_RESOURCE (in use).
cdef int ptag_destroy(via_nic *nic, uint32_t id) noexcept nogil
# One user more, or less. VIP_SUCCESS, VIP_INVALID_PTAG.
cdef int ptag_use(via_nic *nic, uint32_t id, int change) noexcept nogil

# Enter memory that is pinned. `shared`: it lies at `offset` in a memory file that can be passed on. The handle in
# *handle.
# VIP_SUCCESS, VIP_INVALID_PARAMETER, VIP_INVALID_PTAG, VIP_ERROR_RESOURCE.
cdef int memory_register(via_nic *nic, uint8_t *base, size_t length, uint32_t ptag, bint shared, uint64_t offset,
                         uint32_t *handle) noexcept nogil
# Forget it. Descriptors that lie in it or use it fail first: see queue_forget. VIP_SUCCESS, VIP_INVALID_PARAMETER.
cdef int memory_deregister(via_nic *nic, uint32_t handle) noexcept nogil


cdef inline via_memory *memory_find(via_nic *nic, uint32_t handle) noexcept nogil:
    """What a handle names; NULL for one that is stale or never was."""
    cdef via_memory *m = &nic.memories[handle & (VIA_MEMORY_MAX - 1)]
    return m if m.handle == handle and handle != 0 else NULL


cdef inline bint memory_holds(const via_memory *m, uint64_t address, uint64_t length) noexcept nogil:
    """Whether [address, address + length) lies in it; nothing here can overflow."""
    cdef uint64_t base = <uint64_t>m.base
    return address >= base and length <= m.length and address - base <= m.length - length


cdef inline uint32_t memory_span(via_nic *nic, uint32_t ptag, const desc_segment *s, via_span *out) noexcept nogil:
    """The bytes that a data segment names, if the tag may use them: 0, or STATUS_PROTECTION."""
    cdef via_memory *m = memory_find(nic, s.handle)
    if m == NULL or m.ptag != ptag or not memory_holds(m, s.data, s.length):
        return STATUS_PROTECTION
    out.base = <uint8_t *>s.data
    out.length = s.length
    return 0


# The spans of all data segments, and their sum in *total: 0, or a status bit.
cdef uint32_t memory_spans(via_nic *nic, uint32_t ptag, const desc *d, via_span *out, uint64_t *total) noexcept nogil
