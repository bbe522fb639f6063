"""Echo endpoints: see ping.pxd."""

from libc.errno cimport EACCES, EADDRINUSE, EAFNOSUPPORT, EAGAIN, EMSGSIZE, ENOBUFS, ENOMEM
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from ustack._core.base.addr cimport ip_equal, ip_from4, ip_is4, ip_is_multicast, ipaddr
from ustack._core.base.checksum cimport csum_add, csum_finish, csum_fold, csum_partial
from ustack._core.base.codes cimport CSUM_OK, EV_ERR, EV_IN, EV_OUT, IPPROTO_ICMP_, IPPROTO_ICMPV6_
from ustack._core.base.counters cimport C_ICMP_IGNORED, C_ICMP_TX, C_IP_NOMEM, C_PING_RCVBUF, count
from ustack._core.base.ledger cimport LR_CSUM_TX
from ustack._core.base.ready cimport ready_forget, ready_post
from ustack._core.base.rng cimport rng_next
from ustack._core.inet.demux cimport (FLOW_V6, flow_any, flow_entry, flow_find_local, flow_insert, flow_remove,
                                      flow_table_free, flow_table_init)
from ustack._core.inet.inet cimport (ICMP_ERR_TOO_BIG, IP_DF, inet, ip_error, ip_output, ip_packet,
                                     path_check, path_pseudo, path_release, path_resolve, path_room)
from ustack._core.inet.pmtu cimport pmtu_learn
from ustack._core.inet.verdict cimport icmp_verdict
from ustack._core.mem.arena cimport HEADER_SIZE, KEEP_LAST, KEEP_SHARE, arena_may_keep
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport (alloc_header, allocb, dupmsg, freelist, freemsg, linkb, mblk, msgcsum, msgdsize,
                                    msgtruesize, unlinkb)
from ustack._core.wire.icmp cimport ICMP_ECHO, ICMP_LEN, ICMP_SUM, icmp_emit, icmp_header, icmp_parse
from ustack._core.wire.icmp6 cimport ICMP6_ECHO, icmp6_emit, icmp6_header
from ustack._core.wire.bytes cimport put_sum
from ustack._core.wire.udp cimport UDP_MAX

cdef enum:
    TTL = 64
    RCVBUF = 212992             # Linux's rmem_default


cdef int ping_init(ping *g, context *ctx, inet *net) noexcept nogil:
    memset(g, 0, sizeof(ping))
    g.ctx = ctx
    g.net = net
    g.rcvbuf = RCVBUF
    net.echo.owner = g
    net.echo.input = ping_input
    net.echo.error = ping_error
    return flow_table_init(&g.table, ctx.dice.key)


cdef void ping_free(ping *g) noexcept nogil:
    """The endpoints are closed already."""
    memset(&g.net.echo, 0, sizeof(g.net.echo))
    flow_table_free(&g.table)


cdef ping_pcb *find(ping *g, uint16_t id) noexcept nogil:
    cdef ipaddr any = ip_from4(0)
    cdef flow_entry *e = flow_find_local(&g.table, &any, id)
    return <ping_pcb *>e.owner if e != NULL else NULL


cdef int choose_id(ping *g, uint16_t *id) noexcept nogil:
    cdef uint16_t start = <uint16_t>rng_next(&g.ctx.dice)
    cdef int i
    for i in range(65536):
        id[0] = start + <uint16_t>i
        if id[0] and find(g, id[0]) == NULL:
            return 0
    return -EADDRINUSE


cdef ping_pcb *ping_open(ping *g, uint16_t id, int *err) noexcept nogil:
    cdef ping_pcb *p
    err[0] = 0
    if id == 0:
        err[0] = choose_id(g, &id)
    elif find(g, id) != NULL:
        err[0] = -EADDRINUSE
    if err[0] < 0:
        return NULL
    p = <ping_pcb *>calloc(1, sizeof(ping_pcb))
    if p == NULL:
        err[0] = -ENOMEM
        return NULL
    p.owner = g
    p.id = id
    p.ttl = TTL
    p.rcvbuf = g.rcvbuf
    p.entry.owner = p
    p.entry.key.laddr = ip_from4(0)
    p.entry.key.lport = id
    err[0] = flow_insert(&g.table, &p.entry)
    if err[0] < 0:
        free(p)
        return NULL
    return p


cdef void ping_close(ping_pcb *p) noexcept nogil:
    flow_remove(&p.owner.table, &p.entry)
    path_release(p.owner.net, &p.way)
    ready_forget(&p.owner.ctx.ready, &p.rdy)
    freelist(p.head)
    free(p)


cdef inline bint speaks6(const ping_pcb *p) noexcept nogil:
    return p.entry.family & FLOW_V6 != 0


# --- out ------------------------------------------------------------------------------------------------------
cdef int find_way(ping_pcb *p, const ipaddr *to) noexcept nogil:
    cdef ipaddr any = flow_any(&p.entry)
    if ip_is4(to) == speaks6(p):
        return -EAFNOSUPPORT
    if p.way.ifp != NULL and ip_equal(&p.way.dst, to):
        return path_check(p.owner.net, &p.way)
    path_release(p.owner.net, &p.way)
    return path_resolve(p.owner.net, &p.way, &any, to)


cdef mblk *message(ping_pcb *p, mblk *taken, size_t length, uint16_t seq) noexcept nogil:
    """The echo request, complete with its checksum."""
    cdef context *ctx = p.owner.ctx
    cdef icmp_header h
    cdef icmp6_header h6
    cdef uint32_t sum
    cdef mblk *m = alloc_header(ctx.mem)
    if m == NULL:
        count(&ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return NULL
    if speaks6(p):
        memset(&h6, 0, sizeof(h6))
        h6.type = ICMP6_ECHO
        h6.id = p.id
        h6.seq = seq
        icmp6_emit(m.rptr, &h6)
    else:
        memset(&h, 0, sizeof(h))
        h.type = ICMP_ECHO
        h.id = p.id
        h.seq = seq
        icmp_emit(m.rptr, &h)
    m.wptr = m.rptr + ICMP_LEN
    m.pkt_len = ICMP_LEN + length
    m.csum = CSUM_OK
    sum = csum_partial(m.rptr, ICMP_LEN)
    if taken != NULL:
        sum = csum_add(sum, csum_fold(msgcsum(&ctx.book, LR_CSUM_TX, taken, 0, length)))
        linkb(m, taken)
    if speaks6(p):
        sum = csum_add(sum, path_pseudo(&p.way, IPPROTO_ICMPV6_, ICMP_LEN + length))
    put_sum(m.rptr + ICMP_SUM, csum_finish(sum))
    return m


cdef int refuse(mblk *taken, int error) noexcept nogil:
    freemsg(taken)
    return error


cdef int ping_send(ping_pcb *p, mblk *taken, const ipaddr *to, uint16_t seq) noexcept nogil:
    cdef size_t length = msgdsize(taken) if taken != NULL else 0
    cdef int result = ping_take_error(p)
    cdef mblk *m
    if result == 0 and length > UDP_MAX:
        result = -EMSGSIZE
    if result == 0:
        result = find_way(p, to)
    if result == 0 and p.way.broadcast and not p.broadcast and not ip_is_multicast(to):
        result = -EACCES
    if result == 0 and path_room(p.owner.net, &p.way) <= 0:
        result = -EAGAIN
    if result < 0:
        return refuse(taken, result)
    m = message(p, taken, length, seq)
    if m == NULL:
        return -ENOBUFS
    count(&p.owner.ctx.n, C_ICMP_TX)
    return ip_output(p.owner.net, &p.way, m, IPPROTO_ICMPV6_ if speaks6(p) else IPPROTO_ICMP_, p.ttl, p.tos,
                     IP_DF if p.df else 0)


# --- in -------------------------------------------------------------------------------------------------------
cdef void ping_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil:
    cdef ping *g = <ping *>owner
    cdef ping_meta meta
    cdef icmp_header h
    cdef ping_pcb *p
    cdef mblk *m
    cdef int64_t size
    icmp_parse(taken.rptr, &h)
    p = find(g, h.id)
    if p == NULL or speaks6(p) != (ip.proto == IPPROTO_ICMPV6_):
        count(&g.ctx.n, C_ICMP_IGNORED)
        freemsg(taken)
        return
    size = msgtruesize(taken) + HEADER_SIZE
    if ((p.held > 0 and p.held + size > p.rcvbuf)
            or not arena_may_keep(g.ctx.mem, size, KEEP_SHARE if p.held else KEEP_LAST)):
        count(&g.ctx.n, C_PING_RCVBUF)
        freemsg(taken)
        return
    m = allocb(g.ctx.mem, HEADER_SIZE)
    if m == NULL:
        count(&g.ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return
    memset(&meta, 0, sizeof(meta))
    meta.src = ip.src
    meta.dst = ip.dst
    meta.id = h.id
    meta.seq = h.seq
    meta.ttl = ip.ttl
    meta.tos = ip.tos
    meta.received = g.ctx.now
    memcpy(m.rptr, &meta, sizeof(meta))
    m.wptr = m.rptr + sizeof(meta)
    m.mark = size
    taken.rptr += ICMP_LEN
    taken.pkt_len -= ICMP_LEN
    linkb(m, taken)
    if p.tail != NULL:
        p.tail.next = m
    else:
        p.head = m
    p.tail = m
    p.nqueued += 1
    p.held += size
    ready_post(&g.ctx.ready, &p.rdy, EV_IN)


cdef void ping_error(void *owner, const ip_error *e) noexcept nogil:
    cdef ping *g = <ping *>owner
    cdef ping_pcb *p = find(g, e.sport)
    if p == NULL or speaks6(p) != (e.proto == IPPROTO_ICMPV6_):
        count(&g.ctx.n, C_ICMP_IGNORED)
        return
    if e.kind == ICMP_ERR_TOO_BIG and speaks6(p):
        pmtu_learn(g.net, &e.dst, e.mtu)
        if not p.df:
            return              # the next one goes in fragments
    p.error = icmp_verdict(e)
    p.error_type = e.type
    p.error_code = e.code
    p.error_from = e.reporter
    ready_post(&g.ctx.ready, &p.rdy, EV_ERR | EV_IN)


cdef mblk *ping_recv(ping_pcb *p, ping_meta *meta, bint peek) noexcept nogil:
    cdef mblk *m = p.head
    cdef mblk *data
    if m == NULL:
        return NULL
    memcpy(meta, m.rptr, sizeof(ping_meta))
    if peek:
        return dupmsg(p.owner.ctx.mem, m.cont)
    p.head = m.next
    if p.head == NULL:
        p.tail = NULL
    p.nqueued -= 1
    p.held -= m.mark
    m.next = NULL
    data = unlinkb(m)
    freemsg(m)
    return data


cdef uint32_t ping_events(ping_pcb *p) noexcept nogil:
    cdef uint32_t events = 0
    if p.head != NULL or p.error:
        events |= EV_IN
    if p.error:
        events |= EV_ERR
    if path_room(p.owner.net, &p.way) > 0:
        events |= EV_OUT
    return events


cdef int ping_take_error(ping_pcb *p) noexcept nogil:
    """0, or -errno, once."""
    cdef int error = p.error
    p.error = 0
    return -error
