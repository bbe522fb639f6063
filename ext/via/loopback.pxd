"""The loopback provider: VIs of one NIC, connected to each other. A send is delivered in the call that posts it."""

from ustack._core.via.types cimport via_nic

cdef void loopback_init(via_nic *nic) noexcept nogil
