"""A NIC: the table of everything that belongs together, and what it counts. Made and freed here; it starts
nothing.
"""

from libc.stdint cimport uint32_t

from ustack._core.via.types cimport via_event, via_nic, via_port

cdef via_nic *nic_create() noexcept nogil
# Frees whatever is left of it: VIs, listeners. Completion queues and ports are freed by their owners before.
cdef void nic_free(via_nic *nic) noexcept nogil
# Keep an asynchronous error (VE_*) until it is fetched; the oldest stay if there are too many.
cdef void nic_event(via_nic *nic, int code, uint32_t vi) noexcept nogil
# The oldest asynchronous error; False if there is none.
cdef bint nic_take_event(via_nic *nic, via_event *out) noexcept nogil
# A provider's way to another NIC joins, or leaves. VIP_SUCCESS, VIP_ERROR_RESOURCE.
cdef int nic_add_port(via_nic *nic, via_port *p) noexcept nogil
cdef void nic_remove_port(via_nic *nic, via_port *p) noexcept nogil

cdef const char *via_code_name(int code) noexcept nogil
cdef const char *via_code_meaning(int code) noexcept nogil
cdef const char *via_event_name(int code) noexcept nogil
cdef const char *via_count_name(int counter) noexcept nogil
cdef const char *via_count_meaning(int counter) noexcept nogil
