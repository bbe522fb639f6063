"""Routes: see route.pxd. A sorted array, because a host has few; paths remember what they found."""

from libc.errno cimport EEXIST, EINVAL, ENOMEM, ENOSPC, ESRCH
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove

from ustack._core.base.addr cimport ip_equal, ip_in_prefix, ip_is4, ipaddr
from ustack._core.inet.inet cimport inet
from ustack._core.inet.netif cimport netif


cdef int route_init(inet *net) noexcept nogil:
    net.routes = calloc(1, sizeof(route_table))
    return 0 if net.routes != NULL else -ENOMEM


cdef void route_free(inet *net) noexcept nogil:
    cdef route_table *t = <route_table *>net.routes
    if t != NULL:
        free(t.entries)
        free(t)
    net.routes = NULL


cdef ipaddr masked(const ipaddr *a, int bits) noexcept nogil:
    cdef ipaddr m = a[0]
    if bits <= 0:
        m.hi = 0
        m.lo = 0
    elif bits <= 64:
        m.hi = m.hi >> (64 - bits) << (64 - bits)
        m.lo = 0
    elif bits < 128:
        m.lo = m.lo >> (128 - bits) << (128 - bits)
    return m


cdef int place(route_table *t, const ipaddr *prefix, int bits, netif *ifp, bint connected) noexcept nogil:
    """Where a new entry goes, or -EEXIST: one prefix may be connected to several interfaces, but is routed once."""
    cdef int i
    cdef route *r
    for i in range(t.n):
        r = &t.entries[i]
        if r.bits < bits:
            return i
        if r.bits == bits and ip_equal(&r.prefix, prefix) and r.connected == connected:
            if r.ifp == ifp or not connected:
                return -EEXIST
    return t.n


cdef int route_add(inet *net, const ipaddr *prefix, int bits, const ipaddr *gateway, netif *ifp, bint connected) \
        noexcept nogil:
    cdef route_table *t = <route_table *>net.routes
    cdef ipaddr base = masked(prefix, bits)
    cdef route *more
    cdef int at
    if not 0 <= bits <= 128:
        return -EINVAL
    at = place(t, &base, bits, ifp, connected)
    if at < 0:
        return at
    if t.n >= ROUTE_MAX:
        return -ENOSPC
    if t.n == t.room:
        more = <route *>realloc(t.entries, (t.room * 2 + 8) * sizeof(route))
        if more == NULL:
            return -ENOMEM
        t.entries = more
        t.room = t.room * 2 + 8
    memmove(&t.entries[at + 1], &t.entries[at], (t.n - at) * sizeof(route))
    t.entries[at].prefix = base
    t.entries[at].bits = bits
    t.entries[at].gateway.hi = 0
    t.entries[at].gateway.lo = 0
    if gateway != NULL:
        t.entries[at].gateway = gateway[0]
    t.entries[at].ifp = ifp
    t.entries[at].connected = connected
    t.n += 1
    net.generation += 1
    return 0


cdef void remove_at(inet *net, int i) noexcept nogil:
    cdef route_table *t = <route_table *>net.routes
    t.n -= 1
    memmove(&t.entries[i], &t.entries[i + 1], (t.n - i) * sizeof(route))
    net.generation += 1


cdef int route_del(inet *net, const ipaddr *prefix, int bits) noexcept nogil:
    """Routes that came with an address stay as long as it does."""
    cdef route_table *t = <route_table *>net.routes
    cdef ipaddr base = masked(prefix, bits)
    cdef int i
    for i in range(t.n):
        if t.entries[i].bits == bits and not t.entries[i].connected and ip_equal(&t.entries[i].prefix, &base):
            remove_at(net, i)
            return 0
    return -ESRCH


cdef void route_purge(inet *net, const netif *ifp) noexcept nogil:
    cdef route_table *t = <route_table *>net.routes
    cdef int i
    for i in range(t.n - 1, -1, -1):
        if t.entries[i].ifp == ifp:
            remove_at(net, i)


cdef const route *route_find(inet *net, const ipaddr *dst) noexcept nogil:
    cdef route_table *t = <route_table *>net.routes
    cdef bint v4 = ip_is4(dst)
    cdef int i
    for i in range(t.n):
        # ::/0 is not for IPv4, although the mapped addresses lie in it.
        if (t.entries[i].bits >= 96 and ip_is4(&t.entries[i].prefix)) != v4:
            continue
        if t.entries[i].ifp.up and ip_in_prefix(dst, &t.entries[i].prefix, t.entries[i].bits):
            return &t.entries[i]
    return NULL
