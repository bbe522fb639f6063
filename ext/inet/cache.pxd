"""The neighbour cache: finding, aging and evicting neighbours, and the packets that wait for them. Private to the
internet layer; what goes on the wire to resolve them is in arp.
"""

from ustack._core.base.addr cimport ipaddr
from ustack._core.base.types cimport ns_t
from ustack._core.inet.inet cimport inet
from ustack._core.inet.neighbour cimport neighbour
from ustack._core.inet.netif cimport netif
from ustack._core.mem.mblk cimport mblk

cdef enum:
    NEIGH_BUCKETS = 1024
    NEIGH_LEARNED = 512         # entries above which none is made because somebody asked for us

cdef struct cache:
    neighbour *buckets[NEIGH_BUCKETS]
    neighbour *oldest           # least recently used
    neighbour *newest
    int n
    ns_t defended[32]           # by interface: when we last defended an address of ours

cdef int cache_init(inet *net) noexcept nogil
cdef void cache_free(inet *net) noexcept nogil
cdef neighbour *cache_find(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil
# Find or make; NULL if the cache is full of pinned entries, or without memory.
cdef neighbour *cache_get(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil
cdef void cache_unpin(inet *net, neighbour *n) noexcept nogil
cdef void cache_purge(inet *net, netif *ifp) noexcept nogil
# An IP packet for a neighbour: 1 if its address may be used now, 0 if the packet waits (taken), -EHOSTUNREACH if it
# did not answer lately (not taken).
cdef int cache_use(inet *net, neighbour *n, mblk *pkt) noexcept nogil
# The neighbour has this address; `solicited`: because we asked. Sends what waited.
cdef void cache_learn(inet *net, neighbour *n, const unsigned char *mac, bint solicited) noexcept nogil
cdef void cache_confirm(inet *net, neighbour *n) noexcept nogil
