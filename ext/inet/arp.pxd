"""ARP on the wire: answering, asking, announcing, and noticing conflicts (RFC 826, 5227). Private to the internet
layer; what is known of neighbours is in cache.
"""

from libc.stdint cimport uint8_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif
from ustack._core.mem.mblk cimport mblk

# An ARP packet, behind its Ethernet header.
cdef void arp_input(inet *net, netif *ifp, mblk *taken) noexcept nogil
# Ask for an address; mac NULL: by broadcast.
cdef void arp_ask(inet *net, netif *ifp, const ipaddr *addr, const uint8_t *mac) noexcept nogil
cdef void arp_announce(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil
