"""An interface as the internet layer sees it: addresses, limits and a way out. There is no link in here."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.types cimport ns_t
from ustack._core.mem.mblk cimport mblk

cdef enum:
    IF_ADDRS = 8
    IF_MAX = 32

cdef struct ifaddr:
    ipaddr addr
    uint8_t bits                # prefix length counted in 128 (IPv4 /24 is 120)
    ipaddr broadcast            # directed broadcast; any-address if there is none

cdef struct netif:
    void *owner                 # the engine's record of it
    uint16_t index
    uint8_t layer               # 2, 3; 0: loopback
    uint8_t mac[6]
    bint up
    uint32_t mtu
    uint32_t gso_max
    uint16_t max_sg
    uint32_t rx_room            # bytes that its link holds while nobody looks; 0: no limit
    uint32_t caps               # CAP_*
    int naddrs
    ifaddr addrs[IF_ADDRS]
    # Queue a finished packet (chain, facts set) for the link; takes it.
    void (*xmit)(netif *ifp, mblk *taken) noexcept nogil
    # How many more packets xmit can queue without dropping: senders that can wait stop at 0.
    int (*room)(netif *ifp) noexcept nogil
