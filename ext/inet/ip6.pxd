"""IPv6: checking and delivering what arrives, framing what leaves. Private to the internet layer."""

from libc.stdint cimport uint8_t

from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif
from ustack._core.inet.path cimport path
from ustack._core.mem.mblk cimport mblk

cdef enum:
    EXT_HEADERS = 8             # extension headers of one packet that are walked
    EXT_BYTES = 1024            # and how far into the packet

# From the IP header on.
cdef void ip6_input(inet *net, netif *ifp, mblk *taken) noexcept nogil
# See ip_output.
cdef int ip6_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t hops, uint8_t tclass, int flags) \
    noexcept nogil
