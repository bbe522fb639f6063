"""UDP input: the upcalls that the internet layer makes, up to the endpoints' queues."""

from ustack._core.inet.inet cimport ip_error, ip_packet
from ustack._core.mem.mblk cimport mblk

# The upcalls for protocol 17; owner is the struct udp.
cdef void udp_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil
cdef void udp_error(void *owner, const ip_error *e) noexcept nogil
