"""The neighbour cache: see cache.pxd.

    INCOMPLETE  asked by broadcast once a second while packets wait; after NEIGH_PROBES: FAILED
    REACHABLE   known; after REACHABLE_TIME without confirmation its next use makes it
    STALE       used as it is, and asked by unicast; an answer or a transport confirms it, silence makes it INCOMPLETE
    FAILED      refused for FAILED_TIME, then asked anew
"""

from libc.errno cimport EHOSTUNREACH, ENOMEM
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ustack._core.base.addr cimport ip_equal, ipaddr
from ustack._core.base.counters cimport C_ARP_EVICTED, C_ARP_FAILED, C_ARP_QUEUE_FULL, count
from ustack._core.base.rng cimport siphash
from ustack._core.base.types cimport NS_SEC, ns_t
from ustack._core.base.wheel cimport timer_arm, timer_armed, timer_init, timer_stop
from ustack._core.inet.arp cimport arp_ask
from ustack._core.inet.icmp cimport icmp_unreachable
from ustack._core.inet.inet cimport inet
from ustack._core.inet.neighbour cimport (NEIGH_FAILED, NEIGH_INCOMPLETE, NEIGH_MAX, NEIGH_PROBES, NEIGH_QUEUE,
                                          NEIGH_REACHABLE, NEIGH_STALE, neighbour)
from ustack._core.inet.netif cimport netif
from ustack._core.inet.transmit cimport ip_transmit
from ustack._core.mem.mblk cimport freelist, freemsg, mblk

cdef enum:
    REACHABLE_SECONDS = 30      # RFC 4861 10: REACHABLE_TIME
    FAILED_SECONDS = 1
    RETRY_SECONDS = 1           # RFC 1122 2.3.2.1: at most one request a second


cdef int cache_init(inet *net) noexcept nogil:
    net.neighbours = calloc(1, sizeof(cache))
    return 0 if net.neighbours != NULL else -ENOMEM


cdef void cache_free(inet *net) noexcept nogil:
    cdef cache *c = <cache *>net.neighbours
    if c == NULL:
        return
    while c.oldest != NULL:
        destroy(net, c, c.oldest)
    free(c)
    net.neighbours = NULL


cdef inline neighbour **bucket(inet *net, cache *c, const ipaddr *addr) noexcept nogil:
    return &c.buckets[siphash(net.ctx.dice.key, addr, sizeof(ipaddr)) & (NEIGH_BUCKETS - 1)]


cdef void lru_unlink(cache *c, neighbour *n) noexcept nogil:
    if n.lru_prev != NULL:
        n.lru_prev.lru_next = n.lru_next
    else:
        c.oldest = n.lru_next
    if n.lru_next != NULL:
        n.lru_next.lru_prev = n.lru_prev
    else:
        c.newest = n.lru_prev


cdef void lru_append(cache *c, neighbour *n) noexcept nogil:
    n.lru_next = NULL
    n.lru_prev = c.newest
    if c.newest != NULL:
        c.newest.lru_next = n
    else:
        c.oldest = n
    c.newest = n


cdef void touch(inet *net, neighbour *n) noexcept nogil:
    cdef cache *c = <cache *>net.neighbours
    n.used = net.ctx.now
    if c.newest != n:
        lru_unlink(c, n)
        lru_append(c, n)


cdef void destroy(inet *net, cache *c, neighbour *n) noexcept nogil:
    cdef neighbour **at = bucket(net, c, &n.addr)
    while at[0] != NULL and at[0] != n:
        at = &at[0].hash_next
    if at[0] == n:
        at[0] = n.hash_next
    lru_unlink(c, n)
    timer_stop(&net.ctx.timers, &n.clock)
    freelist(n.waiting)
    c.n -= 1
    free(n)


cdef neighbour *cache_find(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil:
    cdef neighbour *n = bucket(net, <cache *>net.neighbours, addr)[0]
    while n != NULL:
        if n.ifp == ifp and ip_equal(&n.addr, addr):
            return n
        n = n.hash_next
    return NULL


cdef bint evict(inet *net, cache *c) noexcept nogil:
    """Make room: forget the least recently used neighbour that nobody needs, or else one that is not pinned."""
    cdef neighbour *n = c.oldest
    cdef neighbour *waiting = NULL
    while n != NULL and (n.pins or n.waiting != NULL):
        if not n.pins and waiting == NULL:
            waiting = n
        n = n.lru_next
    if n == NULL:
        n = waiting
    if n == NULL:
        return False
    count(&net.ctx.n, C_ARP_EVICTED)
    destroy(net, c, n)
    return True


cdef neighbour *cache_get(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil:
    cdef cache *c = <cache *>net.neighbours
    cdef neighbour *n = cache_find(net, ifp, addr)
    cdef neighbour **head
    if n != NULL:
        return n
    if c.n >= NEIGH_MAX and not evict(net, c):
        return NULL
    n = <neighbour *>calloc(1, sizeof(neighbour))
    if n == NULL:
        return NULL
    n.net = net
    n.ifp = ifp
    n.addr = addr[0]
    n.state = NEIGH_INCOMPLETE
    n.used = net.ctx.now
    timer_init(&n.clock, on_timer, n)
    head = bucket(net, c, addr)
    n.hash_next = head[0]
    head[0] = n
    lru_append(c, n)
    c.n += 1
    return n


cdef void cache_unpin(inet *net, neighbour *n) noexcept nogil:
    n.pins -= 1
    if n.pins == 0 and n.ifp == NULL:
        destroy(net, <cache *>net.neighbours, n)


cdef void cache_purge(inet *net, netif *ifp) noexcept nogil:
    """The interface goes away: pinned entries stay as tombstones until their paths are resolved anew."""
    cdef cache *c = <cache *>net.neighbours
    cdef neighbour *n = c.oldest
    cdef neighbour *following
    while n != NULL:
        following = n.lru_next
        if n.ifp == ifp:
            if n.pins == 0:
                destroy(net, c, n)
            else:
                n.ifp = NULL
                n.state = NEIGH_FAILED
                timer_stop(&net.ctx.timers, &n.clock)
                freelist(n.waiting)
                n.waiting = NULL
                n.nwaiting = 0
        n = following


# --- resolving ------------------------------------------------------------------------------------------------
cdef void ask(inet *net, neighbour *n) noexcept nogil:
    n.probes += 1
    arp_ask(net, n.ifp, &n.addr, n.mac if n.state == NEIGH_STALE else NULL)
    timer_arm(&net.ctx.timers, &n.clock, net.ctx.now + RETRY_SECONDS * NS_SEC)


cdef void enqueue(inet *net, neighbour *n, mblk *taken) noexcept nogil:
    cdef mblk **at = &n.waiting
    cdef mblk *oldest
    if n.nwaiting >= NEIGH_QUEUE:
        oldest = n.waiting
        n.waiting = oldest.next
        oldest.next = NULL
        freemsg(oldest)
        n.nwaiting -= 1
        count(&net.ctx.n, C_ARP_QUEUE_FULL)
    while at[0] != NULL:
        at = &at[0].next
    at[0] = taken
    taken.next = NULL
    n.nwaiting += 1


cdef int cache_use(inet *net, neighbour *n, mblk *pkt) noexcept nogil:
    touch(net, n)
    if n.state == NEIGH_REACHABLE and net.ctx.now - n.confirmed > REACHABLE_SECONDS * NS_SEC:
        n.state = NEIGH_STALE
        n.probes = 0
    if n.state == NEIGH_REACHABLE:
        return 1
    if n.state == NEIGH_STALE:
        if not timer_armed(&n.clock):
            n.probes = 0
            ask(net, n)
        return 1
    if n.state == NEIGH_FAILED:
        if n.ifp == NULL or net.ctx.now - n.confirmed < FAILED_SECONDS * NS_SEC:
            return -EHOSTUNREACH
        n.state = NEIGH_INCOMPLETE
    enqueue(net, n, pkt)
    if not timer_armed(&n.clock):
        n.probes = 0
        ask(net, n)
    return 0


cdef mblk *take_waiting(neighbour *n) noexcept nogil:
    cdef mblk *m = n.waiting
    n.waiting = NULL
    n.nwaiting = 0
    return m


cdef void fail(inet *net, neighbour *n) noexcept nogil:
    """Tell the transports whose packets waited. They may do anything in their upcalls, hence the pin."""
    cdef mblk *m = take_waiting(n)
    cdef mblk *following
    count(&net.ctx.n, C_ARP_FAILED)
    n.state = NEIGH_FAILED
    n.confirmed = net.ctx.now   # of the failure
    n.pins += 1
    while m != NULL:
        following = m.next
        m.next = NULL
        icmp_unreachable(net, m)
        freemsg(m)
        m = following
    cache_unpin(net, n)


cdef void on_timer(void *arg, ns_t now) noexcept nogil:
    cdef neighbour *n = <neighbour *>arg
    cdef inet *net = <inet *>n.net
    if n.probes < NEIGH_PROBES:
        ask(net, n)
    elif n.state == NEIGH_STALE:
        n.state = NEIGH_INCOMPLETE      # its next packet is asked for by broadcast
    else:
        fail(net, n)


cdef void cache_learn(inet *net, neighbour *n, const unsigned char *mac, bint solicited) noexcept nogil:
    cdef mblk *m
    cdef mblk *following
    memcpy(n.mac, mac, 6)
    if solicited or n.state == NEIGH_INCOMPLETE:
        n.state = NEIGH_REACHABLE
        n.confirmed = net.ctx.now
    else:
        n.state = NEIGH_STALE
    timer_stop(&net.ctx.timers, &n.clock)
    m = take_waiting(n)
    while m != NULL:
        following = m.next
        m.next = NULL
        ip_transmit(net, n.ifp, n.mac, m)
        m = following


cdef void cache_confirm(inet *net, neighbour *n) noexcept nogil:
    if n.state == NEIGH_REACHABLE or n.state == NEIGH_STALE:
        n.state = NEIGH_REACHABLE
        n.confirmed = net.ctx.now
        timer_stop(&net.ctx.timers, &n.clock)
