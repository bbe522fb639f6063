"""ICMPv6: see icmp6.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_is_any, ip_is_multicast, ipaddr
from ustack._core.base.checksum cimport csum_add, csum_finish, csum_fold, csum_partial, csum_sub
from ustack._core.base.codes cimport CSUM_OK, GSO_NONE, IPPROTO_ICMPV6_, IPPROTO_TCP_
from ustack._core.base.counters cimport (C_ICMP_BAD, C_ICMP_CHECKSUM, C_ICMP_ECHO, C_ICMP_ERROR_TX, C_ICMP_IGNORED,
                                         C_ICMP_QUOTE, C_ICMP_RX, C_ICMP_TX, C_IP_NOMEM, count)
from ustack._core.base.ledger cimport LR_COPYB, LR_CSUM_RX
from ustack._core.inet.icmp cimport icmp_allowed, icmp_own_header
from ustack._core.inet.inet cimport (ICMP_ERR_ADMIN, ICMP_ERR_HOST, ICMP_ERR_NET, ICMP_ERR_OTHER, ICMP_ERR_POLICY,
                                     ICMP_ERR_PORT, ICMP_ERR_PROTO, ICMP_ERR_TOO_BIG, ICMP_ERR_TTL, inet,
                                     inet_is_local, ip_error, ip_output, ip_packet, path_pseudo, path_release,
                                     path_resolve, upcall)
from ustack._core.inet.path cimport path
from ustack._core.inet.pmtu cimport pmtu_learn
from ustack._core.mem.mblk cimport (HEADROOM, allocb, freemsg, mblk, mblk_len, msgcopyout, msgcsum, pullupmsg)
from ustack._core.wire.bytes cimport get16, get32, get_sum, htons, put_sum
from ustack._core.wire.icmp6 cimport (EXCEEDED6_HOPS, ICMP6_ECHO, ICMP6_ECHO_REPLY, ICMP6_LEN, ICMP6_PARAM_PROBLEM,
                                      ICMP6_SUM, ICMP6_TIME_EXCEEDED, ICMP6_TOO_BIG, ICMP6_UNREACH, PARAM6_NEXT_HEADER,
                                      PARAM6_OPTION, UNREACH6_ADDRESS, UNREACH6_ADMIN, UNREACH6_NO_ROUTE,
                                      UNREACH6_POLICY, UNREACH6_PORT, UNREACH6_REJECT, icmp6_check, icmp6_emit,
                                      icmp6_header, icmp6_is_error, icmp6_parse)
from ustack._core.wire.ip6 cimport (IP6_LEN, IP6_MIN_MTU, IP6_OK, ip6_check, ip6_header, ip6_parse, ip6_pseudo,
                                    ip6_skip)

cdef enum:
    HOPS = 64
    QUOTED = 8                  # bytes of the transport header that are needed to find whom an error is about
    QUOTE_MAX = IP6_MIN_MTU - IP6_LEN - ICMP6_LEN   # an error fits into every link (RFC 4443 2.4 (c))
    EXCERPT = 512               # how far the transport header is looked for


cdef int reply(inet *net, path *p, mblk *taken, uint8_t tclass) noexcept nogil:
    """Send a message whose checksum is complete but for the pseudo header; the path is released."""
    cdef uint32_t sum = get_sum(taken.rptr + ICMP6_SUM)
    cdef int result
    sum = csum_add(sum, path_pseudo(p, IPPROTO_ICMPV6_, taken.pkt_len))
    put_sum(taken.rptr + ICMP6_SUM, csum_finish(sum))
    taken.csum = CSUM_OK
    count(&net.ctx.n, C_ICMP_TX)
    result = ip_output(net, p, taken, IPPROTO_ICMPV6_, HOPS, tclass, 0)
    path_release(net, p)
    return result


# --- echo -----------------------------------------------------------------------------------------------------
cdef void echo(inet *net, mblk *taken, const ip_packet *ip) noexcept nogil:
    """Send the request back as it came, payload uncopied. One to a group is answered from an address of ours, within
    the rate limit (RFC 4443 4.2)."""
    cdef path p
    cdef ipaddr from_ = ip.dst
    cdef uint32_t sum
    cdef mblk *m
    if ip.broadcast:
        memset(&from_, 0, sizeof(from_))
        if not icmp_allowed(net):
            freemsg(taken)
            return
    m = icmp_own_header(net, taken)
    if m == NULL:
        return
    if path_resolve(net, &p, &from_, &ip.src) < 0:
        freemsg(m)
        return
    sum = <uint16_t>~get_sum(m.rptr + ICMP6_SUM)
    sum = csum_sub(sum, ip6_pseudo(&ip.src, &ip.dst, IPPROTO_ICMPV6_, m.pkt_len))
    sum = csum_sub(sum, htons(ICMP6_ECHO << 8))
    sum = csum_add(sum, htons(ICMP6_ECHO_REPLY << 8))
    m.rptr[0] = ICMP6_ECHO_REPLY
    put_sum(m.rptr + ICMP6_SUM, csum_fold(sum))
    m.gso_size = 0
    m.gso_type = GSO_NONE
    m.segs = 0
    m.hdr_len = 0
    count(&net.ctx.n, C_ICMP_ECHO)
    reply(net, &p, m, ip.tos)


# --- errors in ------------------------------------------------------------------------------------------------
cdef int kind_of(uint8_t type, uint8_t code) noexcept nogil:
    if type == ICMP6_TOO_BIG:
        return ICMP_ERR_TOO_BIG
    if type == ICMP6_TIME_EXCEEDED:
        return ICMP_ERR_TTL             # on the way or in reassembly: either may pass, as in Linux
    if type == ICMP6_PARAM_PROBLEM:
        return ICMP_ERR_PROTO if code == PARAM6_NEXT_HEADER else ICMP_ERR_OTHER
    if code == UNREACH6_NO_ROUTE:
        return ICMP_ERR_NET
    if code == UNREACH6_PORT:
        return ICMP_ERR_PORT
    if code in (UNREACH6_ADMIN, UNREACH6_POLICY, UNREACH6_REJECT):
        return ICMP_ERR_POLICY
    return ICMP_ERR_HOST


cdef bint read_quote(inet *net, const uint8_t *quote, size_t n, ip_error *e, ip6_header *h) noexcept nogil:
    """The packet of ours that an error is about: its headers, and at least 8 bytes behind them. False if we cannot
    have sent it."""
    cdef const uint8_t *transport
    cdef bint later = False
    cdef size_t at
    # Lengths are not compared with what is here: a quote is an excerpt.
    if n < IP6_LEN or ip6_check(quote, n, IP6_LEN + 65535) != IP6_OK:
        return False
    ip6_parse(quote, h)
    at = ip6_skip(quote, n, &e.proto, &later)
    if at == 0 or later or at + QUOTED > n:
        return False
    e.src = h.src
    e.dst = h.dst
    transport = quote + at
    e.sport = get16(transport)
    e.dport = get16(transport + 2)
    e.seq = get32(transport + 4) if e.proto == IPPROTO_TCP_ else 0
    if e.proto == IPPROTO_ICMPV6_:
        e.sport = get16(transport + 4)      # the identifier
        e.dport = get16(transport + 6)
        e.seq = transport[0]
    return inet_is_local(net, &e.src, NULL)


cdef void dispatch(inet *net, const ip_error *e) noexcept nogil:
    cdef upcall *u = &net.echo if e.proto == IPPROTO_ICMPV6_ else &net.protocols[e.proto]
    if e.proto == IPPROTO_ICMPV6_ and e.seq != ICMP6_ECHO:
        # Our answers are sent by nobody who could be told; what they can carry is remembered, as Linux does.
        if e.kind == ICMP_ERR_TOO_BIG and e.seq == ICMP6_ECHO_REPLY:
            pmtu_learn(net, &e.dst, e.mtu)
        else:
            count(&net.ctx.n, C_ICMP_QUOTE)
    elif u.error != NULL:
        u.error(u.owner, e)
    else:
        count(&net.ctx.n, C_ICMP_IGNORED)


cdef void error_input(inet *net, mblk *m, const ip_packet *ip, const icmp6_header *h) noexcept nogil:
    cdef ip_error e
    cdef ip6_header quoted
    cdef ssize_t want = min(<ssize_t>m.pkt_len, <ssize_t>(ICMP6_LEN + EXCERPT))
    memset(&e, 0, sizeof(e))
    if mblk_len(m) < <size_t>want and not pullupmsg(net.ctx.mem, m, want):
        count(&net.ctx.n, C_IP_NOMEM)
        return
    if not read_quote(net, m.rptr + ICMP6_LEN, mblk_len(m) - ICMP6_LEN, &e, &quoted):
        count(&net.ctx.n, C_ICMP_QUOTE)
        return
    e.reporter = ip.src
    e.type = h.type
    e.code = h.code
    e.kind = kind_of(h.type, h.code)
    if e.kind == ICMP_ERR_TOO_BIG:
        # Less than every link carries is discarded, and only a packet larger than that was too big (RFC 8201 4); TCP
        # knows what it has in flight.
        e.mtu = h.word
        if e.mtu < IP6_MIN_MTU or e.proto != IPPROTO_TCP_ and e.mtu >= <uint32_t>quoted.payload + IP6_LEN:
            count(&net.ctx.n, C_ICMP_QUOTE)
            return
    dispatch(net, &e)


# --- in -------------------------------------------------------------------------------------------------------
cdef bint sum_ok(inet *net, const mblk *m, const ip_packet *ip) noexcept nogil:
    cdef uint32_t sum
    if ip.ifp.layer == 0 and m.csum != 0:
        return True
    sum = ip6_pseudo(&ip.src, &ip.dst, IPPROTO_ICMPV6_, ip.length)
    sum = csum_add(sum, csum_fold(msgcsum(&net.ctx.book, LR_CSUM_RX, m, 0, ip.length)))
    return csum_fold(sum) == 0xFFFF


cdef void icmp6_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil:
    cdef inet *net = <inet *>owner
    cdef icmp6_header h
    count(&net.ctx.n, C_ICMP_RX)
    if icmp6_check(taken.rptr, mblk_len(taken)) < 0:
        count(&net.ctx.n, C_ICMP_BAD)
        freemsg(taken)
        return
    if not sum_ok(net, taken, ip):
        count(&net.ctx.n, C_ICMP_CHECKSUM)
        freemsg(taken)
        return
    icmp6_parse(taken.rptr, &h)
    if h.type == ICMP6_ECHO:
        echo(net, taken, ip)
        return
    if h.type == ICMP6_ECHO_REPLY and net.echo.input != NULL and not ip.broadcast:
        net.echo.input(net.echo.owner, taken, ip)
        return
    if ICMP6_UNREACH <= h.type <= ICMP6_PARAM_PROBLEM and not ip.broadcast:
        error_input(net, taken, ip, &h)
    else:
        count(&net.ctx.n, C_ICMP_IGNORED)
    freemsg(taken)


# --- errors out -----------------------------------------------------------------------------------------------
cdef bint deserves(const uint8_t *excerpt, size_t n, const ip_packet *ip, uint8_t type, uint8_t code) noexcept nogil:
    """RFC 4443 2.4 (e): never about errors, groups (but for what a path or an unknown option demands), and sources
    that are not one host."""
    cdef uint8_t next = 0
    cdef bint later = False
    cdef size_t at
    if ip_is_any(&ip.src) or ip_is_multicast(&ip.src):
        return False
    if ip.broadcast and type != ICMP6_TOO_BIG and not (type == ICMP6_PARAM_PROBLEM and code == PARAM6_OPTION):
        return False
    at = ip6_skip(excerpt, n, &next, &later)
    return not (at and at < n and next == IPPROTO_ICMPV6_ and not later and icmp6_is_error(excerpt[at]))


cdef void icmp6_send(inet *net, mblk *about, const ip_packet *ip, uint8_t type, uint8_t code,
                     uint32_t word) noexcept nogil:
    cdef icmp6_header h
    cdef ipaddr from_ = ip.dst
    cdef path p
    cdef size_t n = min(<size_t>ip.header_len, <size_t>QUOTE_MAX)
    cdef uint8_t *quote
    cdef mblk *m = allocb(net.ctx.mem, HEADROOM + ICMP6_LEN + QUOTE_MAX)
    if m == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        return
    m.rptr += HEADROOM
    quote = m.rptr + ICMP6_LEN
    memcpy(quote, ip.header, n)
    n += msgcopyout(&net.ctx.book, LR_COPYB, about, 0, quote + n, min(<size_t>ip.length, QUOTE_MAX - n))
    if ip.broadcast:
        memset(&from_, 0, sizeof(from_))
    if (not deserves(quote, n, ip, type, code) or not icmp_allowed(net)
            or path_resolve(net, &p, &from_, &ip.src) < 0):
        freemsg(m)
        return
    memset(&h, 0, sizeof(h))
    h.type = type
    h.code = code
    h.word = word
    icmp6_emit(m.rptr, &h)
    m.wptr = quote + n
    m.pkt_len = ICMP6_LEN + n
    put_sum(m.rptr + ICMP6_SUM, csum_fold(csum_partial(m.rptr, m.pkt_len)))
    count(&net.ctx.n, C_ICMP_ERROR_TX)
    reply(net, &p, m, 0)


cdef void icmp6_error(inet *net, mblk *about, const ip_packet *ip, int kind, uint32_t mtu) noexcept nogil:
    if kind == ICMP_ERR_TOO_BIG:
        icmp6_send(net, about, ip, ICMP6_TOO_BIG, 0, mtu)
    elif kind == ICMP_ERR_TTL:
        icmp6_send(net, about, ip, ICMP6_TIME_EXCEEDED, EXCEEDED6_HOPS, 0)
    elif kind == ICMP_ERR_NET:
        icmp6_send(net, about, ip, ICMP6_UNREACH, UNREACH6_NO_ROUTE, 0)
    elif kind == ICMP_ERR_PORT:
        icmp6_send(net, about, ip, ICMP6_UNREACH, UNREACH6_PORT, 0)
    elif kind == ICMP_ERR_ADMIN:
        icmp6_send(net, about, ip, ICMP6_UNREACH, UNREACH6_ADMIN, 0)
    else:
        icmp6_send(net, about, ip, ICMP6_UNREACH, UNREACH6_ADDRESS, 0)
