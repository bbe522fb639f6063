"""IPv6 in and out: see ip6.pxd. RFC 8200; hosts only, nothing is forwarded."""

from libc.errno cimport EMSGSIZE, ENOBUFS
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport flow, ip_is4, ip_is_any, ip_is_loopback, ip_is_multicast
from ustack._core.base.codes cimport (CSUM_OK, CSUM_PARTIAL, GSO_NONE, IPPROTO_ICMP_, IPPROTO_TCP_,
                                      IPPROTO_UDP_)
from ustack._core.base.counters cimport (C_IP_EXT_LIMIT, C_IP_FOREIGN, C_IP_FRAG_BAD, C_IP_FRAG_RX, C_IP_FRAG_TX,
                                         C_IP_HEADER, C_IP_MARTIAN, C_IP_NOMEM, C_IP_OPTION, C_IP_OPTION_UNKNOWN,
                                         C_IP_PROTO, C_IP_RX, C_IP_SHORT, C_IP_SOURCE, C_IP_SOURCE_ROUTE,
                                         C_IP_TOO_BIG, C_IP_TX, C_IP_VERSION, C_LINK_TX_QUEUE_FULL, C_SW_BAD_GSO,
                                         count)
from ustack._core.base.rng cimport flow_hash, rng_next
from ustack._core.inet.fragment cimport fragment, fragment_input
from ustack._core.inet.icmp6 cimport icmp6_send
from ustack._core.inet.inet cimport IP_DF, inet, inet_is_local, ip_packet, path_room, upcall
from ustack._core.inet.ip4 cimport ip_refuse, transport_whole
from ustack._core.inet.netif cimport netif
from ustack._core.inet.offload cimport offload_checksum
from ustack._core.inet.path cimport path
from ustack._core.inet.pmtu cimport pmtu_of
from ustack._core.inet.transmit cimport ip_send, pkt_prepend
from ustack._core.mem.mblk cimport adjmsg, dup_range, freemsg, mblk, mblk_len, pkt_pull, pullupmsg
from ustack._core.wire.bytes cimport get16
from ustack._core.wire.icmp6 cimport (ICMP6_PARAM_PROBLEM, PARAM6_FIELD, PARAM6_FIRST_FRAGMENT, PARAM6_NEXT_HEADER,
                                      PARAM6_OPTION)
from ustack._core.wire.ip6 cimport (IP6_BAD_VERSION, IP6_EXT_LEN, IP6_FRAG_LEN, IP6_LEN, IP6_MAX, IP6_NEXT, IP6_OK,
                                    IP6_PAYLOAD, IP6_SHORT, NEXT_FRAGMENT, NEXT_HOPOPTS, NEXT_NONE, NEXT_ROUTING,
                                    OPTS_BAD, OPTS_DROP, OPTS_SKIP, ip6_check, ip6_check_options, ip6_emit,
                                    ip6_emit_fragment, ip6_ext_len, ip6_fragment, ip6_header, ip6_is_ext, ip6_parse,
                                    ip6_parse_fragment, ip6_segments_left, ip6_set_payload)

# A walk along the chain of headers of one packet.
cdef struct walk:
    mblk *m
    uint32_t at                 # offset of the header that is looked at
    uint32_t named              # offset of the field that says what it is
    uint8_t next                # what it is
    int headers                 # extension headers passed

cdef enum:
    ALL_NODES = 1               # ff01::1, ff02::1: the groups that every host is in (RFC 4291 2.8)
    UPPER = 20                  # no transport header that matters is longer, options apart
    SALT_LABEL = 0x6C61         # of the hash of flows that makes labels


# --- in -------------------------------------------------------------------------------------------------------
cdef int check_header(inet *net, mblk *m, ip6_header *h) noexcept nogil:
    """0, or -1 (counted) if the header is not one."""
    cdef int found
    if mblk_len(m) < IP6_LEN and m.pkt_len >= IP6_LEN and not pullupmsg(net.ctx.mem, m, IP6_LEN):
        count(&net.ctx.n, C_IP_NOMEM)
        return -1
    found = ip6_check(m.rptr, mblk_len(m), m.pkt_len)
    if found != IP6_OK:
        count(&net.ctx.n, C_IP_SHORT if found == IP6_SHORT
              else C_IP_VERSION if found == IP6_BAD_VERSION else C_IP_HEADER)
        return -1
    ip6_parse(m.rptr, h)
    return 0


cdef int check_addresses(inet *net, netif *ifp, ip_packet *ip) noexcept nogil:
    """Who may not have sent this (RFC 4291 2.5, 2.7), and whether it is for us. 0, or -1 (counted)."""
    cdef int scope = (ip.dst.hi >> 48) & 0xF
    # A mapped address stands for IPv4 in here: from the wire it would slip by what is refused to IPv4 (RFC 4942 2.2).
    if ip_is4(&ip.src) or ip_is4(&ip.dst):
        count(&net.ctx.n, C_IP_MARTIAN)
        return -1
    if ifp.layer != 0:
        if ip_is_loopback(&ip.src) or ip_is_loopback(&ip.dst) or (ip_is_multicast(&ip.dst) and scope <= 1):
            count(&net.ctx.n, C_IP_MARTIAN)
            return -1
        if inet_is_local(net, &ip.src, NULL):
            count(&net.ctx.n, C_IP_SOURCE)
            return -1
    if ip_is_multicast(&ip.src) or ip_is_any(&ip.src):
        count(&net.ctx.n, C_IP_SOURCE)
        return -1
    ip.broadcast = ip_is_multicast(&ip.dst)
    if (ip.dst.hi == <uint64_t>0xFF01 << 48 or ip.dst.hi == <uint64_t>0xFF02 << 48) and ip.dst.lo == ALL_NODES:
        return 0
    if not ip.broadcast and inet_is_local(net, &ip.dst, NULL):
        return 0
    count(&net.ctx.n, C_IP_FOREIGN)
    return -1


cdef void problem(inet *net, mblk *m, ip_packet *ip, uint8_t code, uint32_t pointer) noexcept nogil:
    """A parameter problem about a packet that lies there from its IP header on, headers as far as they were read."""
    ip.header = m.rptr
    ip.header_len = IP6_LEN
    ip.length = m.pkt_len - IP6_LEN
    pkt_pull(m, IP6_LEN)
    icmp6_send(net, m, ip, ICMP6_PARAM_PROBLEM, code, pointer)


cdef bint reach(inet *net, walk *w, uint32_t end) noexcept nogil:
    """Make the first ``end`` bytes of the packet contiguous; False (counted) if they are not there, or too many."""
    if end > w.m.pkt_len:
        count(&net.ctx.n, C_IP_HEADER)
        return False
    if end > EXT_BYTES:
        count(&net.ctx.n, C_IP_EXT_LIMIT)
        return False
    if mblk_len(w.m) < end and not pullupmsg(net.ctx.mem, w.m, end):
        count(&net.ctx.n, C_IP_NOMEM)
        return False
    return True


cdef bint take_options(inet *net, walk *w, ip_packet *ip, uint32_t length) noexcept nogil:
    """Hop-by-hop and destination options (RFC 8200 4.2): we know of none but padding."""
    cdef size_t at = 0
    cdef int what = ip6_check_options(w.m.rptr + w.at, length, &at)
    if what == OPTS_SKIP:
        return True
    if what == OPTS_BAD:
        count(&net.ctx.n, C_IP_OPTION)
        return False
    count(&net.ctx.n, C_IP_OPTION_UNKNOWN)
    if what != OPTS_DROP and not (what == 3 and ip.broadcast):
        problem(net, w.m, ip, PARAM6_OPTION, w.at + at)
    return False


cdef bint take_routing(inet *net, walk *w, ip_packet *ip) noexcept nogil:
    """No type is served: a spent header is passed over, another refused (RFC 8200 4.4; type 0: RFC 5095)."""
    if ip6_segments_left(w.m.rptr + w.at) == 0:
        return True
    count(&net.ctx.n, C_IP_SOURCE_ROUTE)
    problem(net, w.m, ip, PARAM6_FIELD, w.at + 2)
    return False


cdef bint first_is_whole(const mblk *m, uint32_t at, uint8_t next) noexcept nogil:
    """Whether a first fragment has all headers, the transport's too (RFC 7112)."""
    cdef size_t n = mblk_len(m)
    while ip6_is_ext(next):
        if at + IP6_EXT_LEN > n:
            return False
        next, at = m.rptr[at], at + ip6_ext_len(m.rptr + at, next)
    return at + (UPPER if next == 6 else 0 if next == NEXT_NONE else 8) <= n


cdef bint reassembled(inet *net, walk *w, const ip_packet *ip) noexcept nogil:
    """Of a datagram that is whole: the headers of its first fragment, without that which says that it was one; what
    follows is the next to be looked at (RFC 8200 4.5). Errors about it tell of this packet, as in Linux."""
    cdef uint8_t headers[EXT_BYTES]
    cdef uint32_t n = ip.header_len - IP6_FRAG_LEN
    cdef uint32_t at = IP6_LEN
    cdef uint8_t kind
    w.next = w.m.rptr[n]
    memcpy(headers, w.m.rptr, n)
    w.named = IP6_NEXT
    kind = headers[IP6_NEXT]
    while at < n:
        w.named = at
        kind, at = headers[at], at + ip6_ext_len(headers + at, kind)
    headers[w.named] = w.next
    pkt_pull(w.m, n + IP6_FRAG_LEN)
    w.m = pkt_prepend(net.ctx, w.m, n)
    if w.m == NULL:
        return False
    memcpy(w.m.rptr, headers, n)
    ip6_set_payload(w.m.rptr, <uint16_t>(w.m.pkt_len - IP6_LEN))
    w.at = n
    return True


cdef bint take_fragment(inet *net, walk *w, ip_packet *ip) noexcept nogil:
    """False: the packet is gone, or kept until the rest of it is here. True: the walk goes on behind the header."""
    cdef ip6_fragment h
    cdef fragment f
    ip6_parse_fragment(w.m.rptr + w.at, &h)
    if not h.more and h.offset == 0:
        # Atomic: it has nothing to do with others of that identification (RFC 6946).
        w.next = h.next
        w.named = w.at
        w.at += IP6_FRAG_LEN
        return True
    count(&net.ctx.n, C_IP_FRAG_RX)
    f.src = ip.src
    f.dst = ip.dst
    f.id = h.id
    f.version = 6
    f.proto = 0
    f.more = h.more
    f.header_len = w.at + IP6_FRAG_LEN
    f.offset = h.offset
    f.length = w.m.pkt_len - f.header_len
    f.most = IP6_MAX - (w.at - IP6_LEN)
    ip.proto = h.next
    if f.more and f.length & 7:
        count(&net.ctx.n, C_IP_FRAG_BAD)
        problem(net, w.m, ip, PARAM6_FIELD, IP6_PAYLOAD)
        return False
    if f.offset + f.length > f.most:
        count(&net.ctx.n, C_IP_FRAG_BAD)
        problem(net, w.m, ip, PARAM6_FIELD, w.at + 2)
        return False
    if h.offset == 0:
        if not pullupmsg(net.ctx.mem, w.m, min(<uint32_t>EXT_BYTES, w.m.pkt_len)):
            count(&net.ctx.n, C_IP_NOMEM)
            return False
        if not first_is_whole(w.m, f.header_len, h.next):
            count(&net.ctx.n, C_IP_FRAG_BAD)
            problem(net, w.m, ip, PARAM6_FIRST_FRAGMENT, 0)
            return False
    w.m = fragment_input(net, w.m, &f, ip)
    return w.m != NULL and reassembled(net, w, ip)


cdef bint take_header(inet *net, walk *w, ip_packet *ip) noexcept nogil:
    """Pass one extension header. False: the packet ends here (counted; still at w.m unless that is NULL)."""
    cdef uint32_t length
    if w.next == NEXT_HOPOPTS and w.at != IP6_LEN:
        count(&net.ctx.n, C_IP_PROTO)
        problem(net, w.m, ip, PARAM6_NEXT_HEADER, w.named)      # it may only come first (RFC 8200 4.1)
        return False
    w.headers += 1
    if w.headers > EXT_HEADERS:
        count(&net.ctx.n, C_IP_EXT_LIMIT)
        return False
    if not reach(net, w, w.at + IP6_EXT_LEN):
        return False
    length = ip6_ext_len(w.m.rptr + w.at, w.next)
    if not reach(net, w, w.at + length):
        return False
    if w.next == NEXT_FRAGMENT:
        return take_fragment(net, w, ip)
    if w.next == NEXT_ROUTING:
        if not take_routing(net, w, ip):
            return False
    elif not take_options(net, w, ip, length):
        return False
    w.next = w.m.rptr[w.at]
    w.named = w.at
    w.at += length
    return True


cdef void deliver(inet *net, walk *w, ip_packet *ip) noexcept nogil:
    cdef mblk *m = w.m
    cdef upcall *u = &net.protocols[w.next]
    ip.proto = w.next
    ip.header_len = w.at
    ip.length = m.pkt_len - w.at
    if w.next == NEXT_NONE:
        count(&net.ctx.n, C_IP_PROTO)
        freemsg(m)
        return
    if u.input == NULL or w.next == IPPROTO_ICMP_:
        count(&net.ctx.n, C_IP_PROTO)
        problem(net, m, ip, PARAM6_NEXT_HEADER, w.named)
        freemsg(m)
        return
    if not transport_whole(net, m, ip):
        count(&net.ctx.n, C_IP_NOMEM)
        freemsg(m)
        return
    ip.header = m.rptr
    pkt_pull(m, w.at)
    u.input(u.owner, m, ip)


cdef void ip6_input(inet *net, netif *ifp, mblk *taken) noexcept nogil:
    """A hop limit of 0 is no reason to drop what has arrived (RFC 8200 3)."""
    cdef ip6_header h
    cdef ip_packet ip
    cdef walk w
    count(&net.ctx.n, C_IP_RX)
    if check_header(net, taken, &h) < 0:
        freemsg(taken)
        return
    memset(&ip, 0, sizeof(ip))
    ip.ifp = ifp
    ip.src = h.src
    ip.dst = h.dst
    ip.ttl = h.hops
    ip.tos = h.tclass
    if check_addresses(net, ifp, &ip) < 0:
        freemsg(taken)
        return
    if taken.pkt_len > IP6_LEN + <uint32_t>h.payload:
        adjmsg(taken, -<ssize_t>(taken.pkt_len - IP6_LEN - h.payload))
        taken.pkt_len = IP6_LEN + h.payload
    w.m = taken
    w.at = IP6_LEN
    w.named = IP6_NEXT
    w.next = h.next
    w.headers = 0
    while ip6_is_ext(w.next):
        if not take_header(net, &w, &ip):
            freemsg(w.m)
            return
    deliver(net, &w, &ip)


# --- out ------------------------------------------------------------------------------------------------------
cdef mblk *ip6_frame(inet *net, mblk *taken, ip6_header *h) noexcept nogil:
    cdef mblk *m = pkt_prepend(net.ctx, taken, IP6_LEN)
    if m != NULL:
        h.payload = m.pkt_len - IP6_LEN
        ip6_emit(m.rptr, h)
    return m


cdef mblk *fragment_of(inet *net, mblk *whole, ip6_header *h, const ip6_fragment *f, uint32_t n) noexcept nogil:
    """n bytes of the packet as a fragment, payload shared; NULL without memory."""
    cdef mblk *m = dup_range(net.ctx.mem, whole, f.offset, n)
    if m == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        return NULL
    m.pkt_len = n
    m.csum = CSUM_OK
    m = pkt_prepend(net.ctx, m, IP6_FRAG_LEN)
    if m == NULL:
        return NULL
    ip6_emit_fragment(m.rptr, f)
    return ip6_frame(net, m, h)


cdef int fragments(inet *net, path *p, mblk *taken, ip6_header *h, uint32_t mtu) noexcept nogil:
    """Cut what its source alone may cut (RFC 8200 4.5). Identifications are random (RFC 7739 5.2)."""
    cdef ip6_fragment f
    cdef uint32_t whole = taken.pkt_len
    cdef uint32_t step = (mtu - IP6_LEN - IP6_FRAG_LEN) & ~<uint32_t>7
    cdef uint32_t n
    cdef int result = 0
    cdef mblk *m
    if taken.csum == CSUM_PARTIAL and offload_checksum(net.ctx, taken) < 0:
        return ip_refuse(net, taken, C_SW_BAD_GSO, ENOBUFS)
    f.next = h.next
    f.offset = 0
    f.id = <uint32_t>rng_next(&net.ctx.dice)
    h.next = NEXT_FRAGMENT
    while f.offset < whole and result == 0:
        n = min(step, whole - f.offset)
        f.more = f.offset + n < whole
        m = fragment_of(net, taken, h, &f, n)
        if m == NULL:
            result = -ENOBUFS
            break
        count(&net.ctx.n, C_IP_FRAG_TX)
        result = ip_send(net, p, m)
        f.offset += n
    freemsg(taken)
    return result


cdef uint32_t label_of(inet *net, const ip6_header *h, const mblk *m) noexcept nogil:
    """One for each flow, that nobody can guess (RFC 6437 3): routers that spread flows need look no further than the
    IPv6 header. Fragments of a datagram have that of the datagram."""
    cdef flow f
    f.laddr = h.src
    f.raddr = h.dst
    f.lport = f.rport = 0
    if (h.next == IPPROTO_TCP_ or h.next == IPPROTO_UDP_) and mblk_len(m) >= 4:
        f.lport = get16(m.rptr)
        f.rport = get16(m.rptr + 2)
    return <uint32_t>flow_hash(net.ctx.dice.key, &f, SALT_LABEL + h.next) & 0xFFFFF


cdef int ip6_output(inet *net, path *p, mblk *taken, uint8_t proto, uint8_t hops, uint8_t tclass, int flags) \
        noexcept nogil:
    cdef ip6_header h
    cdef mblk *m
    cdef uint32_t mtu = p.mtu
    if taken.pkt_len > IP6_MAX:
        return ip_refuse(net, taken, C_IP_TOO_BIG, EMSGSIZE)
    if path_room(net, p) <= 0:
        return ip_refuse(net, taken, C_LINK_TX_QUEUE_FULL, ENOBUFS)
    if taken.gso_size and taken.pkt_len <= taken.gso_size:
        taken.gso_size = 0
        taken.gso_type = GSO_NONE
    memset(&h, 0, sizeof(h))
    h.tclass = tclass
    h.next = proto
    h.hops = hops
    h.src = p.src
    h.dst = p.dst
    h.label = label_of(net, &h, taken)
    if not taken.gso_size:
        if not flags & IP_DF:
            mtu = pmtu_of(net, &p.dst, p.ifp.mtu)
        if taken.pkt_len + IP6_LEN > mtu:
            if flags & IP_DF:
                return ip_refuse(net, taken, C_IP_TOO_BIG, EMSGSIZE)
            return fragments(net, p, taken, &h, mtu)
    m = ip6_frame(net, taken, &h)
    if m == NULL:
        return -ENOBUFS
    count(&net.ctx.n, C_IP_TX)
    return ip_send(net, p, m)
