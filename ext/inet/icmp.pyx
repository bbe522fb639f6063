"""ICMP for IPv4: see icmp.pxd."""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_from4, ip_is_any, ip_is_multicast, ip_to4
from ustack._core.base.checksum cimport csum_finish, csum_fold, csum_partial, csum_update16
from ustack._core.base.codes cimport CSUM_OK, GSO_NONE, IPPROTO_ICMP_, IPPROTO_TCP_
from ustack._core.base.counters cimport (C_ICMP_BAD, C_ICMP_CHECKSUM, C_ICMP_ECHO, C_ICMP_ERROR_TX, C_ICMP_IGNORED,
                                         C_ICMP_LIMITED, C_ICMP_QUOTE, C_ICMP_RX, C_ICMP_TX, C_IP_NOMEM, count)
from ustack._core.base.ledger cimport LR_COPYB, LR_CSUM_RX
from ustack._core.base.types cimport NS_SEC
from ustack._core.inet.inet cimport (ICMP_ERR_ADMIN, ICMP_ERR_HOST, ICMP_ERR_NET, ICMP_ERR_OTHER, ICMP_ERR_PORT,
                                     ICMP_ERR_PROTO, ICMP_ERR_TOO_BIG, ICMP_ERR_TTL, inet, inet_is_local, ip_error,
                                     ip_output, ip_packet, path_release, path_resolve, upcall)
from ustack._core.inet.ip4 cimport ip4_answer
from ustack._core.inet.path cimport path
from ustack._core.inet.pmtu cimport pmtu_of
from ustack._core.inet.record cimport record_answer, record_time
from ustack._core.mem.mblk cimport (HEADROOM, alloc_header, allocb, freemsg, linkb, mblk, mblk_len, msgcopyout,
                                    msgcsum, pullupmsg, writable)
from ustack._core.wire.icmp cimport (EXCEEDED_REASSEMBLY, ICMP_ECHO, ICMP_ECHO_REPLY, ICMP_LEN, ICMP_PARAM_PROBLEM,
                                     ICMP_SUM, ICMP_TIMESTAMP, ICMP_TIMESTAMP_LEN, ICMP_TIME_EXCEEDED, ICMP_UNREACH,
                                     UNREACH_ADMIN, UNREACH_HOST, UNREACH_HOST_PROHIBITED, UNREACH_NEEDFRAG,
                                     UNREACH_NET, UNREACH_NET_PROHIBITED, UNREACH_PORT, UNREACH_PROTO, UNREACH_SRCFAIL,
                                     icmp_answer_timestamp, icmp_check, icmp_emit, icmp_header, icmp_is_error,
                                     icmp_parse)
from ustack._core.wire.ip4 cimport (IP4_LEN, IP4_MAX_HEADER, IP4_OK, ip4_check, ip4_header, ip4_header_len,
                                    ip4_parse)
from ustack._core.wire.bytes cimport get16, get32, get_sum, htons, put_sum

cdef enum:
    QUOTED = 8                  # bytes of the transport header that an error must quote (RFC 792)
    TTL = 64
    TOS_CONTROL = 0xC0          # internetwork control (RFC 1812 4.3.2.5)


cdef int icmp_init(inet *net) noexcept nogil:
    cdef limits *bucket = <limits *>calloc(1, sizeof(limits))
    net.limits = bucket
    if bucket == NULL:
        return -ENOMEM
    bucket.filled = net.ctx.now
    bucket.credit = ICMP_BURST * (NS_SEC // ICMP_RATE)
    return 0


cdef void icmp_free(inet *net) noexcept nogil:
    free(net.limits)
    net.limits = NULL


cdef bint icmp_allowed(inet *net) noexcept nogil:
    """The token bucket, kept in nanoseconds."""
    cdef limits *bucket = <limits *>net.limits
    cdef int64_t price = NS_SEC // ICMP_RATE
    if net.ctx.now > bucket.filled:
        bucket.credit = min(bucket.credit + (net.ctx.now - bucket.filled), ICMP_BURST * price)
        bucket.filled = net.ctx.now
    if bucket.credit < price:
        count(&net.ctx.n, C_ICMP_LIMITED)
        return False
    bucket.credit -= price
    return True


cdef int reply(inet *net, const ip_packet *to, mblk *taken, uint8_t tos, bint records) noexcept nogil:
    """``records``: with the options that the packet which is answered had for that (RFC 1122 3.2.2.6, 3.2.2.8), if the
    message fits the path with them."""
    cdef uint8_t options[IP4_MAX_HEADER - IP4_LEN]
    cdef path p
    cdef size_t n = 0
    cdef int result
    if records and to.header_len > IP4_LEN:
        n = record_answer(to.header + IP4_LEN, to.header_len - IP4_LEN, ip_to4(&to.dst),
                          record_time(net.ctx.now, net.ctx.dice.key), options)
    memset(&p, 0, sizeof(p))
    result = path_resolve(net, &p, &to.dst, &to.src)
    if result < 0:
        freemsg(taken)
        return result
    count(&net.ctx.n, C_ICMP_TX)
    if n and taken.pkt_len + IP4_LEN + n <= pmtu_of(net, &p.dst, p.ifp.mtu):
        result = ip4_answer(net, &p, taken, IPPROTO_ICMP_, tos, options, n)
    else:
        result = ip_output(net, &p, taken, IPPROTO_ICMP_, TTL, tos, 0)
    path_release(net, &p)
    return result


# --- echo -----------------------------------------------------------------------------------------------------
cdef mblk *icmp_own_header(inet *net, mblk *taken) noexcept nogil:
    """Make the ICMP header ours to write: a block of its own in front of shared payload."""
    cdef mblk *head
    if writable(taken):
        return taken
    head = alloc_header(net.ctx.mem)
    if head == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return NULL
    memcpy(head.rptr, taken.rptr, ICMP_LEN)
    head.wptr = head.rptr + ICMP_LEN
    head.pkt_len = taken.pkt_len
    taken.rptr += ICMP_LEN
    linkb(head, taken)
    return head


cdef void echo(inet *net, mblk *taken, const ip_packet *ip) noexcept nogil:
    """Send the request back as it came, payload uncopied (RFC 1122 3.2.2.6)."""
    cdef mblk *m
    cdef uint16_t sum
    if ip.broadcast or ip_is_any(&ip.src):
        count(&net.ctx.n, C_ICMP_IGNORED)
        freemsg(taken)
        return
    m = icmp_own_header(net, taken)
    if m == NULL:
        return
    sum = csum_update16(get_sum(m.rptr + ICMP_SUM), htons(ICMP_ECHO << 8), 0)
    m.rptr[0] = ICMP_ECHO_REPLY
    put_sum(m.rptr + ICMP_SUM, sum)
    m.csum = CSUM_OK
    m.gso_size = 0
    m.gso_type = GSO_NONE
    m.segs = 0
    m.hdr_len = 0
    count(&net.ctx.n, C_ICMP_ECHO)
    reply(net, ip, m, ip.tos, True)


cdef void timestamp(inet *net, mblk *taken, const ip_packet *ip) noexcept nogil:
    """Both times are now, of a clock that says that it is no clock of the day (RFC 1122 3.2.2.8, RFC 792)."""
    cdef mblk *m = NULL
    cdef uint32_t now = record_time(net.ctx.now, net.ctx.dice.key)
    if ip.broadcast or ip_is_any(&ip.src) or ip.length < ICMP_TIMESTAMP_LEN:
        count(&net.ctx.n, C_ICMP_IGNORED)
        return
    m = allocb(net.ctx.mem, HEADROOM + ICMP_TIMESTAMP_LEN)
    if m == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        return
    m.rptr += HEADROOM
    m.wptr = m.rptr + msgcopyout(&net.ctx.book, LR_COPYB, taken, 0, m.rptr, ICMP_TIMESTAMP_LEN)
    m.pkt_len = ICMP_TIMESTAMP_LEN
    icmp_answer_timestamp(m.rptr, now)
    put_sum(m.rptr + ICMP_SUM, csum_finish(csum_partial(m.rptr, ICMP_TIMESTAMP_LEN)))
    m.csum = CSUM_OK
    reply(net, ip, m, ip.tos, True)


# --- errors in ------------------------------------------------------------------------------------------------
cdef int kind_of(uint8_t type, uint8_t code) noexcept nogil:
    if type == ICMP_TIME_EXCEEDED:
        return ICMP_ERR_TTL             # on the way or in reassembly: either may pass, as in Linux
    if type != ICMP_UNREACH:
        return ICMP_ERR_OTHER
    if code == UNREACH_PORT:
        return ICMP_ERR_PORT
    if code == UNREACH_PROTO:
        return ICMP_ERR_PROTO
    if code == UNREACH_NEEDFRAG:
        return ICMP_ERR_TOO_BIG
    if code == UNREACH_NET_PROHIBITED or code == UNREACH_HOST_PROHIBITED or code == UNREACH_ADMIN:
        return ICMP_ERR_ADMIN
    if code == UNREACH_NET or code == UNREACH_SRCFAIL or code == 6 or code == 11:
        return ICMP_ERR_NET
    return ICMP_ERR_HOST


cdef uint32_t plateau(uint32_t length) noexcept nogil:
    """The next lower common MTU, for routers older than RFC 1191 (its table 7-1)."""
    cdef uint32_t steps[8]
    cdef int i
    steps[0] = 32000
    steps[1] = 17914
    steps[2] = 8166
    steps[3] = 4352
    steps[4] = 2002
    steps[5] = 1492
    steps[6] = 1006
    steps[7] = ICMP_LEAST_MTU
    for i in range(8):
        if length > steps[i]:
            return steps[i]
    return 0


cdef bint read_quote(inet *net, const uint8_t *quote, size_t n, ip_error *e, ip4_header *h) noexcept nogil:
    """The packet of ours that an error is about: its IP header, and at least 8 bytes behind it. False if we cannot
    have sent it."""
    cdef const uint8_t *transport
    # Total length is not compared with what is here: a quote is an excerpt.
    if n < IP4_LEN + QUOTED or ip4_check(quote, n, 65535) != IP4_OK or n < ip4_header_len(quote) + QUOTED:
        return False
    ip4_parse(quote, h)
    if h.frag_offset:
        return False            # no transport header in there
    e.src = ip_from4(h.src)
    e.dst = ip_from4(h.dst)
    e.proto = h.proto
    transport = quote + h.header_len
    e.sport = get16(transport)
    e.dport = get16(transport + 2)
    e.seq = get32(transport + 4) if h.proto == IPPROTO_TCP_ else 0
    if h.proto == IPPROTO_ICMP_:
        e.sport = get16(transport + 4)      # the identifier
        e.dport = get16(transport + 6)
        if transport[0] != ICMP_ECHO:
            return False
    return inet_is_local(net, &e.src, NULL)


cdef void dispatch(inet *net, const ip_error *e) noexcept nogil:
    cdef upcall *u = &net.echo if e.proto == IPPROTO_ICMP_ else &net.protocols[e.proto]
    if u.error != NULL:
        u.error(u.owner, e)
    else:
        count(&net.ctx.n, C_ICMP_IGNORED)


cdef void error_input(inet *net, mblk *m, const ip_packet *ip, const icmp_header *h) noexcept nogil:
    cdef ip_error e
    cdef ip4_header quoted
    cdef ssize_t want = min(<ssize_t>m.pkt_len, <ssize_t>(ICMP_LEN + IP4_MAX_HEADER + QUOTED))
    memset(&e, 0, sizeof(e))
    if mblk_len(m) < <size_t>want and not pullupmsg(net.ctx.mem, m, want):
        count(&net.ctx.n, C_IP_NOMEM)
        return
    if not read_quote(net, m.rptr + ICMP_LEN, mblk_len(m) - ICMP_LEN, &e, &quoted):
        count(&net.ctx.n, C_ICMP_QUOTE)
        return
    e.reporter = ip.src
    e.type = h.type
    e.code = h.code
    e.kind = kind_of(h.type, h.code)
    if e.kind == ICMP_ERR_TOO_BIG:
        # Only DF packets are too big, and only for an MTU below their own length (RFC 1191 5, 5927 7.2). TCP knows what
        # it has in flight, and need not trust the quote: on the way it may have been changed, or cut.
        e.mtu = h.mtu if h.mtu else plateau(quoted.total_len)
        if (e.proto != IPPROTO_TCP_ and (not quoted.df or e.mtu >= quoted.total_len)
                or e.mtu < ICMP_LEAST_MTU and (e.mtu or e.proto != IPPROTO_TCP_)):
            count(&net.ctx.n, C_ICMP_QUOTE)
            return
    dispatch(net, &e)


cdef void icmp_unreachable(inet *net, const mblk *pkt) noexcept nogil:
    cdef uint8_t quote[IP4_MAX_HEADER + QUOTED]
    cdef size_t n = msgcopyout(NULL, LR_COPYB, pkt, 0, quote, sizeof(quote))
    cdef ip_error e
    cdef ip4_header quoted
    memset(&e, 0, sizeof(e))
    if not read_quote(net, quote, n, &e, &quoted):
        return
    e.reporter = e.src
    e.type = ICMP_UNREACH
    e.code = UNREACH_HOST
    e.kind = ICMP_ERR_HOST
    dispatch(net, &e)


# --- in -------------------------------------------------------------------------------------------------------
cdef bint sum_ok(inet *net, const mblk *m, const ip_packet *ip) noexcept nogil:
    if ip.ifp.layer == 0 and m.csum != 0:
        return True
    return csum_fold(msgcsum(&net.ctx.book, LR_CSUM_RX, m, 0, ip.length)) == 0xFFFF


cdef void icmp_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil:
    cdef inet *net = <inet *>owner
    cdef icmp_header h
    count(&net.ctx.n, C_ICMP_RX)
    if icmp_check(taken.rptr, mblk_len(taken)) < 0:
        count(&net.ctx.n, C_ICMP_BAD)
        freemsg(taken)
        return
    if not sum_ok(net, taken, ip):
        count(&net.ctx.n, C_ICMP_CHECKSUM)
        freemsg(taken)
        return
    icmp_parse(taken.rptr, &h)
    if h.type == ICMP_ECHO:
        echo(net, taken, ip)
        return
    if h.type == ICMP_ECHO_REPLY and net.echo.input != NULL and not ip.broadcast:
        net.echo.input(net.echo.owner, taken, ip)
        return
    # Source quench (RFC 6633), redirects (one gateway knows no better) and masks are not acted upon.
    # What was not put together in time is the business of who sends it again, as Linux has it.
    if h.type == ICMP_TIMESTAMP:
        timestamp(net, taken, ip)
    elif not ip.broadcast and (h.type == ICMP_UNREACH or h.type == ICMP_PARAM_PROBLEM
                               or h.type == ICMP_TIME_EXCEEDED and h.code != EXCEEDED_REASSEMBLY):
        error_input(net, taken, ip, &h)
    else:
        count(&net.ctx.n, C_ICMP_IGNORED)
    freemsg(taken)


# --- errors out -----------------------------------------------------------------------------------------------
cdef bint deserves(const mblk *about, const ip_packet *ip) noexcept nogil:
    """RFC 1122 3.2.2: never about errors, broadcasts, and sources that are not one host."""
    if ip.broadcast or ip_is_any(&ip.src) or ip_is_multicast(&ip.src):
        return False
    return ip.proto != IPPROTO_ICMP_ or (mblk_len(about) > 0 and not icmp_is_error(about.rptr[0]))


cdef void icmp_send(inet *net, mblk *about, const ip_packet *ip, uint8_t type, uint8_t code,
                    uint16_t detail) noexcept nogil:
    cdef icmp_header h
    cdef mblk *m
    cdef size_t n
    if not deserves(about, ip) or not icmp_allowed(net):
        return
    m = allocb(net.ctx.mem, HEADROOM + ICMP_LEN + ICMP_QUOTE)
    if m == NULL:
        count(&net.ctx.n, C_IP_NOMEM)
        return
    m.rptr += HEADROOM
    memset(&h, 0, sizeof(h))
    h.type = type
    h.code = code
    h.mtu = detail
    h.pointer = <uint8_t>detail
    icmp_emit(m.rptr, &h)
    memcpy(m.rptr + ICMP_LEN, ip.header, ip.header_len)
    n = ip.header_len
    n += msgcopyout(&net.ctx.book, LR_COPYB, about, 0, m.rptr + ICMP_LEN + n, min(<size_t>ip.length, ICMP_QUOTE - n))
    m.wptr = m.rptr + ICMP_LEN + n
    m.pkt_len = ICMP_LEN + n
    put_sum(m.rptr + ICMP_SUM, csum_finish(csum_partial(m.rptr, m.pkt_len)))
    m.csum = CSUM_OK
    count(&net.ctx.n, C_ICMP_ERROR_TX)
    reply(net, ip, m, TOS_CONTROL, False)
