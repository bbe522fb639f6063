"""ICMP for IPv4 (RFC 792, 1122 3.2.2, 1191, 5927, 6633): echo, errors in, errors out. Private to the internet layer.

What we send on our own account is limited to ICMP_RATE a second with bursts of ICMP_BURST, for all destinations
together (RFC 1812 4.3.2.8). Echo replies are not limited: they are never larger than what asked for them.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t

from ustack._core.base.types cimport ns_t
from ustack._core.inet.inet cimport inet, ip_packet
from ustack._core.mem.mblk cimport mblk

cdef enum:
    ICMP_RATE = 1000
    ICMP_BURST = 50
    ICMP_QUOTE = 548            # an error is 576 bytes at most (RFC 1812 4.3.2.3)
    ICMP_LEAST_MTU = 552        # path MTUs below are taken to be attacks, as Linux's min_pmtu does (RFC 5927 7)

cdef struct limits:
    int64_t credit              # ns: one message costs 1/ICMP_RATE s
    ns_t filled

cdef int icmp_init(inet *net) noexcept nogil
cdef void icmp_free(inet *net) noexcept nogil
# The upcall for protocol 1; owner is the inet.
cdef void icmp_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil
# An error about a received packet, if it deserves one and the limit allows it. detail: the MTU, or the pointer of a
# parameter problem.
cdef void icmp_send(inet *net, mblk *about, const ip_packet *ip, uint8_t type, uint8_t code,
                    uint16_t detail) noexcept nogil
# The rate limit, for errors of both versions: False (counted) if there have been too many.
cdef bint icmp_allowed(inet *net) noexcept nogil
# Make the eight bytes of an ICMP header ours to write. NULL without memory (the packet is freed, and counted).
cdef mblk *icmp_own_header(inet *net, mblk *taken) noexcept nogil
# A packet of ours (from its IP header on) that could not be delivered to its next hop: tell its transport.
cdef void icmp_unreachable(inet *net, const mblk *pkt) noexcept nogil
