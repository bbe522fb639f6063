"""IPv4: checking and delivering what arrives, framing what leaves. Private to the internet layer."""

from libc.stdint cimport uint8_t, uint16_t

from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk
from ustack._core.wire.ip4 cimport ip4_header

# From the IP header on; `group`: came in a broadcast or multicast frame.
cdef void ip4_input(inet *net, netif *ifp, mblk *taken, bint group) noexcept nogil
# See ip_output.
cdef int ip4_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos, int flags) noexcept nogil
# An IP packet that is finished but for what the link does: to the neighbour, or into its queue.
cdef int ip4_send(inet *net, path *p, mblk *taken) noexcept nogil
# Do what the link cannot, put the link header in front (mac: the next hop's), and queue.
cdef void ip4_transmit(inet *net, netif *ifp, const uint8_t *mac, mblk *taken) noexcept nogil
# Write the header h, with source and destination of the path, in front. NULL without memory (the packet is freed).
cdef mblk *ip4_frame(inet *net, mblk *taken, ip4_header *h) noexcept nogil
# `n` identifications in a row that this (src, dst, proto) has not used lately (RFC 6864 4.3).
cdef uint16_t ip4_ids(inet *net, const path *p, uint8_t proto, int n) noexcept nogil
# n bytes in front of a packet, in a header block of their own if need be; facts move along. NULL without memory (the
# packet is freed, and counted).
cdef mblk *pkt_prepend(context *ctx, mblk *taken, size_t n) noexcept nogil
