"""UDP input: the upcalls that the internet layer makes, up to the endpoints' queues."""

from ustack._core.inet.inet cimport ip_error, ip_packet
from ustack._core.mem.mblk cimport mblk
from ustack._core.udp.udp cimport udp_pcb

# The upcalls for protocol 17; owner is the struct udp.
cdef void udp_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil
cdef void udp_error(void *owner, const ip_error *e) noexcept nogil
# Leave only the first `max` of joined datagrams in the queued block m; the rest comes behind it. 0 or -ENOBUFS.
cdef int udp_part(udp_pcb *p, mblk *m, int max) noexcept nogil
