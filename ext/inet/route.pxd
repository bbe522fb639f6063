"""Routes: destination to interface and next hop, by longest prefix. Private to the internet layer."""

from ustack._core.base.addr cimport ipaddr
from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif

cdef enum:
    ROUTE_MAX = 1024

cdef struct route:
    ipaddr prefix
    int bits                    # in 128
    ipaddr gateway              # any-address: on link
    netif *ifp
    bint connected              # came with an address of the interface

cdef struct route_table:
    route *entries              # longest prefix first; of equal ones the older first
    int n
    int room

cdef int route_init(inet *net) noexcept nogil
cdef void route_free(inet *net) noexcept nogil
# -EEXIST, -ENOSPC, -ENOMEM, -EINVAL, or 0. The gateway is on link of ifp.
cdef int route_add(inet *net, const ipaddr *prefix, int bits, const ipaddr *gateway, netif *ifp, bint connected) \
    noexcept nogil
cdef int route_del(inet *net, const ipaddr *prefix, int bits) noexcept nogil
cdef void route_purge(inet *net, const netif *ifp) noexcept nogil
# The best route whose interface is up, or NULL.
cdef const route *route_find(inet *net, const ipaddr *dst) noexcept nogil
