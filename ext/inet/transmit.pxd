"""From a finished IP packet of either version to its link: next hop, what the link cannot do, link header. Private to
the internet layer.
"""

from libc.stdint cimport uint8_t

from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif
from ustack._core.inet.path cimport path
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport mblk

# An IP packet that is finished but for what the link does: to the neighbour, or into its queue.
cdef int ip_send(inet *net, path *p, mblk *taken) noexcept nogil
# Do what the link cannot, put the link header in front (mac: the next hop's), and queue.
cdef void ip_transmit(inet *net, netif *ifp, const uint8_t *mac, mblk *taken) noexcept nogil
# n bytes in front of a packet, in a header block of their own if need be; facts move along. NULL without memory (the
# packet is freed, and counted).
cdef mblk *pkt_prepend(context *ctx, mblk *taken, size_t n) noexcept nogil
