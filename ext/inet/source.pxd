"""Source addresses: which of its own a host sends from when nobody has said. Private to the internet layer."""

from ustack._core.base.addr cimport ipaddr
from ustack._core.inet.netif cimport netif

# The address of ifp for packets to dst by way of next_hop; False if it has none of that version.
cdef bint source_choose(const netif *ifp, const ipaddr *next_hop, const ipaddr *dst, ipaddr *src) noexcept nogil
