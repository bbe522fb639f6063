"""ICMPv6 (RFC 4443): echo, errors in, errors out. Private to the internet layer.

The rate limit is that of icmp. Neighbour discovery and listener reports are not served: such messages are ignored.
"""

from libc.stdint cimport uint8_t, uint32_t

from ustack._core.inet.inet cimport inet, ip_packet
from ustack._core.mem.mblk cimport mblk

# The upcall for protocol 58; owner is the inet.
cdef void icmp6_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil
# An error about a received packet, if it deserves one and the limit allows it; `word`: MTU or pointer.
cdef void icmp6_send(inet *net, mblk *about, const ip_packet *ip, uint8_t type, uint8_t code,
                     uint32_t word) noexcept nogil
# The same for an ICMP_ERR_*.
cdef void icmp6_error(inet *net, mblk *about, const ip_packet *ip, int kind, uint32_t mtu) noexcept nogil
