"""The internet layer, whole: see inet.pxd. Here are its configuration, paths, and the way in; the rest is next door.

route: where to. source: from which address. cache, arp: to which station. ip4, ip6: headers. fragment: pieces. pmtu:
how large. icmp, icmp6: errors and echoes. transmit, offload: what links cannot do. ping: endpoints that send echoes.
"""

from libc.errno cimport (EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, ECONNREFUSED, EEXIST, EHOSTUNREACH, EINVAL, EMSGSIZE,
                         ENETUNREACH, ENOBUFS, ENOPROTOOPT, ENOSPC, EPROTO)
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.addr cimport (ip_equal, ip_in_prefix, ip_is4, ip_is_any, ip_is_loopback,
                                     ip_is_multicast, ip_to4, ipaddr)
from ustack._core.base.codes cimport CAP_TSO4, CAP_TSO6, IPPROTO_ICMP_, IPPROTO_ICMPV6_
from ustack._core.base.counters cimport (C_ETH_FOREIGN, C_ETH_RUNT, C_ETH_SOURCE, C_ETH_UNKNOWN, C_IP_NOMEM,
                                         C_IP_NO_ROUTE, C_IP_VERSION, count)
from ustack._core.base.rng cimport rng_next
from ustack._core.inet.arp cimport arp_announce, arp_input
from ustack._core.inet.cache cimport cache_confirm, cache_free, cache_get, cache_init, cache_purge, cache_unpin
from ustack._core.inet.fragment cimport fragment_free, fragment_init
from ustack._core.inet.icmp cimport icmp_free, icmp_init, icmp_input, icmp_send
from ustack._core.inet.icmp6 cimport icmp6_error, icmp6_input
from ustack._core.inet.ip4 cimport ip4_input, ip4_output
from ustack._core.inet.ip6 cimport ip6_input, ip6_output
from ustack._core.inet.netif cimport IF_ADDRS, IF_MAX, ifaddr, netif
from ustack._core.inet.path cimport path
from ustack._core.inet.pmtu cimport pmtu_free, pmtu_init, pmtu_of
from ustack._core.inet.route cimport route, route_add, route_del, route_find, route_free, route_init, route_purge
from ustack._core.inet.source cimport source_choose
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport freemsg, mblk, mblk_len, msgdsize, pkt_pull, pullupmsg
from ustack._core.wire.bytes cimport ip_version
from ustack._core.wire.ether cimport (ETHER_ARP, ETHER_IP4, ETHER_IP6, ETHER_LEN, ether_equal, ether_header,
                                      ether_is_group, ether_parse)
from ustack._core.wire.icmp cimport (EXCEEDED_TTL, ICMP_TIME_EXCEEDED, ICMP_UNREACH, UNREACH_ADMIN, UNREACH_HOST,
                                     UNREACH_NEEDFRAG, UNREACH_NET, UNREACH_PORT, UNREACH_PROTO)
from ustack._core.wire.ip4 cimport ip4_pseudo
from ustack._core.wire.ip6 cimport IP6_LEN, IP6_MIN_MTU, ip6_pseudo


cdef int inet_init(inet *net, context *ctx) noexcept nogil:
    """0 or -ENOMEM; then inet_free may be called all the same."""
    cdef int result
    cdef int i
    memset(net, 0, sizeof(inet))
    net.ctx = ctx
    net.generation = 1          # a path of zeros has never been resolved
    for i in range(256):
        net.ids[i] = <uint16_t>rng_next(&ctx.dice)
    result = route_init(net)
    if result == 0:
        result = cache_init(net)
    if result == 0:
        result = fragment_init(net)
    if result == 0:
        result = icmp_init(net)
    if result == 0:
        result = pmtu_init(net)
    inet_upcall(net, IPPROTO_ICMP_, net, icmp_input, NULL)
    inet_upcall(net, IPPROTO_ICMPV6_, net, icmp6_input, NULL)
    return result


cdef void inet_free(inet *net) noexcept nogil:
    """Paths are dead afterwards."""
    fragment_free(net)
    cache_free(net)
    route_free(net)
    icmp_free(net)
    pmtu_free(net)


cdef void inet_upcall(inet *net, int protocol, void *owner, ip_input_fn input, ip_error_fn error) noexcept nogil:
    net.protocols[protocol & 0xFF].owner = owner
    net.protocols[protocol & 0xFF].input = input
    net.protocols[protocol & 0xFF].error = error


# --- configuration --------------------------------------------------------------------------------------------
cdef uint16_t free_index(const inet *net) noexcept nogil:
    cdef uint16_t index = 0
    cdef int i = 0
    while i < net.nifs:
        if net.ifs[i].index == index:
            index += 1
            i = -1
        i += 1
    return index


cdef int inet_add_if(inet *net, netif *ifp) noexcept nogil:
    """-EEXIST, -ENOSPC. Addresses that the interface has already are taken as if added now."""
    cdef int i
    for i in range(net.nifs):
        if net.ifs[i] == ifp:
            return -EEXIST
    if net.nifs == IF_MAX:
        return -ENOSPC
    ifp.index = free_index(net)
    net.ifs[net.nifs] = ifp
    net.nifs += 1
    net.generation += 1
    for i in range(ifp.naddrs):
        use_address(net, ifp, &ifp.addrs[i])
    return 0


cdef void inet_remove_if(inet *net, netif *ifp) noexcept nogil:
    cdef int i
    for i in range(net.nifs):
        if net.ifs[i] == ifp:
            net.nifs -= 1
            net.ifs[i] = net.ifs[net.nifs]
            break
    route_purge(net, ifp)
    cache_purge(net, ifp)
    net.generation += 1


cdef ipaddr directed_broadcast(const ipaddr *addr, int bits) noexcept nogil:
    """None for point-to-point prefixes (RFC 3021) and for IPv6."""
    cdef ipaddr b
    b.hi = 0
    b.lo = 0
    if ip_is4(addr) and 96 <= bits <= 126:
        b.lo = addr.lo | ((<uint64_t>1 << (128 - bits)) - 1)
    return b


cdef void use_address(inet *net, netif *ifp, ifaddr *a) noexcept nogil:
    a.broadcast = directed_broadcast(&a.addr, a.bits)
    if ifp.layer != 0:
        route_add(net, &a.addr, a.bits, NULL, ifp, True)
    net.generation += 1
    arp_announce(net, ifp, &a.addr)


cdef int inet_add_addr(inet *net, netif *ifp, const ipaddr *addr, int bits) noexcept nogil:
    cdef int i
    if bits < 0 or bits > 128 or ip_is_any(addr) or ip_is_multicast(addr):
        return -EINVAL
    if not ip_is4(addr) and ifp.layer == 2:
        return -EAFNOSUPPORT
    if not ip_is4(addr) and ifp.mtu < IP6_MIN_MTU:
        return -EMSGSIZE
    for i in range(ifp.naddrs):
        if ip_equal(&ifp.addrs[i].addr, addr):
            return -EEXIST
    if ifp.naddrs == IF_ADDRS:
        return -ENOSPC
    ifp.addrs[ifp.naddrs].addr = addr[0]
    ifp.addrs[ifp.naddrs].bits = bits
    ifp.naddrs += 1
    use_address(net, ifp, &ifp.addrs[ifp.naddrs - 1])
    return 0


cdef netif *reaching(inet *net, const ipaddr *gateway) noexcept nogil:
    """The interface that has the gateway on its link."""
    cdef int i, j
    for i in range(net.nifs):
        for j in range(net.ifs[i].naddrs):
            if (ip_is4(gateway) == ip_is4(&net.ifs[i].addrs[j].addr)
                    and ip_in_prefix(gateway, &net.ifs[i].addrs[j].addr, net.ifs[i].addrs[j].bits)):
                return net.ifs[i]
    return NULL


cdef int inet_add_route(inet *net, const ipaddr *prefix, int bits, const ipaddr *gateway, netif *ifp) noexcept nogil:
    cdef netif *way = ifp
    if way == NULL and gateway != NULL and not ip_is_any(gateway):
        way = reaching(net, gateway)
    if way == NULL:
        return -ENETUNREACH
    return route_add(net, prefix, bits, gateway, way, False)


cdef int inet_del_route(inet *net, const ipaddr *prefix, int bits) noexcept nogil:
    return route_del(net, prefix, bits)


cdef bint inet_is_local(inet *net, const ipaddr *addr, netif **ifp) noexcept nogil:
    cdef int i, j
    cdef bint loopback = ip_is_loopback(addr)
    for i in range(net.nifs):
        if loopback and net.ifs[i].layer == 0:
            if ifp != NULL:
                ifp[0] = net.ifs[i]
            return True
        for j in range(net.ifs[i].naddrs):
            if ip_equal(&net.ifs[i].addrs[j].addr, addr):
                if ifp != NULL:
                    ifp[0] = net.ifs[i]
                return True
    if loopback and ifp != NULL:
        ifp[0] = NULL
    return loopback


# --- in -------------------------------------------------------------------------------------------------------
cdef void ether_input(inet *net, netif *ifp, mblk *taken) noexcept nogil:
    cdef ether_header h
    cdef bint group
    cdef int refused = 0
    if mblk_len(taken) < ETHER_LEN and not (taken.pkt_len >= ETHER_LEN
                                            and pullupmsg(net.ctx.mem, taken, ETHER_LEN)):
        count(&net.ctx.n, C_ETH_RUNT)
        freemsg(taken)
        return
    ether_parse(taken.rptr, &h)
    group = ether_is_group(h.dst)
    if ether_is_group(h.src):
        refused = C_ETH_SOURCE
    elif not group and not ether_equal(h.dst, ifp.mac):
        refused = C_ETH_FOREIGN
    elif h.type == ETHER_IP4:
        pkt_pull(taken, ETHER_LEN)
        ip4_input(net, ifp, taken, group)
        return
    elif h.type == ETHER_ARP:
        pkt_pull(taken, ETHER_LEN)
        arp_input(net, ifp, taken)
        return
    else:
        refused = C_IP_VERSION if h.type == ETHER_IP6 else C_ETH_UNKNOWN
    count(&net.ctx.n, refused)
    freemsg(taken)


cdef void inet_input(inet *net, netif *ifp, mblk *taken) noexcept nogil:
    if taken.pkt_len == 0:
        taken.pkt_len = msgdsize(taken)
    if ifp.layer == 2:
        ether_input(net, ifp, taken)
    elif mblk_len(taken) == 0 and taken.pkt_len and not pullupmsg(net.ctx.mem, taken, 1):
        count(&net.ctx.n, C_IP_NOMEM)
        freemsg(taken)
    elif mblk_len(taken) and ip_version(taken.rptr) == 6:
        if speaks(ifp, False):
            ip6_input(net, ifp, taken)
        else:
            count(&net.ctx.n, C_IP_VERSION)
            freemsg(taken)
    else:
        ip4_input(net, ifp, taken, False)


# --- paths ----------------------------------------------------------------------------------------------------
cdef netif *loopback_of(inet *net) noexcept nogil:
    cdef int i
    for i in range(net.nifs):
        if net.ifs[i].layer == 0:
            return net.ifs[i]
    return NULL


cdef bint speaks(const netif *ifp, bint v4) noexcept nogil:
    """Whether the interface has an address of this version."""
    cdef int i
    for i in range(ifp.naddrs):
        if ip_is4(&ifp.addrs[i].addr) == v4:
            return True
    return False


cdef netif *broadcast_if(inet *net, const ipaddr *src, const ipaddr *dst) noexcept nogil:
    """The interface whose broadcast address dst is. For limited broadcast and groups that no route names: that of the
    source address, else the first one that is up."""
    cdef netif *ifp = NULL
    cdef int i, j
    cdef bint limited = ip_to4(dst) == <uint32_t>0xFFFFFFFF and ip_is4(dst)
    for i in range(net.nifs):
        for j in range(net.ifs[i].naddrs):
            if ip_equal(&net.ifs[i].addrs[j].broadcast, dst) and not ip_is_any(dst):
                return net.ifs[i]
    if not limited and not ip_is_multicast(dst):
        return NULL
    if not ip_is_any(src) and inet_is_local(net, src, &ifp):
        return ifp
    for i in range(net.nifs):
        if net.ifs[i].up and net.ifs[i].layer != 0 and speaks(net.ifs[i], ip_is4(dst)):
            return net.ifs[i]
    return NULL


cdef int find_way(inet *net, path *p) noexcept nogil:
    """Interface and next hop for src and dst."""
    cdef const route *r
    cdef netif *ifp = NULL
    p.next_hop = p.dst
    p.broadcast = False
    if inet_is_local(net, &p.dst, NULL):
        p.ifp = loopback_of(net)
        if ip_is_any(&p.src):
            p.src = p.dst
        return 0 if p.ifp != NULL else -ENETUNREACH
    ifp = broadcast_if(net, &p.src, &p.dst)
    if ifp != NULL:
        p.ifp = ifp
        p.broadcast = True
        return 0
    r = route_find(net, &p.dst)
    if r == NULL:
        count(&net.ctx.n, C_IP_NO_ROUTE)
        return -ENETUNREACH
    p.ifp = r.ifp
    if not ip_is_any(&r.gateway):
        p.next_hop = r.gateway
    return 0


cdef int find_source(inet *net, path *p) noexcept nogil:
    if ip_is_any(&p.src):
        return 0 if source_choose(p.ifp, &p.next_hop, &p.dst, &p.src) else -EADDRNOTAVAIL
    if not inet_is_local(net, &p.src, NULL):
        return -EADDRNOTAVAIL
    if ip_is4(&p.src) != ip_is4(&p.dst):
        return -EINVAL
    # An address that is only valid in here must not leave (RFC 1122 3.2.1.3); Linux's errno.
    return -EINVAL if ip_is_loopback(&p.src) and p.ifp.layer != 0 else 0


cdef ipaddr this_host(const ipaddr *any) noexcept nogil:
    cdef ipaddr a = any[0]
    a.lo |= 0x7F000001 if ip_is4(any) else 1
    return a


cdef int path_resolve(inet *net, path *p, const ipaddr *src, const ipaddr *dst) noexcept nogil:
    """Connecting to the any-address means this host, as in Linux."""
    cdef int result
    cdef ipaddr from_ = src[0]
    cdef ipaddr to = dst[0]
    memset(p, 0, sizeof(path))
    p.src = from_
    p.dst = this_host(&to) if ip_is_any(&to) else to
    result = find_way(net, p)
    if result == 0:
        result = find_source(net, p)
    if result == 0 and p.ifp.layer == 2 and not p.broadcast:
        p.nbr = cache_get(net, p.ifp, &p.next_hop)
        result = 0 if p.nbr != NULL else -ENOBUFS
    if result < 0:
        p.ifp = NULL
        p.src = from_
        return result
    if p.nbr != NULL:
        p.nbr.pins += 1
    p.mtu = p.ifp.mtu
    p.caps = p.ifp.caps
    p.mtu = pmtu_of(net, &p.dst, p.mtu)
    p.gso_max = p.mtu
    if p.caps & (CAP_TSO4 if ip_is4(&p.dst) else CAP_TSO6) and p.ifp.gso_max > p.mtu:
        # Longer ones exist in IPv4 only: see ip4_total. IPv6 would need a jumbo payload option.
        p.gso_max = p.ifp.gso_max if ip_is4(&p.dst) else min(p.ifp.gso_max, <uint32_t>(IP6_LEN + 65535))
    p.max_sg = p.ifp.max_sg
    p.generation = net.generation
    return 0


cdef void path_release(inet *net, path *p) noexcept nogil:
    """src and dst stay, so that path_check can make it anew."""
    if p.nbr != NULL:
        cache_unpin(net, p.nbr)
    p.nbr = NULL
    p.ifp = NULL
    p.generation = 0


cdef int path_check(inet *net, path *p) noexcept nogil:
    if p.ifp != NULL and p.generation == net.generation and p.ifp.up:
        return 0
    path_release(net, p)
    return path_resolve(net, p, &p.src, &p.dst)


cdef int path_room(inet *net, const path *p) noexcept nogil:
    # An interface that has been removed since may be gone: the generation tells.
    if p.ifp == NULL or p.generation != net.generation or p.ifp.room == NULL:
        return INT_MAX
    return p.ifp.room(p.ifp)


cdef uint32_t ip_pseudo(const ipaddr *src, const ipaddr *dst, uint8_t proto, uint32_t length) noexcept nogil:
    if ip_is4(dst):
        return ip4_pseudo(ip_to4(src), ip_to4(dst), proto, length)
    return ip6_pseudo(src, dst, proto, length)


cdef uint32_t path_pseudo(const path *p, uint8_t proto, uint32_t length) noexcept nogil:
    return ip_pseudo(&p.src, &p.dst, proto, length)


cdef void path_confirm(inet *net, path *p) noexcept nogil:
    if p.nbr != NULL:
        cache_confirm(net, p.nbr)


# --- out ------------------------------------------------------------------------------------------------------
cdef int ip_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos, int flags) noexcept nogil:
    cdef int result = path_check(net, p)
    if result < 0:
        freemsg(taken)
        return result
    if ip_is4(&p.dst):
        return ip4_output(net, p, taken, proto, ttl, tos, flags)
    return ip6_output(net, p, taken, proto, ttl, tos, flags)


cdef void icmp_error(inet *net, mblk *about, const ip_packet *ip, int kind, uint32_t mtu) noexcept nogil:
    cdef uint8_t type = ICMP_UNREACH
    cdef uint8_t code = UNREACH_HOST
    if not ip_is4(&ip.src):
        icmp6_error(net, about, ip, kind, mtu)
        return
    if kind == ICMP_ERR_NET:
        code = UNREACH_NET
    elif kind == ICMP_ERR_PROTO:
        code = UNREACH_PROTO
    elif kind == ICMP_ERR_PORT:
        code = UNREACH_PORT
    elif kind == ICMP_ERR_TOO_BIG:
        code = UNREACH_NEEDFRAG
    elif kind == ICMP_ERR_ADMIN:
        code = UNREACH_ADMIN
    elif kind == ICMP_ERR_TTL:
        type = ICMP_TIME_EXCEEDED
        code = EXCEEDED_TTL
    icmp_send(net, about, ip, type, code, mtu)


cdef int icmp_errno(int kind) noexcept nogil:
    """As Linux's icmp_err_convert and icmpv6_err_convert have it; a positive errno."""
    if kind == ICMP_ERR_NET:
        return ENETUNREACH
    if kind == ICMP_ERR_PROTO:
        return ENOPROTOOPT
    if kind == ICMP_ERR_PORT:
        return ECONNREFUSED
    if kind == ICMP_ERR_TOO_BIG:
        return EMSGSIZE
    if kind == ICMP_ERR_OTHER:
        return EPROTO
    if kind == ICMP_ERR_POLICY:
        return EACCES
    return EHOSTUNREACH
