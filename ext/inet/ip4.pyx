"""IPv4 in and out: see ip4.pxd. RFC 791, RFC 1122 3.2; hosts only, nothing is forwarded."""

from libc.errno cimport EMSGSIZE, ENOBUFS
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_from4, ip_is_any, ip_is_loopback, ip_to4
from ustack._core.base.codes cimport GSO_NONE, GSO_TCP4, IPPROTO_ICMPV6_, IPPROTO_TCP_
from ustack._core.base.counters cimport (C_IP_CHECKSUM, C_IP_FOREIGN, C_IP_FRAG_RX, C_IP_HEADER, C_IP_MARTIAN,
                                         C_IP_NOMEM, C_IP_OPTION, C_IP_PROTO, C_IP_RX, C_IP_SHORT, C_IP_SOURCE,
                                         C_IP_SOURCE_ROUTE, C_IP_TOO_BIG, C_IP_TTL, C_IP_TX, C_IP_VERSION,
                                         C_LINK_TX_QUEUE_FULL, count)
from ustack._core.base.rng cimport siphash
from ustack._core.inet.fragment cimport fragment, fragment_input, fragment_output
from ustack._core.inet.icmp cimport icmp_send
from ustack._core.inet.inet cimport (ICMP_ERR_PROTO, IP_DF, IP_NO_CSUM, icmp_error, inet, inet_is_local, ip_packet,
                                     path_room, upcall)
from ustack._core.inet.netif cimport netif
from ustack._core.inet.path cimport path
from ustack._core.inet.pmtu cimport pmtu_of
from ustack._core.inet.record cimport record_problem
from ustack._core.inet.transmit cimport ip_send, pkt_prepend
from ustack._core.mem.mblk cimport adjmsg, freemsg, mblk, mblk_len, pkt_pull, pullupmsg
from ustack._core.wire.icmp cimport ICMP_PARAM_PROBLEM
from ustack._core.wire.ip4 cimport (IP4_BAD_LENGTH, IP4_BAD_VERSION, IP4_LEN, IP4_MAX, IP4_MAX_HEADER, IP4_OK,
                                    IP4_SHORT, ip4_check, ip4_check_options, ip4_emit, ip4_header, ip4_parse,
                                    ip4_sum_ok, ip4_total)
from ustack._core.wire.tcp cimport TCP_LEN, tcp_header_len

cdef enum:
    ALL_HOSTS = 0xE0000001      # 224.0.0.1: the one group that every host is in (RFC 1112)


# --- in -------------------------------------------------------------------------------------------------------
cdef int check_header(inet *net, netif *ifp, mblk *m) noexcept nogil:
    """0, or -1 (counted) if the header is not one."""
    cdef int found
    if mblk_len(m) < IP4_LEN and m.pkt_len >= IP4_LEN and not pullupmsg(net.ctx.mem, m, IP4_LEN):
        count(&net.ctx.n, C_IP_NOMEM)
        return -1
    found = ip4_check(m.rptr, mblk_len(m), m.pkt_len)
    if found == IP4_SHORT and mblk_len(m) >= IP4_LEN and mblk_len(m) < m.pkt_len:
        if pullupmsg(net.ctx.mem, m, min(<ssize_t>m.pkt_len, <ssize_t>IP4_MAX_HEADER)):
            found = ip4_check(m.rptr, mblk_len(m), m.pkt_len)
    if found == IP4_OK and m.pkt_len > IP4_MAX and m.gso_type != GSO_TCP4:
        found = IP4_BAD_LENGTH
    if found != IP4_OK:
        count(&net.ctx.n, C_IP_SHORT if found == IP4_SHORT
              else C_IP_VERSION if found == IP4_BAD_VERSION else C_IP_HEADER)
        return -1
    # A link that vouches for a checksum means the transport's; twenty bytes are summed quickly.
    if ifp.layer != 0 and not ip4_sum_ok(m.rptr):
        count(&net.ctx.n, C_IP_CHECKSUM)
        return -1
    return 0


cdef bint check_options(inet *net, mblk *m, const ip4_header *h, ip_packet *ip) noexcept nogil:
    """Nothing is source-routed to us (RFC 7126); of an option without a length, or a record that cannot be continued,
    the source is told (RFC 1122 3.2.2.5)."""
    cdef int found = ip4_check_options(m.rptr + IP4_LEN, h.header_len - IP4_LEN)
    if found == 0:
        found = -1 - record_problem(m.rptr + IP4_LEN, h.header_len - IP4_LEN)
    if found == 0:
        return True
    count(&net.ctx.n, C_IP_OPTION if found < 0 else C_IP_SOURCE_ROUTE)
    if found < 0 and h.frag_offset == 0 and transport_whole(net, m, ip):
        ip.header = m.rptr
        pkt_pull(m, ip.header_len)
        icmp_send(net, m, ip, ICMP_PARAM_PROBLEM, 0, <uint16_t>(IP4_LEN - found - 1))
    return False


cdef bint is_broadcast(netif *ifp, uint32_t v4) noexcept nogil:
    """Limited broadcast, or that of a subnet of the interface."""
    cdef int i
    if v4 == <uint32_t>0xFFFFFFFF:
        return True
    for i in range(ifp.naddrs):
        if not ip_is_any(&ifp.addrs[i].broadcast) and ip_to4(&ifp.addrs[i].broadcast) == v4:
            return True
    return False


cdef int check_addresses(inet *net, netif *ifp, const ip4_header *h, ip_packet *ip) noexcept nogil:
    """RFC 1122 3.2.1.3: who may not have sent this, and whether it is for us. 0, or -1 (counted)."""
    ip.src = ip_from4(h.src)
    ip.dst = ip_from4(h.dst)
    if ifp.layer != 0:
        if ip_is_loopback(&ip.src) or ip_is_loopback(&ip.dst):
            count(&net.ctx.n, C_IP_MARTIAN)
            return -1
        if h.src >> 24 == 0 or h.src >> 28 >= 14 or is_broadcast(ifp, h.src) or inet_is_local(net, &ip.src, NULL):
            count(&net.ctx.n, C_IP_SOURCE)
            return -1
    if is_broadcast(ifp, h.dst) or h.dst == <uint32_t>ALL_HOSTS:
        ip.broadcast = True
        return 0
    if inet_is_local(net, &ip.dst, NULL):
        return 0
    count(&net.ctx.n, C_IP_FOREIGN)
    return -1


cdef bint transport_whole(inet *net, mblk *m, const ip_packet *ip) noexcept nogil:
    cdef size_t need = 8 if ip.proto != IPPROTO_TCP_ else TCP_LEN
    cdef size_t whole = ip.header_len + ip.length
    need = min(ip.header_len + need, whole)
    if mblk_len(m) < need and not pullupmsg(net.ctx.mem, m, need):
        return False
    if ip.proto == IPPROTO_TCP_ and ip.length >= TCP_LEN:
        need = min(ip.header_len + tcp_header_len(m.rptr + ip.header_len), whole)
        if mblk_len(m) < need and not pullupmsg(net.ctx.mem, m, need):
            return False
    return True


cdef void deliver(inet *net, mblk *m, ip_packet *ip) noexcept nogil:
    cdef upcall *u = &net.protocols[ip.proto]
    if not transport_whole(net, m, ip):
        count(&net.ctx.n, C_IP_NOMEM)
        freemsg(m)
        return
    ip.header = m.rptr
    pkt_pull(m, ip.header_len)
    if u.input != NULL and ip.proto != IPPROTO_ICMPV6_:
        u.input(u.owner, m, ip)
        return
    count(&net.ctx.n, C_IP_PROTO)
    icmp_error(net, m, ip, ICMP_ERR_PROTO, 0)
    freemsg(m)


cdef mblk *reassemble(inet *net, mblk *taken, const ip4_header *h, ip_packet *ip) noexcept nogil:
    cdef fragment f
    f.src = ip.src
    f.dst = ip.dst
    f.id = h.id
    f.version = 4
    f.proto = h.proto
    f.header_len = h.header_len
    f.offset = h.frag_offset
    f.length = h.total_len - h.header_len
    f.most = IP4_MAX - h.header_len
    f.more = h.mf
    return fragment_input(net, taken, &f, ip)


cdef void ip4_input(inet *net, netif *ifp, mblk *taken, bint group) noexcept nogil:
    cdef ip4_header h
    cdef ip_packet ip
    cdef mblk *m = taken
    count(&net.ctx.n, C_IP_RX)
    if check_header(net, ifp, m) < 0:
        freemsg(m)
        return
    ip4_parse(m.rptr, &h)
    h.total_len = ip4_total(m.rptr, m.pkt_len)
    memset(&ip, 0, sizeof(ip))
    ip.broadcast = group
    ip.ifp = ifp
    if h.ttl == 0:
        count(&net.ctx.n, C_IP_TTL)
        freemsg(m)
        return
    if check_addresses(net, ifp, &h, &ip) < 0:
        freemsg(m)
        return
    if m.pkt_len > h.total_len:
        adjmsg(m, -<ssize_t>(m.pkt_len - h.total_len))      # the padding of short frames
        m.pkt_len = h.total_len
    ip.proto = h.proto
    ip.ttl = h.ttl
    ip.tos = h.tos
    ip.header_len = h.header_len
    ip.length = m.pkt_len - ip.header_len
    if h.header_len > IP4_LEN and not check_options(net, m, &h, &ip):
        freemsg(m)
        return
    if h.mf or h.frag_offset:
        count(&net.ctx.n, C_IP_FRAG_RX)
        m = reassemble(net, m, &h, &ip)
        if m == NULL:
            return
    ip.length = m.pkt_len - ip.header_len
    deliver(net, m, &ip)


# --- out ------------------------------------------------------------------------------------------------------
cdef uint16_t ip4_ids(inet *net, const path *p, uint8_t proto, int n) noexcept nogil:
    cdef uint64_t words[2]
    cdef uint64_t hash
    cdef uint16_t *counter
    cdef uint16_t first
    words[0] = (<uint64_t>ip_to4(&p.src) << 32) | ip_to4(&p.dst)
    words[1] = proto
    hash = siphash(net.ctx.dice.key, words, sizeof(words))
    counter = &net.ids[hash & 0xFF]
    first = counter[0] + <uint16_t>(hash >> 16)
    counter[0] += n
    return first


cdef mblk *ip4_frame(inet *net, mblk *taken, ip4_header *h) noexcept nogil:
    cdef mblk *m = pkt_prepend(net.ctx, taken, h.header_len)
    if m != NULL:
        h.total_len = m.pkt_len
        ip4_emit(m.rptr, h)
    return m


cdef int ip4_answer(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t tos, const uint8_t *options, size_t n) \
        noexcept nogil:
    cdef ip4_header h
    cdef mblk *m
    if path_room(net, p) <= 0:
        return ip_refuse(net, taken, C_LINK_TX_QUEUE_FULL, ENOBUFS)
    memset(&h, 0, sizeof(h))
    h.header_len = <uint8_t>(IP4_LEN + n)
    h.tos = tos
    h.id = ip4_ids(net, p, proto, 1)
    h.ttl = 64
    h.proto = proto
    h.src = ip_to4(&p.src)
    h.dst = ip_to4(&p.dst)
    m = pkt_prepend(net.ctx, taken, h.header_len)
    if m == NULL:
        return -ENOBUFS
    h.total_len = m.pkt_len
    memcpy(m.rptr + IP4_LEN, options, n)
    ip4_emit(m.rptr, &h)
    count(&net.ctx.n, C_IP_TX)
    return ip_send(net, p, m)


cdef int ip_refuse(inet *net, mblk *taken, int counter, int error) noexcept nogil:
    count(&net.ctx.n, counter)
    freemsg(taken)
    return -error


cdef int ip4_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t ttl, uint8_t tos, int flags) noexcept nogil:
    cdef ip4_header h
    cdef mblk *m
    cdef int segments = 1
    cdef bint df = (flags & IP_DF) != 0
    if taken.pkt_len > IP4_MAX - IP4_LEN and taken.gso_type != GSO_TCP4:
        return ip_refuse(net, taken, C_IP_TOO_BIG, EMSGSIZE)
    if path_room(net, p) <= 0:
        return ip_refuse(net, taken, C_LINK_TX_QUEUE_FULL, ENOBUFS)
    if taken.gso_size and taken.pkt_len <= taken.gso_size:
        taken.gso_size = 0
        taken.gso_type = GSO_NONE
    if taken.gso_size:
        segments = 2 + taken.pkt_len // taken.gso_size
    elif df:
        if taken.pkt_len + IP4_LEN > p.mtu:
            return ip_refuse(net, taken, C_IP_TOO_BIG, EMSGSIZE)
    else:
        p.mtu = pmtu_of(net, &p.dst, p.ifp.mtu)
        if taken.pkt_len + IP4_LEN > p.mtu:
            return fragment_output(net, p, taken, proto, ttl, tos)
    memset(&h, 0, sizeof(h))
    h.header_len = IP4_LEN
    h.tos = tos
    # An atomic datagram (DF, whole) needs no identification, and a constant tells nobody anything (RFC 6864 4.1).
    h.id = 0 if df else ip4_ids(net, p, proto, segments)
    h.df = df
    h.ttl = ttl
    h.proto = proto
    h.src = ip_to4(&p.src)
    h.dst = ip_to4(&p.dst)
    m = ip4_frame(net, taken, &h)
    if m == NULL:
        return -ENOBUFS
    if flags & IP_NO_CSUM:
        m.csum = 0
    count(&net.ctx.n, C_IP_TX)
    return ip_send(net, p, m)
