"""IPv4: checking and delivering what arrives, framing what leaves. Private to the internet layer."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t

from ustack._core.inet.inet cimport inet, ip_packet
from ustack._core.inet.netif cimport netif
from ustack._core.inet.path cimport path
from ustack._core.mem.mblk cimport mblk
from ustack._core.wire.ip4 cimport ip4_header

# From the IP header on; `group`: came in a broadcast or multicast frame.
cdef void ip4_input(inet *net, netif *ifp, mblk *taken, bint group) noexcept nogil
# See ip_output.
cdef int ip4_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos, int flags) noexcept nogil
# One message with options that are not copied to fragments: it fits the path. No fragment, no DF.
cdef int ip4_answer(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t tos, const uint8_t *options, size_t n) \
    noexcept nogil
# Write the header h, with source and destination of the path, in front. NULL without memory (the packet is freed).
cdef mblk *ip4_frame(inet *net, mblk *taken, ip4_header *h) noexcept nogil
# `n` identifications in a row that this (src, dst, proto) has not used lately (RFC 6864 4.3).
cdef uint16_t ip4_ids(inet *net, const path *p, uint8_t proto, int n) noexcept nogil
# Make the transport header contiguous behind the IP header (ip.header_len, ip.length, ip.proto are set), and no more
# than that: payload may be aligned. False without memory.
cdef bint transport_whole(inet *net, mblk *m, const ip_packet *ip) noexcept nogil
# Free a packet that cannot go, count it, and return -error.
cdef int ip_refuse(inet *net, mblk *taken, int counter, int error) noexcept nogil
