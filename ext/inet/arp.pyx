"""ARP on the wire: see arp.pxd. Answers only for addresses of the interface that was asked on."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_equal, ip_from4, ip_in_prefix, ip_is4, ip_is_multicast, ip_to4, ipaddr
from ustack._core.base.codes cimport CSUM_OK
from ustack._core.base.counters cimport (C_ARP_BAD, C_ARP_CONFLICT, C_ARP_FOREIGN, C_ARP_RX, C_ARP_TX, C_IP_NOMEM,
                                         count)
from ustack._core.base.types cimport NS_SEC
from ustack._core.base.wheel cimport timer_armed
from ustack._core.inet.cache cimport NEIGH_LEARNED, cache, cache_find, cache_get, cache_learn
from ustack._core.inet.inet cimport inet
from ustack._core.inet.neighbour cimport NEIGH_INCOMPLETE, neighbour
from ustack._core.inet.netif cimport netif
from ustack._core.mem.mblk cimport alloc_header, freemsg, mblk, mblk_len, pullupmsg
from ustack._core.wire.arp cimport ARP_LEN, ARP_REPLY, ARP_REQUEST, arp_check, arp_emit, arp_packet, arp_parse
from ustack._core.wire.ether cimport (ETHER_ARP, ETHER_LEN, ether_broadcast, ether_emit, ether_equal, ether_is_group,
                                      ether_is_zero)

cdef enum:
    DEFEND_SECONDS = 10         # RFC 5227 1.1: DEFEND_INTERVAL


cdef void send(inet *net, netif *ifp, const arp_packet *a, const uint8_t *dst) noexcept nogil:
    cdef mblk *m
    if ifp.xmit == NULL or not ifp.up:
        return
    m = alloc_header(net.ctx.mem)
    if m == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        return
    ether_emit(m.rptr, dst, ifp.mac, ETHER_ARP)
    arp_emit(m.rptr + ETHER_LEN, a)
    m.wptr = m.rptr + ETHER_LEN + ARP_LEN
    m.pkt_len = ETHER_LEN + ARP_LEN
    m.csum = CSUM_OK
    count(&net.ctx.n, C_ARP_TX)
    ifp.xmit(ifp, m)


cdef bint ours(netif *ifp, const ipaddr *addr) noexcept nogil:
    cdef int i
    for i in range(ifp.naddrs):
        if ip_equal(&ifp.addrs[i].addr, addr):
            return True
    return False


cdef uint32_t sender_for(netif *ifp, const ipaddr *target) noexcept nogil:
    """The address of ours to ask with: the one in the target's subnet if there is one."""
    cdef int i
    cdef uint32_t first = 0
    for i in range(ifp.naddrs):
        if ip_is4(&ifp.addrs[i].addr):
            if ip_in_prefix(target, &ifp.addrs[i].addr, ifp.addrs[i].bits):
                return ip_to4(&ifp.addrs[i].addr)
            if first == 0:
                first = ip_to4(&ifp.addrs[i].addr)
    return first


cdef void arp_ask(inet *net, netif *ifp, const ipaddr *addr, const uint8_t *mac) noexcept nogil:
    cdef arp_packet a
    cdef uint8_t everyone[6]
    memset(&a, 0, sizeof(a))
    ether_broadcast(everyone)
    a.op = ARP_REQUEST
    memcpy(a.sha, ifp.mac, 6)
    a.spa = sender_for(ifp, addr)
    a.tpa = ip_to4(addr)
    send(net, ifp, &a, mac if mac != NULL else everyone)


cdef void arp_announce(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil:
    """A request for our own address (RFC 5227 2.3): caches that have it are brought up to date."""
    cdef arp_packet a
    cdef uint8_t everyone[6]
    if ifp.layer != 2 or not ip_is4(addr):
        return
    memset(&a, 0, sizeof(a))
    ether_broadcast(everyone)
    a.op = ARP_REQUEST
    memcpy(a.sha, ifp.mac, 6)
    a.spa = ip_to4(addr)
    a.tpa = ip_to4(addr)
    send(net, ifp, &a, everyone)


cdef void conflict(inet *net, netif *ifp, const ipaddr *addr) noexcept nogil:
    """Another station claims our address: say once in ten seconds that it is ours (RFC 5227 2.4 (c))."""
    cdef cache *c = <cache *>net.neighbours
    count(&net.ctx.n, C_ARP_CONFLICT)
    if c.defended[ifp.index & 31] and net.ctx.now - c.defended[ifp.index & 31] < DEFEND_SECONDS * NS_SEC:
        return
    c.defended[ifp.index & 31] = net.ctx.now if net.ctx.now else 1
    arp_announce(net, ifp, addr)


cdef void answer(inet *net, netif *ifp, const arp_packet *asked) noexcept nogil:
    cdef arp_packet a
    a.op = ARP_REPLY
    memcpy(a.sha, ifp.mac, 6)
    a.spa = asked.tpa
    memcpy(a.tha, asked.sha, 6)
    a.tpa = asked.spa
    send(net, ifp, &a, asked.sha)


cdef void learn(inet *net, netif *ifp, const arp_packet *a, const ipaddr *sender, bint for_us) noexcept nogil:
    """Existing neighbours are updated by anything; a new one is made only of who asks for us (RFC 826), and never
    when the cache is filling up: a flood of requests evicts nobody."""
    cdef neighbour *n = cache_find(net, ifp, sender)
    cdef bint solicited = False
    if n == NULL:
        if for_us and a.op == ARP_REQUEST and (<cache *>net.neighbours).n < NEIGH_LEARNED:
            n = cache_get(net, ifp, sender)
            if n != NULL:
                cache_learn(net, n, a.sha, False)
        return
    solicited = for_us and a.op == ARP_REPLY and timer_armed(&n.clock)
    if n.state == NEIGH_INCOMPLETE and not for_us and a.op == ARP_REPLY:
        return                  # an answer to somebody else does not resolve what we ask for
    cache_learn(net, n, a.sha, solicited)


cdef void act(inet *net, netif *ifp, const arp_packet *a) noexcept nogil:
    cdef ipaddr sender = ip_from4(a.spa)
    cdef ipaddr target = ip_from4(a.tpa)
    cdef bint for_us = ours(ifp, &target)
    if ether_equal(a.sha, ifp.mac):
        return                  # our own, come back
    if ours(ifp, &sender):
        conflict(net, ifp, &sender)
        return
    if a.spa != 0:              # a probe (RFC 5227 1.1) has no sender address yet
        learn(net, ifp, a, &sender, for_us)
    if a.op == ARP_REQUEST:
        if for_us:
            answer(net, ifp, a)
        else:
            count(&net.ctx.n, C_ARP_FOREIGN)


cdef bint sane(const arp_packet *a) noexcept nogil:
    cdef ipaddr sender = ip_from4(a.spa)
    if ether_is_group(a.sha) or ether_is_zero(a.sha):
        return False
    return not ip_is_multicast(&sender) and a.spa >> 28 != 15 and a.spa >> 24 != 127


cdef void arp_input(inet *net, netif *ifp, mblk *taken) noexcept nogil:
    cdef arp_packet a
    count(&net.ctx.n, C_ARP_RX)
    if mblk_len(taken) < ARP_LEN and taken.pkt_len >= ARP_LEN:
        pullupmsg(net.ctx.mem, taken, ARP_LEN)
    if arp_check(taken.rptr, mblk_len(taken)) < 0:
        count(&net.ctx.n, C_ARP_BAD)
    else:
        arp_parse(taken.rptr, &a)
        if sane(&a):
            act(net, ifp, &a)
        else:
            count(&net.ctx.n, C_ARP_BAD)
    freemsg(taken)
