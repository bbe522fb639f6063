"""A path: what a transport needs to know to reach a destination. TCP and UDP read it; they never see a link."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.inet.netif cimport netif
from ustack._core.inet.neighbour cimport neighbour

cdef struct path:
    netif *ifp                  # NULL: not resolved
    ipaddr src
    ipaddr dst
    ipaddr next_hop
    neighbour *nbr              # layer 2 only; NULL for loopback, broadcast and layer 3
    bint broadcast              # dst is a broadcast or multicast address
    uint32_t mtu                # path MTU, IP header included
    uint32_t gso_max            # largest IP packet to hand down as a super-segment; == mtu without TSO
    uint16_t max_sg
    uint32_t caps
    uint32_t generation         # of the routes and addresses that it was made from
