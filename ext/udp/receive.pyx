"""UDP input: see receive.pxd."""

from libc.errno cimport ENOBUFS
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ustack._core.base.addr cimport flow, ip_equal, ip_is4
from ustack._core.base.checksum cimport csum_add, csum_fold
from ustack._core.base.codes cimport CSUM_NONE, CSUM_PARTIAL, EV_ERR, EV_IN, GSO_UDP, IPPROTO_UDP_
from ustack._core.base.counters cimport (C_IP_NOMEM, C_UDP_CHECKSUM, C_UDP_ERRORS, C_UDP_NO_CHECKSUM,
                                         C_UDP_NO_PORT, C_UDP_RCVBUF, C_UDP_RX, C_UDP_SHORT, count)
from ustack._core.base.ledger cimport LR_CSUM_RX
from ustack._core.base.ready cimport ready_post
from ustack._core.base.rng cimport flow_hash
from ustack._core.inet.demux cimport flow_again, flow_entry, flow_find, flow_find_local, flow_takes
from ustack._core.inet.inet cimport (ICMP_ERR_PORT, ICMP_ERR_TOO_BIG, icmp_error, ip_error, ip_packet, ip_pseudo)
from ustack._core.inet.pmtu cimport pmtu_learn
from ustack._core.inet.verdict cimport icmp_final, icmp_verdict
from ustack._core.mem.arena cimport HEADER_SIZE, KEEP_LAST, KEEP_SHARE, arena_may_keep
from ustack._core.mem.context cimport context
from ustack._core.mem.mblk cimport (adjmsg, allocb, dupmsg, freemsg, linkb, mblk, mblk_len, msgcsum, msgtruesize,
                                    pkt_pull, splitmsg)
from ustack._core.udp.ports cimport port_first
from ustack._core.udp.udp cimport queued, udp, udp_meta, udp_pcb
from ustack._core.wire.udp cimport UDP_LEN, UDP_MAX, udp_check, udp_header, udp_parse

cdef enum:
    GRO_SEGMENTS = 64           # Linux's UDP_GRO_CNT_MAX


cdef inline mblk *last_block(mblk *m) noexcept nogil:
    while m.cont != NULL:
        m = m.cont
    return m


cdef bint join(udp_pcb *p, mblk *taken, const udp_meta *meta, int64_t size) noexcept nogil:
    """UDP_GRO: put a datagram behind one of the same flow that came in the same burst, as Linux's GRO would."""
    cdef mblk *m = p.tail
    cdef queued *q
    cdef uint32_t step
    if not p.gro or m == NULL or m.stamp != <uint64_t>p.owner.ctx.now or taken.pkt_len == 0:
        return False
    q = <queued *>m.rptr
    step = q.meta.gso_size if q.meta.gso_size else m.pkt_len
    if (taken.pkt_len > step or m.pkt_len % step or m.pkt_len + taken.pkt_len > UDP_MAX
            or m.pkt_len >= step * GRO_SEGMENTS or q.meta.sport != meta.sport or not ip_equal(&q.meta.src, &meta.src)
            or not ip_equal(&q.meta.dst, &meta.dst) or q.meta.ttl != meta.ttl or q.meta.tos != meta.tos):
        return False
    q.meta.gso_size = step
    q.last.cont = taken
    q.last = last_block(taken)
    m.pkt_len += taken.pkt_len
    m.mark += size
    p.held += size
    count(&p.owner.ctx.n, C_UDP_RX)
    return True


cdef void enqueue(udp_pcb *p, mblk *taken, const udp_meta *meta, int64_t size) noexcept nogil:
    """The newest datagram is the one that goes when the buffer is full; one always fits. size: what it is charged."""
    cdef context *ctx = p.owner.ctx
    cdef queued *q
    cdef mblk *m
    if (p.shut_rd or (p.held > 0 and p.held + size > p.rcvbuf)
            or not arena_may_keep(ctx.mem, size, KEEP_SHARE if p.held else KEEP_LAST)):
        count(&ctx.n, C_UDP_RCVBUF)
        freemsg(taken)
        return
    if join(p, taken, meta, size):
        return
    size += HEADER_SIZE
    m = allocb(ctx.mem, HEADER_SIZE)
    if m == NULL:
        count(&ctx.n, C_IP_NOMEM)
        freemsg(taken)
        return
    q = <queued *>m.rptr
    q.meta = meta[0]
    q.last = last_block(taken)
    m.wptr = m.rptr + sizeof(udp_meta)
    m.pkt_len = taken.pkt_len
    m.mark = size
    m.stamp = ctx.now
    linkb(m, taken)
    if p.tail != NULL:
        p.tail.next = m
    else:
        p.head = m
    p.tail = m
    p.nqueued += 1
    p.held += size
    count(&ctx.n, C_UDP_RX)
    ready_post(&ctx.ready, &p.rdy, EV_IN)


cdef void deliver(udp_pcb *p, mblk *taken, const udp_meta *meta) noexcept nogil:
    """One datagram, or several of gso_size bytes that a link joined."""
    cdef mblk *m = taken
    cdef mblk *rest
    cdef udp_meta joined = meta[0]
    cdef uint32_t step = m.gso_size if m.gso_type == GSO_UDP and m.gso_size < m.pkt_len else 0
    cdef int64_t size = msgtruesize(taken)
    if p.gro and step:
        joined.gso_size = step
        enqueue(p, m, &joined, size)
        return
    if step:
        # They hold the storage together. Since they are read in turn, at most one such group is ever read in part.
        size //= (m.pkt_len + step - 1) // step
    while step and m.pkt_len > step:
        rest = splitmsg(p.owner.ctx.mem, m, step)
        if rest == NULL:
            count(&p.owner.ctx.n, C_IP_NOMEM)
            break
        rest.pkt_len = m.pkt_len - step
        m.pkt_len = step
        enqueue(p, m, meta, size)
        m = rest
    enqueue(p, m, meta, size)


cdef int udp_part(udp_pcb *p, mblk *m, int max) noexcept nogil:
    cdef queued *q = <queued *>m.rptr
    cdef size_t keep = <size_t>max * q.meta.gso_size
    cdef mblk *rest = allocb(p.owner.ctx.mem, HEADER_SIZE)
    if rest == NULL:
        return -ENOBUFS
    rest.cont = splitmsg(p.owner.ctx.mem, m.cont, keep)
    if rest.cont == NULL:
        freemsg(rest)
        return -ENOBUFS
    (<queued *>rest.rptr).meta = q.meta
    (<queued *>rest.rptr).last = last_block(rest.cont)
    q.last = last_block(m.cont)
    rest.wptr = rest.rptr + sizeof(udp_meta)
    rest.pkt_len = m.pkt_len - keep
    rest.stamp = m.stamp
    rest.mark = msgtruesize(rest.cont) + HEADER_SIZE
    m.pkt_len = keep
    p.held += rest.mark             # storage that both hold is charged to both
    p.nqueued += 1
    rest.next = m.next
    m.next = rest
    if p.tail == m:
        p.tail = rest
    return 0


cdef void deliver_group(udp *u, mblk *taken, const udp_meta *meta, uint16_t dport) noexcept nogil:
    """A broadcast goes to everyone on the port who may have it (RFC 1122 4.1.3.5)."""
    cdef flow_entry *e = port_first(u, dport)
    cdef udp_pcb *p
    cdef udp_pcb *last = NULL
    cdef mblk *copy
    while e != NULL:
        p = <udp_pcb *>e.owner
        e = flow_again(e)
        if not flow_takes(&p.entry, &meta.dst):
            continue
        if p.connected and not (p.entry.key.rport == meta.sport and ip_equal(&p.entry.key.raddr, &meta.src)):
            continue
        if last != NULL:
            copy = dupmsg(u.ctx.mem, taken)
            if copy != NULL:
                deliver(last, copy, meta)
            else:
                count(&u.ctx.n, C_IP_NOMEM)
        last = p
    if last != NULL:
        deliver(last, taken, meta)
    else:
        count(&u.ctx.n, C_UDP_NO_PORT)
        freemsg(taken)


cdef udp_pcb *find(udp *u, const ip_packet *ip, const udp_header *h) noexcept nogil:
    """Connected before bound, an address before any; in an SO_REUSEPORT group by hash of the flow."""
    cdef flow key
    cdef flow_entry *e
    cdef flow_entry *other
    cdef uint32_t n = 0
    cdef uint32_t pick
    memset(&key, 0, sizeof(key))
    key.laddr = ip.dst
    key.raddr = ip.src
    key.lport = h.dport
    key.rport = h.sport
    e = flow_find(&u.table, &key)
    if e == NULL:
        e = flow_find_local(&u.table, &ip.dst, h.dport)
    if e == NULL:
        return NULL
    if (<udp_pcb *>e.owner).reuse_port:
        other = e
        while other != NULL:
            n += flow_takes(other, &ip.dst)
            other = flow_again(other)
        pick = <uint32_t>(flow_hash(u.table.key, &key, 1) % n)
        while pick > 0:
            e = flow_again(e)
            pick -= flow_takes(e, &ip.dst)
    return <udp_pcb *>e.owner


cdef bint sum_ok(udp *u, const mblk *m, const ip_packet *ip, const udp_header *h) noexcept nogil:
    """A checksum of 0 is none, which IPv4 allows (RFC 768; RFC 8200 8.1); one that the link vouches for, or left for us
    to complete, is right. False: counted."""
    cdef uint32_t sum
    if not h.summed and m.csum != CSUM_PARTIAL:
        if not ip_is4(&ip.src):
            count(&u.ctx.n, C_UDP_NO_CHECKSUM)
        return ip_is4(&ip.src)
    if m.csum != CSUM_NONE:
        return True
    sum = ip_pseudo(&ip.src, &ip.dst, IPPROTO_UDP_, h.length)
    sum = csum_add(sum, csum_fold(msgcsum(&u.ctx.book, LR_CSUM_RX, m, 0, h.length)))
    if csum_fold(sum) != 0xFFFF:
        count(&u.ctx.n, C_UDP_CHECKSUM)
        return False
    return True


cdef void udp_input(void *owner, mblk *taken, const ip_packet *ip) noexcept nogil:
    cdef udp *u = <udp *>owner
    cdef udp_header h
    cdef udp_meta meta
    cdef udp_pcb *p
    if udp_check(taken.rptr, mblk_len(taken), ip.length) < 0:
        count(&u.ctx.n, C_UDP_SHORT)
        freemsg(taken)
        return
    udp_parse(taken.rptr, &h)
    if h.length < ip.length:
        adjmsg(taken, -<ssize_t>(ip.length - h.length))
        taken.pkt_len = h.length
    if not sum_ok(u, taken, ip, &h):
        freemsg(taken)
        return
    memset(&meta, 0, sizeof(meta))
    meta.src = ip.src
    meta.dst = ip.dst
    meta.sport = h.sport
    meta.ttl = ip.ttl
    meta.tos = ip.tos
    meta.device = ip.ifp.index + 1
    if ip.broadcast:
        pkt_pull(taken, UDP_LEN)
        deliver_group(u, taken, &meta, h.dport)
        return
    p = find(u, ip, &h)
    if p == NULL:
        count(&u.ctx.n, C_UDP_NO_PORT)
        icmp_error(u.net, taken, ip, ICMP_ERR_PORT, 0)
        freemsg(taken)
        return
    pkt_pull(taken, UDP_LEN)
    deliver(p, taken, &meta)


cdef bint learn(udp *u, const ip_error *e, const flow_entry *found) noexcept nogil:
    """Whoever has the port may have sent it; the next one goes in fragments of that size. Over IPv4 only an endpoint
    that asked for it sends datagrams that routers may not cut: it alone can have sent this, and it is told."""
    cdef const flow_entry *sender = found
    if sender == NULL:
        sender = flow_find_local(&u.table, &e.src, e.sport)
    if sender == NULL or ip_is4(&e.dst) and not (<udp_pcb *>sender.owner).df:
        return False
    pmtu_learn(u.net, &e.dst, e.mtu)
    return ip_is4(&e.dst)


cdef void udp_error(void *owner, const ip_error *e) noexcept nogil:
    cdef udp *u = <udp *>owner
    cdef flow key
    cdef flow_entry *found
    cdef udp_pcb *p
    memset(&key, 0, sizeof(key))
    key.laddr = e.src
    key.raddr = e.dst
    key.lport = e.sport
    key.rport = e.dport
    found = flow_find(&u.table, &key)
    if e.kind == ICMP_ERR_TOO_BIG and not learn(u, e, found):
        return
    if found == NULL or not icmp_final(e):
        return
    p = <udp_pcb *>found.owner
    p.error = icmp_verdict(e)
    count(&u.ctx.n, C_UDP_ERRORS)
    ready_post(&u.ctx.ready, &p.rdy, EV_IN | EV_ERR)
