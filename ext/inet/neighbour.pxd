"""Neighbours: next hop to link address, by ARP (RFC 826, 5227, 1122 2.3.2); bounded and aged, with a short queue."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.types cimport ns_t
from ustack._core.base.wheel cimport timer
from ustack._core.inet.netif cimport netif
from ustack._core.mem.mblk cimport mblk

cdef enum:
    NEIGH_MAX = 1024            # entries; the least recently used one without waiting packets is evicted
    NEIGH_QUEUE = 64            # packets that wait for one resolution; the oldest is dropped
    NEIGH_PROBES = 3            # requests, one a second, before EHOSTUNREACH

cdef enum:
    NEIGH_INCOMPLETE = 1
    NEIGH_REACHABLE = 2
    NEIGH_STALE = 3             # usable, confirmed anew by a unicast request
    NEIGH_FAILED = 4

cdef struct neighbour:
    neighbour *hash_next
    neighbour *lru_next
    neighbour *lru_prev
    void *net                   # the inet that it belongs to
    netif *ifp                  # NULL: the interface is gone, and the entry goes with its last pin
    ipaddr addr
    uint8_t mac[6]
    uint8_t state
    uint8_t probes
    uint32_t pins               # paths that hold the pointer; pinned entries are not evicted
    ns_t used
    ns_t confirmed
    mblk *waiting               # queue by next
    int nwaiting
    timer clock
